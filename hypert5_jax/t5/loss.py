"""Weighted cross-entropy of logits, with T5X's optional z-loss, as sums over tokens."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


class LossSums(NamedTuple):
    """float32 scalars, summed over target tokens so that microbatches and hosts add.

    total: loss + z_loss, what is differentiated; loss: cross-entropy; z_loss: its
    regulariser; weight: of all tokens; correct: weight of tokens whose argmax is right.
    """

    total: Array
    loss: Array
    z_loss: Array
    weight: Array
    correct: Array


def token_log_probs(logits: Array, targets: ArrayLike) -> tuple[Array, Array]:
    """log p of each target token, and log Z, both float32 [b, q].

    Args:
      logits: float32 [b, q, v].
      targets: int32 [b, q].
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    # A masked sum, not a gather: it stays local where the vocabulary is sharded.
    hit = jnp.arange(logits.shape[-1]) == jnp.asarray(targets)[..., None]
    return jnp.sum(jnp.where(hit, logits, 0.0), axis=-1) - log_z, log_z


def cross_entropy(
    logits: Array, targets: ArrayLike, weights: ArrayLike, z_loss: float = 0.0
) -> LossSums:
    """Sums of weights * (-log p + z_loss * log(Z)^2).

    Args:
      logits: float32 [b, q, v].
      targets: int32 [b, q].
      weights: float32 [b, q].
      z_loss: T5X's coefficient, which keeps log Z near 0; 0 turns it off.
    """
    log_probs, log_z = token_log_probs(logits, targets)
    loss = -jnp.sum(log_probs * weights)
    regulariser = z_loss * jnp.sum(jnp.square(log_z) * weights)
    correct = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
    return LossSums(loss + regulariser, loss, regulariser, jnp.sum(weights), correct)
