"""A start for tiny T5s that have minutes to learn what large ones learn in weeks.

Reading "anna has a red hat" off a text takes two habits that grow late in training:
looking at neighbouring words, and looking from a word to the same word elsewhere. Adam
moves a relative-position bias by about one learning rate per step, so both stay out of
reach of a run of a few thousand steps. Real checkpoints need nothing of this.
"""

from collections.abc import Mapping
from typing import Any

from hypert5_jax.core import trees
from hypert5_jax.t5.config import T5Config


def head_start(
    params: Mapping[str, Any],
    config: T5Config,
    relative_bias_scale: float,
    tie_keys: bool,
) -> dict[str, Any]:
    """Random parameters of a T5, their attention given a bent; shapes stay.

    Args:
      params: a T5's freshly initialised tree, or a tree of such trees.
      config: its sizes.
      relative_bias_scale: factor on the relative-position tables.
      tie_keys: start each key kernel as the query kernel of its block, scaled to the
        key's own initial deviation (T5 starts queries smaller by sqrt(head_dim)), so
        that equal words attend to each other. They are trained apart.
    """
    flat = dict(trees.flatten(params))
    for path, value in flat.items():
        if path.endswith("rel_embedding"):
            flat[path] = value * relative_bias_scale
        if tie_keys and path.endswith("/key/kernel"):
            query = flat[path.removesuffix("key/kernel") + "query/kernel"]
            flat[path] = query * config.head_dim**0.5
    return trees.unflatten(flat)
