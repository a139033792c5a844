"""Several φ as one: side by side in a batch, averaged, or joined to a larger one."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.types import Phi


def stack(phis: Sequence[Phi]) -> Phi:
    """One φ whose batch holds the given ones in order, those of a batch one by one.

    Args:
      phis: of equal shapes but for their batches; NumPy arrays give NumPy arrays.

    Raises:
      UserError: none given, or shapes differ.
    """
    return _joined(phis, lambda name: 1)


def take(phi: Phi, rows: Sequence[int] | np.ndarray) -> Phi:
    """The φ of the given places of the batch, in that order; places may repeat."""
    places = np.asarray(rows, np.int32)
    return jax.tree.map(lambda array: array[:, places], phi)


def mean(phis: Sequence[Phi]) -> Phi:
    """The mean of equally weighted φ.

    Of prefixes it is that of their keys and values. Of LoRA it is the mean of the changes
    of weights, sum(a_i @ b_i) / n: ranks are joined, for a product of means would be
    another change.

    Raises:
      UserError: none given, or shapes differ.
    """
    joined = _joined(phis, _larger_axis)
    count = len(phis)

    def one(name: str, array: Any) -> Any:
        if name.endswith("/b"):
            return array / count
        if name.endswith("/a"):
            return array
        parts = array.reshape(*array.shape[:2], count, -1, *array.shape[3:])
        return parts.mean(2)

    return _named(joined, one)


def concatenate(phis: Sequence[Phi]) -> Phi:
    """All of several φ at once: prefixes one after another, or the sum of LoRAs.

    The columns of every prefix are visible to attention's one softmax; ranks beside each
    other add up: [a_1 a_2] @ [b_1; b_2] = a_1 @ b_1 + a_2 @ b_2.

    Raises:
      UserError: none given, or shapes differ in more than prefix length or rank.
    """
    return _joined(phis, _larger_axis)


def _larger_axis(name: str) -> int:
    """The axis that grows: [l, n, prefix, h, c], a [l, n, in, rank], b [l, n, rank, out]."""
    return 3 if name.endswith("/a") else 2


def _named(phi: Phi, change: Callable[[str, Any], Any]) -> Phi:
    arrays = types.named_arrays(phi)
    return types.from_named_arrays({name: change(name, x) for name, x in arrays})


def _joined(phis: Sequence[Phi], axis_of: Callable[[str], int]) -> Phi:
    if not phis:
        raise UserError("no φ to combine; give one or more")
    trees = [dict(types.named_arrays(phi)) for phi in phis]
    for tree in trees[1:]:
        _check_alike(trees[0], tree, axis_of)

    def one(name: str, first: Any) -> Any:
        parts = [tree[name] for tree in trees]
        host = all(isinstance(part, np.ndarray) for part in parts)
        return (np if host else jnp).concatenate(parts, axis_of(name))

    return _named(phis[0], one)


def _check_alike(first: dict, other: dict, axis_of: Callable[[str], int]) -> None:
    for name in sorted(first.keys() | other.keys()):
        shapes = [tuple(t[name].shape) if name in t else None for t in (first, other)]
        rest = [
            None
            if shape is None
            else shape[: axis_of(name)] + shape[axis_of(name) + 1 :]
            for shape in shapes
        ]
        if rest[0] != rest[1]:
            raise UserError(
                f"φ of different shapes do not combine: {name} is "
                f"{shapes[0] or 'absent'} in one and {shapes[1] or 'absent'} in "
                "another; take φ of one model and one way of combining contexts"
            )
