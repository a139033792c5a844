"""A whole sweep of 648 runs in one process, beside as many processes of one run each.

    python -m benchmarks.tune [--steps 20 --separate 5]

Makes its own tiny T5, its five sources (each trained for a few steps by the front door)
and eight tasks in a temporary folder, then runs `python -m hypert5_jax.tune` as a user
would: {Prefix-Flat, Prefix-MLP, LoRA} × {Rand, Shared, Hyper} × 8 tasks × 3 learning rates
× 3 seeds. Some runs of it, spread over methods and starts, are then made again by
processes of their own; their mean stands for all 648. Prints both, the ratio, how far the
results of the two differ, and the load of the machine: on a busy one the seconds of CPU
time say more than those of the clock.
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("anli_r1", "hellaswag", "cb", "copa", "rte", "wic", "wsc", "winogrande")
# Field of Starts -> variant.
SOURCES = {
    "shared_prefix": "t5_mtf_prefix",
    "shared_lora": "t5_mtf_lora",
    "hyper_prefix": "hypert5_prefix",
    "hyper_prefix_mlp": "hypert5_prefix_mlp",
    "hyper_lora": "hypert5_lora",
}
# Spread over methods, starts, tasks, rates and seeds.
SEPARATE = (
    ("Prefix-Flat", "Rand", 0, 1e-3, 0),
    ("Prefix-Flat", "Hyper", 3, 1e-4, 1),
    ("Prefix-MLP", "Shared", 5, 1e-3, 2),
    ("Prefix-MLP", "Hyper", 6, 1e-5, 0),
    ("LoRA", "Shared", 7, 1e-3, 1),
)
SIZES = """
T5Config.vocab_size = 128
T5Config.emb_dim = 32
T5Config.num_heads = 2
T5Config.head_dim = 16
T5Config.mlp_dim = 64
T5Config.num_encoder_layers = 2
T5Config.num_decoder_layers = 2
T5Config.dtype = "float32"
T5Config.remat = "none"
PrefixSpec.length = 8
LoRASpec.rank = 4
TASK_FEATURE_LENGTHS = {"hyper_inputs": 256, "inputs": 32, "targets": 4}
MIXTURE_OR_TASK_NAME = "toy"
BATCH_SIZE = 8
"""
TRAIN = """
TRAIN_STEPS = 3
DROPOUT_RATE = 0.0
TrainConfig.frozen_dtype = "float32"
"""


def prepare(home: Path, split: str, count: int) -> None:
    """Eight tasks: which of the first words of the input is said, of 2 to 4 options."""
    place = home / "prepared" / "toy" / split
    place.mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    items = []
    for number, group in enumerate(GROUPS):
        options = 2 + number % 3
        for _ in range(count):
            ids = [int(i) for i in rng.integers(3, 120, rng.integers(8, 30))]
            choices = tuple([word, 1] for word in ids[:options])
            said = choices[number % options]
            example = Example(ids, list(said), options=choices)
            items.append(Item(f"task{number}", example, group=group))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    words = Vocabulary(kind="opaque", size=120, extra_ids=0, fingerprint="bench")
    source = Source("toy", 1.0, (), ("u-00000-of-00001",))
    write_manifest(place, "toy", split, [source], words)


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds by the clock, and of CPU time over all cores."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.1f} s ({self.cpu:.1f} s of CPU time)"


def cpu_of_children() -> float:
    """Seconds of CPU time of all processes that were started and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def call(door: str, files: Sequence[object], given: dict[str, object]) -> Took:
    """Runs a front door in a process of its own."""
    argv = [f"--gin_file={file}" for file in files]
    argv += [f"--gin.{name}={value}" for name, value in given.items()]
    begun, cpu = time.monotonic(), cpu_of_children()
    done = subprocess.run(
        [sys.executable, "-m", f"hypert5_jax.{door}", *argv],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{door} failed: {done.stderr}")
    return Took(time.monotonic() - begun, cpu_of_children() - cpu)


def train_sources(home: Path) -> None:
    """The frozen T5 and the five systems beside it."""
    for name, variant in {"base": "t5_mtf", **SOURCES}.items():
        files = (
            f"gin/variants/{variant}.gin",
            "gin/runs/multitask.gin",
            home / "sizes.gin",
            home / "train.gin",
        )
        given = {
            "MODEL_DIR": home / name,
            "PREPARED_DIR": home / "prepared",
            "INITIAL_CHECKPOINT_PATH": None if name == "base" else home / "base",
            "InitialConfig.allow_random": True,
        }
        call("train", files, given)


def tune(home: Path, out: Path, steps: int, **more: object) -> Took:
    """A sweep."""
    given = {
        "OUTPUT_DIR": out,
        "PREPARED_DIR": home / "prepared",
        "INITIAL_CHECKPOINT_PATH": home / "base",
        "TRAIN_STEPS": steps,
        "EVAL_EVERY": steps,
        "TuneRun.frozen_dtype": "float32",
        **{f"Starts.{name}": home / name for name in SOURCES},
        **more,
    }
    return call("tune", ("gin/runs/tune.gin", home / "sizes.gin"), given)


def read(out: Path) -> list[dict]:
    """The lines of a sweep."""
    return [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]


def load() -> str:
    """Processes that wanted a core in the last minute, and the cores there are."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def main() -> None:
    """Prints seconds and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--separate", type=int, default=len(SEPARATE))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home, "train", args.examples)
        prepare(home, "validation", args.examples)
        (home / "sizes.gin").write_text(SIZES)
        (home / "train.gin").write_text(TRAIN)
        train_sources(home)
        print(f"load before: {load()}", flush=True)
        whole = tune(home, home / "sweep", args.steps)
        found = read(home / "sweep")
        by_key = {
            (x["method"], x["start"], x["task"], x["learning_rate"], x["seed"]): x
            for x in found
        }
        print(
            f"{len(by_key)} runs of {args.steps} steps in one process: {whole}, "
            f"load {load()}",
            flush=True,
        )
        took, apart = [], 0.0
        for number, (method, start, task, rate, seed) in enumerate(
            SEPARATE[: args.separate]
        ):
            out = home / f"separate{number}"
            name = f"task{task}"
            lists = {
                "METHODS": (method,),
                "STARTS": (start,),
                "EvaluationData.tasks": (name,),
                "LEARNING_RATES": (rate,),
                "SEEDS": (seed,),
            }
            took.append(tune(home, out, args.steps, **lists))
            (mine,) = read(out)
            other = by_key[method, start, name, rate, seed]
            apart = max(apart, abs(mine["losses"][-1] - other["losses"][-1]))
            print(
                f"{method} ({start}) alone: {took[-1]}, scores {mine['scores']}"
                f", in the sweep {other['scores']}",
                flush=True,
            )
        mean = Took(
            statistics.fmean(one.clock for one in took),
            statistics.fmean(one.cpu for one in took),
        )
        print(f"a process for one run: {mean}, load {load()}")
        print(f"losses of the two differ by at most {apart:.1e}")
        print(
            f"{len(by_key)} such processes would take "
            f"{mean.clock * len(by_key) / 3600:.1f} h, "
            f"{mean.clock * len(by_key) / whole.clock:.0f} times the sweep by the clock, "
            f"{mean.cpu * len(by_key) / whole.cpu:.0f} times by CPU time"
        )


if __name__ == "__main__":
    main()
