"""The 8-bit codes against the paper's definition, bit by bit, and against brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.training import dynamic_tree

# Values bitsandbytes publishes for its signed map, with their places in it.
PUBLISHED = {
    0: -0.992968738079071,
    63: -0.10703125596046448,
    64: -0.09859374910593033,
    126: -5.500000384017767e-07,
    127: 0.0,
    128: 5.500000384017767e-07,
    129: 3.250000190746505e-06,
    130: 7.749999895168003e-06,
    131: 2.1249998098937795e-05,
    190: 0.09859374910593033,
    191: 0.10703125596046448,
    254: 0.992968738079071,
    255: 1.0,
}


def paper_value(byte: int, signed: bool) -> float:
    """One byte read as Dettmers et al. describe the dynamic tree."""
    bits = f"{byte:08b}"
    sign, tree = (bits[0], bits[1:]) if signed else ("0", bits)
    zeros = len(tree) - len(tree.lstrip("0"))
    if zeros >= 7:  # no fraction is left: 0, and in the spare code 1
        return 1.0 if "1" in bits else 0.0
    fraction = tree[zeros + 1 :]
    share = (int(fraction or "0", 2) + 0.5) / 2 ** len(fraction)
    value = (0.1 + 0.9 * share) / 10**zeros
    return -value if sign == "1" else value


def paper_map(signed: bool) -> np.ndarray:
    return np.array(sorted(paper_value(byte, signed) for byte in range(256)))


@pytest.mark.parametrize("signed", [True, False])
def test_the_map_is_the_papers(signed):
    codes = jnp.arange(256, dtype=jnp.uint8)
    found = np.array(jax.jit(lambda c: dynamic_tree.decode(c, signed))(codes))
    np.testing.assert_allclose(found, paper_map(signed), rtol=3e-7)
    assert len(set(found.tolist())) == 256
    if signed:
        for place, value in PUBLISHED.items():
            assert found[place] == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_gets_the_nearest_code(signed):
    rng = np.random.default_rng(0)
    table = paper_map(signed)
    given = rng.uniform(-1, 1, 20_000) * 10 ** rng.uniform(-8, 0, 20_000)
    given = np.concatenate([given, table, [-1, 1, -0.9999, 0.9965, 1e-30]])
    given = (given if signed else np.abs(given)).astype(np.float32)
    codes = jax.jit(lambda x: dynamic_tree.encode(x, signed))(given)
    assert codes.dtype == np.uint8
    away = np.abs(given.astype(np.float64)[:, None] - table)
    chosen = away[np.arange(len(given)), codes]
    np.testing.assert_allclose(chosen, away.min(axis=1), atol=1e-7)


def there_and_back(array, axis, block):
    @jax.jit
    def both(x):
        found = dynamic_tree.quantise(x, axis, block, True)
        return found, dynamic_tree.dequantise(found, axis, block, True)

    return jax.device_get(both(array))


@pytest.mark.parametrize(("axis", "block"), [(-1, 4), (-2, 3), (-1, 64)])
def test_blocks_are_scaled_by_their_largest_magnitude(axis, block):
    rng = np.random.default_rng(1)
    array = rng.standard_normal((3, 7, 10)).astype(np.float32)
    array *= 10.0 ** rng.integers(-6, 3, (3, 7, 10))
    found, back = there_and_back(array, axis, block)
    assert found.codes.shape == array.shape
    table = paper_map(True)
    lines = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    backs = np.moveaxis(back, axis, -1).reshape(lines.shape)
    scales = np.moveaxis(np.array(found.scales), axis, -1).reshape(len(lines), -1)
    for line, given_back, scale in zip(lines, backs, scales, strict=True):
        for number, start in enumerate(range(0, len(line), block)):
            here = slice(start, start + block)
            largest = np.abs(line[here]).max()
            assert scale[number] == largest
            away = np.abs(line[here, None] / largest - table)
            expected = table[away.argmin(axis=1)] * largest
            np.testing.assert_allclose(given_back[here], expected, rtol=1e-5)


def test_zeros_survive_and_what_is_not_finite_is_not_hidden():
    array = np.zeros((4, 8), np.float32)
    array[1, 2], array[2, 3], array[3] = np.inf, np.nan, 1e-37
    _, back = there_and_back(array, -1, 8)
    np.testing.assert_array_equal(back[0], 0.0)
    assert not np.isfinite(back[1:3]).any()
    np.testing.assert_allclose(back[3], 1e-37, rtol=1e-6)
