"""Laws of φ: no-ops are bit-equal, rows are independent, one φ serves many rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi import apply, types
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from tests.models import TINY, random_batch, random_params, random_tree

PLAIN = System(TINY, Variant("none", "none", trainable=("downstream",), context="none"))
ALL_MAPS = LoRASpec(rank=3, maps=("query", "key", "value", "out"))
OWN_CROSS = PrefixSpec(length=3, cross_attention="own")


@pytest.fixture(scope="module")
def params():
    return random_params(PLAIN)


@pytest.fixture(scope="module")
def logits(params):
    """(φ, batch) -> logits, compiled once per shape of φ."""
    run = jax.jit(lambda phi, batch: PLAIN.logits(params, batch, phi=phi))
    return lambda phi, batch: np.asarray(run(phi, batch))


def close(a, b):
    """Equal up to float32 rounding, relative to the largest value."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def random_phi(spec, batch, seed=1):
    return random_tree(phi_shapes(spec, TINY.sites, batch), seed, scale=1.0)


def test_a_phi_without_effect_leaves_the_logits_bit_equal(logits):
    batch = random_batch()
    plain = logits(None, batch)
    empty_prefix = random_phi(PrefixSpec(length=0), 1)
    lora = random_phi(ALL_MAPS, 1)
    zero_b = types.from_named_arrays(
        {
            path: np.zeros_like(a) if path.endswith("/b") else a
            for path, a in types.named_arrays(lora)
        }
    )
    np.testing.assert_array_equal(logits(types.Phi(), batch), plain)
    np.testing.assert_array_equal(logits(empty_prefix, batch), plain)
    np.testing.assert_array_equal(logits(zero_b, batch), plain)
    assert np.abs(logits(lora, batch) - plain).max() > 0.1


def test_a_prefix_of_zeros_is_not_a_no_op(logits):
    batch = random_batch()
    zeros = jax.tree.map(np.zeros_like, random_phi(OWN_CROSS, 1))
    assert np.abs(logits(zeros, batch) - logits(None, batch)).max() > 1e-3


def test_merging_an_unbatched_lora_equals_applying_it(logits, params):
    batch = random_batch()
    phi = random_phi(ALL_MAPS, 1)
    merged = {"downstream": apply.merge(params["downstream"], phi)}
    close(jax.jit(PLAIN.logits)(merged, batch), logits(phi, batch))


@pytest.mark.parametrize("spec", [OWN_CROSS, ALL_MAPS], ids=["prefix", "lora"])
def test_the_phi_of_one_row_affects_that_row_alone(logits, spec):
    batch, phi = random_batch(rows=4), random_phi(spec, 4)
    changed = jax.tree.map(lambda a: np.copy(a), phi)
    for _, array in types.named_arrays(changed):
        array[:, 2] += 1.0
    before, after = logits(phi, batch), logits(changed, batch)
    np.testing.assert_array_equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert np.abs(before[2] - after[2]).max() > 1e-2


@pytest.mark.parametrize("spec", [OWN_CROSS, ALL_MAPS], ids=["prefix", "lora"])
def test_one_phi_for_all_rows_equals_its_copies(logits, spec):
    batch, phi = random_batch(rows=4), random_phi(spec, 1)
    tiled = jax.tree.map(lambda a: np.repeat(a, 4, axis=1), phi)
    close(logits(phi, batch), logits(tiled, batch))


@pytest.mark.parametrize("spec", [OWN_CROSS, ALL_MAPS], ids=["prefix", "lora"])
def test_consecutive_rows_share_the_phi_of_their_context(logits, spec):
    batch, phi = random_batch(rows=6), random_phi(spec, 3)
    tiled = jax.tree.map(lambda a: np.repeat(a, 2, axis=1), phi)
    close(logits(phi, batch), logits(tiled, batch))


def test_a_phi_of_batch_one_compiles_to_matmuls_without_a_batch_of_its_own(params):
    batch, phi = random_batch(rows=4), random_phi(ALL_MAPS, 1)
    run = jax.jit(lambda phi: PLAIN.logits(params, batch, phi=phi))
    text = run.lower(phi).compile().as_text()
    rank, embed = ALL_MAPS.rank, TINY.emb_dim
    assert f"f32[4,{embed},{rank}]" not in text
    assert f"f32[{embed},{rank}]" in text


def test_a_phi_whose_batch_does_not_divide_the_rows_is_refused(params):
    batch, phi = random_batch(rows=4), random_phi(ALL_MAPS, 3)
    with pytest.raises(UserError, match="batch 3 met activations of batch 4"):
        PLAIN.logits(params, batch, phi=phi)


@pytest.mark.parametrize("adaptation", ["prefix", "lora"])
def test_context_padding_is_invisible(adaptation):
    variant = Variant(
        adaptation,
        prefix=PrefixSpec(length=3),
        head=dataclasses.replace(Variant().head, gate_init=0.5),
    )
    system = System(TINY, variant)
    params = random_params(system)
    contexts = random_batch().hyper_inputs
    contexts[3] = 0  # an empty context too
    padded = np.pad(contexts, ((0, 0), (0, 6)))
    make = jax.jit(system.make_phi)
    short, long = make(params, contexts), make(params, padded)
    for a, b in zip(jax.tree.leaves(short), jax.tree.leaves(long), strict=True):
        assert np.isfinite(a).all()
        close(a, b)


def test_two_examples_in_one_batch_get_the_phi_each_would_get_alone():
    system = System(TINY, Variant(prefix=PrefixSpec(length=3)))
    params = random_params(system)
    contexts = random_batch(rows=2).hyper_inputs
    make = jax.jit(system.make_phi)
    both = make(params, contexts)
    alone = make(params, np.stack([contexts[1], contexts[1]]))
    for a, b in zip(jax.tree.leaves(both), jax.tree.leaves(alone), strict=True):
        close(a[:, 1], b[:, 1])


def test_gates_at_zero_make_the_first_generated_lora_a_no_op(logits):
    system = System(TINY, Variant("lora"))
    params = random_params(system)
    heads = params["hypermodel"]["heads"]
    for name in heads:
        if name.endswith("_gate"):
            heads[name] = np.zeros_like(heads[name])
    batch = random_batch()
    phi = jax.jit(system.make_phi)(params, batch.hyper_inputs)
    assert all(
        np.any(array) != path.endswith("/b") for path, array in types.named_arrays(phi)
    )
    np.testing.assert_array_equal(logits(phi, batch), logits(None, batch))


def test_scale_is_folded_into_b():
    plain = LoRASpec(rank=4)
    doubled = LoRASpec(rank=4, alpha=8.0)
    variant = Variant("lora", "learned", trainable=("phi",), context="none", lora=plain)
    one = System(TINY, variant)
    two = System(TINY, dataclasses.replace(variant, lora=doubled))
    params = random_params(one)
    a, b = (dict(types.named_arrays(s.make_phi(params, None))) for s in (one, two))
    for path in a:
        factor = 2.0 if path.endswith("/b") else 1.0
        np.testing.assert_array_equal(jnp.asarray(a[path]) * factor, b[path])


@pytest.mark.parametrize("rows_per_phi", [1, 2, 4])
def test_a_prefix_trains_in_bfloat16(rows_per_phi):
    """The products of both passes exist on this machine, and give what float32 gives."""
    batch = random_batch(rows=4)
    shapes = phi_shapes(OWN_CROSS, TINY.sites, 4 // rows_per_phi)
    phi = random_tree(shapes, seed=1)

    def gradient(dtype):
        config = dataclasses.replace(TINY, dtype=dtype)
        system = dataclasses.replace(PLAIN, downstream=config)
        params = random_params(system)
        loss = jax.jit(jax.grad(lambda phi: system.loss(params, batch, phi=phi).total))
        return loss(phi)

    exact, rounded = gradient("float32"), gradient("bfloat16")
    for (name, a), (_, b) in zip(
        types.named_arrays(exact), types.named_arrays(rounded)
    ):
        error = np.linalg.norm(np.asarray(a) - np.asarray(b, np.float32))
        # Eight bits through five layers leave .14 of a key's gradient in doubt; a product
        # over wrong axes would miss it by more than its own size.
        assert error < 0.2 * np.linalg.norm(a), name
