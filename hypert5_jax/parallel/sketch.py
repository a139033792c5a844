"""How long the mean of the devices' arrays is, without making the mean.

Each device adds its numbers up into a few sums under fixed random signs; the sums are
averaged over devices, and the squares of what comes out add up to the squared norm of the
mean, in expectation over the signs (Alon, Matias and Szegedy, 1996, "The space complexity
of approximating the frequency moments"). With k sums for an array the estimate of its
squared norm has a relative deviation of at most √(2 / k); those of many arrays average.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

SUMS = 256


def mean_norm(arrays: Sequence[Array], axis_name: str | tuple[str, ...]) -> Array:
    """The L2 norm of the mean over a mesh axis of all arrays together, about.

    Args:
      arrays: float32 [pieces, n], this device's; each piece has sums of its own, so that
        stacked layers and separate ones give one number. Exact where n <= SUMS.
      axis_name: of the mesh axis, or of several; called inside shard_map.

    Returns:
      float32 scalar, the same on all devices.
    """
    sums = jax.lax.pmean([_signed_sums(a) for a in arrays], axis_name)
    return jnp.sqrt(sum(jnp.sum(jnp.square(s)) for s in sums))


def _signed_sums(array: Array) -> Array:
    """[pieces, n] -> [pieces, SUMS]"""
    pieces, size = array.shape
    rows = -(-size // SUMS)
    array = jnp.pad(array, ((0, 0), (0, rows * SUMS - size)))
    signs = _signs(rows * SUMS).reshape(rows, SUMS)
    return jnp.einsum("prs,rs->ps", array.reshape(pieces, rows, SUMS), signs)


def _signs(count: int) -> Array:
    """±1, float32 [count], from the place alone: MurmurHash3's final mix of it."""
    mixed = jnp.arange(count, dtype=jnp.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> shift)) * np.uint32(factor)
    return 1.0 - 2.0 * ((mixed ^ (mixed >> 16)) & 1).astype(jnp.float32)
