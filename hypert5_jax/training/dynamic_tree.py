"""Dynamic tree quantisation of blocks of an array to 8 bits, and back.

Dettmers et al., 2022, "8-bit Optimizers via Block-wise Quantization", on dynamic tree and
block-wise quantisation: each block is divided by its largest magnitude and each number
becomes the nearest of 256 values. In the bits of a code leading zeros count decades, the
first one ends them, what follows divides the decade linearly:

    sign   leading zeros z   1   fraction k of n bits      (0.1 + 0.9 (k + ½) / 2^n) / 10^z

Unsigned codes spend the sign's bit on the fraction. The two codes without a fraction are
0 and 1. Codes here are numbered in the order of their values, as bitsandbytes does.
"""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

DECADES = 7


class Quantised(NamedTuple):
    """An array in 8 bits.

    codes: uint8, of the array's shape.
    scales: float32, of the array's shape but for the divided axis, which counts blocks:
      the largest magnitude of each.
    """

    codes: Array
    scales: Array


def _midpoints(decade: int, signed: bool) -> np.ndarray:
    """The values between 10^(decade - 7) and 10^(decade - 6), ascending."""
    count = 2 ** (decade if signed else decade + 1)
    inside = 0.1 + 0.9 * (np.arange(count) + 0.5) / count
    return inside * 10.0 ** (decade - DECADES + 1)


def quantise(array: Array, axis: int, block_size: int, signed: bool) -> Quantised:
    """Blocks of consecutive numbers along one axis, each by its own scale.

    Args:
      array: float32; not negative if `signed` is False.
      axis: negative, the one that is divided; its last block may be shorter.
      block_size: numbers in a block.
      signed: which of the two maps.

    A block of zeros has scale 0 and comes back as zeros. One that holds an inf or a nan
    has such a scale and comes back without a finite number.
    """
    blocks = _divided(array, axis, block_size)
    scales = jnp.max(jnp.abs(blocks), axis=axis, keepdims=True)
    codes = encode(blocks / jnp.where(scales > 0, scales, 1.0), signed)
    return Quantised(_joined(codes, axis, array.shape), jnp.squeeze(scales, axis))


def dequantise(quantised: Quantised, axis: int, block_size: int, signed: bool) -> Array:
    """float32 of the codes' shape; the arguments are those of `quantise`."""
    codes, scales = quantised
    blocks = _divided(codes, axis, block_size)
    found = decode(blocks, signed) * jnp.expand_dims(scales, axis)
    return _joined(found, axis, codes.shape)


def encode(array: Array, signed: bool) -> Array:
    """The nearest codes of numbers between -1 and 1, uint8.

    Inside a decade values are equally far apart, so that the nearest is found without a
    search; where two decades meet, halfway between their nearest values.
    """
    size = jnp.abs(array)
    decades = _decades(signed)
    line = low = jnp.zeros_like(size)  # below half the smallest value: rank 0
    for decade in decades:
        here = size > decade.begins
        line = jnp.where(here, size * decade.per_unit + decade.offset, line)
        low = jnp.where(here, decade.first, low)
    # A decade has as many values as come before it, and for signed codes one more.
    high = 2 * low - 1 if signed else 2 * low
    rank = jnp.clip(jnp.floor(line), low, jnp.maximum(low, high))
    rank = jnp.where(size > decades[-1].ends, decades[-1].last + 1, rank)
    if signed:
        # There is no -1: what is nearest to it is the last of the negative values.
        below = jnp.minimum(rank, decades[-1].last)
        rank = decades[-1].last + jnp.where(array < 0, -below, rank)
    return rank.astype(jnp.uint8)


def decode(codes: Array, signed: bool) -> Array:
    """What codes stand for, float32 of their shape, computed and not looked up."""
    decades = _decades(signed)
    rank = codes.astype(jnp.float32)
    if signed:
        rank = rank - decades[-1].last
    size = jnp.abs(rank)
    found = jnp.zeros_like(size)
    for d in decades:
        here = (size - d.first + 0.5) * d.width + d.lowest
        found = jnp.where(size >= d.first, here, found)
    found = jnp.where(size > decades[-1].last, 1.0, found)
    return jnp.where(rank < 0, -found, found)


class _Decade(NamedTuple):
    """Ranks number the positive values from 1. Of one decade: its first and last rank,
    how far apart its values are and where it starts, from where on its values are the
    nearest and where they no longer are, and rank = ⌊size · per_unit + offset⌋."""

    first: float
    last: float
    width: float
    lowest: float
    begins: np.float32
    ends: np.float32
    per_unit: float
    offset: float


@functools.cache
def _decades(signed: bool) -> tuple[_Decade, ...]:
    inside = [_midpoints(decade, signed) for decade in range(DECADES)]
    ends = [(a[-1] + b[0]) / 2 for a, b in itertools.pairwise([*inside, np.ones(1)])]
    begins = [inside[0][0] / 2, *ends]
    first, found = 1, []
    for decade, (points, begin, end) in enumerate(zip(inside, begins, ends)):
        lowest = 10.0 ** (decade - DECADES)
        width = 9 * lowest / len(points)
        last = first + len(points) - 1
        line = 1 / width, first - lowest / width
        edges = np.float32(begin), np.float32(end)
        found.append(_Decade(first, last, width, lowest, *edges, *line))
        first = last + 1
    return tuple(found)


def _divided(array: Array, axis: int, block_size: int) -> Array:
    """[…, n, …] -> […, blocks, …] with the numbers of a block along a new axis.

    The new axis stands where `axis`, counted from the end, finds it; the blocks' before.
    """
    at = array.ndim + axis
    length = array.shape[at]
    size = min(block_size, length)
    blocks = -(-length // size)
    if missing := blocks * size - length:
        padding = [(0, 0)] * array.ndim
        padding[at] = (0, missing)
        array = jnp.pad(array, padding)
    return array.reshape(*array.shape[:at], blocks, size, *array.shape[at + 1 :])


def _joined(blocks: Array, axis: int, shape: tuple[int, ...]) -> Array:
    """The inverse of `_divided`."""
    at = len(shape) + axis
    whole = blocks.reshape(*shape[:at], -1, *shape[at + 1 :])
    return jnp.asarray(whole[(slice(None),) * at + (slice(shape[at]),)])
