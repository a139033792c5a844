"""Whether a long run leaks memory, slows down or waits for its data.

    python benchmarks/long_run.py --steps=1000

Trains a tiny hypermodel on prepared rows through the whole loop: Grain's reading, batches
on their way to the device ahead of their use, rows of metrics to a file, a held-out loss,
asynchronous checkpoints. Prints, for every 100 steps, the process's resident memory, steps
per second and the share of the time that went into getting the next batch. Every other 100
steps read nothing: they get batches that were read before, and have nothing to wait for.
"""

import argparse
import dataclasses
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder stands there

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.core.batch import Batch
from hypert5_jax.data import stream
from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training.held_out import held_out_loss
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.state import random_params

ROW = RowFormat(
    lengths={"hyper_inputs": 64, "inputs": 16, "targets": 8},
    max_shots=4,
)
BATCH = 16
EVERY = 100


@dataclasses.dataclass
class Measurements:
    """A writer of metrics that keeps a row of numbers for every EVERY steps."""

    rows: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def resume(self, step: int) -> None:
        """Nothing to drop."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints and keeps one row; evaluations have none."""
        if "train/loss" not in scalars:
            return
        row = {
            "step": step,
            "rss_mib": _resident_mib(),
            "steps_per_second": scalars["speed/steps_per_second"],
            "share_waiting_for_data": scalars["speed/share_waiting_for_data"],
        }
        self.rows.append(row)
        print(
            f"{step:6}  {row['rss_mib']:8.1f} MiB  {row['steps_per_second']:7.1f} "
            f"steps/s  {row['share_waiting_for_data']:7.2%} getting batches",
            flush=True,
        )

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""


def main() -> None:
    """Makes the run and prints what it needed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", help="also write the rows there")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as home:
        rows = run(Path(home), args.steps)
    warm = rows[len(rows) // 2 :]
    speeds = [row["steps_per_second"] for row in rows[1:]]
    reading = np.median([row["steps_per_second"] for row in rows[2::2]])
    without = np.median([row["steps_per_second"] for row in rows[1::2]])
    half = len(speeds) // 2
    print(
        f"{args.steps} steps in {time.monotonic() - began:.0f} s; from step "
        f"{warm[0]['step']} on {warm[-1]['rss_mib'] - warm[0]['rss_mib']:+.1f} MiB; "
        f"second half at {np.median(speeds[half:]) / np.median(speeds[:half]):.2f} times "
        f"the first's speed; reading at {reading / without:.2f} times the speed of not "
        "reading"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(rows))


def run(home: Path, steps: int) -> list[dict[str, float]]:
    """Trains for `steps` below `home`; a row for every EVERY of them."""
    mixture = _prepared(home / "prepared" / "numbers" / "train")
    system = _system(mixture.vocabulary.rows)
    measured = Measurements()

    def batches(start: int) -> Iterator[Batch]:
        return stream.batches(mixture, ROW, BATCH, seed=0, start_step=start)

    def half_of_them(start: int) -> Iterator[Batch]:
        read = batches(start)
        kept = itertools.cycle(list(itertools.islice(read, EVERY)))
        for step in itertools.count(start):
            yield next(read if step // EVERY % 2 == 0 else kept)

    config = TrainConfig(
        steps=steps,
        log_every=EVERY,
        eval_every=5 * EVERY,
        schedule=ScheduleConfig(learning_rate=1e-3),
        checkpoints=CheckpointConfig(every=5 * EVERY, keep=2),
    )
    train(
        system,
        config,
        half_of_them,
        lambda: random_params(system, 0),
        directory=home / "run",
        writers=[measured, JsonlWriter(home / "run" / "metrics.jsonl")],
        evaluate=held_out_loss(system, lambda: batches(0), 4),
    )
    return measured.rows


def _prepared(place: Path) -> PreparedMixture:
    place.mkdir(parents=True)
    rng = np.random.default_rng(0)
    items = []
    for task in range(20):
        for _ in range(500):
            ids = [int(x) for x in rng.integers(3, 200, 10)]
            items.append(Item(f"t{task}", Example(ids, [ids[task % 10], 1])))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    vocabulary = Vocabulary(kind="opaque", size=200, extra_ids=0, fingerprint="n")
    source = Source("numbers", 1.0, (), ("u-00000-of-00001",))
    write_manifest(place, "numbers", "train", [source], vocabulary)
    return open_mixture(place.parent, "train")


def _system(vocab: int) -> System:
    model = T5Config(
        vocab_size=vocab,
        emb_dim=32,
        num_heads=2,
        head_dim=16,
        mlp_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        dtype="float32",
        remat="none",
    )
    return System(model, Variant(prefix=PrefixSpec(length=4)))


def _resident_mib() -> float:
    """Memory of this process that is in RAM, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


if __name__ == "__main__":
    main()
