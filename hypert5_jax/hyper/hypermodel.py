"""The hypermodel: the same T5, learned slots for decoder inputs, heads for an output.

{"token_embedder", "encoder", "decoder"}   T5's own names, without logits_dense
{"slots": {"embedding": [2P | 3L, d]}}     the learned decoder inputs
{"heads": {...}}                           one head per part of φ
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.hyper import heads
from hypert5_jax.hyper.start import NEW
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.network import T5


class Hypermodel(nn.Module):
    """Reads a context, writes φ for a downstream T5."""

    config: T5Config
    downstream: T5Config
    variant: Variant

    def setup(self) -> None:
        variant = self.variant
        spec = variant.spec
        assert spec is not None
        self.t5 = T5(self.config)
        norm = "none" if variant.parametrisation == "mlp" else variant.head.norm
        sites = self.downstream.sites
        self.heads = heads.make_heads(
            spec, sites, variant.head, norm, jnp.dtype(self.config.dtype)
        )
        self.slots = self.param(
            "slots",
            nn.with_logical_partitioning(
                nn.initializers.normal(variant.head.slot_init_std),
                (axes.SLOTS, axes.EMBED),
            ),
            (heads.slot_count(spec, sites), self.config.emb_dim),
            jnp.float32,
        )

    def representations(self, hyper_inputs: Array, deterministic: bool = True) -> Array:
        """Decoder outputs [n, 2P | 3L, d] for contexts int32 [n, k]."""
        encoded = self.t5.encode(hyper_inputs, deterministic=deterministic)
        slots = self.slots.astype(encoded.dtype)[None]
        slots = jnp.broadcast_to(slots, (encoded.shape[0], *slots.shape[1:]))
        return self.t5.decode_slots(
            encoded,
            hyper_inputs,
            slots,
            self.variant.head.bidirectional_buckets,
            deterministic,
        )

    def __call__(self, hyper_inputs: Array, deterministic: bool = True) -> Phi:
        """φ of batch n for contexts int32 [n, k]."""
        return self.heads(self.representations(hyper_inputs, deterministic))


def flat_names(params: dict[str, Any]) -> dict[str, Any]:
    """Module tree -> group tree.

    {"t5": {"encoder", …}, "heads", "slots": s}
    -> {"encoder", …, "heads", "slots": {"embedding": s}}
    """
    return {
        **params["t5"],
        "heads": params["heads"],
        "slots": {"embedding": params["slots"]},
    }


def module_names(params: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flat_names`."""
    t5 = {k: v for k, v in params.items() if k not in NEW}
    return {
        "t5": t5,
        "heads": params["heads"],
        "slots": params["slots"]["embedding"],
    }
