"""Storage that fails: what passes is outlasted, what cannot be read is never an answer."""

import errno
import logging
import os
import re
import resource

import numpy as np
import pytest
from etils import epath

from hypert5_jax.checkpoints import manifest
from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore, load_params
from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.config import cli
from hypert5_jax.core import storage
from hypert5_jax.core.errors import StorageError, UserError
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.phi.files import PhiHeader, save_phi
from hypert5_jax.phi.spec import PrefixSpec, phi_shapes
from hypert5_jax.reporting.writers import JsonlWriter
from tests.models import TINY, random_tree

ARRAYS = {"a": np.ones(2, np.float32)}
SPEC = PrefixSpec(1)
PHI = random_tree(phi_shapes(SPEC, TINY.sites, 1), 0)
HEADER = PhiHeader(SPEC, TINY.sites, "a" * 64, "a test")
LOCAL = type(epath.Path("/x"))
PASSING = [errno.ESTALE, errno.EIO, errno.EMFILE, errno.ECONNRESET, errno.ETIMEDOUT]
TO_BE_MENDED = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(storage, "PAUSES", (0, 0, 0))


def error_of(code):
    return OSError(code, os.strerror(code))


@pytest.fixture
def fail(monkeypatch):
    """Lets a method of paths that end so raise `error`, the first `times` times."""

    def fail(method, end, error, times=10**9):
        real = getattr(LOCAL, method)
        raised = []

        def failing(self, *args, **kwargs):
            if str(self).endswith(end) and len(raised) < times:
                raised.append(error)
                raise error
            return real(self, *args, **kwargs)

        monkeypatch.setattr(LOCAL, method, failing)
        return raised

    return fail


def save(store, *steps, losses=None):
    for step in steps:
        metrics = {"loss": losses[step]} if losses else {}
        store.save(step, ARRAYS, ARRAYS, {}, metrics)
        store.wait()


def store_of(directory, **settings):
    return CheckpointStore(directory / "checkpoints", CheckpointConfig(**settings))


@pytest.mark.parametrize("code", PASSING)
def test_a_manifest_unreadable_for_a_moment_is_read_after_it(tmp_path, fail, code):
    store = store_of(tmp_path, keep=1, best_metric="loss")
    losses = {1: 0.1, 2: 0.5, 3: 0.6}
    save(store, 1, 2, losses=losses)
    raised = fail("open", "/1/manifest.json", error_of(code), times=2)
    save(store, 3, losses=losses)
    assert len(raised) == 2 and store.steps() == [1, 3]
    raised = fail("open", "/3/manifest.json", error_of(code), times=2)
    assert store.newest_whole().step == 3 and len(raised) == 2


def test_a_manifest_that_stays_unreadable_is_neither_dropped_nor_passed_over(
    tmp_path, fail, caplog
):
    store = store_of(tmp_path, keep=1)
    save(store, 1)
    fail("open", "/1/manifest.json", error_of(errno.EIO))
    save(store, 2, 3)
    assert store.steps() == [1, 3]
    assert "checkpoints/1 is not removed for now: " in caplog.text
    fail("open", "/3/manifest.json", error_of(errno.EMFILE))
    for ask in (store.newest_whole, lambda: load_params(tmp_path)):
        with pytest.raises(StorageError, match="3/manifest.json: .*Too many open"):
            ask()
    assert store.steps() == [1, 3]


def test_a_file_that_cannot_be_read_is_not_said_to_be_missing(tmp_path, fail):
    store = store_of(tmp_path)
    save(store, 1, 2)
    fail("stat", "/2/params/_METADATA", error_of(errno.ESTALE))
    with pytest.raises(StorageError, match="/2/params/_METADATA: .*Stale file handle"):
        store.newest_whole()


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    tmp_path, fail, monkeypatch
):
    store = store_of(tmp_path)
    assert store.newest_whole() is None  # there is none yet
    save(store, 1)
    fail("iterdir", "/checkpoints", error_of(errno.ESTALE))
    # What os.path.exists makes of any error.
    monkeypatch.setattr(LOCAL, "exists", lambda self: False)
    with pytest.raises(StorageError, match="checkpoints: .*Stale file handle"):
        store.newest_whole()


def test_a_process_that_does_not_see_a_whole_step_does_not_start_afresh(
    tmp_path, monkeypatch
):
    store = store_of(tmp_path)
    monkeypatch.setattr(store, "_newest_whole_step", lambda: 2)  # process 0's answer
    with pytest.raises(StorageError, match="does not see the manifest of .*/2"):
        store.newest_whole()


def test_an_old_checkpoint_in_use_is_warned_of_and_dropped_later(
    tmp_path, fail, caplog
):
    store = store_of(tmp_path, keep=1)
    save(store, 1)
    fail("rmtree", "/1", OSError(errno.ENOTEMPTY, "Directory not empty: .nfs1"), 2)
    save(store, 2)
    store.tidy(store.newest_whole())
    assert caplog.text.count("/1 is not removed for now: [Errno 39] Directory not") == 2
    assert store.steps() == [1, 2]
    assert manifest.damage(store.directory / "1") is not None  # unsealed all the same
    save(store, 3)
    assert store.steps() == [3]


def test_a_leftover_that_cannot_be_removed_does_not_end_the_run(tmp_path, fail, caplog):
    store = store_of(tmp_path)
    leftover = store.directory / "5.orbax-checkpoint-tmp"
    leftover.mkdir(parents=True)
    fail("rmtree", leftover.name, error_of(errno.EBUSY))
    with caplog.at_level(logging.WARNING):
        save(store, 1)
    assert "orbax-checkpoint-tmp is not removed for now" in caplog.text
    assert store.newest_whole().step == 1


def test_a_seal_that_fails_for_a_moment_is_set_after_it(tmp_path, fail):
    store = store_of(tmp_path)
    reset = error_of(errno.ECONNRESET)
    raised = fail("write_text", "/1/manifest.json.unfinished", reset, times=3)
    save(store, 1)
    assert len(raised) == 3 and store.newest_whole().step == 1


def ended(work, capsys):
    code = cli.exit_code(lambda argv: work(), [])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


EXIT_CODES = [(code, 1) for code in PASSING] + [(code, 2) for code in TO_BE_MENDED]


@pytest.mark.parametrize(("code", "expected"), EXIT_CODES)
def test_only_what_a_person_must_mend_ends_with_code_2(
    tmp_path, fail, capsys, code, expected
):
    store = store_of(tmp_path)
    save(store, 1)
    fail("write_text", "/2/manifest.json.unfinished", error_of(code))
    fail("mkdir", "/nowhere", error_of(code))
    rows = JsonlWriter(tmp_path / "nowhere" / "metrics.jsonl")
    file = tmp_path / "nowhere" / "file"
    for work, where in (
        (lambda: save(store, 2), "step 2 could not .*: step 1"),
        (lambda: rows.write(1, {}), "cannot write metrics to .*metrics.jsonl"),
        (lambda: write_whole(epath.Path(file), ""), f"cannot write {file}"),
        (lambda: save_phi(str(file), PHI, HEADER), f"cannot write {file}"),
    ):
        number, said = ended(work, capsys)
        assert number == expected, said
        assert re.search(where, said), said
        assert ("free some space" in said) == (expected == 2), said
        assert os.strerror(code) in said and "run the same command again" in said


@pytest.mark.parametrize(("code", "expected"), [(errno.EIO, 1), (errno.ENOSPC, 2)])
def test_lines_that_cannot_be_appended_end_alike(
    tmp_path, monkeypatch, capsys, code, expected
):
    def failing(_):
        raise error_of(code)

    with AppendedLines(tmp_path / "lines") as lines:
        monkeypatch.setattr(os, "fsync", failing)
        number, said = ended(lambda: lines.append([{}]), capsys)
    assert number == expected and f"cannot write {tmp_path / 'lines'}" in said


def test_a_file_of_lines_that_has_no_more_room_says_so_once(tmp_path, capsys):
    """Closing it does not try again: Python's own error would stand for the message."""
    file = tmp_path / "lines"

    def work():
        with AppendedLines(file) as lines:
            lines.append([{"a": 1}])
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
            lines.append([{"b": "x" * 100}])

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        number, said = ended(work, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert number == 2 and f"cannot write {file}: " in said and "Traceback" not in said
    with AppendedLines(file) as lines:
        assert lines.lines == [{"a": 1}]


@pytest.mark.parametrize("place", ["/proc/none/file", f"{__file__}/file"])
@pytest.mark.parametrize("write", [AppendedLines, lambda p: write_whole(p, "")])
def test_a_place_that_cannot_be_is_the_callers_mistake(capsys, write, place):
    number, said = ended(lambda: write(epath.Path(place)), capsys)
    assert number == 2 and f"cannot write {place}" in said and "another place" in said


@pytest.mark.parametrize(("code", "kind"), [(28, UserError), (5, StorageError)])
def test_tensorstores_errors_are_told_apart_by_the_systems(code, kind):
    error = ValueError(f"UNKNOWN: Error writing \"a\" [os_error_code='{code}']")
    told = storage.failed("cannot write", error)
    assert type(told) is kind and f"cannot write: {os.strerror(code)}; " in str(told)
