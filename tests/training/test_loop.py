"""The loop: what it writes, when it stops, and what it leaves alone."""

import dataclasses
import io
import json
import types

import jax
import numpy as np
import pytest

from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore
from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting.writers import JsonlWriter, TensorBoardWriter
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.meter import Meter
from hypert5_jax.training.progress import Progress
from hypert5_jax.training.schedules import ScheduleConfig
from tests.training import toy

SYSTEM = toy.ToySystem(dropout_rate=0.0)
CONFIG = TrainConfig(
    steps=6,
    log_every=2,
    eval_every=3,
    schedule=ScheduleConfig(name="constant", learning_rate=0.05),
    checkpoints=CheckpointConfig(every=3),
)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_means_and_a_resumed_run_writes_each_row_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    initial = toy.initial(SYSTEM)

    def run(steps):
        config = dataclasses.replace(CONFIG, steps=steps)
        writers = [JsonlWriter(path), TensorBoardWriter(tmp_path / "tensorboard")]
        return train(
            SYSTEM,
            config,
            toy.batches,
            initial,
            directory=tmp_path,
            writers=writers,
            evaluate=lambda params, step: {"eval/score": float(step)},
        )

    run(3)
    with path.open("a") as file:  # rows of a life that was lost, the last cut short
        file.write('{"step": 4, "train/loss": 9.0}\n{"step": 5, "tr')
    run(6)
    rows = rows_of(path)
    assert [row["step"] for row in rows] == [2, 3, 3, 4, 6, 6]
    assert [row.get("eval/score") for row in rows] == [None, None, 3, None, None, 6]
    assert all(row["train/loss"] > 0 for row in rows if "train/loss" in row)
    assert any((tmp_path / "tensorboard").iterdir())


def test_training_learns_and_leaves_the_callers_arrays_alone():
    initial = toy.initial(SYSTEM)
    before = jax.tree.map(np.array, initial.params)
    losses = []

    class Losses:
        def resume(self, step): ...
        def flush(self): ...
        def close(self): ...
        def write(self, step, scalars):
            losses.append(scalars["train/loss"])

    def same_batch(start):
        while True:
            yield toy.batch_at(0)

    config = dataclasses.replace(CONFIG, steps=40, log_every=10)
    result = train(SYSTEM, config, same_batch, initial, writers=[Losses()])
    assert losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, initial.params, before)
    frozen = result.params["downstream"]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(frozen)} == {"bfloat16"}


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(tmp_path):
    def batches(start):
        for step, batch in enumerate(toy.batches(start), start):
            if step == 4:
                batch.weights[:] = np.nan
            yield batch

    with pytest.raises(FloatingPointError, match="step 5 is not finite"):
        train(SYSTEM, CONFIG, batches, toy.initial(SYSTEM), directory=tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", CheckpointConfig())
    assert store.steps() == [3]


def best_by(name, every, directory):
    kept = CheckpointConfig(every=every, keep=1, best_metric=name)
    return train(
        SYSTEM,
        dataclasses.replace(CONFIG, checkpoints=kept),
        toy.batches,
        toy.initial(SYSTEM),
        directory=directory,
        evaluate=lambda params, step: {"held_out/loss": float(step)},
    )


def test_a_best_metric_that_no_row_has_is_refused_and_the_run_goes_on(tmp_path):
    said = "by held_out/los .*no metric of this run.* held_out/loss, "
    with pytest.raises(UserError, match=said):
        best_by("held_out/los", 2, tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints", CheckpointConfig())
    assert store.newest_whole().step == 4  # the first after a row and an evaluation
    assert best_by("held_out/loss", 2, tmp_path).step == 6


def test_a_best_metric_is_waited_for_until_it_was_evaluated(tmp_path):
    assert best_by("held_out/loss", 1, tmp_path).step == 6
    store = CheckpointStore(tmp_path / "checkpoints", CheckpointConfig())
    assert store.steps() == [3, 6]


def test_a_batch_the_devices_do_not_divide_is_refused():
    with pytest.raises(UserError, match="8 contexts does not divide into 3 microb"):
        config = dataclasses.replace(CONFIG, microbatches=3)
        train(SYSTEM, config, toy.batches, toy.initial(SYSTEM))


def test_a_variant_that_trains_a_missing_group_is_refused():
    system = toy.ToySystem(trainable=("phi",))
    with pytest.raises(UserError, match="trains phi, .* phi is missing"):
        train(system, CONFIG, toy.batches, toy.initial(system))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_first_step_and_its_compilation_are_in_no_rate(monkeypatch):
    now = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("hypert5_jax.training.progress.time", clock)
    progress = Progress(10, 0, shown=False)
    meter = Meter(progress, lambda _: 0.1, str, max_skips=0)
    sums = dict.fromkeys(("loss", "z_loss", "correct", "grad_norm", "weight"), 4.0)
    for step, now in ((1, 100.0), (2, 102.0), (3, 104.0)):
        meter.add(step, sums)
    row = meter.row(3)
    assert row["speed/steps_per_second"] == 0.5
    assert row["speed/target_tokens_per_second"] == 2.0


def test_progress_is_plain_lines_or_one_line_redrawn():
    plain = io.StringIO()
    progress = Progress(10, 0, stream=plain, plain_every_seconds=0.0)
    for step in (1, 2):
        progress.update(step, tokens=100.0, loss=2.5)
    progress.close()
    lines = plain.getvalue().splitlines()
    assert len(lines) == 2 and "\r" not in plain.getvalue()
    assert lines[0].startswith("train 1/10 (10%)  loss 2.5000  compiled and made the")
    assert "loss 2.5000" in lines[1]
    for part in ("2/10", "steps/s", "target tokens/s", "left"):
        assert part in lines[1] and part not in lines[0]

    terminal = Terminal()
    progress = Progress(1, 0, stream=terminal)
    progress.update(1, tokens=100.0, loss=2.5)
    progress.close()
    assert terminal.getvalue().startswith("\r")
    assert terminal.getvalue().endswith("\n")
