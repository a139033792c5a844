"""Every combination that means something runs; every other is refused by name."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import learned, variants
from hypert5_jax.hyper.heads import slot_count
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from tests.models import TINY, random_batch, random_params, random_tree

SUBSETS = [
    subset for n in range(4) for subset in itertools.combinations(variants.GROUPS, n)
]


def is_sensible(adaptation, source, parametrisation, trainable, context):
    """design.md §4 in other words: an independent statement of what has a meaning."""
    has_phi = adaptation != "none"
    if has_phi != (source != "none"):
        return False
    if (source == "generated") != (context == "hypermodel"):
        return False
    owners = {"none": set(), "generated": {"hypermodel"}, "learned": {"phi"}}[source]
    if not set(trainable) <= owners | {"downstream"}:
        return False
    return parametrisation == "direct" or adaptation == "prefix"


def test_exactly_the_sensible_combinations_are_accepted():
    accepted = 0
    for values in itertools.product(
        variants.ADAPTATIONS,
        variants.SOURCES,
        variants.PARAMETRISATIONS,
        SUBSETS,
        variants.CONTEXTS,
    ):
        names = ("adaptation", "source", "parametrisation", "trainable", "context")
        fields = dict(zip(names, values, strict=True))
        if is_sensible(**fields):
            Variant(**fields)
            accepted += 1
        else:
            with pytest.raises(UserError, match="no meaning"):
                Variant(**fields)
    assert accepted == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adaptation": "adapter"}, "adaptation='adapter'.*none, prefix, lora"),
        ({"trainable": ("hyper",)}, "trainable='hyper'"),
        ({"context": "none"}, "source='generated' with context='none'"),
        ({"trainable": ("phi",)}, "φ is not a parameter"),
        ({"learned_batch": 4}, "learned_batch=4"),
        ({"trainable": ("hypermodel", "hypermodel")}, "twice"),
        ({"prefix": PrefixSpec(0)}, "length 0"),
    ],
)
def test_nonsense_is_refused_by_name(change, message):
    with pytest.raises(UserError, match=message):
        Variant(**change)


def test_a_gate_on_both_factors_at_zero_is_refused():
    with pytest.raises(UserError, match="never learns"):
        HeadConfig(gate="both")


def phi_variants():
    for adaptation, parametrisation in [
        ("prefix", "direct"),
        ("prefix", "mlp"),
        ("lora", "direct"),
    ]:
        for source, trainable, context, batch in [
            ("generated", ("hypermodel",), "hypermodel", 1),
            ("learned", ("phi",), "none", 2),
        ]:
            for cross in ("none", "share_decoder", "own"):
                if adaptation == "lora" and cross != "none":
                    continue
                yield Variant(
                    adaptation,
                    source,
                    parametrisation,
                    trainable,
                    context,
                    prefix=PrefixSpec(3, cross),
                    lora=LoRASpec(2),
                    learned_batch=batch,
                )


def name_of(variant):
    """A short test id."""
    cross = variant.prefix.cross_attention
    return f"{variant.source}-{variant.adaptation}-{variant.parametrisation}-{cross}"


@pytest.mark.parametrize("variant", phi_variants(), ids=name_of)
def test_every_source_writes_the_shapes_of_the_one_authority(variant):
    system = System(TINY, variant)
    batch = random_batch(rows=4, contexts=2)
    made = jax.eval_shape(system.make_phi, system.abstract_params(), batch.hyper_inputs)
    spec = variant.spec
    given = dict(types.named_arrays(made))
    expected = dict(types.named_arrays(phi_shapes(spec, TINY.sites, 2)))
    if variant.prefix.cross_attention == "share_decoder":
        given = {k: v for k, v in given.items() if "cross" not in k}
        assert made.decoder.cross_attention is not None
    assert {k: v.shape for k, v in given.items()} == {
        k: v.shape for k, v in expected.items()
    }
    loss = jax.eval_shape(system.loss, system.abstract_params(), batch)
    assert loss.total.shape == ()


def test_slot_counts_are_the_papers():
    sites = dataclasses.replace(TINY, num_decoder_layers=2).sites
    assert slot_count(PrefixSpec(5), sites) == 2 * 5
    assert slot_count(LoRASpec(5), sites) == 3 * 2


def test_axes_name_every_dimension_of_every_parameter():
    for variant in phi_variants():
        system = System(TINY, variant)
        shapes = trees.flatten(system.abstract_params())
        names = trees.flatten(system.logical_axes())
        assert shapes.keys() == names.keys()
        assert all(len(names[path]) == len(shapes[path].shape) for path in shapes)


@pytest.mark.parametrize("spec", [PrefixSpec(3), LoRASpec(2, alpha=6.0)], ids=str)
def test_a_learned_phi_can_start_from_a_finished_one(spec):
    adaptation = "prefix" if isinstance(spec, PrefixSpec) else "lora"
    variant = Variant(adaptation, "learned", trainable=("phi",), context="none")
    variant = dataclasses.replace(variant, **{adaptation: spec})
    phi = random_tree(phi_shapes(spec, TINY.sites, 1), 0)
    params = {"phi": learned.from_phi(phi, TINY, variant)}
    again = System(TINY, variant).make_phi(params, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again, phi)
    other = random_tree(phi_shapes(spec, TINY.sites, 2), 0)
    with pytest.raises(UserError, match="this variant needs"):
        learned.from_phi(other, TINY, variant)


def test_a_checkpoint_of_another_model_is_refused_naming_the_parameter():
    system = System(TINY, Variant())
    larger = System(dataclasses.replace(TINY, mlp_dim=44), Variant())
    t5 = random_params(larger)["downstream"]
    with pytest.raises(UserError, match="mlp/wi_0/kernel is .*44.* there, .*40"):
        system.init_from_t5(jax.random.key(0), t5)
