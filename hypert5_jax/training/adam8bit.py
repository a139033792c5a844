"""Adam whose moments are kept in 8 bits (Dettmers et al., 2022).

Each step turns both moments into float32, updates them, makes the change of the parameter
of them and only then quantises them again, in blocks along one axis of each array:

    first moment    signed dynamic tree codes      uint8, of the parameter's shape
    second moment   unsigned dynamic tree codes    uint8, of the parameter's shape
    scales          largest magnitude of a block   float32, blocks instead of numbers

The divided axis is the array's longest, but for "layers" and for axes without a name,
along which several φ lie side by side: a block is of one layer and of one φ, and what is
stacked trains as if it were apart. Small arrays, and all that has a vocabulary axis
(embeddings, whose gradients are the most uneven), keep float32 moments.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hypert5_jax.core.axes import ALL, LAYERS, VOCAB
from hypert5_jax.training.dynamic_tree import Quantised, dequantise, quantise

Tree = Any
Names = tuple[str | None, ...] | None
_OWN_AXES = frozenset(ALL) - {LAYERS}


class Adam8bitState(NamedTuple):
    """step: int32 scalar, updates made; mu, nu: trees like the parameters, Quantised
    or float32 arrays."""

    step: Array
    mu: Tree
    nu: Tree


def scale_by_adam8bit(
    b1: float,
    b2: float,
    eps: float,
    block_size: int,
    min_size: int,
    axes: Tree,
) -> optax.GradientTransformation:
    """Adam's change of the parameters, without learning rate and sign.

    Args:
      b1, b2, eps: as in Adam.
      block_size: numbers that share a scale.
      min_size: arrays with fewer numbers, those of one layer and one φ counted, keep
        float32 moments.
      axes: tree like the parameters, a tuple of logical axis names (or None) for each;
        None for the tree means names for none.

    Returns:
      a transformation whose state is an Adam8bitState.
    """

    def divided_axis(names: Names, shape: tuple[int, ...]) -> int | None:
        """Counted from the end; None for what stays in float32."""
        own = [i for i in range(len(shape)) if names is None or names[i] in _OWN_AXES]
        if math.prod(shape[i] for i in own) < min_size:
            return None
        if not own or (names is not None and VOCAB in names):
            return None
        return max(own, key=lambda i: (shape[i], i)) - len(shape)

    def squeeze(moment: Array, names: Names, signed: bool) -> Array | Quantised:
        axis = divided_axis(names, moment.shape)
        if axis is None:
            return moment
        return quantise(moment, axis, block_size, signed)

    def widen(kept: Array | Quantised, names: Names, signed: bool) -> Array:
        if not isinstance(kept, Quantised):
            return kept
        axis = divided_axis(names, kept.codes.shape)
        assert axis is not None
        return dequantise(kept, axis, block_size, signed)

    def names_of(leaves: list, structure: Any) -> list[Names]:
        if axes is None:
            return [None] * len(leaves)
        return structure.flatten_up_to(axes)

    def init(params: Tree) -> Adam8bitState:
        leaves, structure = jax.tree.flatten(params)
        names = names_of(leaves, structure)

        def zeros(signed: bool) -> Tree:
            return structure.unflatten(
                squeeze(jnp.zeros(p.shape, jnp.float32), n, signed)
                for p, n in zip(leaves, names, strict=True)
            )

        return Adam8bitState(jnp.zeros((), jnp.int32), zeros(True), zeros(False))

    def update(grads: Tree, state: Adam8bitState, params: Tree | None = None):
        del params
        leaves, structure = jax.tree.flatten(grads)
        step = optax.safe_increment(state.step)
        correct1, correct2 = 1 - b1**step, 1 - b2**step

        def one(grad: Array, names: Names, mu: Any, nu: Any):
            mu = b1 * widen(mu, names, True) + (1 - b1) * grad
            nu = b2 * widen(nu, names, False) + (1 - b2) * jnp.square(grad)
            change = (mu / correct1) / (jnp.sqrt(nu / correct2) + eps)
            return change, squeeze(mu, names, True), squeeze(nu, names, False)

        results = [
            one(*of_one)
            for of_one in zip(
                leaves,
                names_of(leaves, structure),
                structure.flatten_up_to(state.mu),
                structure.flatten_up_to(state.nu),
                strict=True,
            )
        ]
        change, mu, nu = (structure.unflatten(r) for r in zip(*results, strict=True))
        return change, Adam8bitState(step, mu, nu)

    return optax.GradientTransformation(init, update)
