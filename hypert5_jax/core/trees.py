"""Trees of arrays by path: {"a": {"b": x}} is {"a/b": x}, and what can be said of one.

{"encoder": {"encoder_norm": {"scale": s}}}  <->  {"encoder/encoder_norm/scale": s}
"""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts -> one dict keyed by "a/b/c", in the tree's own order."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= {f"{key}/{path}": leaf for path, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def count(tree: Tree) -> int:
    """How many numbers the arrays of `tree` hold; works on ShapeDtypeStructs too."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: Tree) -> int:
    """How many bytes they take."""
    return sum(
        math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def cast(tree: Tree, dtype: Any) -> Tree:
    """Every floating-point array as `dtype`; the others, and those that have it, as they
    are."""

    def one(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.dtype != jnp.dtype(dtype):
            return leaf.astype(dtype)
        return leaf

    return jax.tree.map(one, tree)


def fingerprint(tree: Mapping[str, Any]) -> str:
    """What identifies a model: sha256 over sorted paths, shapes and float32 bytes.

    Values are hashed as float32, so that a bf16 copy of a float32 model differs from it
    but a bf16 model has one fingerprint whichever dtype holds it.
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(np.asarray(leaf).astype(np.float32))
        digest.update(f"{path}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
