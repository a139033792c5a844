"""Sharded over 8 devices, whichever rules are in use, equals a single device: the loss,
its gradient, and what an optimiser makes of it."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from hypert5_jax.core import trees
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training import state as states
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.step import make_step
from tests.models import random_batch, random_params

SIZES = T5Config(
    vocab_size=48,
    emb_dim=16,
    num_heads=4,
    head_dim=4,
    mlp_dim=24,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dtype="float32",
    remat="none",
)
LEARNED = Variant(source="learned", trainable=("phi",), context="none")
SYSTEMS = {
    "prefix": System(
        dataclasses.replace(SIZES, attention="fused"),
        Variant(prefix=PrefixSpec(length=3)),
    ),
    "lora": System(SIZES, Variant("lora", lora=LoRASpec(rank=2, maps=("out",)))),
    "learned": System(SIZES, dataclasses.replace(LEARNED, prefix=PrefixSpec(length=3))),
    "learned mlp": System(
        SIZES,
        dataclasses.replace(
            LEARNED, prefix=PrefixSpec(length=3), parametrisation="mlp"
        ),
    ),
}
MESHES = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(fsdp=8),
    "data x fsdp": MeshConfig(fsdp=4),
    "data x model": MeshConfig(model=4),
    "fsdp x model": MeshConfig(fsdp=2, model=4),
    "data x fsdp x model": MeshConfig(fsdp=2, model=2),
    "slice x data x fsdp": MeshConfig(slice=2, fsdp=2),
    "slice x fsdp x model": MeshConfig(slice=2, fsdp=2, model=2),
}
# eps 1 makes Adam's update smooth in the gradient: with the usual 1e-8 an entry whose
# gradient is mere rounding would move by a full step either way.
OPTIMISERS = {
    "adamw": OptimiserConfig("adamw", eps=1.0, weight_decay=0.1),
    "adafactor": OptimiserConfig("adafactor", min_dim_size_to_factor=4),
    "adam8bit": OptimiserConfig(
        "adam8bit", eps=1.0, block_size=8, min_compressed_size=8
    ),
}


def one_step(system, optimiser, config, devices):
    """(sums, gradients, parameters) of a step, by path, and where all groups lie."""
    mesh = make_mesh(config, devices)
    axes = system.logical_axes()
    trainable, frozen = states.partition(
        random_params(system), system.variant.trainable, "float32"
    )
    # The state of an optimiser that changes nothing is the gradient it was given.
    keep = optax.GradientTransformation(
        lambda params: jax.tree.map(np.zeros_like, params), lambda g, *_: (g, g)
    )
    made = make_optimiser(
        OPTIMISERS[optimiser], lambda _: 0.5, {g: axes[g] for g in trainable}, mesh
    )
    chained = optax.chain(keep, made)
    state = states.new_state(trainable, frozen, chained)
    shardings = states.state_shardings(mesh, jax.eval_shape(lambda: state), axes)
    step = jax.jit(
        make_step(system, chained, seed=0, microbatches=1),
        out_shardings=(shardings, rules.replicated(mesh)),
    )
    batch = random_batch(rows=16, contexts=8, seed=1)
    with jax.set_mesh(mesh), rules.activate():
        batch = feed.to_mesh(batch, feed.batch_sharding(mesh))
        state, sums = step(jax.device_put(state, shardings), batch)
    return (
        {name: float(value) for name, value in sums.items()},
        trees.flatten(state.opt_state[0]),
        trees.flatten(state.trainable),
        trees.flatten(shardings.params),
    )


# Compiled once for all meshes they are compared with.
SINGLE: dict[tuple[str, str], tuple] = {}


def single(system, optimiser):
    key = system, optimiser
    if key not in SINGLE:
        SINGLE[key] = one_step(
            SYSTEMS[system], optimiser, MeshConfig(), jax.devices()[:1]
        )
    return SINGLE[key]


def check(system, optimiser, mesh):
    found = one_step(SYSTEMS[system], optimiser, MESHES[mesh], jax.devices())
    expected = single(system, optimiser)
    for name, value in expected[0].items():
        assert found[0][name] == pytest.approx(value, rel=2e-5), name
    for which, atol in ((1, 2e-6), (2, 2e-5)):
        for path, leaf in expected[which].items():
            np.testing.assert_allclose(
                found[which][path], leaf, rtol=1e-4, atol=atol, err_msg=path
            )
    if mesh != "data":
        split = [path for path, at in found[3].items() if not at.is_fully_replicated]
        assert split
    assert any(np.abs(leaf).max() > 1e-3 for leaf in expected[1].values())


# One of each rule and of each source of φ here, all others among the slow tests.
FAST = (
    ("prefix", "adamw", "data x fsdp x model"),
    ("lora", "adafactor", "slice x fsdp x model"),
    ("learned", "adam8bit", "fsdp x model"),
)


@pytest.mark.parametrize(("system", "optimiser", "mesh"), FAST)
def test_a_step_over_eight_devices_equals_one(system, optimiser, mesh):
    check(system, optimiser, mesh)


ALL = [(system, "adamw", mesh) for system in SYSTEMS for mesh in MESHES] + [
    ("prefix", optimiser, mesh)
    for optimiser in ("adafactor", "adam8bit")
    for mesh in MESHES
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "optimiser", "mesh"), [case for case in ALL if case not in FAST]
)
def test_every_rule_table_equals_one_device(system, optimiser, mesh):
    check(system, optimiser, mesh)


def test_shapes_are_the_same_under_a_mesh_that_splits_them():
    expected = SYSTEMS["prefix"].abstract_params()
    with jax.set_mesh(make_mesh(MESHES["data x fsdp"])), rules.activate():
        assert SYSTEMS["prefix"].abstract_params() == expected
