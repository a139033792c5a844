"""A run stopped at any moment ends with the parameters of an uninterrupted one, bit by
bit: SIGTERM, kill -9, a truncated newest checkpoint, stacked layers changed meanwhile."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from hypert5_jax.checkpoints.store import CheckpointConfig, load_params
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import unstack_layers
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.state import fingerprints
from tests.training import toy

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = toy.ToySystem()
CONFIG = TrainConfig(
    steps=12,
    log_every=4,
    schedule=ScheduleConfig(learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=3, keep=3),
)


def run(directory, system=SYSTEM, config=CONFIG, batches=toy.batches, seed=0):
    initial = toy.initial(system, seed)
    one = jax.devices()[:1]  # compiles faster; test_sharded speaks of more
    return train(system, config, batches, initial, directory=directory, devices=one)


@pytest.fixture(scope="module")
def straight():
    """The trained parameters of a run nobody disturbed."""
    return run(None).params


def assert_equal(params, expected, groups=("hypermodel",)):
    for group in groups:
        jax.tree.map(np.testing.assert_array_equal, params[group], expected[group])


def until(step, act):
    """The stream that calls act() before it hands out the batch of `step`."""

    def batches(start):
        for index, batch in enumerate(toy.batches(start), start):
            if index == step:
                act()
            yield batch

    return batches


def test_sigterm_saves_at_once_and_the_run_goes_on_from_there(tmp_path, straight):
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    stopped = run(tmp_path, batches=until(7, terminate))
    assert stopped.stopped and stopped.step < CONFIG.steps
    assert load_params(tmp_path)[1].name == str(stopped.step)
    done = run(tmp_path)
    assert (done.stopped, done.step) == (False, CONFIG.steps)
    assert_equal(done.params, straight)


KILLED = """
import os, signal, sys
from tests.laws import test_resume as t

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

t.run(sys.argv[1], batches=t.until(int(sys.argv[2]), kill))
"""


def test_kill_9_costs_the_steps_since_the_last_checkpoint_only(tmp_path, straight):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "11"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert load_params(tmp_path)[1].name in ("3", "6")
    assert_equal(run(tmp_path).params, straight)


def test_a_truncated_newest_checkpoint_costs_the_steps_since_the_one_before(
    tmp_path, straight
):
    run(tmp_path)
    newest = tmp_path / "checkpoints" / str(CONFIG.steps)
    files = [path for path in newest.rglob("*") if path.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    assert_equal(run(tmp_path).params, straight)
    assert load_params(tmp_path)[1].name == str(CONFIG.steps)


def test_a_run_goes_on_with_unstacked_layers_and_any_optimiser_state(tmp_path):
    adafactor = dataclasses.replace(
        CONFIG,
        optimiser=OptimiserConfig(name="adafactor", min_dim_size_to_factor=4),
        schedule=ScheduleConfig(name="constant", learning_rate=1e-2),
    )
    half = dataclasses.replace(adafactor, steps=6)
    stacked = toy.ToySystem(trainable=("downstream", "hypermodel"))
    loop = dataclasses.replace(stacked, scan_layers=False)
    expected = run(tmp_path / "straight", stacked, adafactor).params
    run(tmp_path / "changed", stacked, half)
    changed = run(tmp_path / "changed", loop, adafactor).params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        changed["downstream"],
        unstack_layers(jax.tree.map(np.asarray, expected["downstream"])),
    )


def test_a_frozen_group_has_one_fingerprint_however_its_layers_are_held():
    stacked = SYSTEM.init(jax.random.key(0))["downstream"]
    unstacked = unstack_layers(stacked)
    assert fingerprints({"d": stacked}) == fingerprints({"d": unstacked})


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path):
    short = dataclasses.replace(CONFIG, steps=3)
    run(tmp_path, config=short)
    with pytest.raises(UserError, match=r"embedding is \[16, 8\] there and \[16, 16\]"):
        run(tmp_path, dataclasses.replace(SYSTEM, width=16, trainable=("hypermodel",)))
    with pytest.raises(UserError, match="frozen downstream came from random, seed 0"):
        run(tmp_path, seed=1)
    with pytest.raises(UserError, match="written with seed 0, this run has seed 5"):
        run(tmp_path, config=dataclasses.replace(CONFIG, seed=5))
    other = dataclasses.replace(CONFIG, optimiser=OptimiserConfig(name="adafactor"))
    with pytest.raises(UserError, match="state of adam, this run uses adafactor"):
        run(tmp_path, config=other)


def test_nothing_frozen_is_written_and_the_data_position_is(tmp_path):
    run(tmp_path, config=dataclasses.replace(CONFIG, steps=3))
    params, place = load_params(tmp_path)
    assert list(params) == ["hypermodel"]
    from hypert5_jax.checkpoints.store import about

    says = about(place)
    assert says["data"] == {"start_step": 3, "seed": 0}
    assert says["frozen"]["downstream"]["origin"] == "random, seed 0"


def test_the_stream_is_asked_for_the_step_it_stopped_at(tmp_path):
    asked = []

    def batches(start):
        asked.append(start)
        return toy.batches(start)

    run(tmp_path, config=dataclasses.replace(CONFIG, steps=5), batches=batches)
    run(tmp_path, config=dataclasses.replace(CONFIG, steps=7), batches=batches)
    assert asked == [0, 5]


def test_data_that_end_early_are_said_to(tmp_path):
    def batches(start):
        return itertools.islice(toy.batches(start), 4)

    with pytest.raises(UserError, match="the data ended at step 4 of 12"):
        run(tmp_path, batches=batches)
