"""One run at a time in a folder, as long as its process lives."""

import errno
import fcntl
import signal
import subprocess
import sys

import pytest

from hypert5_jax.checkpoints import run_lock
from hypert5_jax.checkpoints.run_lock import only_run
from hypert5_jax.core.errors import UserError
from tests.killed import ROOT

HOLDS = """
import sys, time
from hypert5_jax.checkpoints.run_lock import only_run
with only_run(sys.argv[1]):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.0)


def test_a_second_run_is_refused_until_the_first_is_over(tmp_path):
    with only_run(tmp_path / "run"):
        told = "another process is training in .*/run;"
        with pytest.raises(UserError, match=told), only_run(tmp_path / "run"):
            pass
        with only_run(tmp_path / "other"):
            pass
    with only_run(tmp_path / "run"):
        pass


def test_a_killed_run_holds_nothing_and_one_that_ends_is_waited_for(
    tmp_path, monkeypatch
):
    argv = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(UserError), only_run(tmp_path):
            pass
        process.send_signal(signal.SIGKILL)
        monkeypatch.setattr(run_lock, "_PATIENCE", 60.0)
        with only_run(tmp_path):
            pass


def test_where_there_are_no_locks_a_run_goes_on(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    begun = []
    for place in (tmp_path, "gs://no-such-bucket/run"):
        with only_run(place):
            begun.append(place)
    assert len(begun) == 2
