"""Laws of the T5: scan equals loop, remat changes nothing, a cache changes nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core import trees
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from hypert5_jax.t5.network import T5, shift_right
from hypert5_jax.t5.stacking import stack_layers, unstack_layers
from tests.jaxprs import equations
from tests.models import TINY, random_batch, random_params, random_tree

VARIANT = Variant(prefix=PrefixSpec(length=3))


@pytest.fixture(scope="module")
def params():
    return random_params(System(TINY, VARIANT))


def value_and_grads(config, params, batch, variant=VARIANT, dropout_rng=None):
    system = System(config, variant)

    def loss(params):
        sums = system.loss(params, batch, dropout_rng=dropout_rng)
        return sums.total / sums.weight

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return value, {k: np.asarray(v) for k, v in trees.flatten(grads).items()}


@pytest.fixture(scope="module")
def scanned(params):
    return value_and_grads(TINY, params, random_batch())


def largest_relative_difference(a, b):
    """Per array: max |a - b| over max |b|, the largest of them."""
    assert a.keys() == b.keys()
    return max(np.abs(a[k] - b[k]).max() / max(np.abs(b[k]).max(), 1e-12) for k in a)


def test_scan_equals_loop(params, scanned):
    unrolled = dataclasses.replace(TINY, scan_layers=False)
    split = {group: unstack_layers(tree) for group, tree in params.items()}
    value, grads = value_and_grads(unrolled, split, random_batch())
    np.testing.assert_allclose(value, scanned[0], rtol=1e-6)
    stacked = trees.flatten(stack_layers(trees.unflatten(grads)))
    # Norm gains, whose gradients sum over all positions, round the most.
    assert largest_relative_difference(stacked, scanned[1]) < 5e-6


def test_logits_of_scan_and_loop_agree_within_1e_6(params):
    batch = random_batch()
    tree = params["downstream"]
    unrolled = T5(dataclasses.replace(TINY, scan_layers=False))
    a = jax.jit(T5(TINY).apply)({"params": tree}, batch.inputs, batch.targets)
    b = jax.jit(unrolled.apply)(
        {"params": unstack_layers(tree)}, batch.inputs, batch.targets
    )
    assert np.abs(a - b).max() <= 1e-6 * np.abs(a).max()


@pytest.mark.parametrize("remat", ["full", "blocks", "minimal"])
def test_remat_changes_nothing(params, scanned, remat):
    config = dataclasses.replace(TINY, remat=remat)
    value, grads = value_and_grads(config, params, random_batch())
    np.testing.assert_allclose(value, scanned[0], rtol=1e-6)
    assert largest_relative_difference(grads, scanned[1]) < 5e-6


@pytest.mark.parametrize("remat", ["full", "blocks", "minimal"])
def test_remat_draws_no_dropout_mask_twice(params, remat):
    key = jax.random.key(0)

    def drawn(config):
        loss = lambda p: System(config, VARIANT).loss(
            p, random_batch(), dropout_rng=key
        )
        gradient = jax.grad(lambda p: loss(p).total)
        found = equations(jax.make_jaxpr(gradient)(params).jaxpr)
        return [one.primitive.name for one, _ in found].count("random_bits")

    kept = dataclasses.replace(TINY, dropout_rate=0.3)
    assert drawn(dataclasses.replace(kept, remat=remat)) == drawn(kept) > 0


@pytest.mark.parametrize("adaptation, remat", [("prefix", "full"), ("lora", "none")])
def test_fused_attention_is_plain_attention(adaptation, remat):
    # With dropout, whose masks are the same: on values here, on weights there.
    variant = Variant(
        adaptation=adaptation, prefix=VARIANT.prefix, downstream_dropout=True
    )
    config = dataclasses.replace(TINY, dropout_rate=0.3)
    # A random LoRA as it is makes weights so sharp that one unit in the last place of the
    # parameters moves some gradients by 2e-4.
    params = trees.unflatten(
        {
            name: 0.2 * array if "/output/" in name else array
            for name, array in trees.flatten(
                random_params(System(config, variant))
            ).items()
        }
    )
    # Contexts that are empty: nothing is visible, everything attended alike.
    batch = random_batch()
    batch.hyper_inputs[1] = 0
    given = params, batch, variant, jax.random.key(0)
    plain = value_and_grads(config, *given)
    fused = value_and_grads(
        dataclasses.replace(config, attention="fused", remat=remat), *given
    )
    np.testing.assert_allclose(fused[0], plain[0], rtol=1e-6)
    assert largest_relative_difference(fused[1], plain[1]) < 2e-5


def test_fused_attention_keeps_no_float32_scores(params):
    config = dataclasses.replace(TINY, attention="fused", dtype="bfloat16")
    rows, heads, (context, *_) = 4, TINY.num_heads, (9, 7, 5)

    def kept(config):
        system = System(config, VARIANT)
        loss = lambda p: system.loss(p, random_batch(rows)).total
        return {
            (leaf.shape[1:], str(leaf.dtype))
            for leaf in jax.tree.leaves(
                jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params)
            )
        }

    scores = (rows, heads, context, context)
    assert (scores, "float32") in kept(dataclasses.replace(config, attention="plain"))
    assert (scores, "float32") not in kept(config)
    assert (scores, "bfloat16") in kept(config)


@pytest.mark.parametrize(
    "spec",
    [None, PrefixSpec(3, "own"), LoRASpec(3, maps=("query", "key", "value", "out"))],
    ids=["plain", "prefix", "lora"],
)
def test_the_cached_decoder_equals_the_uncached_one(params, spec):
    batch = random_batch()
    shapes = None if spec is None else phi_shapes(spec, TINY.sites, 2)
    phi = random_tree(shapes, 3)
    model = T5(TINY)
    variables = {"params": params["downstream"]}
    whole = jax.jit(model.apply)(variables, batch.inputs, batch.targets, phi)

    @jax.jit
    def decode(variables, phi):
        encoded = model.apply(variables, batch.inputs, phi, method="encode")
        cache = model.apply(
            variables, encoded, batch.inputs, 6, phi, method="start_decoding"
        )
        tokens = shift_right(batch.targets)

        def step(cache, token):
            logits, cache = model.apply(
                variables, token[:, None], cache, phi, method="decode_next"
            )
            return cache, logits[:, 0]

        # Two positions at once, then one by one: both ways of using the cache.
        first, cache = model.apply(
            variables, tokens[:, :2], cache, phi, method="decode_next"
        )
        cache, rest = jax.lax.scan(step, cache, tokens[:, 2:].T)
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1), cache.index

    stepwise, index = decode(variables, phi)
    assert index == batch.targets.shape[1]
    np.testing.assert_allclose(stepwise, whole, rtol=1e-4, atol=1e-4)


def test_unstacking_and_stacking_is_the_identity(params):
    tree = params["hypermodel"]
    again = stack_layers(unstack_layers(tree))
    assert jax.tree.structure(again) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, again, tree)


def test_dropout_acts_where_the_variant_says(params):
    config = dataclasses.replace(TINY, dropout_rate=0.3)
    batch, key = random_batch(), jax.random.key(0)

    def phi_and_logits(variant):
        system = System(config, variant)

        @jax.jit
        def run(params, key):
            phi = system.make_phi(params, batch.hyper_inputs, dropout_rng=key)
            plain = system.make_phi(params, batch.hyper_inputs)
            return phi, plain, system.logits(params, batch, phi=plain, dropout_rng=key)

        return run(params, key)

    phi, plain_phi, quiet = phi_and_logits(VARIANT)
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max() > 1e-3, phi, plain_phi)
    assert all(jax.tree.leaves(changed))
    # The frozen downstream model is deterministic unless asked otherwise.
    plain = jax.jit(System(TINY, VARIANT).logits)(params, batch, phi=plain_phi)
    np.testing.assert_allclose(quiet, plain, rtol=0, atol=1e-5)
    loud = phi_and_logits(dataclasses.replace(VARIANT, downstream_dropout=True))[2]
    assert np.abs(loud - plain).max() > 1e-3


def test_one_device_is_told_nothing_of_shared_kernels(params):
    # What it is told is arithmetic's identity, but compilers round otherwise around it.
    system = System(TINY, VARIANT)
    traced = jax.make_jaxpr(lambda p: system.loss(p, random_batch()).total)(params)
    assert "custom_vjp" not in str(traced)
