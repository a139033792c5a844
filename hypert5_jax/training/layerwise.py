"""Optimisers that look at whole arrays, taught that a layer axis is a batch axis.

Adafactor factors, clips and scales each array by statistics of that array. A model whose
layers are stacked into one array for `scan` must train exactly as the one whose layers
are separate arrays, so the inner optimiser is mapped over the layer axis:

    params                                  state
    encoder/layers/mlp/wi [L, d, f]   ->    encoder/layers/mlp/wi: inner state, every
                                              array of it with a leading [L]
    token_embedder/embedding [v, d]   ->    token_embedder/embedding: inner state

Unstacking the layers of such a state gives exactly the state of the unstacked model.
"""

from typing import Any

import jax
import optax

from hypert5_jax.core.axes import LAYERS

Tree = Any


def over_layers(
    inner: optax.GradientTransformation, axes: Tree
) -> optax.GradientTransformation:
    """Runs `inner` on each array by itself, mapped over the layer axis where it has one.

    Args:
      inner: a transformation without state shared between arrays (a step count is
        fine: every array keeps its own, all equal).
      axes: tree like the parameters, a tuple of logical axis names (or None) for each;
        an axis of the name "layers" must lead.

    Returns:
      a transformation whose state is a tree like the parameters with the inner
      state of each array as its leaf.
    """

    def mapped(function, names):
        stacked = names is not None and LAYERS in names
        return jax.vmap(function) if stacked else function

    def init(params: Tree) -> Tree:
        return _map_with_axes(lambda n, p: mapped(inner.init, n)(p), axes, params)

    def update(updates: Tree, state: Tree, params: Tree | None = None):
        results = _map_with_axes(
            lambda n, u, s, p: mapped(inner.update, n)(u, s, p),
            axes,
            updates,
            state,
            params,
        )
        pairs = jax.tree.structure(updates).flatten_up_to(results)
        new_updates, new_states = zip(*pairs, strict=True)
        unflatten = jax.tree.structure(updates).unflatten
        return unflatten(new_updates), unflatten(new_states)

    return optax.GradientTransformation(init, update)


def _map_with_axes(function, axes: Tree, tree: Tree, *rest: Tree) -> Tree:
    """Maps function(axis names, leaf, subtrees of the rest) over the leaves of tree."""
    leaves, structure = jax.tree.flatten(tree)
    others = [structure.flatten_up_to(r) for r in (axes, *rest)]
    results = [function(n, leaf, *r) for leaf, n, *r in zip(leaves, *others)]
    return structure.unflatten(results)
