"""Bytes that a training step keeps of its forward pass for its backward pass."""

import math
from typing import Any

import jax
from jax.extend.core import Literal

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System


def kept_bytes(
    system: System, trainable: Any, frozen: Any, batch: Batch, parts: int
) -> int:
    """Counted in the traced step; parameters and batch, which are there anyway, are not.

    Args:
      system: with its loss.
      trainable, frozen: {group: tree of ShapeDtypeStructs}.
      batch: the global batch as ShapeDtypeStructs.
      parts: into how many parts devices and microbatches divide it; one part is counted.
    """

    def share(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        rows = max(leaf.shape[0] // parts, 1)
        return jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)

    def backward(trained: Any, frozen: Any, batch: Any, rng: Any) -> Any:
        def loss(trained: Any) -> Any:
            return system.loss({**frozen, **trained}, batch, dropout_rng=rng).total

        # What a backward pass is called with, as a tree.
        return jax.vjp(loss, trained)[1]

    rng = jax.eval_shape(lambda: jax.random.key(0))
    part = jax.tree.map(share, batch)
    traced = jax.make_jaxpr(backward)(trainable, frozen, part, rng).jaxpr
    given = set(traced.invars)
    kept = {v for v in traced.outvars if not isinstance(v, Literal) and v not in given}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in kept)
