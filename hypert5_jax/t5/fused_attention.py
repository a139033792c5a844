"""Attention that never keeps float32 scores, for accelerators.

Written down plainly, attention stores its float32 scores [b, h, q, k], reads them for the
largest, again for the sum of exponentials, and keeps them for the backward pass: at
T5-Large and 1024 tokens 64 MiB for each row and layer, and most of a step's time. Here

    m = max_k s,  e = exp(s - m)        s = q k + biases, computed anew for each of the two
    [y, l] = e [v, 1],  y / l           the sum is one more column of the product

so that a compiler can fuse scores into what reads them and writes `e` alone, in the
activations' dtype. The derivative of the unnormalised weights is ds = e · de, with what
comes through the sum `l` already in `de`; that of m is left out, since y / l does not
depend on it. What is new beside the plain form is that weights are rounded before they
are divided by their sum, which is the sum of the rounded ones.

Einsum letters: b batch, q/k positions, h heads, c head dim, p prefix columns.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

# A tiny array that spares recomputing layers one of the two products.
LARGEST = "attention_largest"


def _scores(query: Array, keys: Array, biases: tuple[Array, ...]) -> Array:
    scores = jnp.einsum(
        "bqhc,bkhc->bhqk", query, keys, preferred_element_type=jnp.float32
    )
    rows = len(query)
    return functools.reduce(jnp.add, (_for_rows(one, rows) for one in biases), scores)


def _for_rows(bias: Array, rows: int) -> Array:
    """[n, …] -> [b|1, …], each for b / n rows after one another."""
    n = len(bias)
    return bias if n in (1, rows) else jnp.repeat(bias, rows // n, axis=0)


def largest(
    query: Array, keys: Array, biases: tuple[Array, ...], columns: Array | None
) -> Array:
    """float32 [b, h, q, 1], the largest score each query sees; a constant to gradients.

    Args: as those of `exponentials`.
    """
    everything = jax.lax.stop_gradient((query, keys, biases, columns))
    query, keys, biases, columns = everything
    top = jnp.max(_scores(query, keys, biases), axis=-1, keepdims=True)
    if columns is not None:
        top = jnp.maximum(top, jnp.max(columns, axis=-1, keepdims=True))
    return checkpoint_name(top, LARGEST)


@jax.custom_vjp
def exponentials(
    query: Array, keys: Array, biases: tuple[Array, ...], top: Array
) -> Array:
    """exp(scores - top) in the query's dtype, [b, h, q, k].

    Args:
      query, keys: [b, q, h, c] and [b, k, h, c].
      biases: float32 [b|n|1, h|1, q|1, k]; the scores are their sum with the product of
        query and keys. One of n is for b / n rows after one another.
      top: float32 [b, h, q, 1], what `largest` gives.
    """
    # Not the scores that top was made of: those would have to be stored in between.
    query, top = jax.lax.optimization_barrier((query, top))
    return jnp.exp(_scores(query, keys, biases) - top).astype(query.dtype)


def _forward(query: Array, keys: Array, biases: tuple[Array, ...], top: Array):
    weights = exponentials(query, keys, biases, top)
    return weights, (query, keys, biases, weights)


def _backward(kept, gradient: Array):
    query, keys, biases, weights = kept
    scores = weights.astype(jnp.float32) * gradient.astype(jnp.float32)
    narrow = scores.astype(query.dtype)
    return (
        jnp.einsum("bhqk,bkhc->bqhc", narrow, keys),
        jnp.einsum("bhqk,bqhc->bkhc", narrow, query),
        tuple(_summed_to(narrow, bias) for bias in biases),
        jnp.zeros((*scores.shape[:-1], 1), jnp.float32),
    )


def _summed_to(gradient: Array, bias: Array) -> Array:
    """The gradient of an array that was broadcast, added up in float32."""
    n, rows = len(bias), len(gradient)
    if n not in (1, rows):
        parts = gradient.reshape(n, rows // n, *gradient.shape[1:])
        gradient = jnp.sum(parts, axis=1, dtype=jnp.float32)
    shared = tuple(i for i, size in enumerate(bias.shape) if size == 1)
    return jnp.sum(gradient, axis=shared, keepdims=True, dtype=jnp.float32)


exponentials.defvjp(_forward, _backward)


def weighted(weights: Array, values: Array) -> tuple[Array, Array]:
    """(weights @ values, their sum), float32 [b, q, h, c] and [b, q, h, 1].

    Args:
      weights: [b, h, q, k].
      values: [b, k, h, c] of the same dtype.
    """
    ones = jnp.ones((*values.shape[:-1], 1), values.dtype)
    both = jnp.einsum(
        "bhqk,bkhc->bqhc",
        weights,
        jnp.concatenate([values, ones], axis=-1),
        preferred_element_type=jnp.float32,
    )
    return both[..., :-1], both[..., -1:]
