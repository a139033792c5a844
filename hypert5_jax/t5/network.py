"""T5 v1.1: embedder, encoder, decoder; φ an ordinary argument that defaults to None."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.stacks import Decoder, DecoderCache, Encoder, empty_cache


def shift_right(targets: Array) -> Array:
    """Decoder inputs of int32 [b, q] targets: a 0 first, the last dropped."""
    return jnp.pad(targets[:, :-1], ((0, 0), (1, 0)))


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
        # Looked up where the table lies, then sent to where the rows are.
        tokens = nn.with_logical_constraint(tokens, (axes.COPY_BATCH, axes.LENGTH))
        x = jnp.take(table, tokens, axis=0).astype(cfg.dtype)
        x = nn.with_logical_constraint(x, (axes.COPY_BATCH, axes.LENGTH, axes.EMBED))
        return nn.with_logical_constraint(x, (axes.BATCH, axes.LENGTH, axes.EMBED))


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
