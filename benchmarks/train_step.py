"""One fine-tuning step of our T5-small beside Hugging Face's, in one run, on one CPU.

    make bench
    python benchmarks/train_step.py [--batch 8 --inputs 384 --targets 128 --repeats 5]

Same weights, same batch, float32, no dropout, gradients clipped to norm 1, Adam, all
cores. The two alternate, so that a busy machine is busy for both; medians count. The
matrix products of a step alone, each timed in both libraries and the faster one taken,
bound any implementation from below; the rest is told apart by timing the parts of our
step that stand alone. Needs the extra `parity`.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder stands there

from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.t5 import loss, stacking
from hypert5_jax.t5.config import SIZES, T5Config
from hypert5_jax.training import optimisers, schedules, state, step
from tests.t5 import hf_weights, huggingface

LEARNING_RATE = 1e-4
OURS, THEIRS = "ours", "Hugging Face"
FULL_FINE_TUNING = Variant("none", "none", trainable=("downstream",), context="none")


@dataclasses.dataclass(frozen=True)
class Product:
    """`count` products [batch, m, k] x [batch, k, n] of the forward pass."""

    part: str
    count: int
    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Of forward and backward: three products of the same size each."""
        return 3 * 2 * self.count * self.batch * self.m * self.k * self.n


def products(cfg: T5Config, b: int, inputs: int, targets: int) -> list[Product]:
    """Every matrix product of one forward pass of a batch of b rows."""
    d, f, joined = cfg.emb_dim, cfg.mlp_dim, cfg.num_heads * cfg.head_dim
    found = []

    def maps(count: int, tokens: int, width_in: int, width_out: int) -> None:
        found.append(Product("layers", count, 1, tokens, width_in, width_out))

    def attend(count: int, q: int, k: int) -> None:
        heads, c = b * cfg.num_heads, cfg.head_dim
        found.append(Product("layers", count, heads, q, c, k))
        found.append(Product("layers", count, heads, q, k, c))

    enc, dec = cfg.num_encoder_layers, cfg.num_decoder_layers
    for depth, tokens in ((enc, b * inputs), (dec, b * targets)):
        maps(3 * depth, tokens, d, joined)
        maps(depth, tokens, joined, d)
        maps(2 * depth, tokens, d, f)
        maps(depth, tokens, f, d)
    maps(dec, b * targets, d, joined)  # cross-attention: query
    maps(2 * dec, b * inputs, d, joined)  # key, value
    maps(dec, b * targets, joined, d)  # out
    attend(enc, inputs, inputs)
    attend(dec, targets, targets)
    attend(dec, targets, inputs)
    found.append(Product("output layer", 1, 1, b * targets, d, cfg.vocab_size))
    return found


def seconds(run: Callable[[], Any], repeats: int = 3) -> float:
    """The fastest of a few runs, after one that does not count."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def product_seconds(product: Product) -> float:
    """Forward and backward of one kind of product, the faster library's time."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((product.batch, product.m, product.k), np.float32)
    b = rng.standard_normal((product.batch, product.k, product.n), np.float32)
    g = rng.standard_normal((product.batch, product.m, product.n), np.float32)
    pairs = ((a, b, "bmk,bkn->bmn"), (g, b, "bmn,bkn->bmk"), (a, g, "bmk,bmn->bkn"))
    total = 0.0
    for x, y, formula in pairs:
        letters_x, letters_y = formula.split("->")[0].split(",")
        summed = (set(letters_x) & set(letters_y)) - {"b"}
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        tx = tx.mT if letters_x[1] in summed else tx
        ty = ty.mT if letters_y[2] in summed else ty
        by_torch = seconds(lambda tx=tx, ty=ty: tx @ ty)
        compiled = jax.jit(lambda x, y, formula=formula: jnp.einsum(formula, x, y))
        jx, jy = jax.device_put(x), jax.device_put(y)
        by_jax = seconds(lambda c=compiled, x=jx, y=jy: jax.block_until_ready(c(x, y)))
        total += min(by_torch, by_jax)
    return product.count * total


def random_rows(cfg: T5Config, args: argparse.Namespace) -> Batch:
    """A batch without padding, one dummy context per row."""
    rng = np.random.default_rng(0)

    def ids(length: int) -> np.ndarray:
        return rng.integers(2, cfg.vocab_size, (args.batch, length), dtype=np.int32)

    targets = ids(args.targets)
    return Batch(
        hyper_inputs=np.zeros((args.batch, 0), np.int32),
        inputs=ids(args.inputs),
        targets=targets,
        weights=np.ones(targets.shape, np.float32),
    )


class Ours:
    """Our training step, as the loop compiles it."""

    def __init__(self, cfg: T5Config, weights: dict[str, np.ndarray], batch: Batch):
        system = System(cfg, FULL_FINE_TUNING)
        params = trees.unflatten(hf_weights.to_ours(weights))
        if cfg.scan_layers:
            params = stacking.stack_layers(params)
        groups = {"downstream": jax.tree.map(jnp.array, params)}
        schedule = schedules.make_schedule(
            schedules.ScheduleConfig("constant", LEARNING_RATE), 100
        )
        self.optimiser = optimisers.make_optimiser(
            optimisers.OptimiserConfig(), schedule, system.logical_axes()
        )
        self.state = state.new_state(groups, {}, self.optimiser)
        self.batch = jax.device_put(batch)
        run = step.make_step(system, self.optimiser, seed=0)
        self.compiled = (
            jax.jit(run, donate_argnums=0).lower(self.state, self.batch).compile()
        )

    def step(self) -> float:
        """One update; the mean loss before it."""
        self.state, sums = self.compiled(self.state, self.batch)
        jax.block_until_ready(self.state)
        return float(sums["loss"] / sums["weight"])

    def optimiser_seconds(self) -> float:
        """Clipping, Adam and adding the update, given gradients."""
        grads = jax.tree.map(jnp.ones_like, self.state.trainable)

        @jax.jit
        def update(grads, opt_state, params):
            updates, opt_state = self.optimiser.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), opt_state

        def run():
            jax.block_until_ready(
                update(grads, self.state.opt_state, self.state.trainable)
            )

        return seconds(run)

    def output_seconds(self, cfg: T5Config) -> float:
        """Logits and loss, forward and backward, given the decoder's last states."""
        shape = (*self.batch.targets.shape, cfg.emb_dim)
        hidden = jax.random.normal(jax.random.key(0), shape)
        decoder = self.state.trainable["downstream"]["decoder"]
        kernel = decoder["logits_dense"]["kernel"]

        @jax.jit
        def run_once(hidden, kernel):
            def total(hidden, kernel):
                logits = hidden @ kernel
                return loss.cross_entropy(
                    logits, self.batch.targets, self.batch.weights
                ).total

            return jax.grad(total, argnums=(0, 1))(hidden, kernel)

        return seconds(lambda: jax.block_until_ready(run_once(hidden, kernel)))

    def embedding_seconds(self) -> float:
        """Looking both texts up and adding the gradient into the table."""
        table = self.state.trainable["downstream"]["token_embedder"]["embedding"]

        @jax.jit
        def run_once(table, inputs, targets):
            def total(table):
                return (table[inputs] ** 2).sum() + (table[targets] ** 2).sum()

            return jax.grad(total)(table)

        batch = self.batch
        return seconds(
            lambda: jax.block_until_ready(run_once(table, batch.inputs, batch.targets))
        )


class HuggingFace:
    """T5ForConditionalGeneration and torch's Adam."""

    def __init__(self, cfg: T5Config, weights: dict[str, np.ndarray], batch: Batch):
        with tempfile.TemporaryDirectory() as folder:
            self.model = huggingface.load(cfg, weights, Path(folder)).train()
        self.optimiser = torch.optim.Adam(self.model.parameters(), LEARNING_RATE)
        self.inputs = torch.from_numpy(np.asarray(batch.inputs)).long()
        self.labels = torch.from_numpy(np.asarray(batch.targets)).long()

    def step(self) -> float:
        """One update; the mean loss before it."""
        self.optimiser.zero_grad()
        output = self.model(
            input_ids=self.inputs,
            attention_mask=torch.ones_like(self.inputs),
            labels=self.labels,
        )
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return float(output.loss.detach())


def timed_step(model: Ours | HuggingFace) -> tuple[float, float]:
    """(seconds, loss) of a step that follows one of its own kind, as in training.

    The step before is not timed: after another model's, the memory that a step takes
    and gives back may be the system's again and is dear to get.
    """
    model.step()
    start = time.perf_counter()
    value = model.step()
    return time.perf_counter() - start, value


def main() -> None:
    """Prints the comparison, the bound and where the rest goes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--inputs", type=int, default=384)
    parser.add_argument("--targets", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    small = dataclasses.replace(SIZES["small"], dtype="float32")
    # Hugging Face keeps every activation and writes the layers out; so do we. The
    # default of our sizes, for accelerators and large models, scans and recomputes.
    kept = dataclasses.replace(small, remat="none", scan_layers=False)
    weights = hf_weights.random_hf_weights(small)
    batch = random_rows(small, args)
    ours = Ours(kept, weights, batch)
    models: dict[str, Ours | HuggingFace] = {
        OURS: ours,
        "ours, recomputing": Ours(small, weights, batch),
        THEIRS: HuggingFace(small, weights, batch),
    }
    del weights
    print(
        f"T5-small, batch {args.batch}, {args.inputs}/{args.targets} tokens, float32, "
        f"{torch.get_num_threads()} threads"
    )
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(args.repeats):
        values = []
        for name, model in models.items():
            elapsed, value = timed_step(model)
            values.append(f"{value:.5f}")
            times[name].append(elapsed)
        print(f"  repeat {repeat}: losses {' '.join(values)}", flush=True)
    medians = {name: statistics.median(t) for name, t in times.items()}
    for name, t in times.items():
        print(
            f"{name:18s} median {medians[name]:6.2f} s   ({min(t):.2f} … {max(t):.2f})"
            f"   {medians[THEIRS] / medians[name]:5.2f} times {THEIRS}'s speed"
        )
    print_breakdown(ours, kept, args, min(times[OURS]))


def print_breakdown(
    ours: Ours, cfg: T5Config, args: argparse.Namespace, whole: float
) -> None:
    """Our fastest step by parts, each at its fastest, its matrix products apart."""
    bound = {"layers": 0.0, "output layer": 0.0}
    flops = 0
    for product in products(cfg, args.batch, args.inputs, args.targets):
        bound[product.part] += product_seconds(product)
        flops += product.flops
    total = sum(bound.values())
    print(
        f"matrix products alone {total:.2f} s ({flops / 1e9:.0f} GFLOP, "
        f"{flops / total / 1e9:.0f} GFLOP/s): no implementation is faster"
    )
    parts = {
        "output layer": ours.output_seconds(cfg),
        "embedding": ours.embedding_seconds(),
        "optimiser": ours.optimiser_seconds(),
    }
    parts["layers"] = whole - sum(parts.values())
    print(f"{'our fastest step':18s} {'seconds':>8s} {'products':>9s} {'rest':>6s}")
    for name, elapsed in parts.items():
        products_of = bound.get(name, 0.0)
        rest = elapsed - products_of
        print(f"{name:18s} {elapsed:8.2f} {products_of:9.2f} {rest:6.2f}")
    print("(layers: by difference; their rest holds softmax, norms and activations)")


if __name__ == "__main__":
    main()
