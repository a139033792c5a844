"""What a cached φ saves over reading 16 examples again with every input, on a CPU.

    python -m benchmarks.cached_phi [--tokens 16 --repeats 5]

The paper's sizes of a text (384 tokens of input, 1024 of examples) and T5-small, float32,
random weights that never say EOS:

    cached φ      the encoder reads the 384 tokens of the input, φ is at hand
    few-shot      the encoder reads 1024 + 384 = 1408 tokens, no φ

and, once for a task, the hypermodel reads the 1024 tokens and writes φ. Per-input costs
are those of a batch over its rows. Both sides are ours; they alternate, medians count.
"""

import argparse
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import side_by_side
from benchmarks.side_by_side import SMALL
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import decoding
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec

EXAMPLES, INPUT = 1024, 384
VARIANTS = {
    "prefix of 32": Variant(prefix=PrefixSpec(length=32)),
    "LoRA of rank 8": Variant("lora", lora=LoRASpec(rank=8)),
}
FEW_SHOT = "few-shot"


@dataclasses.dataclass(frozen=True)
class Cached:
    """A φ at hand, and how it was made.

    Attributes:
      adapt: makes it again from 1024 tokens; waits for it.
      phi: of batch 1.
    """

    adapt: Callable[[], Any]
    phi: Any


def adapted(variant: Variant, t5: Any) -> Cached:
    """A hypermodel of T5-small that starts from `t5`, and the φ it writes."""
    system = System(SMALL, variant)
    params = system.init_from_t5(jax.random.key(0), t5)
    context = side_by_side.draw(1, 1, EXAMPLES)
    run = jax.jit(system.make_phi)

    def adapt() -> Any:
        return jax.block_until_ready(run(params, context))

    return Cached(adapt, adapt())


def answering(params: Any, rows: int, length: int, tokens: int, phi: Any) -> Callable:
    """Greedy answers to `rows` inputs of `length` tokens."""
    settings = decoding.Decoding(tokens)
    inputs = side_by_side.draw(2, rows, length)
    run = jax.jit(lambda p, i, f: decoding.decode(SMALL, p, i, settings, f))
    return lambda: np.asarray(run(params, inputs, phi))


def main() -> None:
    """Prints seconds, ratios, and from how many inputs on adapting has paid."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"T5-small, float32, {args.tokens} tokens greedily; {side_by_side.machine()}")
    t5 = side_by_side.ours(side_by_side.weights())
    cached = {name: adapted(variant, t5) for name, variant in VARIANTS.items()}
    once = {f"adapting, {name}": each.adapt for name, each in cached.items()}
    print("once for a task:")
    adapting = side_by_side.report(
        side_by_side.alternate(once, args.repeats), next(iter(once))
    )
    for rows in (4, 8):
        runs = {FEW_SHOT: answering(t5, rows, EXAMPLES + INPUT, args.tokens, None)}
        for name, each in cached.items():
            runs[name] = answering(t5, rows, INPUT, args.tokens, each.phi)
        print(f"a batch of {rows} inputs:")
        medians = side_by_side.report(
            side_by_side.alternate(runs, args.repeats), FEW_SHOT
        )
        few_shot = medians[FEW_SHOT] / rows
        for name in cached:
            own = medians[name] / rows
            pays = math.ceil(adapting[f"adapting, {name}"] / (few_shot - own))
            print(
                f"  {name}: {own * 1e3:.0f} ms an input against {few_shot * 1e3:.0f}, "
                f"{few_shot / own:.2f} times cheaper; adapting has paid with input "
                f"{pays}"
            )


if __name__ == "__main__":
    main()
