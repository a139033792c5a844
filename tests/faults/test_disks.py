"""Files and disks that fail: one message, exit code 2, and a whole checkpoint stays."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from etils import epath

from hypert5_jax.checkpoints import manifest
from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore, load_params
from hypert5_jax.config import cli
from hypert5_jax.data import stream
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.preparation.writer import Item
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.schedules import ScheduleConfig
from tests.data.toy_mixture import write_mixture
from tests.training import toy

SYSTEM = toy.ToySystem()
CONFIG = TrainConfig(
    steps=12,
    log_every=4,
    eval_every=1,
    schedule=ScheduleConfig(learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=3, keep=2),
)


def run(directory, config=CONFIG, batches=toy.batches, stop_at=None):
    def evaluate(params, step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    writers = [JsonlWriter(directory / "metrics.jsonl")] if directory else []
    return train(
        SYSTEM,
        config,
        batches,
        toy.initial(SYSTEM),
        directory=directory,
        writers=writers,
        evaluate=evaluate,
        devices=jax.devices()[:1],
    )


@pytest.fixture(scope="module")
def straight():
    return run(None).params


def assert_equal(params, expected):
    for group in ("hypermodel",):
        jax.tree.map(np.testing.assert_array_equal, params[group], expected[group])


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of 1 MiB, and a way to mount it with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-o", ",".join(options), *("-t", "tmpfs", "tmpfs")]
        done = subprocess.run([*command, place], check=False, capture_output=True)
        if done.returncode:
            pytest.skip("this user may not mount a file system")

    mount("size=1m")
    try:
        yield place, mount
    finally:
        subprocess.run(["umount", place], check=True)


def code_of(work, capsys):
    code = cli.exit_code(lambda argv: work(), [])
    return code, capsys.readouterr().err


def test_a_full_disk_ends_with_a_message_and_more_room_goes_on(disk, capsys, straight):
    place, mount = disk

    def fill(start):
        for step, batch in enumerate(toy.batches(start), start):
            if step == 8:
                with contextlib.suppress(OSError), open(place / "big", "wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
            yield batch

    code, said = code_of(lambda: run(place, batches=fill), capsys)
    assert code == cli.USER_ERROR and "No space left" in said, said
    assert "Traceback" not in said
    assert load_params(place)[1].name in ("3", "6")
    mount("remount", "size=8m")
    assert_equal(run(place).params, straight)


def test_a_folder_that_may_not_be_written_is_said_so(disk, capsys, straight):
    place, mount = disk
    mount("remount", "ro")
    code, said = code_of(lambda: run(place), capsys)
    assert code == cli.USER_ERROR and "Read-only file system" in said, said
    mount("remount", "rw")
    run(place, stop_at=6)
    mount("remount", "ro")
    code, said = code_of(lambda: run(place), capsys)
    assert code == cli.USER_ERROR and "Read-only file system" in said, said
    mount("remount", "rw")
    assert_equal(run(place).params, straight)


def damage_every_file(directory):
    """Yields (file, what was done) with each file of a step damaged in turn."""
    files = [f for f in sorted(directory.rglob("*")) if f.is_file()]
    assert any(f.name == manifest.NAME for f in files)
    for file in files:
        content = file.read_bytes()
        for what, bad in _damaged(content):
            file.write_bytes(bad)
            yield file, what
            file.write_bytes(content)


def _damaged(content):
    yield "made longer", content + b"\0"
    for length in {0, len(content) // 2, len(content) - 1} - {len(content), -1}:
        yield f"truncated to {length}", content[:length]
    for at in {0, len(content) // 3, len(content) - 1} if content else ():
        bad = bytearray(content)
        bad[at] ^= 1 << (at % 8)
        yield f"bit {at % 8} of byte {at} flipped", bytes(bad)


def test_damage_to_any_byte_of_any_file_is_found(tmp_path):
    run(tmp_path, dataclasses.replace(CONFIG, steps=6))
    store = CheckpointStore(tmp_path / "checkpoints", CheckpointConfig())
    tried = 0
    for file, what in damage_every_file(tmp_path / "checkpoints" / "6"):
        assert store.newest_whole().step == 3, (file, what)
        tried += 1
    assert tried > 20 and store.newest_whole().step == 6


@pytest.mark.parametrize("keep", [1, 2])
def test_a_step_whose_bits_rot_is_made_anew(tmp_path, straight, keep):
    """Of the same sizes, so that only checksums tell; and until then nothing is lost."""
    config = dataclasses.replace(CONFIG, checkpoints=CheckpointConfig(every=3, keep=2))
    run(tmp_path, config)
    last = tmp_path / "checkpoints" / "12"
    largest = max(
        (f for f in last.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)

    config = dataclasses.replace(CONFIG, checkpoints=CheckpointConfig(2, keep))
    assert run(tmp_path, config, stop_at=10).step == 10
    assert load_params(tmp_path)[1].name == "10"
    assert_equal(run(tmp_path, config).params, straight)
    assert (
        manifest.damage(epath.Path(last)) is None
        and load_params(tmp_path)[1].name == "12"
    )


def test_a_step_that_was_half_dropped_goes(tmp_path):
    run(tmp_path, dataclasses.replace(CONFIG, steps=6))
    for name in ("1", "2"):
        shutil.copytree(tmp_path / "checkpoints" / "3", tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "1" / manifest.NAME).unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "2" / "params")
    (tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp").mkdir()
    run(tmp_path, dataclasses.replace(CONFIG, steps=6))
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "6"]


def test_a_shard_that_vanishes_is_named_and_a_checkpoint_stays(tmp_path, capsys):
    items = [
        Item(None, Example([i % 9 + 3, task % 9 + 3, 4], [5, 1]))
        for task in range(1)
        for i in range(9)
    ]
    tasks = {f"t{number}": items for number in range(60)}
    mixture = write_mixture(tmp_path / "prepared" / "toy", tasks)
    lengths = {"hyper_inputs": 5, "inputs": 4, "targets": 3}
    # A context of one shot has markers, whose ids the toy model's table does not have.
    row = RowFormat(lengths=lengths, max_shots=0)

    def batches(start):
        made = stream.batches(mixture, row, 8, seed=0, start_step=start)
        for step, batch in enumerate(made, start):
            if step == 4:
                for shard in mixture.directory.glob("*.arrayrecord"):
                    shard.unlink()
            yield batch

    config = dataclasses.replace(CONFIG, steps=200)
    code, said = code_of(lambda: run(tmp_path / "run", config, batches), capsys)
    assert code == cli.USER_ERROR, said
    assert re.search(r"error: .*t\d+-00000-of-00001.*arrayrecord is gone", said), said
    assert "Traceback" not in said
    assert load_params(tmp_path / "run")[1].name in {str(3 * n) for n in range(1, 67)}


def test_rows_since_the_last_one_survive_a_stop(tmp_path):
    def rows(place):
        lines = (place / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [{k: v for k, v in r.items() if "speed/" not in k} for r in found]

    run(tmp_path / "straight")
    assert run(tmp_path / "again", stop_at=6).step == 6
    run(tmp_path / "again")
    assert rows(tmp_path / "again") == rows(tmp_path / "straight")
