"""T5 v1.1: embedder, encoder stack, decoder stack, logits; φ an argument of each stack.

Layers are scanned over a rematerialised layer (parameters stacked under "layers") or
unrolled ("layers_0" ...): same numbers, and `t5/stacking.py` maps one to the other.
Einsum letters: b batch, q/k positions, d embed, h heads, c head dim, l layers, v vocab.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.phi.types import Phi, StackPhi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.layers import (
    HIDDEN,
    Attention,
    Dense,
    LayerCache,
    LayerNorm,
    Mlp,
    RelativePositionBias,
    dropout,
    mlp_init,
)

PAD = 0


@struct.dataclass
class DecoderCache:
    """What decoding one more token needs; φ stays outside of it.

    Attributes:
      layers: LayerCache with a leading layer axis on every array.
      encoder_tokens: int32 [b, k], to hide padding from cross-attention.
      index: int32 scalar, how many positions are decoded.
    """

    layers: LayerCache
    encoder_tokens: Array
    index: Array


def padding_bias(tokens: Array) -> Array:
    """float32 [b, 1, 1, k]: 0 where a token is, HIDDEN where padding is."""
    return jnp.where(tokens == PAD, HIDDEN, 0.0)[:, None, None, :].astype(jnp.float32)


def shift_right(targets: Array) -> Array:
    """Decoder inputs of int32 [b, q] targets: a 0 first, the last dropped."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


class EncoderLayer(nn.Module):
    """Self-attention and MLP, each pre-normed, dropped out and added."""

    config: T5Config

    @nn.compact
    def __call__(
        self, x: Array, phi: StackPhi | None, bias: Array, deterministic: bool
    ) -> tuple[Array, None]:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        site = phi.self_attention if phi is not None else None
        y = LayerNorm(dtype, name="pre_attention_layer_norm")(x)
        y = Attention(cfg, name="attention")(y, y, bias, site, deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
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
            start = (0, index, 0, 0)
            keys = jax.lax.dynamic_update_slice(cache.self_keys, keys, start)
            values = jax.lax.dynamic_update_slice(cache.self_values, values, start)
            cache = dataclasses.replace(cache, self_keys=keys, self_values=values)
        y = self.self_attention.attend(y, keys, values, self_bias, own, deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)

        y = self.pre_cross_attention_layer_norm(x)
        attention = self.encoder_decoder_attention
        if cache is None or cache.cross_keys is None or cache.cross_values is None:
            assert encoded is not None
            keys, values = attention.keys_values(encoded, cross)
        else:
            keys, values = cache.cross_keys, cache.cross_values
        if cache is not None:
            cache = dataclasses.replace(cache, cross_keys=keys, cross_values=values)
        y = attention.attend(y, keys, values, cross_bias, cross, deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)

        y = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        x = x + dropout(self, y, cfg.dropout_rate, deterministic)
        x = nn.with_logical_constraint(x, (axes.BATCH, axes.LENGTH, axes.EMBED))
        return x, cache


def _remat(layer: type[nn.Module], cfg: T5Config, static: tuple[int, ...]) -> Any:
    """`layer` recomputed in the backward pass as far as the configuration says.

    `static` are the positions of non-array arguments, self counted as 0.
    """
    if cfg.remat == "none":
        return layer
    policy = {
        "full": None,
        "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    }[cfg.remat]
    return nn.remat(
        layer, prevent_cse=not cfg.scan_layers, static_argnums=static, policy=policy
    )


class TokenEmbedder(nn.Module):
    """embedding [vocab, embed], shared by encoder and decoder, not by the logits."""

    config: T5Config

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """int32 [b, k] -> [b, k, d] in the activations' dtype."""
        cfg = self.config
        table = self.param(
            "embedding",
            nn.with_logical_partitioning(
                nn.initializers.normal(1.0), (axes.VOCAB, axes.EMBED)
            ),
            (cfg.vocab_size, cfg.emb_dim),
            jnp.float32,
        )
        x = jnp.take(table, tokens, axis=0).astype(cfg.dtype)
        return nn.with_logical_constraint(x, (axes.BATCH, axes.LENGTH, axes.EMBED))


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
          scanned: a pytree whose arrays lead with the layer axis.

        Returns:
          x, and the layers' second results stacked along a leading layer axis.
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
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], scanned)
            x, output = layer(cfg, name=f"layers_{i}")(x, mine, *broadcast)
            outputs.append(output)
        return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)


class Encoder(_Stack):
    """The encoder stack."""

    @nn.compact
    def __call__(
        self, x: Array, tokens: Array, phi: StackPhi | None, deterministic: bool
    ) -> Array:
        """x: [b, k, d] embedded `tokens` int32 [b, k] -> [b, k, d]."""
        cfg = self.config
        positions = jnp.arange(x.shape[1])
        bias = RelativePositionBias(cfg, name="relpos_bias")(positions, positions, True)
        bias = bias + padding_bias(tokens)
        x = dropout(self, x, cfg.dropout_rate, deterministic)
        depth = cfg.num_encoder_layers
        x, _ = self._run(EncoderLayer, depth, x, phi, bias, deterministic)
        x = LayerNorm(jnp.dtype(cfg.dtype), name="encoder_norm")(x)
        return dropout(self, x, cfg.dropout_rate, deterministic)


def empty_cache(cfg: T5Config, encoder_tokens: Array, max_length: int) -> DecoderCache:
    """A cache of no positions; its first use computes the cross keys and values."""
    shape = (
        cfg.num_decoder_layers,
        encoder_tokens.shape[0],
        max_length,
        cfg.num_heads,
        cfg.head_dim,
    )
    empty = jnp.zeros(shape, cfg.dtype)
    return DecoderCache(
        layers=LayerCache(empty, empty, None, None),
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
        width = x.shape[1] if cache is None else cache.layers.self_keys.shape[2]
        queries = start + jnp.arange(x.shape[1])
        keys = jnp.arange(width)
        bias = RelativePositionBias(cfg, name="relpos_bias")(
            queries, keys, bidirectional_buckets
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


class T5(nn.Module):
    """The whole model: small entry points, called differently by its two owners."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        self.token_embedder = TokenEmbedder(cfg)
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg)

    def encode(
        self, tokens: Array, phi: Phi | None = None, deterministic: bool = True
    ) -> Array:
        """int32 [b, k] -> [b, k, d]."""
        x = self.token_embedder(tokens)
        stack = phi.encoder if phi is not None else None
        return self.encoder(x, tokens, stack, deterministic)

    def decode_slots(
        self,
        encoded: Array,
        encoder_tokens: Array,
        slots: Array,
        bidirectional_buckets: bool = False,
        deterministic: bool = True,
    ) -> Array:
        """The hypermodel's use: learned inputs [b, q, d], no causal mask, no logits."""
        hidden, _ = self.decoder(
            slots,
            encoded,
            encoder_tokens,
            None,
            deterministic,
            causal=False,
            bidirectional_buckets=bidirectional_buckets,
            with_logits=False,
        )
        return hidden

    def decode(
        self,
        encoded: Array,
        encoder_tokens: Array,
        decoder_tokens: Array,
        phi: Phi | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Logits float32 [b, q, vocab] of int32 [b, q] decoder inputs, uncached."""
        x = self.token_embedder(decoder_tokens)
        stack = phi.decoder if phi is not None else None
        logits, _ = self.decoder(x, encoded, encoder_tokens, stack, deterministic)
        return logits

    def start_decoding(
        self,
        encoded: Array,
        encoder_tokens: Array,
        max_length: int,
        phi: Phi | None = None,
    ) -> DecoderCache:
        """A cache for up to `max_length` positions, cross-attention computed.

        It is a pass over zero positions, so that its cost is the cross-attention's keys
        and values and nothing else.
        """
        cache = empty_cache(self.config, encoder_tokens, max_length)
        nothing = jnp.zeros((encoded.shape[0], 0, encoded.shape[-1]), encoded.dtype)
        stack = phi.decoder if phi is not None else None
        _, cache = self.decoder(
            nothing,
            encoded,
            encoder_tokens,
            stack,
            True,
            cache=cache,
            with_logits=False,
        )
        return cache

    def decode_next(
        self, tokens: Array, cache: DecoderCache, phi: Phi | None = None
    ) -> tuple[Array, DecoderCache]:
        """Logits of the next positions.

        Args:
          tokens: int32 [b, q], decoder inputs of the next q positions.
          cache: of the positions before; not more than its max_length in all.

        Returns:
          float32 [b, q, vocab], and the cache advanced by q.
        """
        x = self.token_embedder(tokens)
        stack = phi.decoder if phi is not None else None
        return self.decoder(x, None, cache.encoder_tokens, stack, True, cache=cache)

    def __call__(
        self,
        inputs: Array,
        targets: Array,
        phi: Phi | None = None,
        deterministic: bool = True,
    ) -> Array:
        """Teacher-forced logits float32 [b, q, vocab] of int32 inputs and targets."""
        encoded = self.encode(inputs, phi, deterministic)
        return self.decode(encoded, inputs, shift_right(targets), phi, deterministic)
