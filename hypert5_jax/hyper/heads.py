"""From decoder outputs (or learned embeddings) to φ: Figures 7 and 8 of the paper.

Prefix: 2P representations, the first P for the encoder, the last P for the decoder (3P
with a cross-attention prefix of its own); a key head and a value head each.
LoRA: one representation per (site, layer); a head per adapted map of each site.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.hyper.variants import HeadConfig
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import (
    LoRASpec,
    PrefixSpec,
    Site,
    Spec,
    share_decoder_prefix,
)


def slot_groups(spec: Spec, sites: Mapping[str, Site]) -> dict[str, slice]:
    """Which of the hypermodel's decoder positions write which site."""
    groups: dict[str, slice] = {}
    start = 0
    for name in spec.sites:
        width = spec.length if isinstance(spec, PrefixSpec) else sites[name].layers
        groups[name] = slice(start, start + width)
        start += width
    return groups


def slot_count(spec: Spec, sites: Mapping[str, Site]) -> int:
    """How many decoder positions: 2P for a prefix, 3L for LoRA."""
    return max(group.stop for group in slot_groups(spec, sites).values())


_zeros, _ones = nn.initializers.zeros, nn.initializers.ones


class Head(nn.Module):
    """[norm ->] Linear(d) -> tanh -> Linear(features), the form both figures give."""

    features: int
    config: HeadConfig
    norm: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """[n, s, d] -> [n, s, features]."""
        cfg = self.config
        width = x.shape[-1]
        if self.norm != "none":
            kind = nn.LayerNorm if self.norm == "layer" else nn.RMSNorm
            extra: dict[str, Any] = (
                {"bias_init": nn.with_logical_partitioning(_zeros, (axes.EMBED,))}
                if self.norm == "layer"
                else {}
            )
            x = kind(
                epsilon=1e-5,
                dtype=jnp.float32,
                scale_init=nn.with_logical_partitioning(_ones, (axes.EMBED,)),
                name="norm",
                **extra,
            )(x)
        # As the map below casts it, so that gradients too cross devices in that type.
        x = nn.with_logical_constraint(
            x.astype(self.dtype), (_rows(x), None, axes.EMBED)
        )
        hidden = nn.Dense(
            width,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(
                nn.initializers.lecun_normal(), (axes.EMBED, axes.HEAD_HIDDEN)
            ),
            bias_init=nn.with_logical_partitioning(_zeros, (axes.HEAD_HIDDEN,)),
            name="hidden",
        )(x)
        hidden = nn.with_logical_constraint(
            jnp.tanh(hidden), (_rows(x, axes.COPY_BATCH), None, None)
        )
        y = nn.Dense(
            self.features,
            dtype=self.dtype,
            kernel_init=nn.with_logical_partitioning(
                nn.initializers.normal(cfg.output_init_std),
                (axes.HEAD_HIDDEN, axes.PHI_OUT),
            ),
            bias_init=nn.with_logical_partitioning(_zeros, (axes.PHI_OUT,)),
            name="output",
        )(hidden)
        # Products move between devices, never the kernel, which is far larger than they
        # are: made where the kernel lies, to be sent to where their rows are.
        y = nn.with_logical_constraint(
            y, (_rows(x, axes.COPY_BATCH), None, axes.PHI_OUT)
        )
        return y / math.sqrt(width) if cfg.divide_by_sqrt_width else y


def _rows(x: Array, name: str = axes.BATCH) -> str | None:
    """Name of the batch axis that x leads with; a learned φ's one row has none."""
    return name if x.shape[0] > 1 else None


class _Heads(nn.Module):
    """What both kinds of heads are given, and how they name their parts."""

    spec: Any
    sites: Mapping[str, Site]
    config: HeadConfig
    norm: str
    dtype: Any

    def _part(self, site: str, part: str, features: int) -> Head:
        """The head of one part of φ; call it within a compact method."""
        name = label(site, part)
        return Head(features, self.config, self.norm, self.dtype, name=name)


def label(site: str, part: str) -> str:
    """Name of the head that writes `part` of φ at `site`."""
    return f"{site.replace('/', '_')}_{part}"


class PrefixHeads(_Heads):
    """Representations -> prefixes of every layer; also prefix tuning's MLPs."""

    spec: PrefixSpec

    @nn.compact
    def __call__(self, x: Array) -> types.Phi:
        """[n, 2P, d] -> φ of batch n."""
        arrays: dict[str, Array] = {}
        for name, group in slot_groups(self.spec, self.sites).items():
            for part in ("keys", "values"):
                arrays[f"{name}/prefix/{part}"] = self._head(name, part, x[:, group])
        phi = types.from_named_arrays(arrays)
        if self.spec.cross_attention == "share_decoder":
            phi = share_decoder_prefix(phi)
        return phi

    def _head(self, name: str, part: str, x: Array) -> Array:
        site = self.sites[name]
        head = self._part(name, part, site.layers * site.joined_kv)
        n, p = x.shape[:2]
        y = nn.with_logical_constraint(head(x), (_rows(x), None, axes.PHI_OUT))
        y = y.reshape(n, p, site.layers, site.heads, site.head_dim)
        return nn.with_logical_constraint(
            y.transpose(2, 0, 1, 3, 4),
            (axes.LAYERS, _rows(x), axes.PREFIX, axes.HEADS, axes.KV),
        )


class LoRAHeads(_Heads):
    """Representations -> low-rank factors of every layer, with a gate per layer."""

    spec: LoRASpec

    @nn.compact
    def __call__(self, x: Array) -> types.Phi:
        """[n, 3L, d] -> φ of batch n."""
        arrays: dict[str, Array] = {}
        for name, group in slot_groups(self.spec, self.sites).items():
            for map_name in self.spec.maps:
                up, down = self._head(name, map_name, x[:, group])
                wide = (axes.EMBED, axes.JOINED_KV)
                into, out = wide[::-1] if map_name == "out" else wide
                arrays[f"{name}/{map_name}/a"] = nn.with_logical_constraint(
                    down.transpose(1, 0, 3, 2),
                    (axes.LAYERS, _rows(x), into, axes.RANK),
                )
                arrays[f"{name}/{map_name}/b"] = nn.with_logical_constraint(
                    up.transpose(1, 0, 2, 3), (axes.LAYERS, _rows(x), axes.RANK, out)
                )
        return types.from_named_arrays(arrays)

    def _head(self, name: str, map_name: str, x: Array) -> tuple[Array, Array]:
        """(up [n, l, rank, out], down [n, l, rank, in]): index 0 and 1 of Figure 8."""
        site, rank = self.sites[name], self.spec.rank
        width_in, width_out = site.map_dims(map_name)
        head = self._part(name, map_name, rank * (width_out + width_in))
        n, layers = x.shape[:2]
        # Both factors lie side by side in it, at no border between devices.
        y = nn.with_logical_constraint(head(x), (_rows(x), axes.LAYERS, None))
        up = y[..., : rank * width_out].reshape(n, layers, rank, width_out)
        down = y[..., rank * width_out :].reshape(n, layers, rank, width_in)
        up = up * jnp.asarray(self.spec.scale, up.dtype)
        if self.config.gate == "none":
            return up, down
        gate = self.param(
            f"{label(name, map_name)}_gate",
            nn.with_logical_partitioning(
                nn.initializers.constant(self.config.gate_init), (axes.LAYERS,)
            ),
            (layers,),
            jnp.float32,
        )
        factor = jnp.tanh(gate)[None, :, None, None].astype(up.dtype)
        return up * factor, down * factor if self.config.gate == "both" else down


def make_heads(
    spec: Spec, sites: Mapping[str, Site], config: HeadConfig, norm: str, dtype: Any
) -> PrefixHeads | LoRAHeads:
    """The heads that write a φ of `spec`."""
    kind = PrefixHeads if isinstance(spec, PrefixSpec) else LoRAHeads
    return kind(spec, sites, config, norm, dtype)
