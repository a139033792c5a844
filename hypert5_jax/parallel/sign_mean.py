"""The mean of one array over devices that send each other signs instead of numbers.

Tang et al., 2021, "1-bit Adam", Algorithm 1, with the server's work shared out as in the
authors' DeepSpeed: of n devices each is the server of one n-th of the blocks.

    device i    x_i + e_i  ──compress──►  signs, scales    e_i = what compression lost
        all_to_all: 8 signs to a byte, a scale to a block; each server gets its share
    server j    mean over i, + d_j  ──compress──►  signs, scales    d_j = what it lost
        all_gather: every device gets every server's
    device i    the mean, the same on all

Compression turns a block into sign · |x|₂ / √count: as long as the block itself. What is
lost is added the next time (error feedback).
"""

import jax
import jax.numpy as jnp
from jax import Array

BITS = 8
Axis = str | tuple[str, ...]


def compress(values: Array, mask: Array) -> tuple[Array, Array, Array]:
    """Signs and scales of blocks, and what they lose.

    Args:
      values: float32 [..., block], block a multiple of 8.
      mask: bool of that shape; what is not in it counts as 0 and loses nothing.

    Returns:
      uint8 [..., block / 8], a set bit for a negative number; float32 [..., 1]; and
      float32 [..., block].
    """
    values = jnp.where(mask, values, 0.0)
    count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    scales = jnp.sqrt(jnp.sum(jnp.square(values), axis=-1, keepdims=True) / count)
    negative = values < 0
    lost = jnp.where(mask, values - jnp.where(negative, -scales, scales), 0.0)
    return jnp.packbits(negative, axis=-1), scales, lost


def restore(signs: Array, scales: Array, mask: Array) -> Array:
    """float32 [..., block] of what `compress` made, 0 outside the mask."""
    negative = jnp.unpackbits(signs, axis=-1).astype(bool)
    return jnp.where(mask, jnp.where(negative, -scales, scales), 0.0)


def sign_mean(
    values: Array, mask: Array, error: Array, server_error: Array, axis_name: Axis
) -> tuple[Array, Array, Array]:
    """Called on every device along mesh axes, inside shard_map.

    Args:
      values: float32 [l, blocks, block], this device's; blocks divides by the devices.
      mask: bool of that shape, the same on all devices: what takes part.
      error: float32 of that shape, what this device's last compression lost.
      server_error: float32 [l, blocks / devices, block], what its last one as a server
        lost.
      axis_name: of the mesh axis, or of several as one.

    Returns:
      The mean, the same on all devices and 0 outside the mask, and both new errors.
    """
    layers, blocks = values.shape[:2]
    devices = jax.lax.axis_size(axis_name)
    share = blocks // devices

    def split(array: Array) -> Array:
        return array.reshape(layers, devices, share, -1)

    signs, scales, error = compress(values + error, mask)
    # [l, server, share, …] -> [l, sender, share, …]
    signs, scales = (
        jax.lax.all_to_all(split(a), axis_name, split_axis=1, concat_axis=1)
        for a in (signs, scales)
    )
    server = jax.lax.axis_index(axis_name)
    mine = jax.lax.dynamic_index_in_dim(split(mask), server, axis=1, keepdims=False)
    mean = jnp.mean(restore(signs, scales, mine[:, None]), axis=1)
    signs, scales, server_error = compress(mean + server_error, mine)
    signs, scales = (
        jax.lax.all_gather(a, axis_name, axis=1, tiled=True) for a in (signs, scales)
    )
    return restore(signs, scales, mask), error, server_error
