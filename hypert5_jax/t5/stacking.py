"""Stacked layers (memory, scanned) <-> one subtree a layer (disk, T5X's own layout).

{"encoder": {"layers":   {"mlp": {"wo": {"kernel": [l, f, d]}}}}}
<->
{"encoder": {"layers_0": {"mlp": {"wo": {"kernel": [f, d]}}},
             "layers_1": ...}}
"""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LAYER = re.compile(r"layers_(\d+)$")


def unstack_layers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Every "layers" subtree split into "layers_0", "layers_1", …"""
    out: dict[str, Any] = {}
    for name, node in tree.items():
        if name == "layers":
            depth = jax.tree.leaves(node)[0].shape[0]
            for i in range(depth):
                out[f"layers_{i}"] = jax.tree.map(lambda leaf, i=i: leaf[i], node)
        else:
            out[name] = unstack_layers(node) if isinstance(node, Mapping) else node
    return out


def stack_layers(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `unstack_layers`; arrays stay NumPy where they are NumPy."""
    numbered = {int(m[1]): name for name in tree if (m := _LAYER.match(name))}
    out: dict[str, Any] = {}
    for name, node in tree.items():
        if not _LAYER.match(name):
            out[name] = stack_layers(node) if isinstance(node, Mapping) else node
    if numbered:
        nodes = [tree[numbered[i]] for i in range(len(numbered))]
        out["layers"] = jax.tree.map(_stack, *nodes)
    return out


def _stack(*leaves: Any) -> Any:
    module = np if isinstance(leaves[0], np.ndarray) else jnp
    return module.stack(leaves)
