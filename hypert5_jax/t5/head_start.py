"""A start for tiny T5s that have minutes to learn what large ones learn in weeks.

Reading "my cat is ZUMA" off a text takes three habits that grow late in training: looking
at neighbouring words, looking from a word to the same word elsewhere, and saying a word
that was read. Adam moves a relative-position bias by about one learning rate per step,
and untied output rows are learned word by word, so all three stay out of reach of a run
of a few thousand steps. Real checkpoints need nothing of this.
"""

from collections.abc import Mapping
from typing import Any

from hypert5_jax.core import trees
from hypert5_jax.t5.config import T5Config


def head_start(
    params: Mapping[str, Any],
    config: T5Config,
    relative_bias_scale: float,
) -> dict[str, Any]:
    """Random parameters of a T5 with these habits begun; shapes stay.

    Each key kernel starts as the query kernel of its block, scaled to the key's own
    initial deviation (T5 starts queries smaller by sqrt(head_dim)), so that equal words
    attend to each other; the output kernel starts as the embeddings divided by
    sqrt(emb_dim), as in T5 v1.0, which ties the two. All are trained apart.

    Args:
      params: a T5's freshly initialised tree.
      config: its sizes.
      relative_bias_scale: factor on the relative-position tables.
    """
    flat = dict(trees.flatten(params))
    for path, value in flat.items():
        if path.endswith("rel_embedding"):
            flat[path] = value * relative_bias_scale
        if path.endswith("/key/kernel"):
            query = flat[path.removesuffix("key/kernel") + "query/kernel"]
            flat[path] = query * config.head_dim**0.5
    words = flat["token_embedder/embedding"]
    flat["decoder/logits_dense/kernel"] = words.T / config.emb_dim**0.5
    return trees.unflatten(flat)
