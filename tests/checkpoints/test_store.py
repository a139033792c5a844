"""The store: what is read is what was written, whole or not at all."""

import contextlib
import logging
import math
import resource

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from hypert5_jax.checkpoints import manifest
from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore, load_params
from hypert5_jax.core.errors import UserError

PARAMS = {"hypermodel": {"a": {"kernel": np.arange(600, dtype=np.float32)}}}
OPTIMISER = {"count": np.int32(3) + np.zeros((), np.int32)}


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def scaled(step):
    return jax.tree.map(lambda x: x * step, PARAMS)


@contextlib.contextmanager
def store_at(directory, **settings):
    store = CheckpointStore(directory, CheckpointConfig(**settings))
    try:
        yield store
    finally:
        store.close()


def written(directory, steps, metrics=None, **settings):
    with store_at(directory, **settings) as store:
        for step in steps:
            score = {"loss": metrics[step]} if metrics else None
            store.save(step, scaled(step), OPTIMISER, {"note": step}, score)


def newest(directory):
    with store_at(directory) as store:
        return store.newest_whole()


def files_of(directory, step):
    step_dir = directory / str(step)
    return sorted(p for p in step_dir.rglob("*") if p.is_file() and p.stat().st_size)


def test_what_is_read_is_what_was_written(tmp_path):
    written(tmp_path, [7])
    with store_at(tmp_path) as store:
        saved = store.newest_whole()
        params, optimiser = store.read(saved, shapes(PARAMS), shapes(OPTIMISER))
    assert (saved.step, saved.about) == (7, {"note": 7})
    np.testing.assert_array_equal(
        params["hypermodel"]["a"]["kernel"], PARAMS["hypermodel"]["a"]["kernel"] * 7
    )
    assert optimiser["count"] == 3


def test_the_newest_n_and_the_best_stay(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: 0.4, 4: 0.3, 5: 0.2}
    written(tmp_path / "min", losses, losses, keep=2, best_metric="loss")
    assert sorted(p.name for p in (tmp_path / "min").iterdir()) == ["2", "4", "5"]
    written(
        tmp_path / "max",
        losses,
        losses,
        keep=1,
        best_metric="loss",
        best_mode="max",
    )
    assert sorted(p.name for p in (tmp_path / "max").iterdir()) == ["1", "5"]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_value_that_is_not_finite_is_never_the_best(tmp_path, mode):
    worst = {"min": math.inf, "max": -math.inf}[mode]
    losses = {1: math.nan, 2: worst, 3: -worst, 4: 0.5, 5: 0.5, 6: math.nan}
    written(tmp_path, losses, losses, keep=1, best_metric="loss", best_mode=mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["4", "6"]


def test_a_truncated_file_anywhere_makes_the_next_older_one_the_newest(
    tmp_path, caplog
):
    written(tmp_path, [1, 2])
    files = files_of(tmp_path, 2)
    assert any("optimiser" in str(f) for f in files)
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content[:-1])
        with caplog.at_level(logging.WARNING):
            assert newest(tmp_path).step == 1, file
        assert "is not whole and is passed over" in caplog.text
        caplog.clear()
        file.write_bytes(content)
    assert newest(tmp_path).step == 2


def test_a_flipped_byte_and_a_missing_file_are_found(tmp_path):
    written(tmp_path, [1, 2])
    largest = max(files_of(tmp_path, 2), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    assert newest(tmp_path).step == 1
    largest.unlink()
    assert newest(tmp_path).step == 1


def test_a_step_without_a_seal_was_never_finished(tmp_path):
    written(tmp_path, [1, 2])
    (tmp_path / "2" / manifest.NAME).unlink()
    assert newest(tmp_path).step == 1
    (tmp_path / "1" / manifest.NAME).unlink()
    assert newest(tmp_path) is None


def test_an_unfinished_or_broken_step_is_written_anew(tmp_path):
    written(tmp_path, [1, 2])
    files_of(tmp_path, 2)[0].write_bytes(b"")
    (tmp_path / "3.orbax-checkpoint-tmp-1").mkdir()
    written(tmp_path, [2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "2"]
    assert newest(tmp_path).step == 2


def test_no_whole_checkpoint_is_said_not_passed_over(tmp_path):
    written(tmp_path, [1])
    files_of(tmp_path, 1)[0].unlink()
    with pytest.raises(UserError, match="no checkpoint in .* is whole"):
        newest(tmp_path)


@contextlib.contextmanager
def files_end_at(limit):
    """No file can grow beyond `limit` bytes: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_checkpoints_whole(tmp_path):
    written(tmp_path, [1], keep=1)
    store = CheckpointStore(tmp_path, CheckpointConfig(keep=1))
    noise = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    with files_end_at(64_000):
        with pytest.raises(UserError, match="step 2 could not .* checkpoint: step 1"):
            store.save(2, {"hypermodel": {"a": noise}}, OPTIMISER, {})
            store.wait()
        store.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1"]
    assert newest(tmp_path).step == 1


def test_parameters_are_read_from_a_run_a_folder_or_a_step(tmp_path):
    written(tmp_path / "checkpoints", [1, 2])
    for place in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "2"):
        params, found = load_params(place)
        assert found.name == "2"
        np.testing.assert_array_equal(
            params["hypermodel"]["a"]["kernel"], scaled(2)["hypermodel"]["a"]["kernel"]
        )
    with pytest.raises(UserError, match="no checkpoint at .*nowhere"):
        load_params(tmp_path / "nowhere")


def test_a_relative_folder_is_one_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("runs/one", [3])
    assert newest("runs/one").step == 3
    params, _ = load_params("runs/one")
    np.testing.assert_array_equal(
        params["hypermodel"]["a"]["kernel"], PARAMS["hypermodel"]["a"]["kernel"] * 3
    )


def test_a_failure_is_told_once_although_it_comes_back(tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.AsyncCheckpointer, "save", fails)
    monkeypatch.setattr(ocp.AsyncCheckpointer, "close", fails)
    store = CheckpointStore(tmp_path, CheckpointConfig())
    with pytest.raises(UserError, match="step 1 could not be written.*No space left"):
        store.save(1, PARAMS, OPTIMISER, {})
    store.close()


def test_a_failure_of_the_last_moment_is_told_too(tmp_path, monkeypatch):
    def fails(self):
        raise OSError(28, "No space left on device")

    store = CheckpointStore(tmp_path, CheckpointConfig())
    store.save(1, PARAMS, OPTIMISER, {})
    store.wait()
    monkeypatch.setattr(ocp.AsyncCheckpointer, "close", fails)
    with pytest.raises(UserError, match="No space left"):
        store.close()
