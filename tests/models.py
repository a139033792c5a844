"""Tiny models for tests: widths that differ on purpose, parameters made by NumPy.

heads x head_dim (24) is not emb_dim (32), as in T5-small; encoder and decoder differ in
depth, so that nothing confuses the two.
"""

from typing import Any

import jax
import numpy as np

from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.t5.config import T5Config

TINY = T5Config(
    vocab_size=48,
    emb_dim=32,
    num_heads=2,
    head_dim=12,
    mlp_dim=40,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dtype="float32",
    remat="none",
)


def random_tree(shapes: Any, seed: int, scale: float = 0.15) -> Any:
    """Normal float32 arrays of the given shapes, from NumPy: nothing to compile."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: (scale * rng.standard_normal(leaf.shape)).astype(np.float32),
        shapes,
    )


def random_params(system: System, seed: int = 0) -> dict[str, Any]:
    """Random parameters of every group; norm scales are near 1."""
    params = random_tree(system.abstract_params(), seed)
    flat = trees.flatten(params)
    for path in flat:
        if path.endswith("scale"):
            flat[path] = flat[path] + 1
    return trees.unflatten(flat)


def random_batch(
    rows: int = 4,
    contexts: int | None = None,
    seed: int = 0,
    lengths: tuple[int, int, int] = (9, 7, 5),
    vocab: int = TINY.vocab_size,
) -> Batch:
    """Rows with padding at their ends; (context, input, target) lengths."""
    rng = np.random.default_rng(seed)
    contexts = rows if contexts is None else contexts

    def ids(count: int, length: int) -> np.ndarray:
        tokens = rng.integers(3, vocab, (count, length)).astype(np.int32)
        used = rng.integers(min(2, length), length + 1, count)
        tokens[np.arange(length)[None] >= used[:, None]] = 0
        return tokens

    targets = ids(rows, lengths[2])
    return Batch(
        hyper_inputs=ids(contexts, lengths[0]),
        inputs=ids(rows, lengths[1]),
        targets=targets,
        weights=(targets > 0).astype(np.float32),
    )
