"""The encoder and decoder stacks: position bias once, then layers scanned or unrolled.

Layers are scanned over a rematerialised layer (parameters stacked under "layers") or
unrolled ("layers_0" ...): same numbers, and `t5/stacking.py` maps one to the other.
Einsum letters: b batch, q/k positions, d embed, h heads, c head dim, l layers, v vocab.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.phi.types import StackPhi
from hypert5_jax.t5.blocks import BLOCK_INPUT, DecoderLayer, EncoderLayer
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.fused_attention import LARGEST
from hypert5_jax.t5.layers import (
    DROPOUT_MASK,
    HIDDEN,
    Dense,
    LayerCache,
    LayerNorm,
    dropout,
    mlp_init,
)
from hypert5_jax.t5.position_bias import RelativePositionBias, batch_parts

PAD = 0


@struct.dataclass
class DecoderCache:
    """What decoding one more token needs; φ stays outside of it.

    Attributes:
      layers: a LayerCache with a leading layer axis on every array where layers are
        scanned; a list of one for each layer where they are unrolled, so that a step
        writes into arrays of its own instead of stacking all of them anew.
      encoder_tokens: int32 [b, k], to hide padding from cross-attention.
      index: int32 scalar, how many positions are decoded.
    """

    layers: LayerCache | list[LayerCache]
    encoder_tokens: Array
    index: Array

    @property
    def max_length(self) -> int:
        """Positions it has room for."""
        return jax.tree.leaves(self.layers)[0].shape[-2]

    def map_rows(self, change: Callable[[Array, int], Array]) -> "DecoderCache":
        """The cache with `change`(array, its batch axis) of every layer's arrays."""
        axis = 0 if isinstance(self.layers, list) else 1
        layers = jax.tree.map(lambda x: change(x, axis), self.layers)
        return dataclasses.replace(self, layers=layers)


def padding_bias(tokens: Array) -> Array:
    """float32 [b, 1, 1, k]: 0 where a token is, HIDDEN where padding is."""
    return jnp.where(tokens == PAD, HIDDEN, 0.0)[:, None, None, :].astype(jnp.float32)


def _remat(layer: type[nn.Module], cfg: T5Config, static: tuple[int, ...]) -> Any:
    """`layer` recomputed in the backward pass as far as the configuration says.

    `static` are the positions of non-array arguments, self counted as 0.
    """
    if cfg.remat == "none":
        return layer
    policies = jax.checkpoint_policies
    more = (BLOCK_INPUT,) if cfg.remat == "blocks" else ()
    policy = policies.save_only_these_names(LARGEST, DROPOUT_MASK, *more)
    if cfg.remat == "minimal":
        products = policies.dots_with_no_batch_dims_saveable
        policy = policies.save_from_both_policies(policy, products)
    return nn.remat(
        layer, prevent_cse=not cfg.scan_layers, static_argnums=static, policy=policy
    )


class _Stack(nn.Module):
    """The one place that knows scanned from unrolled layers."""

    config: T5Config

    def _run(
        self,
        layer: type[nn.Module],
        depth: int,
        x: Array,
        scanned: Any,
        *broadcast: Any,
    ) -> tuple[Array, Any]:
        """Runs x through `depth` layers.

        Args:
          layer: a module called with (x, one layer's slice of `scanned`, *broadcast);
            the last of `broadcast` is the static `deterministic`.
          scanned: a pytree whose arrays lead with the layer axis; unrolled, a list of
            one subtree for each layer may stand in it.

        Returns:
          x, and the layers' second results: stacked along a leading layer axis where
          layers are scanned, a list where they are unrolled.
        """
        cfg = self.config
        layer = _remat(layer, cfg, static=(2 + len(broadcast),))
        if cfg.scan_layers:
            scan = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, *(nn.broadcast for _ in broadcast)),
                length=depth,
                metadata_params={nn.PARTITION_NAME: axes.LAYERS},
            )
            return scan(cfg, name="layers")(x, scanned, *broadcast)
        outputs = []
        for i in range(depth):
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], scanned, is_leaf=_is_list)
            x, output = layer(cfg, name=f"layers_{i}")(x, mine, *broadcast)
            outputs.append(output)
        return x, outputs


def _is_list(node: Any) -> bool:
    return isinstance(node, list)


class Encoder(_Stack):
    """The encoder stack."""

    @nn.compact
    def __call__(
        self, x: Array, tokens: Array, phi: StackPhi | None, deterministic: bool
    ) -> Array:
        """x: [b, k, d] embedded `tokens` int32 [b, k] -> [b, k, d]."""
        cfg = self.config
        positions = jnp.arange(x.shape[1])
        parts = batch_parts(x.shape[0]) if cfg.attention == "fused" else 1
        bias = RelativePositionBias(cfg, name="relpos_bias")(
            positions, positions, True, parts
        )
        biases: tuple[Array, ...] = (bias, padding_bias(tokens))
        if cfg.attention == "plain":
            # Once for all layers; fused, float32 [b, h, k, k] is what must not exist.
            biases = (biases[0] + biases[1],)
        x = dropout(self, x, cfg.dropout_rate, deterministic)
        depth = cfg.num_encoder_layers
        x, _ = self._run(EncoderLayer, depth, x, phi, biases, deterministic)
        x = LayerNorm(jnp.dtype(cfg.dtype), name="encoder_norm")(x)
        return dropout(self, x, cfg.dropout_rate, deterministic)


def empty_cache(cfg: T5Config, encoder_tokens: Array, max_length: int) -> DecoderCache:
    """A cache of no positions; its first use computes the cross keys and values."""
    shape = (encoder_tokens.shape[0], cfg.num_heads, max_length, cfg.head_dim)
    depth = cfg.num_decoder_layers
    empty = jnp.zeros((depth, *shape) if cfg.scan_layers else shape, cfg.dtype)
    layer = LayerCache(empty, empty, None, None)
    return DecoderCache(
        layers=layer if cfg.scan_layers else [layer] * depth,
        encoder_tokens=encoder_tokens,
        index=jnp.int32(0),
    )


class Decoder(_Stack):
    """The decoder stack and the logits."""

    @nn.compact
    def __call__(
        self,
        x: Array,
        encoded: Array | None,
        encoder_tokens: Array,
        phi: StackPhi | None,
        deterministic: bool,
        causal: bool = True,
        bidirectional_buckets: bool = False,
        cache: DecoderCache | None = None,
        with_logits: bool = True,
    ) -> tuple[Array, DecoderCache | None]:
        """Decodes all positions, or with a cache the next ones.

        Args:
          x: [b, q, d] embedded decoder inputs (q = 1 or more positions with a cache).
          encoded: [b, k, d]; None with a cache, which holds what is needed of it.
          encoder_tokens: int32 [b, k], to hide padding.
          causal: hide later positions; the hypermodel's decoder does not.
          bidirectional_buckets: relative positions of later keys get buckets of their
            own; the pretrained table has none, so False keeps its meaning (A15).
          with_logits: end in the vocabulary; without, logits_dense does not exist.

        Returns:
          float32 [b, q, v] logits, or [b, q, d] normed hidden states without; and the
          cache advanced by q positions.
        """
        cfg = self.config
        start = jnp.int32(0) if cache is None else cache.index
        width = x.shape[1] if cache is None else cache.max_length
        queries = start + jnp.arange(x.shape[1])
        keys = jnp.arange(width)
        fused = cfg.attention == "fused" and cache is None
        bias = RelativePositionBias(cfg, name="relpos_bias")(
            queries,
            keys,
            bidirectional_buckets,
            batch_parts(x.shape[0]) if fused else 1,
        )
        if causal:
            later = keys[None, :] > queries[:, None]
            bias = bias + jnp.where(later, HIDDEN, 0.0).astype(jnp.float32)
        x = dropout(self, x, cfg.dropout_rate, deterministic)
        x, layers = self._run(
            DecoderLayer,
            cfg.num_decoder_layers,
            x,
            (phi, None if cache is None else cache.layers),
            encoded,
            bias,
            padding_bias(encoder_tokens),
            None if cache is None else cache.index,
            deterministic,
        )
        x = LayerNorm(jnp.dtype(cfg.dtype), name="decoder_norm")(x)
        x = dropout(self, x, cfg.dropout_rate, deterministic)
        if cache is not None:
            cache = dataclasses.replace(
                cache, layers=layers, index=cache.index + x.shape[1]
            )
        if not with_logits:
            return x, cache
        logits = Dense(
            cfg.vocab_size,
            (axes.EMBED, axes.VOCAB),
            jnp.dtype(cfg.dtype),
            mlp_init,
            out_dtype=jnp.float32,
            name="logits_dense",
        )(x)
        logits = nn.with_logical_constraint(
            logits, (axes.BATCH, axes.LENGTH, axes.VOCAB)
        )
        return logits, cache
