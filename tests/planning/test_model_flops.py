"""FLOPs by shapes, against every matrix product of the traced step."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.planning.model_flops import Rows, answer_flops, phi_flops, step_flops
from hypert5_jax.t5.config import T5Config
from tests.jaxprs import equations

# Widths that all differ, so that no two can be taken for one another.
T5 = T5Config(
    vocab_size=96,
    emb_dim=24,
    num_heads=2,
    head_dim=10,
    mlp_dim=44,
    num_encoder_layers=3,
    num_decoder_layers=2,
    dtype="float32",
    remat="none",
)
HYPER = dataclasses.replace(T5, emb_dim=28, num_heads=3, mlp_dim=36)
ROWS = Rows(rows=6, inputs=11, targets=7, contexts=3, context=13)
MANY = PrefixSpec(length=5, cross_attention="own")
SHARED = PrefixSpec(length=5, cross_attention="share_decoder")
LORA = LoRASpec(rank=2, maps=("query", "key", "value", "out"))
NOTHING = {"adaptation": "none", "source": "none", "context": "none"}
LEARNED = {"source": "learned", "context": "none", "trainable": ("phi",)}
VARIANTS = {
    "t5": Variant(**NOTHING, trainable=("downstream",)),
    "prefix": Variant(prefix=PrefixSpec(length=5)),
    "prefix, own cross": Variant(prefix=MANY),
    "prefix, shared cross": Variant(prefix=SHARED),
    "prefix mlp": Variant(prefix=MANY, parametrisation="mlp"),
    "lora": Variant(adaptation="lora", lora=LORA),
    "both trained": Variant(
        adaptation="lora", trainable=("hypermodel", "downstream"), lora=LoRASpec(rank=3)
    ),
    "learned prefix": Variant(**LEARNED, prefix=MANY),
    "learned mlp": Variant(**LEARNED, prefix=MANY, parametrisation="mlp"),
    "learned lora": Variant(**LEARNED, adaptation="lora", lora=LORA),
}


def products(jaxpr):
    """FLOPs of every dot_general, scans multiplied out."""
    total = 0
    for equation, times in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            size = math.prod(left[axis] for axis in contracted)
            total += times * 2 * size * math.prod(equation.outvars[0].aval.shape)
    return total


def system_of(variant):
    generated = variant.source == "generated"
    return System(T5, variant, HYPER if generated else None)


def batch_of(rows):
    ids = jax.ShapeDtypeStruct
    return Batch(
        ids((rows.contexts, rows.context), jnp.int32),
        ids((rows.rows, rows.inputs), jnp.int32),
        ids((rows.rows, rows.targets), jnp.int32),
        ids((rows.rows, rows.targets), jnp.float32),
    )


FEW = ("t5", "prefix, own cross", "lora", "learned mlp")
EACH = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.slow)
    for name in VARIANTS
]


@pytest.mark.parametrize("name", EACH)
def test_the_formula_counts_every_product_of_the_traced_passes(name):
    system = system_of(VARIANTS[name])
    params, batch = system.abstract_params(), batch_of(ROWS)
    trained = set(system.variant.trainable)
    found = step_flops(system, ROWS)

    def loss(own, others, batch):
        return system.loss({**own, **others}, batch).total

    own = {g: t for g, t in params.items() if g in trained}
    others = {g: t for g, t in params.items() if g not in trained}
    forward = products(jax.make_jaxpr(loss)(own, others, batch).jaxpr)
    assert forward == found.forward
    both = products(jax.make_jaxpr(jax.grad(loss))(own, others, batch).jaxpr)
    # Nothing before the first φ needs a gradient: less than a layer is too much.
    assert 0.9 * found.total < both <= found.total
    if "downstream" in trained and not name.startswith("both"):
        assert both == found.total


def test_a_hypermodels_pass_is_its_part():
    system = system_of(VARIANTS["lora"])
    ids = batch_of(ROWS).hyper_inputs
    traced = jax.make_jaxpr(system.make_phi)(system.abstract_params(), ids)
    assert products(traced.jaxpr) == phi_flops(system, ROWS).forward


def test_answers_share_the_reading_of_their_question():
    system = system_of(VARIANTS["t5"])
    one = answer_flops(system, ROWS, 1)
    assert one == step_flops(system, ROWS).forward
    each = answer_flops(system, ROWS, 2) - one
    assert answer_flops(system, ROWS, 5) == one + 4 * each
    assert 0 < each < one
