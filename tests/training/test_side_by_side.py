"""A run among others is the run by itself: its φ, its gradient, its optimiser."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.training import side_by_side
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.schedules import ScheduleConfig, make_schedule
from hypert5_jax.training.state import new_state
from hypert5_jax.training.step import make_step
from tests.models import TINY, random_batch, random_params, random_tree

RATES, STEPS = (3e-2, 1e-3), 4
# A norm so low that every step is clipped; an eps that keeps Adam from dividing gradients
# of rounding's size by their own size.
CONFIG = OptimiserConfig(clip_norm=0.05, eps=1e-4)
MODEL = dataclasses.replace(TINY, num_decoder_layers=1, num_encoder_layers=1)


def learning(adaptation, parametrisation):
    return System(
        MODEL,
        Variant(
            adaptation=adaptation,
            source="learned",
            parametrisation=parametrisation,
            trainable=("phi",),
            context="none",
            prefix=PrefixSpec(length=3),
            lora=LoRASpec(rank=2, alpha=6.0),
        ),
    )


def batches(step):
    """One of four rows for each run, no two alike."""
    lengths = (0, 7, 5)  # as a sweep has no context
    runs = range(len(RATES))
    return [random_batch(4, seed=10 * step + run, lengths=lengths) for run in runs]


def alone(system, frozen, params, run):
    """What training.step makes of one run, with its schedule in the optimiser."""
    schedule = make_schedule(ScheduleConfig(learning_rate=RATES[run]), STEPS)
    optimiser = make_optimiser(CONFIG, schedule, None)
    state = new_state({"phi": params}, frozen, optimiser)
    step = jax.jit(make_step(system, optimiser, seed=0))
    losses = []
    for at in range(STEPS):
        state, sums = step(state, batches(at)[run])
        losses.append(float(sums["loss"] / sums["weight"]))
    return state.trainable["phi"], losses


@pytest.mark.parametrize(
    ("adaptation", "parametrisation", "microbatches"),
    [("prefix", "mlp", 1), ("lora", "direct", 2)],
)
def test_a_run_among_others_is_the_run_by_itself(
    adaptation, parametrisation, microbatches
):
    system = learning(adaptation, parametrisation)
    params = random_params(system)
    frozen = {"downstream": params["downstream"]}
    starts = [random_tree(params["phi"], seed=run) for run in range(len(RATES))]

    optimiser = make_optimiser(CONFIG, optax.constant_schedule(1.0), None)
    runs = side_by_side.start_runs(optimiser, learned.stack_runs(starts))
    step = jax.jit(side_by_side.make_step(system, optimiser, microbatches))
    schedules = [make_schedule(ScheduleConfig(learning_rate=r), STEPS) for r in RATES]
    losses = []
    for at in range(STEPS):
        rows = jax.tree.map(lambda *parts: np.concatenate(parts), *batches(at))
        assert isinstance(rows, Batch)
        rates = np.array([schedule(at) for schedule in schedules])
        runs, sums = step(runs, frozen, rows, rates)
        losses.append(np.asarray(sums.loss / sums.weight))

    for run, start in enumerate(starts):
        expected, own = alone(system, frozen, start, run)
        np.testing.assert_allclose(np.array(losses)[:, run], own, rtol=2e-6)
        moved = 0.0
        for path, leaf in trees.flatten(expected).items():
            mine = np.asarray(trees.flatten(runs.params["phi"])[path][run])
            # A ten-thousandth of one step, and rounding of the parameter itself.
            room = 1e-4 * RATES[run] + 2e-7
            np.testing.assert_allclose(mine, leaf, rtol=0, atol=room, err_msg=path)
            moved = max(moved, float(np.abs(leaf - trees.flatten(start)[path]).max()))
        assert moved > RATES[run]  # far more than they may differ by
