"""What a next token is drawn from: logits made flatter or sharper, unlikely ones left out.

Pure functions of logits [b, vocab]; a token that is left out has the logit -inf. They
apply in the order temperature, top k, top p, as Hugging Face's `generate` applies them.
Randomness is a key per row, so that a row's answer is its own whatever batch it is in.
"""

import jax
import jax.numpy as jnp
from jax import Array


def tempered(logits: Array, temperature: float) -> Array:
    """Logits over a temperature above 0: below 1 sharper, above 1 flatter."""
    return logits / temperature


def most_likely(logits: Array, count: int) -> Array:
    """The `count` largest logits of every row stay (top k), and what equals the last
    of them; all of them where a row has no more."""
    least = jax.lax.top_k(logits, min(count, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def nucleus(logits: Array, mass: float) -> Array:
    """The fewest largest logits whose probabilities reach `mass` stay (top p; Holtzman
    et al. 2020), and what equals the last of them; one at least.

    Args:
      logits: float32 [b, vocab].
      mass: above 0; 1 leaves every token.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    # Not by sorting: that takes longer than all of a decoding step on a CPU. Floats of
    # one sign are ordered as their bits are, so that the least probability that is
    # needed is found by halving the range of bits: one for which those above it do not
    # reach the mass yet.
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        above = jnp.where(bits > middle, probabilities, 0.0).sum(-1, keepdims=True)
        needed = above < mass
        return jnp.where(needed, low, middle + 1), jnp.where(needed, middle, high)

    largest = bits.max(-1, keepdims=True)
    least, _ = jax.lax.fori_loop(0, 31, halve, (jnp.zeros_like(largest), largest))
    return jnp.where(bits < least, -jnp.inf, logits)


def candidates(
    logits: Array, temperature: float, top_k: int = 0, top_p: float = 1.0
) -> Array:
    """Logits to draw from: softmax of them is the distribution.

    Args:
      logits: float32 [b, vocab].
      temperature: above 0.
      top_k: how many stay; 0 is all.
      top_p: probability mass that stays; 1 is all.
    """
    logits = tempered(logits, temperature)
    if top_k:
        logits = most_likely(logits, top_k)
    if top_p < 1.0:
        logits = nucleus(logits, top_p)
    return logits


def row_keys(seed: int | Array, numbers: Array) -> Array:
    """A key for every row: keys [b].

    Args:
      seed: int32, of the whole request.
      numbers: int32 [b], what tells one row from the others, wherever it is in a batch:
        the number of its question, say.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), numbers)


def draw(keys: Array, step: Array, logits: Array) -> Array:
    """One token of every row, int32 [b], by the softmax of its logits.

    Args:
      keys: keys [b], one per row.
      step: int32 scalar, how many tokens the rows have.
      logits: float32 [b, vocab].
    """
    now = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
    return jax.vmap(jax.random.categorical)(now, logits).astype(jnp.int32)
