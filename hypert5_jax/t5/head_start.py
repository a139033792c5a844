"""A start for tiny T5s that have minutes to learn what large ones learn in weeks.

Reading "my cat is ZUMA" off a text takes three habits that grow late in training: looking
at neighbouring words, looking from a word to the same word elsewhere, and saying a word
that was read. Adam moves a relative-position bias by about one learning rate per step,
and untied output rows are learned word by word, so all three stay out of reach of a run
of a few thousand steps. Which neighbours a head looks at is set, not left to a random
table: where no head happened to prefer the word next to it, the T5 learned to tell a
text's facts apart by rougher means, and no hypermodel around it learned to bind. Real
checkpoints need nothing of this.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from hypert5_jax.core import trees
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.position_bias import relative_position_bucket

# Head h of a stack starts looking this far, key position minus query position; further
# heads look everywhere alike.
ENCODER_OFFSETS = (-1, 1, -2, 2)
DECODER_OFFSETS = (-1, -2, -3)


def head_start(
    params: Mapping[str, Any],
    config: T5Config,
    neighbour_bias: float,
) -> dict[str, Any]:
    """Random parameters of a T5 with these habits begun; shapes stay.

    The first heads of each stack look at one near word each (ENCODER_OFFSETS,
    DECODER_OFFSETS). Each key kernel starts as the query kernel of its block, scaled to
    the key's own initial deviation (T5 starts queries smaller by sqrt(head_dim)), so
    that equal words attend to each other; the output kernel starts as the embeddings
    divided by sqrt(emb_dim), as in T5 v1.0, which ties the two. All are trained apart.

    Args:
      params: a T5's freshly initialised tree.
      config: its sizes.
      neighbour_bias: added to the relative-position table [heads, buckets] where a head
        looks.
    """
    flat = dict(trees.flatten(params))
    for path, value in flat.items():
        if path.endswith("rel_embedding"):
            encoder = path.startswith("encoder/")
            flat[path] = value + neighbour_bias * _looks(config, encoder)
        if path.endswith("/key/kernel"):
            query = flat[path.removesuffix("key/kernel") + "query/kernel"]
            flat[path] = query * config.head_dim**0.5
    words = flat["token_embedder/embedding"]
    flat["decoder/logits_dense/kernel"] = words.T / config.emb_dim**0.5
    return trees.unflatten(flat)


def _looks(config: T5Config, encoder: bool) -> Array:
    """1 where a head looks: [heads, buckets], float32."""
    offsets = (ENCODER_OFFSETS if encoder else DECODER_OFFSETS)[: config.num_heads]
    buckets = relative_position_bucket(
        jnp.asarray(offsets),
        encoder,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    shape = (config.num_heads, config.relative_attention_num_buckets)
    return jnp.zeros(shape).at[jnp.arange(len(offsets)), buckets].set(1.0)
