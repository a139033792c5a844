"""A run that stands still says where, and goes on or ends as its settings say."""

import dataclasses
import os
import threading
import time

import jax
import pytest

from hypert5_jax.training import watchdog
from hypert5_jax.training.loop import TrainConfig, train
from tests.training import toy

CONFIG = TrainConfig(steps=6, stall_seconds=0.4)


def run(directory, config=CONFIG, stuck_at=4, seconds=1.0):
    def batches(start):
        for step, batch in enumerate(toy.batches(start), start):
            if step == stuck_at:
                a_file_system_that_does_not_answer(seconds)
            yield batch

    system, one = toy.ToySystem(), jax.devices()[:1]
    initial = toy.initial(system)
    return train(system, config, batches, initial, directory=directory, devices=one)


def a_file_system_that_does_not_answer(seconds):
    time.sleep(seconds)


def test_a_stall_names_step_and_host_and_shows_every_stack(tmp_path, capfd):
    assert run(tmp_path).step == 6
    said = capfd.readouterr().err
    assert "host 0 (" in said and "has not ended after 0.4 seconds" in said
    assert "a_file_system_that_does_not_answer" in said
    # Batches are made two steps ahead of their use.
    kept = (tmp_path / watchdog.FOLDER / "step_2_host_0.txt").read_text()
    assert "step 3 has not" in kept and "a_file_system_that_does_not_answer" in kept


def test_a_run_that_may_not_stall_ends(tmp_path, monkeypatch, capfd):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    run(tmp_path, dataclasses.replace(CONFIG, on_stall="stop"), seconds=0.7)
    assert set(codes) == {watchdog.STALLED}
    assert "the process ends" in capfd.readouterr().err


@pytest.mark.parametrize(("index", "waits"), [(0, [1.0]), (1, [])])
def test_process_0_ends_last_so_that_others_show_their_stacks(
    monkeypatch, index, waits
):
    ended, slept = threading.Event(), []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: index)
    monkeypatch.setattr(watchdog, "_LAST_SECONDS", 1.0)
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "_exit", lambda code: ended.set())
    with watchdog.Watchdog(0.02, stop=True) as dog:
        dog.alive(1, "step")
        assert ended.wait(10)
        asked = list(slept)
    assert asked[:1] == waits


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_run_that_goes_on_is_left_alone(tmp_path, seconds, capfd):
    run(tmp_path, dataclasses.replace(CONFIG, stall_seconds=seconds), seconds=0.1)
    assert "has not ended" not in capfd.readouterr().err
    assert not (tmp_path / watchdog.FOLDER).exists()
