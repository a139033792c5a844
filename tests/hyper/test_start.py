"""How a hypermodel starts beside a given T5."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import heads
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.stacking import stack_layers
from tests.models import TINY, random_params, random_tree


def test_a_hypermodel_starts_as_its_t5_except_for_what_is_new():
    system = System(TINY, Variant(prefix=PrefixSpec(3)))
    t5 = random_params(system, seed=7)["downstream"]
    params = system.init_from_t5(jax.random.key(0), t5)
    hyper = trees.flatten(params["hypermodel"])
    new = {path for path in hyper if path.startswith(("slots/", "heads/"))}
    flat = trees.flatten(t5)
    assert hyper.keys() - new == flat.keys() - {"decoder/logits_dense/kernel"}
    for path in hyper.keys() - new:
        np.testing.assert_array_equal(hyper[path], flat[path])
    assert new and all(np.isfinite(hyper[path]).all() for path in new)


@pytest.mark.parametrize("adaptation", ["prefix", "lora"])
def test_slots_can_start_as_the_most_frequent_words(adaptation):
    variant = Variant(
        adaptation, prefix=PrefixSpec(3), head=HeadConfig(slot_init="vocabulary")
    )
    system = System(TINY, variant)
    t5 = random_params(system, seed=7)["downstream"]
    words = t5["token_embedder"]["embedding"][3:]
    slots = system.init_from_t5(jax.random.key(0), t5)["hypermodel"]["slots"]
    groups = {"prefix": [3, 3], "lora": [2, 3, 3]}[adaptation]
    expected = np.concatenate([words[:width] for width in groups])
    np.testing.assert_array_equal(slots["embedding"], expected)
    with pytest.raises(UserError, match="slot_init"):
        HeadConfig(slot_init="words")


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("cross", ["none", "share_decoder", "own"])
def test_heads_can_start_as_the_key_and_value_maps_of_the_frozen_t5(cross, scan_layers):
    config = dataclasses.replace(TINY, scan_layers=scan_layers)
    head = HeadConfig(output_init="projections", norm="rms")
    system = System(config, Variant(prefix=PrefixSpec(3, cross), head=head))
    t5 = random_tree(system.abstract_params()["downstream"], 7)
    params = system.init_from_t5(jax.random.key(0), t5)["hypermodel"]
    small = 1e-3  # where tanh is linear
    for part in params["heads"].values():
        part["norm"]["scale"] *= small
    modules = heads.make_heads(
        system.variant.spec, config.sites, head, head.norm, jnp.float32
    )
    x = np.random.default_rng(0).normal(size=(2, 9 if cross == "own" else 6, 32))
    phi = modules.apply({"params": params["heads"]}, jnp.asarray(x, jnp.float32))
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    stacks = t5 if scan_layers else stack_layers(t5)
    sources = {
        ("encoder", "self_attention"): ("attention", "pre_attention_layer_norm", 0),
        ("decoder", "self_attention"): (
            "self_attention",
            "pre_self_attention_layer_norm",
            3,
        ),
    }
    if cross == "own":
        sources["decoder", "cross_attention"] = "encoder_decoder_attention", None, 6
    for (stack, site), (block, norm, first) in sources.items():
        layers = stacks[stack]["layers"]
        prefix = getattr(getattr(phi, stack), site).prefix
        for made, kernel in ((prefix.keys, "key"), (prefix.values, "value")):
            for layer in range(len(layers[block][kernel]["kernel"])):
                scale = (
                    stacks["encoder"]["encoder_norm"]["scale"]
                    if norm is None
                    else layers[norm]["scale"][layer]
                )
                expected = (normed[:, first : first + 3] * scale) @ layers[block][
                    kernel
                ]["kernel"][layer]
                np.testing.assert_allclose(
                    made[layer].reshape(expected.shape) / small,
                    expected,
                    rtol=1e-4,
                    atol=1e-4,
                )


def test_projection_heads_belong_to_a_generated_prefix():
    head = HeadConfig(output_init="projections")
    with pytest.raises(UserError, match="generated prefix only"):
        Variant("lora", head=head)
    with pytest.raises(UserError, match="output_init"):
        HeadConfig(output_init="identity")


@pytest.mark.parametrize("scan_layers", [True, False], ids=["scanned", "unrolled"])
def test_lora_heads_can_start_as_an_associative_memory(scan_layers):
    """x resembling a slot s adds x (a b) out = (x s / d) s to the stream, as far as the
    output kernel reaches: one for all layers here, with orthonormal rows, for which
    ridge regression with 0.1 is division by 1.1."""
    config = dataclasses.replace(TINY, scan_layers=scan_layers)
    head = HeadConfig(output_init="associative", output_init_std=1e-6, gate="none")
    lora = LoRASpec(4, alpha=8.0)
    system = System(config, Variant("lora", lora=lora, head=head))
    flat = trees.flatten(random_tree(system.abstract_params()["downstream"], 7))
    rng = np.random.default_rng(0)
    out = np.linalg.qr(rng.normal(size=(32, 32)))[0][:24]
    for path, value in flat.items():
        if path.endswith("/out/kernel"):
            flat[path] = np.broadcast_to(out, value.shape)
    t5 = trees.unflatten(flat)
    params = system.init_from_t5(jax.random.key(0), t5)["hypermodel"]
    small = 1e-2  # where tanh is linear
    for part in params["heads"].values():
        part["norm"]["scale"] *= small
    modules = heads.make_heads(lora, config.sites, head, head.norm, jnp.float32)
    slots = rng.normal(size=(2, 8, 32))
    phi = modules.apply({"params": params["heads"]}, jnp.asarray(slots, jnp.float32))
    centred = slots - slots.mean(-1, keepdims=True)
    s = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    x = rng.normal(size=32)
    sites = (phi.encoder.self_attention, 0), (phi.decoder.self_attention, 2)
    for site, first in (*sites, (phi.decoder.cross_attention, 5)):
        for layer, (a, b) in enumerate(zip(site.value.a, site.value.b, strict=True)):
            added = np.einsum("d,ndr,nre,ef->nf", x, a, b, out) / small**2
            mine = s[:, first + layer]
            expected = (mine @ x / 32)[:, None] * mine @ out.T @ out / 1.1
            np.testing.assert_allclose(added, expected, rtol=1e-3, atol=1e-3)


def test_an_associative_start_belongs_to_the_value_maps_of_a_generated_lora():
    head = HeadConfig(output_init="associative")
    with pytest.raises(UserError, match="value maps of a generated LoRA"):
        Variant("prefix", head=head)
    with pytest.raises(UserError, match="value maps of a generated LoRA"):
        Variant("lora", lora=LoRASpec(maps=("query",)), head=head)
