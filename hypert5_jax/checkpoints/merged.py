"""A LoRA φ added into a T5's kernels, one at a time, and a T5's fingerprint likewise."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hypert5_jax.checkpoints.lazy import Lazy, finite
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.apply import BLOCKS


def merged(arrays: Mapping[str, Lazy], phi: types.Phi) -> tuple[dict[str, Lazy], int]:
    """A T5's arrays with φ in them, each still read when it is wanted.

    A kernel and its addition meet in float32 and are rounded once, to the kernel's dtype.

    Args:
      arrays: of a T5, by T5X's unstacked paths.
      phi: LoRA factors of batch 1, for a T5 of these sizes.

    Returns:
      the arrays, and how many of them φ changes.

    Raises:
      UserError: φ holds a prefix or more than one φ: neither is a change of weights.
    """
    named = {name: np.asarray(x, np.float32) for name, x in types.named_arrays(phi)}
    if any("/prefix/" in name for name in named):
        raise UserError(
            "this φ is a prefix, which is no change of weights: only LoRA merges. Use "
            "--to=hf-runtime to run it on a Hugging Face T5"
        )
    if (count := types.batch_size(phi)) != 1:
        raise UserError(f"φ holds {count} adaptations: merge that of one task")
    out = dict(arrays)
    changed = 0
    for name, a in named.items():
        if not name.endswith("/a"):
            continue
        site, map_name = name.removesuffix("/a").rsplit("/", 1)
        b = named[f"{site}/{map_name}/b"]
        stack, block = BLOCKS[site]
        for layer in range(len(a)):
            path = f"{stack}/layers_{layer}/{block}/{map_name}/kernel"
            out[path] = _added(arrays[path], a[layer, 0], b[layer, 0])
            changed += 1
    return out, changed


def _added(kernel: Lazy, a: np.ndarray, b: np.ndarray) -> Lazy:
    def read() -> np.ndarray:
        return (kernel.read().astype(np.float32) + a @ b).astype(kernel.dtype)

    return Lazy(kernel.shape, kernel.dtype, read)


def fingerprint(arrays: Mapping[str, Lazy]) -> str:
    """`core.trees.fingerprint` of arrays that are read one at a time.

    Raises:
      UserError: an array holds NaN or infinity.
    """
    return trees.fingerprint({name: _Reading(name, x) for name, x in arrays.items()})


class _Reading:
    """What NumPy takes for an array the moment it is asked for one."""

    def __init__(self, name: str, lazy: Lazy):
        self._name, self._lazy = name, lazy

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return finite(self._name, self._lazy.read())
