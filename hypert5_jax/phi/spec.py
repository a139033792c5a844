"""The one authority on φ's shapes: (what adapts) x (which sites) -> a tree of shapes.

Heads, learned parameters, files, sharding and goldens read from `phi_shapes`; nothing
else computes a shape of φ.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types

ENCODER_SELF = "encoder/self_attention"
DECODER_SELF = "decoder/self_attention"
DECODER_CROSS = "decoder/cross_attention"
SITES = (ENCODER_SELF, DECODER_SELF, DECODER_CROSS)


@dataclasses.dataclass(frozen=True)
class Site:
    """The sizes of one kind of attention block, published by a downstream model.

    Attributes:
      layers: how many such blocks are stacked.
      heads, head_dim: their product is the width of keys, values and LoRA outputs,
        which is not `embed` for every T5 (T5-small: 6 x 64 = 384, embed 512).
      embed: width of the block's input and output.
    """

    layers: int
    heads: int
    head_dim: int
    embed: int

    @property
    def joined_kv(self) -> int:
        """heads x head_dim."""
        return self.heads * self.head_dim

    def map_dims(self, map_name: str) -> tuple[int, int]:
        """(in, out) of the query, key, value or out map."""
        dims = (self.embed, self.joined_kv)
        return dims[::-1] if map_name == "out" else dims


@dataclasses.dataclass(frozen=True)
class PrefixSpec:
    """Prefix tuning: `length` key/value columns per adapted attention block.

    Attributes:
      length: P of the paper, which does not state it; 32 is our default (A10).
      cross_attention: "none" reaches encoder and decoder self-attention alone, as the
        shape [L, 2, 2, P, H] and Figure 7 say; "share_decoder" reuses the decoder's
        prefix there, "own" gives it a prefix of its own (A8).
    """

    length: int = 32
    cross_attention: str = "none"

    def __post_init__(self) -> None:
        if self.length < 0:
            raise UserError(f"prefix length {self.length}: expected 0 or more")
        if self.cross_attention not in ("none", "share_decoder", "own"):
            raise UserError(
                f"prefix cross_attention={self.cross_attention!r}: expected 'none', "
                "'share_decoder' or 'own'"
            )

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that hold a prefix of their own."""
        return SITES if self.cross_attention == "own" else SITES[:2]


@dataclasses.dataclass(frozen=True)
class LoRASpec:
    """LoRA: rank-`rank` additions to `maps` of every attention block.

    Attributes:
      rank: R of the paper, which does not state it; 8 is our default (A11).
      alpha: scale is alpha / rank and is folded into b; None means alpha = rank.
      maps: the adapted maps; the paper's are query and value.
    """

    rank: int = 8
    alpha: float | None = None
    maps: tuple[str, ...] = ("query", "value")

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UserError(f"LoRA rank {self.rank}: expected 1 or more")
        unknown = [name for name in self.maps if name not in types.MAPS]
        if unknown or not self.maps:
            raise UserError(
                f"LoRA maps={self.maps}: expected some of {', '.join(types.MAPS)}"
            )

    @property
    def scale(self) -> float:
        """alpha / rank, what b is multiplied with."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites LoRA touches: all three."""
        return SITES


Spec = PrefixSpec | LoRASpec


def phi_shapes(
    spec: Spec, sites: Mapping[str, Site], batch: int, dtype: Any = jnp.float32
) -> types.Phi:
    """φ as a tree of ShapeDtypeStructs.

    Args:
      spec: the adaptation and its sizes.
      sites: {"encoder/self_attention": Site, ...} as the downstream model publishes.
      batch: how many different φ the tree holds; 1 broadcasts.
      dtype: of every array.
    """
    shapes: dict[str, Any] = {}
    for name in spec.sites:
        site = sites[name]
        lead = (site.layers, batch)
        if isinstance(spec, PrefixSpec):
            shape = (*lead, spec.length, site.heads, site.head_dim)
            shapes[f"{name}/prefix/keys"] = jax.ShapeDtypeStruct(shape, dtype)
            shapes[f"{name}/prefix/values"] = jax.ShapeDtypeStruct(shape, dtype)
        else:
            for map_name in spec.maps:
                width_in, width_out = site.map_dims(map_name)
                shapes[f"{name}/{map_name}/a"] = jax.ShapeDtypeStruct(
                    (*lead, width_in, spec.rank), dtype
                )
                shapes[f"{name}/{map_name}/b"] = jax.ShapeDtypeStruct(
                    (*lead, spec.rank, width_out), dtype
                )
    return types.from_named_arrays(shapes)


def share_decoder_prefix(phi: types.Phi) -> types.Phi:
    """φ whose cross-attention sees the decoder's own prefix (A8 "share_decoder")."""
    decoder = phi.decoder
    if decoder is None or decoder.self_attention is None:
        return phi
    decoder = types.StackPhi(decoder.self_attention, decoder.self_attention)
    return types.Phi(phi.encoder, decoder)
