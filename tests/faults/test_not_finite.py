"""A step that is not finite stops the run, or is left out as if it had never been made."""

import dataclasses
import functools
import json
import os
import re
import shlex
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax import show
from hypert5_jax.checkpoints.store import CheckpointConfig, load_params
from hypert5_jax.config.data import DataConfig, batches_from, name_batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.training import optimisers
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.schedules import ScheduleConfig, make_schedule
from hypert5_jax.training.state import TrainState, partition
from hypert5_jax.training.step import make_step
from tests.data.toy_mixture import plain, write_mixture
from tests.training import toy

SYSTEM = toy.ToySystem()
CONFIG = TrainConfig(
    steps=10,
    log_every=4,
    on_nan="skip",
    max_skips=2,
    schedule=ScheduleConfig(learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=3),
)


def broken(*steps):
    """The stream whose batches of these steps (from 0) have weights that are NaN."""

    def batches(start):
        for step, batch in enumerate(toy.batches(start), start):
            if step in steps:
                batch.weights[:] = np.nan
            yield batch

    return batches


def run(batches, directory=None, config=CONFIG, devices=1, **more):
    initial = toy.initial(SYSTEM)
    mesh = jax.devices()[:devices]
    return train(
        SYSTEM, config, batches, initial, directory=directory, devices=mesh, **more
    )


def by_hand(left_out):
    """The trained parameters after CONFIG.steps steps less those left out."""
    schedule = make_schedule(CONFIG.schedule, CONFIG.steps)
    axes = {"hypermodel": SYSTEM.logical_axes()["hypermodel"]}
    optimiser = optimisers.make_optimiser(CONFIG.optimiser, schedule, axes, None)
    params = toy.initial(SYSTEM).params
    trainable, frozen = partition(params, ("hypermodel",), CONFIG.frozen_dtype)
    state = TrainState(jnp.int32(0), trainable, frozen, optimiser.init(trainable))
    step = jax.jit(make_step(SYSTEM, optimiser, seed=CONFIG.seed))
    for number in range(CONFIG.steps):
        if number in left_out:
            state = state.replace(step=state.step + 1)
        else:
            state, _ = step(state, toy.batch_at(number))
    return state.trainable


def rows_of(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in r.items() if "speed/" not in k} for r in rows]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_near(a, b):
    """Up to rounding: another program, which the compiler fuses in another way."""
    near = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(near, *jax.tree.map(np.asarray, (a, b)))


def sigterm_at(step):
    """An evaluation in which SIGTERM comes."""

    def evaluate(params, at):
        if at == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    return evaluate


@pytest.mark.parametrize("devices", [1, 8])
def test_a_skipped_step_changes_nothing_but_the_step_number(devices):
    result = run(broken(3, 4, 7), devices=devices)
    assert result.step == CONFIG.steps
    assert_near(result.params["hypermodel"], by_hand({3, 4, 7})["hypermodel"])


def test_a_run_that_may_skip_and_need_not_is_one_that_may_not():
    stop = dataclasses.replace(CONFIG, on_nan="stop")
    assert_near(run(toy.batches).params, run(toy.batches, config=stop).params)


def test_skips_are_counted_and_named_and_survive_a_restart(tmp_path, caplog):
    config = dataclasses.replace(CONFIG, eval_every=5)

    def life(place, signal_at=None):
        more = {"writers": [JsonlWriter(place / "metrics.jsonl")]}
        more["evaluate"] = sigterm_at(signal_at)
        return run(broken(3, 4, 7), place, config, **more)

    straight = life(tmp_path / "straight")
    assert "step 5 is not finite and is left out: its batch is number 5" in caplog.text
    rows = rows_of(tmp_path / "straight" / "metrics.jsonl")
    trained = [row for row in rows if "train/loss" in row]
    assert [row.get("train/skipped_steps") for row in trained] == [1, 2, 0]
    assert all(np.isfinite(row["train/loss"]) for row in trained)

    stopped = life(tmp_path / "again", 5)
    assert (stopped.stopped, stopped.step) == (True, 5)
    again = life(tmp_path / "again")
    assert_equal(again.params, straight.params)
    assert rows_of(tmp_path / "again" / "metrics.jsonl") == rows


def test_more_in_a_row_than_allowed_end_the_run_also_over_a_restart(tmp_path):
    message = "step 7 is not finite, nor are the 2 before it.*number 7"
    with pytest.raises(FloatingPointError, match=message):
        run(broken(4, 5, 6), tmp_path)
    assert load_params(tmp_path)[1].name in ("3", "6")
    with pytest.raises(FloatingPointError, match=message):
        run(broken(4, 5, 6), tmp_path)


def test_settings_that_mean_nothing_are_refused():
    for wrong in ({"on_nan": "pass"}, {"on_stall": "no"}, {"max_skips": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            TrainConfig(**wrong)


def test_the_message_names_the_command_that_shows_the_batch(tmp_path, capsys):
    mixture = write_mixture(tmp_path / "toy", plain([9, 7]))
    lengths = {"hyper_inputs": 24, "inputs": 6, "targets": 4}
    config = DataConfig(
        mixture="toy",
        batch_size=4,
        row_format=RowFormat(lengths=lengths, max_shots=2, targets_per_context=2),
        prepared_dir=str(tmp_path),
    )
    said = name_batch(mixture, config, seed=3, step=5)
    assert said.startswith("contexts 8 to 9 of the stream, of the tasks t")
    show.main(shlex.split(said.split("python -m hypert5_jax.show ")[1]))
    shown = re.findall(r"(\w+) \[.*\n +ids: (.*)", capsys.readouterr().out)
    batch = next(batches_from(mixture, config, 3, 4))
    for name in ("hyper_inputs", "inputs", "targets"):
        rows = [row[row != 0].tolist() for row in getattr(batch, name)]
        assert [list(map(int, ids.split())) for n, ids in shown if n == name] == rows
