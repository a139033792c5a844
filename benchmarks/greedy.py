"""Greedy decoding beside Hugging Face's `generate`, in one run, on one CPU.

    python -m benchmarks.greedy [--batch 8 --tokens 64 --inputs 128 384 --repeats 5]

T5-small, the same random weights, float32, both with a cache and all cores; nobody ever
says EOS, so that both decode all tokens, and they must be the same tokens. The two
alternate; medians count; compilation is told apart. A step reads every weight of the
decoder for a handful of rows, so that reading them once, timed here too, bounds any
implementation from below. Needs the extra `parity`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import SMALL
from hypert5_jax.inference import decoding

OURS, THEIRS = "ours", "Hugging Face"


def compiled(params: Any, inputs: np.ndarray, tokens: int) -> tuple[Callable, float]:
    """Our greedy decoding for these shapes, and the seconds it took to compile."""
    start = time.perf_counter()
    settings = decoding.Decoding(tokens)
    run = jax.jit(lambda p, i: decoding.decode(SMALL, p, i, settings))
    ready = run.lower(params, inputs).compile()
    return lambda: np.asarray(ready(params, inputs)), time.perf_counter() - start


def reading(params: Any, repeats: int) -> tuple[float, float]:
    """(seconds to read the decoder's weights once, at best; their bytes)."""
    leaves = jax.tree.leaves(params["decoder"])
    run = jax.jit(lambda leaves: [jnp.sum(leaf) for leaf in leaves])
    times = side_by_side.alternate(
        {"read": lambda: jax.block_until_ready(run(leaves))}, 5 * repeats
    )
    return min(times["read"]), sum(leaf.nbytes for leaf in leaves)


def compare(
    params: Any, model: Any, inputs: np.ndarray, tokens: int, repeats: int
) -> None:
    """One length of inputs: prints seconds, tokens a second and the ratio."""
    whole, seconds = compiled(params, inputs, tokens)
    start, _ = compiled(params, inputs, 1)
    said, expected = whole(), side_by_side.answers(model, inputs, tokens)
    if not np.array_equal(said, expected):
        raise SystemExit(f"{(said != expected).mean():.1%} of the tokens differ")
    runs = {
        OURS: whole,
        THEIRS: lambda: side_by_side.answers(model, inputs, tokens),
        f"{OURS}, 1 token": start,
        f"{THEIRS}, 1 token": lambda: side_by_side.answers(model, inputs, 1),
    }
    rows, length = inputs.shape
    print(f"inputs of {length} tokens (compiled in {seconds:.1f} s):")
    medians = side_by_side.report(side_by_side.alternate(runs, repeats), OURS)
    for name in (OURS, THEIRS):
        first = medians[f"{name}, 1 token"]
        step = (medians[name] - first) / (tokens - 1)
        print(
            f"  {name}: {rows * tokens / medians[name]:.0f} tokens/s; "
            f"{first * 1e3:.0f} ms to the first, then {step * 1e3:.1f} ms a step"
        )
    print(f"  throughput: {medians[THEIRS] / medians[OURS]:.2f} times theirs")


def main() -> None:
    """Prints seconds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--inputs", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(
        f"T5-small, float32, {args.tokens} tokens greedily for {args.batch} inputs; "
        + side_by_side.machine()
    )
    made = side_by_side.weights()
    params, model = side_by_side.ours(made), side_by_side.hugging_face(made)
    for length in args.inputs:
        inputs = side_by_side.draw(0, args.batch, length)
        compare(params, model, inputs, args.tokens, args.repeats)
    seconds, size = reading(params, args.repeats)
    print(
        f"reading the decoder's {size / 1e6:.0f} MB of weights once: "
        f"{seconds * 1e3:.1f} ms, what a step takes at least"
    )


if __name__ == "__main__":
    main()
