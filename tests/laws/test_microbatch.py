"""k microbatches equal one batch: sums, gradients, and what the optimiser makes of them."""

import jax
import numpy as np
import optax
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.training.state import new_state, partition
from hypert5_jax.training.step import make_step, split
from tests.models import TINY
from tests.training import toy

SYSTEM = toy.ToySystem(trainable=("hypermodel", "downstream"), dropout_rate=0.0)


def stepped(microbatches, batch):
    trainable, frozen = partition(
        SYSTEM.init(jax.random.key(0)), SYSTEM.trainable, "float32"
    )
    optimiser = optax.sgd(1.0)  # the change of the parameters is the gradient
    step = make_step(SYSTEM, optimiser, seed=0, microbatches=microbatches, z_loss=1e-2)
    return jax.jit(step)(new_state(trainable, frozen, optimiser), batch)


@pytest.mark.parametrize("microbatches", [2, 4, 8])
def test_k_microbatches_equal_one_batch(microbatches):
    batch = toy.batch_at(0)
    # Very unequal weights: a mean of the parts' means would be another number.
    batch.weights[:8] = 0.0
    batch.weights[0, 0] = 1.0
    one, one_sums = stepped(1, batch)
    parts, parts_sums = stepped(microbatches, batch)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        (one.trainable, one_sums),
        (parts.trainable, parts_sums),
    )


def test_every_part_keeps_contexts_with_their_targets():
    batch = toy.batch_at(0, contexts=4, per_context=2)
    parts = split(batch, 2)
    assert parts.inputs.shape == (2, 4, 4)
    for i in range(2):
        np.testing.assert_array_equal(parts.hyper_inputs[i], batch.hyper_inputs[i::2])
        rows = np.arange(8).reshape(4, 2)[i::2].ravel()
        np.testing.assert_array_equal(parts.targets[i], batch.targets[rows])


def test_a_batch_without_weight_changes_nothing():
    batch = toy.batch_at(0)
    batch.weights[:] = 0.0
    state, sums = stepped(1, batch)
    expected = SYSTEM.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, state.trainable, expected)
    assert float(sums["grad_norm"]) == 0.0


def test_dropout_is_drawn_from_seed_and_step():
    system = toy.ToySystem(trainable=("hypermodel",))
    trainable, frozen = partition(
        system.init(jax.random.key(0)), system.trainable, "float32"
    )
    optimiser = optax.set_to_zero()
    batch = toy.batch_at(0)

    def losses(seed):
        step = jax.jit(make_step(system, optimiser, seed=seed))
        state, first = step(new_state(trainable, frozen, optimiser), batch)
        _, second = step(state, batch)
        return float(first["loss"]), float(second["loss"])

    assert losses(0) == losses(0)
    assert len({*losses(0), *losses(1)}) == 4


def test_several_learned_phi_and_microbatches_are_refused():
    variant = Variant(
        source="learned", trainable=("phi",), context="none", learned_batch=2
    )
    with pytest.raises(UserError, match="learned_batch=2"):
        make_step(System(TINY, variant), optax.sgd(1.0), seed=0, microbatches=2)
