"""One encoder layer and one decoder layer: attention blocks and MLP, pre-normed."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hypert5_jax.core import axes
from hypert5_jax.phi.types import StackPhi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.layers import Attention, LayerCache, LayerNorm, Mlp, dropout

# What each block but a layer's first reads: the first reads what the layer does.
BLOCK_INPUT = "block_input"


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each pre-normed, dropped out and added."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        x: Array,
        phi: StackPhi | None,
        biases: tuple[Array, ...],
        deterministic: bool,
    ) -> tuple[Array, None]:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        site = phi.self_attention if phi is not None else None
        y = LayerNorm(dtype, name="pre_attention_layer_norm")(x)
        y = Attention(cfg, name="attention")(y, y, biases, site, deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        x = checkpoint_name(x, BLOCK_INPUT)
        y = LayerNorm(dtype, name="pre_mlp_layer_norm")(x)
        y = Mlp(cfg, name="mlp")(y, deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        return nn.with_logical_constraint(
            x, (axes.BATCH, axes.LENGTH, axes.EMBED)
        ), None


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and MLP."""

    config: T5Config

    def setup(self) -> None:
        dtype = jnp.dtype(self.config.dtype)
        self.pre_self_attention_layer_norm = LayerNorm(dtype)
        self.self_attention = Attention(self.config)
        self.pre_cross_attention_layer_norm = LayerNorm(dtype)
        self.encoder_decoder_attention = Attention(self.config)
        self.pre_mlp_layer_norm = LayerNorm(dtype)
        self.mlp = Mlp(self.config)

    def __call__(
        self,
        x: Array,
        inputs: tuple[StackPhi | None, LayerCache | None],
        encoded: Array | None,
        self_bias: Array,
        cross_bias: Array,
        index: Array | None,
        deterministic: bool,
    ) -> tuple[Array, LayerCache | None]:
        cfg = self.config
        phi, cache = inputs
        own = phi.self_attention if phi is not None else None
        cross = phi.cross_attention if phi is not None else None

        y = self.pre_self_attention_layer_norm(x)
        keys, values = self.self_attention.keys_values(y, own)
        if cache is not None:
            assert index is not None
            keys = _written(cache.self_keys, keys, index)
            values = _written(cache.self_values, values, index)
            cache = dataclasses.replace(cache, self_keys=keys, self_values=values)
        cached = cache is not None
        y = self.self_attention.attend(
            y, keys, values, (self_bias,), own, deterministic, heads_lead=cached
        )
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        x = checkpoint_name(x, BLOCK_INPUT)

        y = self.pre_cross_attention_layer_norm(x)
        attention = self.encoder_decoder_attention
        if cache is None or cache.cross_keys is None or cache.cross_values is None:
            assert encoded is not None
            keys, values = attention.keys_values(encoded, cross)
            if cache is not None:
                keys, values = _heads_lead(keys), _heads_lead(values)
        else:
            keys, values = cache.cross_keys, cache.cross_values
        if cache is not None:
            cache = dataclasses.replace(cache, cross_keys=keys, cross_values=values)
        y = attention.attend(
            y, keys, values, (cross_bias,), cross, deterministic, heads_lead=cached
        )
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        x = checkpoint_name(x, BLOCK_INPUT)

        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        x = nn.with_logical_constraint(x, (axes.BATCH, axes.LENGTH, axes.EMBED))
        return x, cache


def _heads_lead(x: Array) -> Array:
    """[b, k, heads, head_dim] -> [b, heads, k, head_dim]."""
    return x.swapaxes(1, 2)


def _written(kept: Array, new: Array, index: Array) -> Array:
    """`kept` [b, heads, k, head_dim] with `new` [b, q, heads, head_dim] from position
    `index` on."""
    return jax.lax.dynamic_update_slice(kept, _heads_lead(new), (0, 0, index, 0))
