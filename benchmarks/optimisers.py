"""Compressed optimisers beside float32 Adam, on the quickstart's text and model.

    python benchmarks/optimisers.py [--steps 500 --seeds 0,1,2 --stage pretrain]

Every optimiser starts from the same parameters and sees the same batches; seeds change
both. Losses are means over the last tenth of the steps, and over held-out batches after
the last one. Adam with 8-bit moments runs on one device, 1-bit Adam on 2 and 8 fake ones
with the same global batch. Also printed: bytes of the optimiser's state, here and of a
T5-Large; time of one step and of the optimiser alone; bytes that cross devices.
"""

import argparse
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import numpy as np
import optax

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder stands there

from hypert5_jax import quickstart
from hypert5_jax.config import gin_files, registry
from hypert5_jax.config.quickstart_run import QuickstartRun, Stage
from hypert5_jax.core import trees
from hypert5_jax.data import stream
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import SIZES
from hypert5_jax.t5.head_start import head_start
from hypert5_jax.training.held_out import held_out_loss
from hypert5_jax.training.loop import train
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.state import InitialParams, new_state, random_params
from hypert5_jax.training.step import make_step
from tests.training.test_adam1bit import crossing

BASE = Variant("none", "none", trainable=("downstream",), context="none")


class Losses:
    """A writer that keeps the training loss of every row."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def resume(self, step: int) -> None:
        """Nothing was kept before."""

    def write(self, step: int, scalars: Any) -> None:
        """One row, if it is of training."""
        if "train/loss" in scalars:
            self.rows.append(scalars["train/loss"])

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing is held open."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """One stage of the quickstart as this comparison runs it."""

    run: QuickstartRun
    data: Any
    stage: str
    steps: int

    def system(self) -> System:
        """The base T5 alone, or the hypermodel around it."""
        if self.stage == "pretrain":
            return System(self.run.model, BASE)
        variant = Variant(prefix=self.run.prefix, head=self.run.head)
        return System(self.run.model, variant)

    def trained(
        self, optimiser: OptimiserConfig, devices: int, seed: int, begin: InitialParams
    ) -> tuple[list[float], float, dict[str, Any]]:
        """(training loss of every tenth of the run, held-out loss, parameters)."""
        settings = getattr(self.run, self.stage)
        hyper = self.stage != "pretrain"
        row = settings.row_format("hypermodel" if hyper else "none")
        mixtures = {
            split: self.data["caclm" if hyper else self.stage, split]
            for split in ("train", "test")
        }
        config = dataclasses.replace(
            settings.train_config(seed),
            steps=self.steps,
            log_every=max(1, self.steps // 10),
            eval_every=self.steps,
            optimiser=optimiser,
            mesh=MeshConfig(data=devices),
        )
        losses = Losses()
        system = self.system()

        def held_out():
            return stream.batches(mixtures["test"], row, settings.batch_size, seed=0)

        result = train(
            system,
            config,
            lambda step: stream.batches(
                mixtures["train"], row, settings.batch_size, seed, start_step=step
            ),
            begin,
            writers=[losses],
            evaluate=held_out_loss(system, held_out, 16),
            label=f"{optimiser.name} on {devices}, seed {seed}",
            devices=jax.devices()[:devices],
        )
        params = jax.device_get(dict(result.params))
        return losses.rows, result.metrics["held_out/loss"], params


def beginning(
    run: QuickstartRun, data: Any, stage: str, seed: int, steps: int
) -> InitialParams:
    """Where the stage starts: the base at random, or trained with Adam as long."""
    base = random_params(System(run.model, BASE), seed)
    t5 = head_start(base.params["downstream"], run.model, run.neighbour_bias)
    begin = InitialParams({"downstream": t5}, base.origins)
    if stage == "pretrain":
        return begin
    before = Setting(run, data, "pretrain", steps)
    _, _, trained = before.trained(OptimiserConfig(), 1, seed, begin)
    system = Setting(run, data, stage, steps).system()
    vocabulary = data["caclm", "train"].vocabulary
    return quickstart.around_base(system, trained, vocabulary, seed, "pretrain")


def compare(setting: Setting, seeds: list[int], full_precision_steps: int) -> None:
    """Prints the losses of every optimiser, seed by seed and on average."""
    one_bit = OptimiserConfig("adam1bit", full_precision_steps=full_precision_steps)
    contenders = {
        "adam": (OptimiserConfig(), 1),
        "adam8bit": (OptimiserConfig("adam8bit"), 1),
        "adam1bit, 2 devices": (one_bit, 2),
        "adam1bit, 8 devices": (one_bit, 8),
    }
    ends: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for seed in seeds:
        begin = beginning(setting.run, setting.data, setting.stage, seed, setting.steps)
        for name, (optimiser, devices) in contenders.items():
            rows, held_out, _ = setting.trained(optimiser, devices, seed, begin)
            ends[name].append((rows[-1], held_out))
            curve = " ".join(f"{loss:.4f}" for loss in rows)
            print(
                f"seed {seed} {name:20s} {curve}  held out {held_out:.4f}", flush=True
            )
    print(
        f"\n{'':20s} {'training loss':>16s} {'held-out loss':>16s}  held out - adam's"
    )
    for name, found in ends.items():
        columns = [f"{np.mean(c):8.4f} ± {np.std(c):.4f}" for c in zip(*found)]
        difference = [a[1] - b[1] for a, b in zip(found, ends["adam"])]
        print(
            f"{name:20s} {' '.join(columns)}  {np.mean(difference):+.4f} "
            f"({min(difference):+.4f} … {max(difference):+.4f})"
        )


def print_memory(name: str, system: System) -> None:
    """Bytes of the optimiser's state, nothing allocated."""
    shapes, axes = system.abstract_params(), system.logical_axes()
    groups = system.variant.trainable
    shapes, axes = ({g: tree[g] for g in groups} for tree in (shapes, axes))
    print(f"\n{name}: {trees.count(shapes):,} trained parameters; bytes of state")
    mesh = make_mesh(MeshConfig())
    first = None
    for config in (
        OptimiserConfig(),
        OptimiserConfig("adam8bit"),
        OptimiserConfig("adam8bit", block_size=2048),
        OptimiserConfig("adam1bit"),
    ):
        chain = make_optimiser(config, optax.constant_schedule(1.0), axes, mesh)
        state = jax.eval_shape(chain.init, shapes)
        held = trees.nbytes(state)
        if config.name == "adam1bit":  # what is PerDevice is divided by the devices
            everywhere = trees.nbytes((state[0].mu, state[0].nu))
            held = everywhere + (held - everywhere) // mesh.size
        first = first or held
        print(
            f"  {config.name:9s} block_size {config.block_size:4d} "
            f"{held:15,d} on a device, {held / first:.3f} of adam's"
        )


def print_step_times(setting: Setting, begin: InitialParams, repeats: int = 41) -> None:
    """Seconds of whole training steps, in turns, on one device."""
    settings, system = setting.run.pretrain, setting.system()
    batches = stream.batches(
        setting.data["pretrain", "train"],
        settings.row_format("none"),
        settings.batch_size,
        seed=0,
    )
    batch = next(batches)
    steps: dict[str, Any] = {}
    for name in ("adam", "adam8bit"):
        optimiser = make_optimiser(
            OptimiserConfig(name), optax.constant_schedule(1e-3), system.logical_axes()
        )
        state = new_state(dict(begin.params), {}, optimiser)
        compiled = jax.jit(make_step(system, optimiser, seed=0))
        steps[name] = (compiled.lower(state, batch).compile(), state)
    print("\nwhole step of the quickstart's pretraining, one device")
    print_medians(in_turns(steps, batch, repeats=repeats))


def print_crossing(setting: Setting, begin: InitialParams) -> None:
    """Bytes of what collectives hand to a device, from the compiled step."""
    system, mesh = setting.system(), make_mesh(MeshConfig())
    optimiser = make_optimiser(
        OptimiserConfig("adam1bit"),
        optax.constant_schedule(1e-3),
        system.logical_axes(),
        mesh,
    )
    settings = setting.run.pretrain
    batch = next(
        stream.batches(
            setting.data["pretrain", "train"],
            settings.row_format("none"),
            settings.batch_size,
            seed=0,
        )
    )
    state = new_state(dict(begin.params), {}, optimiser)
    step = jax.jit(make_step(system, optimiser, seed=0))
    text = step.lower(state, batch).compile().as_text()
    print(
        f"\nadam1bit's compiled step on {mesh.size} devices: bytes out of collectives"
    )
    for stage, branch in (("in full", "branch_1_fun"), ("by signs", "branch_0_fun")):
        for (operation, dtype), size in crossing(text, f"cond/{branch}").items():
            print(f"  {stage:9s} {operation:11s} {dtype:4s} {size:10,d}")


def in_turns(
    steps: dict[str, tuple[Any, Any]], argument: Any, repeats: int
) -> dict[str, list[float]]:
    """Seconds of each {name: (compiled, state)}, one after the other, many times."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats):
        for name, (compiled, state) in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(state, argument))
            times[name].append(time.perf_counter() - start)
    return times


def print_medians(times: dict[str, list[float]]) -> None:
    """One line each, beside adam's."""
    adam = statistics.median(times["adam"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"  {name:9s} median {median * 1e3:7.1f} ms ({min(taken) * 1e3:.1f} … "
            f"{max(taken) * 1e3:.1f}), {median / adam:.2f} of adam's"
        )


def print_times(shapes: Any, axes: Any, repeats: int = 15) -> None:
    """Seconds of the update alone, in turns, on one device."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: jax.device_put(rng.standard_normal(s.shape, np.float32)), shapes
    )
    updates: dict[str, Any] = {}
    for name in ("adam", "adam8bit"):
        chain = make_optimiser(
            OptimiserConfig(name), optax.constant_schedule(1e-3), axes
        )

        def update(state, grads, chain=chain):
            change, state = chain.update(grads, state, None)
            return jax.tree.map(lambda p, c: p + c, grads, change), state

        state = chain.init(params)
        updates[name] = (jax.jit(update).lower(state, params).compile(), state)
    count = trees.count(shapes)
    print(f"\nupdate of {count:,} parameters alone, clipping included, one device")
    print_medians(in_turns(updates, params, repeats))


def main() -> None:
    """Runs what the module's docstring says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--full_precision_steps", type=int, default=100)
    parser.add_argument("--stage", choices=("pretrain", "hyperpretrain"))
    parser.add_argument("--data", default=None, help="folder to keep prepared data in")
    args = parser.parse_args()

    system = System(SIZES["large"], Variant(prefix=PrefixSpec()))
    print_memory("hypermodel for T5-Large, prefix", system)
    small = System(SIZES["small"], BASE)
    print_memory("T5-small", small)
    print_times(
        {"downstream": small.abstract_params()["downstream"]},
        {"downstream": small.logical_axes()["downstream"]},
    )
    registry.add(Stage)
    registry.add(QuickstartRun)
    given = gin_files.read_arguments(
        "optimisers", "", ["--gin_file=gin/quickstart.gin"]
    )
    run, _ = gin_files.build(QuickstartRun, given)
    home = Path(args.data or tempfile.mkdtemp())
    data = quickstart.prepare(run, home)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    first = Setting(run, data, "pretrain", args.steps)
    begin = beginning(run, data, "pretrain", 0, args.steps)
    print_step_times(first, begin)
    print_crossing(first, begin)
    for stage in [args.stage] if args.stage else ["pretrain", "hyperpretrain"]:
        print(
            f"\nquickstart's {stage}, {args.steps} steps, adam1bit's first "
            f"{args.full_precision_steps} in full; loss of every tenth"
        )
        compare(Setting(run, data, stage, args.steps), seeds, args.full_precision_steps)


if __name__ == "__main__":
    main()
