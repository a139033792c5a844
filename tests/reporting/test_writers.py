"""Rows of metrics outlive a kill, and none is there twice."""

import json
import math
import struct

import jax
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.reporting.curves import read_metric
from hypert5_jax.reporting.writers import JsonlWriter, TensorBoardWriter
from hypert5_jax.training.loop import TrainConfig, train
from tests.training import toy

CONFIG = TrainConfig(
    steps=6, log_every=1, eval_every=2, checkpoints=CheckpointConfig(every=2)
)


def without_appending(path):
    """A writer to a store such as gs://, where a file is written anew or not at all."""
    writer = JsonlWriter(path)
    writer._local = False
    return writer


def events(directory):
    """What the event files hold: eight bytes of length, four of CRC, an event, four."""
    found = []
    for file in sorted(directory.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return found


def points(directory):
    """(step, name) of what TensorBoard shows: a start makes later points before it void."""
    shown = []
    for event in events(directory):
        if event.session_log.status == SessionLog.START:
            shown = [point for point in shown if point[0] < event.step]
        shown += [(event.step, value.tag) for value in event.summary.value]
    return shown


def test_rows_until_a_checkpoint_outlive_a_kill_after_it(tmp_path, monkeypatch):
    def run(last):
        def batches(start):
            for step, batch in enumerate(toy.batches(start), start):
                if step == last:
                    raise InterruptedError("killed")
                yield batch

        writers = [without_appending(path), TensorBoardWriter(tmp_path / "tensorboard")]
        system = toy.ToySystem()
        train(
            system,
            CONFIG,
            batches,
            toy.initial(system),
            directory=tmp_path,
            writers=writers,
            evaluate=lambda params, step: {"eval/score": float(step)},
            devices=jax.devices()[:1],
        )

    path = tmp_path / "metrics.jsonl"
    with monkeypatch.context() as killed:
        for writer in (JsonlWriter, TensorBoardWriter):
            killed.setattr(writer, "close", lambda self: None)
        # Batches are made two steps ahead of their use: step 4 is saved, 5 is lost.
        with pytest.raises(InterruptedError):
            run(7)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4]
    shown = points(tmp_path / "tensorboard")
    losses = [step for step, name in shown if name == "train/loss"]
    assert losses[:4] == [1, 2, 3, 4]
    assert (4, "eval/score") in shown
    run(None)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4, 5, 6, 6]


def test_tensorboard_shows_no_point_twice_of_a_run_without_a_checkpoint(
    tmp_path, monkeypatch
):
    for second in (1_000_000_000.0, 1_000_000_001.0):  # event files are named by it
        monkeypatch.setattr("time.time", lambda now=second: now)
        writer = TensorBoardWriter(tmp_path)
        writer.resume(0)
        writer.write(1, {"train/loss": 2.0})
        writer.close()
    assert len(list(tmp_path.iterdir())) == 2
    assert points(tmp_path) == [(1, "train/loss")]


def test_a_step_that_was_not_finite_is_a_gap_in_its_curve(tmp_path):
    file = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(file)
    for step, loss in enumerate([2.0, math.nan, 1.0]):
        writer.write(step, {"train/loss": loss})
    steps, values = read_metric(str(file))
    assert steps == [0, 1, 2] and values[::2] == [2.0, 1.0] and math.isnan(values[1])
