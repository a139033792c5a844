"""Sharded over 2 x 4 devices, whichever rules are in use, equals a single device."""

import jax
import numpy as np
import pytest

from hypert5_jax.core import trees
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel import rules
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.state import InitialParams
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
SYSTEM = System(SIZES, Variant(prefix=PrefixSpec(length=3)))
MESHES = {
    "single": MeshConfig(),
    "data x tensor": MeshConfig(data=2, model=4),
    "data x fsdp": MeshConfig(data=2, fsdp=4),
}


def trained(mesh, devices):
    config = TrainConfig(
        steps=2,
        frozen_dtype="float32",
        mesh=mesh,
        # eps 1 makes Adam's update smooth in the gradient: with the usual 1e-8 an entry
        # whose gradient is mere rounding would move by a full step either way.
        optimiser=OptimiserConfig(eps=1.0, clip_norm=None),
        schedule=ScheduleConfig(name="constant", learning_rate=0.5),
    )

    def batches(start):
        step = start
        while True:
            yield random_batch(rows=16, contexts=8, seed=step)
            step += 1

    initial = InitialParams(random_params(SYSTEM), {})
    return train(SYSTEM, config, batches, initial, devices=devices)


@pytest.fixture(scope="module")
def single():
    return trained(MESHES["single"], jax.devices()[:1])


@pytest.mark.parametrize("name", ["data x tensor", "data x fsdp"])
def test_sharded_training_equals_a_single_device(name, single):
    sharded = trained(MESHES[name], jax.devices())
    np.testing.assert_allclose(
        sharded.metrics["train/grad_norm"], single.metrics["train/grad_norm"], rtol=1e-5
    )
    expected = trees.flatten(single.params)
    split = 0
    for path, leaf in trees.flatten(sharded.params).items():
        np.testing.assert_allclose(leaf, expected[path], rtol=1e-4, atol=1e-5)
        split += not leaf.sharding.is_fully_replicated
    assert split > 10


def test_shapes_are_the_same_under_a_mesh_that_splits_them():
    expected = SYSTEM.abstract_params()
    with jax.set_mesh(make_mesh(MESHES["data x fsdp"])), rules.activate():
        assert SYSTEM.abstract_params() == expected
