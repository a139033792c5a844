"""The parts of a T5 layer: dense map, RMS norm, MLP, attention.

Parameter names and axes are T5X's (t5x/examples/t5/layers.py): kernels are 2-D, nothing
has a bias, the 1/sqrt(head_dim) of attention lives in the query initialiser.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from hypert5_jax.core import axes
from hypert5_jax.phi import apply as phi_apply
from hypert5_jax.phi.types import Prefix, SitePhi
from hypert5_jax.t5 import fused_attention
from hypert5_jax.t5.config import T5Config

# Added to a score to hide its column; large enough to absorb any score in float32.
HIDDEN = -1e10

# A small array, shared by all positions, that spares recomputing layers drawing it again;
# compilers spend a tenth of a step's compilation on that.
DROPOUT_MASK = "dropout_mask"

Initializer = Callable[..., Any]
attention_init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
mlp_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


@struct.dataclass
class LayerCache:
    """Keys and values of one decoder layer's attention blocks; φ is not in it.

    self_keys, self_values: [b, heads, max_length, head_dim], filled up to the position
    decoded so far; cross_keys, cross_values: [b, heads, k, head_dim], computed once.
    Heads lead, as in the products that read them at every step: laid out as they are
    made, [b, k, heads, head_dim], they would be transposed at every step.
    """

    self_keys: Array
    self_values: Array
    cross_keys: Array | None
    cross_values: Array | None


def dropout(module: nn.Module, x: Array, rate: float, deterministic: bool) -> Array:
    """Dropout with one mask for all positions of a row, as T5X broadcasts it."""
    if deterministic or rate == 0.0:
        return x
    shape = list(x.shape)
    shape[-2] = 1
    keep = jax.random.bernoulli(module.make_rng("dropout"), 1.0 - rate, shape)
    keep = checkpoint_name(keep, DROPOUT_MASK)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), jnp.zeros_like(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def gathered(kernel: Array, names: tuple[str, str], dtype: Any) -> Array:
    """The kernel in another dtype, whole but for what tensor parallelism splits.

    Devices that share parameters (FSDP) are told to collect a kernel where it is used, in
    the narrow dtype, and (in one slice) to add its gradient up whole before each keeps its
    part. The TPU compiler makes of that what it makes of a psum_scatter: a scattering sum
    where the devices are a ring, else an all-reduce along all axes of the torus at once.
    Left alone, it splits each product into a loop over devices, which takes it many times
    as long to compile.
    """
    return nn.with_logical_constraint(kernel.astype(dtype), _with_embed(names, None))


def _with_embed(names: tuple[str, str], embed: str | None) -> tuple[str | None, ...]:
    return tuple(embed if name == axes.EMBED else name for name in names)


def _gathered_forward(kernel: Array, names: tuple[str, str], dtype: Any):
    return gathered(kernel, names, dtype), jnp.zeros((0,), kernel.dtype)


def _gathered_backward(
    names: tuple[str, str], dtype: Any, like: Array, gradient: Array
):
    summed = _with_embed(names, axes.SUMMED_EMBED)
    gradient = nn.with_logical_constraint(gradient, summed)
    return (nn.with_logical_constraint(gradient, names).astype(like.dtype),)


gathered.defvjp(_gathered_forward, _gathered_backward)


class Dense(nn.Module):
    """x @ kernel, no bias; kernel [in, features] with the given axes."""

    features: int
    kernel_axes: tuple[str, str]
    dtype: Any
    kernel_init: Initializer = attention_init
    # float32 for the logits, else the activations' dtype.
    out_dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param(
            "kernel",
            nn.with_logical_partitioning(self.kernel_init, self.kernel_axes),
            (x.shape[-1], self.features),
            jnp.float32,
        )
        return jnp.einsum(
            "...d,df->...f",
            x.astype(self.dtype),
            self._used(kernel),
            preferred_element_type=self.out_dtype or self.dtype,
        )

    def _used(self, kernel: Array) -> Array:
        """The kernel as the product takes it; one device has nothing to collect."""
        if jax.sharding.get_abstract_mesh().size <= 1:
            return kernel.astype(self.dtype)
        return gathered(kernel, self.kernel_axes, jnp.dtype(self.dtype))


class LayerNorm(nn.Module):
    """T5's RMS norm: no centring, no bias, eps 1e-6, statistics in float32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones, (axes.EMBED,)),
            (x.shape[-1],),
            jnp.float32,
        )
        x = x.astype(jnp.float32)
        variance = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normed = x * jax.lax.rsqrt(variance + 1e-6)
        return (normed * scale.astype(jnp.float32)).astype(self.dtype)


class Mlp(nn.Module):
    """Gated GELU: (gelu_tanh(x wi_0) * (x wi_1)) wo."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Array, deterministic: bool) -> Array:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)

        def wide(name: str) -> Array:
            return Dense(
                cfg.mlp_dim, (axes.EMBED, axes.MLP), dtype, mlp_init, name=name
            )(x)

        hidden = nn.gelu(wide("wi_0"), approximate=True) * wide("wi_1")
        hidden = dropout(self, hidden, cfg.dropout_rate, deterministic)
        hidden = nn.with_logical_constraint(hidden, (axes.BATCH, axes.LENGTH, axes.MLP))
        return Dense(cfg.emb_dim, (axes.MLP, axes.EMBED), dtype, mlp_init, name="wo")(
            hidden
        )


class Attention(nn.Module):
    """Multi-head attention of T5, with φ as an ordinary argument."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        dtype = jnp.dtype(cfg.dtype)
        joined = cfg.num_heads * cfg.head_dim
        into = (axes.EMBED, axes.JOINED_KV)

        def query_init(*args: Any, **kwargs: Any) -> Array:
            return attention_init(*args, **kwargs) / np.sqrt(cfg.head_dim)

        self.query = Dense(joined, into, dtype, query_init)
        self.key = Dense(joined, into, dtype)
        self.value = Dense(joined, into, dtype)
        self.out = Dense(cfg.emb_dim, into[::-1], dtype)

    def _project(self, name: str, x: Array, phi: SitePhi | None) -> Array:
        """[b, k, embed] -> [b, k, heads, head_dim] by one map, φ's low rank added."""
        y = getattr(self, name)(x)
        delta = phi_apply.low_rank(x, getattr(phi, name)) if phi is not None else None
        y = y if delta is None else y + delta
        y = y.reshape(*y.shape[:2], self.config.num_heads, self.config.head_dim)
        return nn.with_logical_constraint(
            y, (axes.BATCH, axes.LENGTH, axes.HEADS, axes.KV)
        )

    def keys_values(self, x: Array, phi: SitePhi | None) -> tuple[Array, Array]:
        """Keys and values of x [b, k, embed], each [b, k, heads, head_dim]."""
        return self._project("key", x, phi), self._project("value", x, phi)

    def attend(
        self,
        x: Array,
        keys: Array,
        values: Array,
        biases: tuple[Array, ...],
        phi: SitePhi | None,
        deterministic: bool,
        heads_lead: bool = False,
    ) -> Array:
        """Attention of x over given keys and values, and over φ's prefix if any.

        Args:
          x: [b, q, embed].
          keys, values: [b, k, heads, head_dim]; with `heads_lead`, as a cache keeps
            them, [b, heads, k, head_dim].
          biases: float32 [b|1, heads|1, q|1, k] each, position bias and `HIDDEN`; in
            fused attention also [parts, …], each for so many rows after one another.
          phi: this layer's; prefix columns come first and are always visible.
          deterministic: no dropout.

        Returns:
          [b, q, embed].
        """
        cfg = self.config
        query = self._project("query", x, phi)
        prefix = phi_apply.visible_prefix(phi)
        # One position at a time has no scores worth not keeping.
        if cfg.attention == "fused" and not heads_lead:
            y = self._fused(query, keys, values, biases, prefix, deterministic)
        else:
            kept = "bhkc" if heads_lead else "bkhc"
            y = self._plain(query, keys, values, biases, prefix, deterministic, kept)
        y = y.reshape(*y.shape[:2], cfg.num_heads * cfg.head_dim)
        out = self.out(y)
        delta = phi_apply.low_rank(y, phi.out) if phi is not None else None
        return out if delta is None else out + delta

    def _plain(
        self,
        query: Array,
        keys: Array,
        values: Array,
        biases: tuple[Array, ...],
        prefix: Prefix | None,
        deterministic: bool,
        kept: str,
    ) -> Array:
        """[b, q, heads, head_dim] of keys and values laid out as `kept` says."""
        scores = jnp.einsum(
            f"bqhc,{kept}->bhqk", query, keys, preferred_element_type=jnp.float32
        )
        for bias in biases:
            scores = scores + bias
        if prefix is not None:
            columns = phi_apply.prefix_scores(query, prefix)
            scores = jnp.concatenate([columns, scores], axis=-1)
        weights = jax.nn.softmax(scores).astype(query.dtype)
        weights = dropout(self, weights, self.config.dropout_rate, deterministic)
        size = scores.shape[-1] - keys.shape[kept.index("k")]
        y = jnp.einsum(f"bhqk,{kept}->bqhc", weights[..., size:], values)
        if prefix is not None:
            y = y + phi_apply.prefix_values(weights[..., :size], prefix)
        return y

    def _fused(
        self,
        query: Array,
        keys: Array,
        values: Array,
        biases: tuple[Array, ...],
        prefix: Prefix | None,
        deterministic: bool,
    ) -> Array:
        """`_plain` by `fused_attention`; one mask for all queries falls on the values."""
        columns = None if prefix is None else phi_apply.prefix_scores(query, prefix)
        top = fused_attention.largest(query, keys, biases, columns)
        weights = fused_attention.exponentials(query, keys, biases, top)
        size = 0 if columns is None else columns.shape[-1]
        keep = dropout(
            self,
            jnp.ones((*weights.shape[:2], 1, size + keys.shape[1]), jnp.float32),
            self.config.dropout_rate,
            deterministic,
        )
        values = (values * keep[:, :, 0, size:].swapaxes(1, 2)[..., None]).astype(
            values.dtype
        )
        y, total = fused_attention.weighted(weights, values)
        if prefix is not None:
            assert columns is not None
            own = jnp.exp(columns - top)
            total = total + jnp.sum(own, axis=-1).swapaxes(1, 2)[..., None]
            taken = (own * keep[..., :size]).astype(query.dtype)
            y = y + phi_apply.prefix_values(taken, prefix)
        return (y / total).astype(query.dtype)

    def __call__(
        self,
        x: Array,
        attended: Array,
        biases: tuple[Array, ...],
        phi: SitePhi | None,
        deterministic: bool,
    ) -> Array:
        """`attend` over keys and values of `attended` [b, k, embed]."""
        keys, values = self.keys_values(attended, phi)
        return self.attend(x, keys, values, biases, phi, deterministic)
