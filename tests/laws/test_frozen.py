"""After N steps every frozen byte is unchanged and every trainable leaf has moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypert5_jax.core import trees
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.state import new_state, partition
from hypert5_jax.training.step import make_step
from tests.models import TINY, random_batch, random_params

SIZES = {"prefix": PrefixSpec(length=3), "lora": LoRASpec(rank=2)}
HYPER = {"source": "generated", "context": "hypermodel"}
LEARNED = {"source": "learned", "context": "none", "trainable": ("phi",)}
VARIANTS = {
    "hypert5_prefix": Variant(adaptation="prefix", **HYPER, **SIZES),
    "hypert5_lora_plus": Variant(
        adaptation="lora", trainable=("hypermodel", "downstream"), **HYPER, **SIZES
    ),
    "t5_mtf_prefix": Variant(
        adaptation="prefix", parametrisation="mlp", **LEARNED, **SIZES
    ),
    "t5_mtf_lora": Variant(adaptation="lora", **LEARNED, **SIZES),
    "t5_mtf": Variant(
        adaptation="none", source="none", context="none", trainable=("downstream",)
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_frozen_bytes_stay_and_trainable_leaves_move(name):
    variant = VARIANTS[name]
    system = System(TINY, variant)
    trainable, frozen = partition(
        jax.tree.map(jnp.asarray, random_params(system)), variant.trainable, "bfloat16"
    )
    assert set(trainable) == set(variant.trainable)
    assert set(frozen) == set(variant.frozen)
    optimiser = make_optimiser(OptimiserConfig(), optax.constant_schedule(1e-2), None)
    state = new_state(trainable, frozen, optimiser)
    step = jax.jit(make_step(system, optimiser, seed=0))
    # Every embedding row is read somewhere, so that every leaf gets a gradient; two
    # steps, because a gate at 0 keeps one from its heads in the first.
    batch = random_batch(rows=4, lengths=(40, 30, 30))
    for _ in range(2):
        state, _ = step(state, batch)
    for path, leaf in trees.flatten(frozen).items():
        assert leaf.dtype == "bfloat16", path
        after = trees.flatten(state.frozen)[path]
        assert np.asarray(after).tobytes() == np.asarray(leaf).tobytes(), path
    moved = trees.flatten(state.trainable)
    for path, leaf in trees.flatten(trainable).items():
        assert leaf.dtype == "float32", path
        assert np.any(np.asarray(moved[path]) != np.asarray(leaf)), path
    # The optimiser knows of the trainable groups alone.
    mirrored = 2 * trees.count(trainable)
    assert trees.count(state.opt_state) <= mirrored + 4
