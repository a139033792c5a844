"""Means over devices that are never made of whole numbers: by signs, and by sketches."""

import jax
import numpy as np
from jax.sharding import PartitionSpec

from hypert5_jax.parallel import sign_mean, sketch
from hypert5_jax.parallel.mesh import DATA, MeshConfig, make_mesh


def on_devices(function, devices=8):
    """`function` on each device's slice of the first axis, outputs stacked alike."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:devices])

    def one(*args):
        outputs = function(*jax.tree.map(lambda a: a[0], args))
        return jax.tree.map(lambda a: a[None], outputs)

    spec = PartitionSpec(DATA)
    return jax.jit(
        jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    )


def test_eight_signs_make_a_byte_and_the_length_of_a_block_stays():
    values = np.array([[3.0, -1, 2, -4, 5, 0, -7, 1]], np.float32)
    mask = np.ones((1, 8), bool)
    signs, scales, lost = sign_mean.compress(values, mask)
    assert np.array(signs).tolist() == [[0b01010010]]
    np.testing.assert_allclose(scales, np.linalg.norm(values) / np.sqrt(8), rtol=1e-6)
    back = np.array(sign_mean.restore(signs, scales, mask))
    np.testing.assert_allclose(np.linalg.norm(back), np.linalg.norm(values), rtol=1e-6)
    np.testing.assert_allclose(back + lost, values, rtol=1e-6)


def test_what_signs_lose_is_made_good_by_the_errors_that_are_kept():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((8, 2, 16, 24)).astype(np.float32)
    mask = np.broadcast_to(rng.random((2, 16, 24)) < 0.9, values.shape)
    mean = on_devices(lambda *args: sign_mean.sign_mean(*args, DATA))
    error, server = np.zeros_like(values), np.zeros((8, 2, 2, 24), np.float32)
    total = 0.0
    for rounds in range(1, 21):
        found, error, server = mean(values, mask, error, server)
        found = np.array(found)
        np.testing.assert_array_equal(found, np.broadcast_to(found[0], found.shape))
        assert not found[~mask].any()
        total = total + found[0]
    true = np.where(mask[0], values.mean(axis=0), 0.0)
    # One round is far off; the average of many is what is sent in the long run.
    assert np.abs(found[0] - true).mean() > 0.3
    assert np.abs(total / rounds - true).mean() < 0.1


def test_the_norm_of_a_mean_is_known_without_the_mean():
    rng = np.random.default_rng(1)
    common = rng.standard_normal((12, 3000))
    own = (common + 5 * rng.standard_normal((8, 12, 3000))).astype(np.float32)
    small = rng.standard_normal((8, 1, 40)).astype(np.float32)
    norm = on_devices(lambda *arrays: sketch.mean_norm(arrays, DATA))
    expected = np.linalg.norm(own.mean(axis=0))
    found = np.array(norm(own))
    assert len(set(found.tolist())) == 1
    np.testing.assert_allclose(found[0], expected, rtol=0.05)
    assert np.linalg.norm(own[0]) > 2 * expected  # what a device alone would think
    np.testing.assert_allclose(
        norm(small)[0], np.linalg.norm(small.mean(axis=0)), rtol=1e-5
    )
