"""A planned step is the one that a run of these settings makes."""

import dataclasses

import jax
import pytest

from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.planning import steps
from hypert5_jax.planning.model_flops import Rows
from hypert5_jax.t5.config import SIZES
from hypert5_jax.training.settings import TrainConfig

FINE_TUNING = Variant("none", "none", trainable=("downstream",), context="none")
RUN = steps.Run(
    System(SIZES["tiny"], FINE_TUNING), TrainConfig(steps=4), Rows(8, 6, 4, 8, 0)
)


def lowered(**changed):
    train = dataclasses.replace(RUN.train, **changed)
    run = dataclasses.replace(RUN, train=train)
    return steps.program(run, "train", jax.devices()[:1]).lowered


@pytest.mark.parametrize(("on_nan", "counted"), [("stop", False), ("skip", True)])
def test_a_run_that_may_skip_steps_is_planned_with_the_choice(on_nan, counted):
    _, sums = lowered(on_nan=on_nan).out_info
    assert ("skipped" in sums) == counted


def test_the_planned_step_takes_its_state_over_and_leaves_the_batch():
    (state, batch), _ = lowered().args_info
    assert all(one.donated for one in jax.tree.leaves(state))
    assert not any(one.donated for one in jax.tree.leaves(batch))
