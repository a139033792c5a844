"""φ as parameters: learned directly, or through prefix tuning's reparametrisation MLP.

direct: {"encoder": {"self_attention": {"prefix": {"keys", "values"}}}, …}
mlp:    {"embeddings": [n, 2P, d], "heads": {…}}

Several runs side by side, each with all of these of its own, are the same tree with a
leading run axis on every array: `stack_runs`, `phi_of_runs`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hypert5_jax.core import axes, trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import heads
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import PrefixSpec, phi_shapes, share_decoder_prefix
from hypert5_jax.t5.config import T5Config

EMBEDDINGS = "embeddings"


def _axes_of(path: str) -> tuple[str | None, ...]:
    if path.endswith(("keys", "values")):
        return (axes.LAYERS, None, axes.PREFIX, axes.HEADS, axes.KV)
    ends = {"a": (axes.EMBED, axes.RANK), "b": (axes.RANK, axes.JOINED_KV)}
    return (axes.LAYERS, None, *ends[path[-1]])


def _mlp(downstream: T5Config, variant: Variant) -> heads.PrefixHeads | heads.LoRAHeads:
    spec = variant.spec
    assert spec is not None
    dtype = jnp.dtype(downstream.dtype)
    return heads.make_heads(spec, downstream.sites, variant.head, "none", dtype)


def init(rng: Array, downstream: T5Config, variant: Variant) -> dict[str, Any]:
    """Boxed parameters of the "phi" group, float32.

    LoRA starts as a no-op (a normal with variance 1/in as in Hu et al., b zero);
    prefixes and embeddings are normal with `learned_init_std`.
    """
    spec = variant.spec
    assert spec is not None
    n, std = variant.learned_batch, variant.learned_init_std
    if variant.parametrisation == "mlp":
        count = heads.slot_count(spec, downstream.sites)
        shape = (n, count, downstream.emb_dim)
        rng, rng_heads = jax.random.split(rng)
        embeddings = std * jax.random.normal(rng, shape)
        boxed = nn.LogicallyPartitioned(embeddings, (None, axes.SLOTS, axes.EMBED))
        mlp = _mlp(downstream, variant).init(rng_heads, embeddings)["params"]
        return {EMBEDDINGS: boxed, "heads": mlp}
    flat: dict[str, Any] = {}
    shapes = dict(types.named_arrays(phi_shapes(spec, downstream.sites, n)))
    for key, (path, leaf) in zip(
        jax.random.split(rng, len(shapes)), shapes.items(), strict=True
    ):
        if path.endswith("/b"):
            value = jnp.zeros(leaf.shape)
        else:
            scale = std if path.endswith(("keys", "values")) else leaf.shape[-2] ** -0.5
            value = scale * jax.random.normal(key, leaf.shape)
        flat[path] = nn.LogicallyPartitioned(value, _axes_of(path))
    return trees.unflatten(flat)


def phi_of(params: dict[str, Any], downstream: T5Config, variant: Variant) -> types.Phi:
    """The φ these parameters stand for; batch `learned_batch`."""
    if variant.parametrisation == "mlp":
        return _mlp(downstream, variant).apply(
            {"params": params["heads"]}, params[EMBEDDINGS]
        )
    flat = trees.flatten(params)
    spec = variant.spec
    if not isinstance(spec, PrefixSpec):
        scale = 1.0 if spec is None else spec.scale
        flat = {k: v * scale if k.endswith("/b") else v for k, v in flat.items()}
    phi = types.from_named_arrays(flat)
    if isinstance(spec, PrefixSpec) and spec.cross_attention == "share_decoder":
        phi = share_decoder_prefix(phi)
    return phi


def stack_runs(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Parameters of several runs [...] -> one tree of arrays [runs, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs)


def phi_of_runs(
    params: dict[str, Any], downstream: T5Config, variant: Variant
) -> types.Phi:
    """One φ of batch n from the parameters of n runs, those of run i at place i.

    Args:
      params: of `stack_runs`, every array [n, ...].
      downstream: the T5 that is adapted.
      variant: of one run; its `learned_batch` is 1.
    """
    phi = jax.vmap(lambda one: phi_of(one, downstream, variant))(params)

    def side_by_side(leaf: Array) -> Array:
        """[n, layers, 1, ...] -> [layers, n, ...]."""
        return jnp.moveaxis(leaf[:, :, 0], 0, 1)

    return jax.tree.map(side_by_side, phi)


def from_phi(
    phi: types.Phi, downstream: T5Config, variant: Variant
) -> dict[str, np.ndarray | Array | dict]:
    """Directly learned parameters that start as a given φ.

    Raises:
      UserError: φ has other shapes, or the variant learns embeddings and an MLP, which a
        finished φ does not determine.
    """
    if variant.parametrisation == "mlp":
        raise UserError(
            "parametrisation='mlp' cannot start from a φ: an MLP's output does not tell "
            "its embeddings. Start from a hypermodel or use parametrisation='direct'"
        )
    spec = variant.spec
    assert spec is not None
    given = dict(types.named_arrays(phi))
    if isinstance(spec, PrefixSpec) and spec.cross_attention == "share_decoder":
        spec = dataclasses.replace(spec, cross_attention="none")
        given = {k: v for k, v in given.items() if "cross" not in k}
    expected = dict(
        types.named_arrays(phi_shapes(spec, downstream.sites, variant.learned_batch))
    )
    for path in sorted(expected.keys() | given.keys()):
        want = expected[path].shape if path in expected else None
        have = tuple(given[path].shape) if path in given else None
        if want != have:
            raise UserError(f"φ {path} has shape {have}, this variant needs {want}")
    scale = 1.0 if isinstance(spec, PrefixSpec) else spec.scale
    flat = {
        path: jnp.asarray(leaf, jnp.float32) / (scale if path.endswith("/b") else 1.0)
        for path, leaf in given.items()
    }
    return trees.unflatten(flat)
