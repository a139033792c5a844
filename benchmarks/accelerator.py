"""A recipe's training step on one accelerator, beside Hugging Face's and matrix products.

    python benchmarks/accelerator.py [--gin_file=gin/recipes/p3_large/hypert5_prefix.gin]
        [--batches 8 16 32 64 128] [--steps 10] [--gin.NAME=VALUE …]

For each batch size: tokens/s, achieved TFLOP/s by the step's model FLOPs, their share of
the rate of a large bfloat16 matrix product, and the memory at its peak, of

* the recipe's own training step (its variant, its settings of rematerialisation), with
  random parameters and ids on every position;
* full fine-tuning of a T5 of the same size in Hugging Face's implementation under
  torch's autocast to bfloat16, with torch's Adam, with and without gradient checkpointing.

Sizes grow until the memory is full. Each measurement has a process of its own, so that
none finds another's memory taken. Tokens are those that the models read and write: of
contexts, inputs and targets. Needs the extra `parity` for the second half.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder stands there

RECIPE = "gin/recipes/p3_large/hypert5_prefix.gin"
WIDTH = {"gpu": 8192, "tpu": 8192, "cpu": 1024}
FULL = "full"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One measurement; without seconds its batch did not fit.

    Attributes:
      seconds: of one step, or of one product.
      tokens: of one step.
      flops: of it.
      peak: bytes of the device's memory, 0 where the backend does not say.
      device: its name.
    """

    seconds: float
    tokens: int
    flops: float
    peak: int
    device: str


def timed(run: Callable[[], Any], wait: Callable[[], Any], steps: int) -> float:
    """Mean seconds of `steps` runs in a row, after three that do not count."""
    for _ in range(3):
        run()
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        run()
    wait()
    return (time.perf_counter() - start) / steps


def jax_product(args: argparse.Namespace) -> Measured:
    """A square bfloat16 product in JAX."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    width = WIDTH[device.platform]
    a, b = jax.random.normal(jax.random.key(0), (2, width, width), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    last = [product(a, b)]

    def run() -> None:
        last[0] = product(a, b)

    elapsed = timed(run, lambda: last[0].block_until_ready(), args.steps)
    return Measured(elapsed, 0, 2 * width**3, 0, device.device_kind)


def recipe_step(args: argparse.Namespace) -> Measured:
    """The recipe's own step at this batch size, as the loop compiles it."""
    import jax
    import jax.numpy as jnp

    from hypert5_jax.config import gin_files
    from hypert5_jax.config.train_run import TrainRun
    from hypert5_jax.parallel import rules
    from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
    from hypert5_jax.planning.model_flops import Rows, step_flops
    from hypert5_jax.training import optimisers, schedules, state
    from hypert5_jax.training.jitted import jit_step

    read = gin_files.read_arguments("benchmarks/accelerator", "", args.gin)
    run, _ = gin_files.build(TrainRun, read)
    device = jax.devices()[0]
    mesh = make_mesh(MeshConfig(), [device])
    with jax.set_mesh(mesh), rules.activate():
        params = jax.jit(run.system.init)(jax.random.key(0))
        trainable, frozen = state.partition(
            params, run.system.variant.trainable, run.train.frozen_dtype
        )
        schedule = schedules.make_schedule(run.train.schedule, run.train.steps)
        axes = run.system.logical_axes()
        optimiser = optimisers.make_optimiser(
            run.train.optimiser, schedule, {g: axes[g] for g in trainable}, mesh
        )
        kept = state.new_state(trainable, frozen, optimiser)
        del params, trainable, frozen
        shapes = run.data.batch_shapes()
        batch = jax.tree.map(lambda s: jnp.full(s.shape, 7, s.dtype), shapes)
        layout = state.state_shardings(mesh, kept, axes)
        step = jit_step(run.system, run.train, optimiser, layout, mesh)
        compiled = step.lower(kept, batch).compile()
        held = [kept]
        del kept

        def one() -> None:
            held[0], _ = compiled(held[0], batch)

        elapsed = timed(one, lambda: jax.block_until_ready(held[0]), args.steps)
    row, rows = run.data.row_format, run.data.batch_size
    width = {"inputs": row.input_length, "targets": row.target_length}
    reads = Rows(rows, *width.values(), run.data.contexts, row.hyper_length)
    tokens = rows * sum(width.values()) + run.data.contexts * row.hyper_length
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    flops = step_flops(run.system, reads).total
    return Measured(elapsed, tokens, flops, peak, device.device_kind)


def torch_product(args: argparse.Namespace) -> Measured:
    """A square bfloat16 product in torch."""
    import torch

    place, name = _torch_device()
    width = WIDTH["gpu" if place == "cuda" else "cpu"]
    a, b = torch.randn((2, width, width), dtype=torch.bfloat16, device=place)
    elapsed = timed(lambda: a @ b, _torch_wait, args.steps)
    return Measured(elapsed, 0, 2 * width**3, 0, name)


def hugging_face_step(args: argparse.Namespace) -> Measured:
    """Fine-tuning all of Hugging Face's T5 at this batch size."""
    import torch

    from hypert5_jax.config import gin_files
    from hypert5_jax.config.train_run import TrainRun
    from hypert5_jax.hyper.system import System
    from hypert5_jax.hyper.variants import Variant
    from hypert5_jax.planning.model_flops import Rows, step_flops
    from tests.t5 import hf_weights, huggingface

    read = gin_files.read_arguments("benchmarks/accelerator", "", args.gin)
    run, _ = gin_files.build(TrainRun, read)
    config = dataclasses.replace(run.system.downstream, dtype="float32")
    weights = hf_weights.random_hf_weights(config)
    place, name = _torch_device()
    with tempfile.TemporaryDirectory() as folder:
        model = huggingface.load(config, weights, Path(folder)).train().to(place)
    del weights
    if args.checkpointing == FULL:
        model.gradient_checkpointing_enable()
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, fused=place == "cuda")
    row, rows = run.data.row_format, run.data.batch_size
    inputs, targets = (
        torch.full((rows, length), 7, device=place)
        for length in (row.input_length, row.target_length)
    )

    def one() -> None:
        optimiser.zero_grad()
        with torch.autocast(place, torch.bfloat16):
            output = model(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                labels=targets,
            )
        output.loss.backward()
        optimiser.step()

    elapsed = timed(one, _torch_wait, args.steps)
    whole = System(
        config, Variant("none", "none", trainable=("downstream",), context="none")
    )
    reads = Rows(rows, row.input_length, row.target_length)
    tokens = rows * (row.input_length + row.target_length)
    peak = torch.cuda.max_memory_allocated() if place == "cuda" else 0
    return Measured(elapsed, tokens, step_flops(whole, reads).total, peak, name)


def _torch_device() -> tuple[str, str]:
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.get_device_name()
    return "cpu", "cpu"


def _torch_wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


PARTS = {
    part.__name__: part
    for part in (jax_product, recipe_step, torch_product, hugging_face_step)
}


def apart(part: Callable[..., Measured], args: argparse.Namespace) -> Measured | None:
    """The measurement in a process of its own; None where the memory is full.

    Raises:
      SystemExit: it failed otherwise.
    """
    command = [sys.executable, __file__, f"--part={part.__name__}"]
    command += [f"--steps={args.steps}", f"--checkpointing={args.checkpointing}"]
    env = os.environ | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    done = subprocess.run(
        [*command, *args.gin], check=False, capture_output=True, text=True, env=env
    )
    if done.returncode == 0:
        return Measured(**json.loads(done.stdout.splitlines()[-1]))
    if "RESOURCE_EXHAUSTED" in done.stderr or "OutOfMemoryError" in done.stderr:
        return None
    sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")


def compare(
    name: str, part: Callable[..., Measured], product: Measured, args: Any
) -> None:
    """One line for each batch size, until one does not fit."""
    rate = product.flops / product.seconds
    given = list(args.gin)
    for size in args.batches:
        args.gin = [*given, f"--gin.BATCH_SIZE={size}", "--gin.MeshConfig.fsdp=1"]
        found = apart(part, args)
        if found is None:
            print(f"{name:34s} {size:5d}  does not fit", flush=True)
            break
        achieved = found.flops / found.seconds
        print(
            f"{name:34s} {size:5d} {found.seconds:8.3f} s "
            f"{found.tokens / found.seconds:10,.0f} tokens/s "
            f"{achieved / 1e12:7.1f} TFLOP/s {achieved / rate:6.1%} of the product "
            f"{found.peak / 2**30:6.1f} GiB",
            flush=True,
        )
    args.gin = given


def main() -> None:
    """Prints the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", default="none", help=argparse.SUPPRESS)
    args, args.gin = parser.parse_known_args()
    if not any(word.startswith("--gin_file") for word in args.gin):
        args.gin.insert(0, f"--gin_file={RECIPE}")
    if args.part:
        print(json.dumps(dataclasses.asdict(PARTS[args.part](args))))
        return

    for library, product_of in (("JAX", jax_product), ("torch", torch_product)):
        product = apart(product_of, args)
        assert product is not None
        rate = product.flops / product.seconds / 1e12
        print(f"{product.device}: bfloat16 product in {library} {rate:.1f} TFLOP/s")
        if library == "JAX":
            compare("recipe", recipe_step, product, args)
            continue
        for checkpointing in ("none", FULL):
            args.checkpointing = checkpointing
            name = f"Hugging Face, checkpointing {checkpointing}"
            compare(name, hugging_face_step, product, args)


if __name__ == "__main__":
    main()
