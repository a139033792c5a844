"""What a worker does: one attempt at a run, alone and under on_worker.sh."""

import hashlib
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.conftest import ROOT, Fakes

ATTEMPT = [sys.executable, "-S", str(ROOT / "launch" / "attempt.py")]
# A stand-in for the front doors, which catch SIGTERM, save, and end with code 0.
SAVES = """
trap 'echo "stopped at 3 of 5 steps"; exit 0' TERM
echo step
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize(
    ("run", "code"),
    [
        ("echo 'done: 5 of 5 steps'", 0),
        ("echo 'stopped; the same command continues from there'", 143),
        ("echo 'error: no such mixture' >&2; exit 2", 2),
        ("echo 'stopped at 3' ; exit 1", 1),
        ("kill -KILL $$", 137),
    ],
)
def test_the_exit_code_says_whether_to_start_again(run: str, code: int) -> None:
    command = [*ATTEMPT, "sh", "-c", run]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code
    assert not done.stderr  # all of it is one log


def test_a_command_that_is_not_there_is_a_message() -> None:
    command = [*ATTEMPT, "/no/such/python"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 127
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_sigterm_reaches_the_run_and_its_code_a_file(tmp_path: Path) -> None:
    file = tmp_path / "code"
    command = [*ATTEMPT, f"--exit_code_file={file}", "sh", "-c", SAVES]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "stopped at 3 of 5 steps\n"
    assert process.returncode == 143
    assert file.read_text() == "143\n"


class Worker:
    """A checkout with launch/ alone, and an interpreter that runs attempts only."""

    def __init__(self, fakes: Fakes) -> None:
        self.fakes = fakes
        self.home = fakes.place / "home" / "node"
        checkout = self.home / "hypert5"
        (checkout / ".venv" / "bin").mkdir(parents=True)
        (checkout / "launch").symlink_to(ROOT / "launch")
        python = checkout / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            check=False,
            args=["bash", "hypert5/launch/on_worker.sh", *words],
            cwd=self.home,
            env={**self.fakes.env, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        if words[0] == "log":
            return done.stdout
        self.said = done.stdout
        return re.sub(" [0-9a-f]{12}$", "", done.stdout.partition(": ")[2].strip())

    def until(self, word: str) -> None:
        deadline = time.monotonic() + 20
        while self("status") != word:
            assert time.monotonic() < deadline, self("status")
            time.sleep(0.02)

    def until_logged(self, line: str) -> None:
        deadline = time.monotonic() + 20
        while line not in self("log").splitlines():
            assert time.monotonic() < deadline, self("log")
            time.sleep(0.02)


@pytest.fixture
def worker(fakes: Fakes) -> Worker:
    return Worker(fakes)


def test_a_run_is_started_once_and_saves_when_stopped(worker: Worker) -> None:
    assert worker("status") == "idle"
    assert worker("start", "sh", "-c", SAVES) == "started"
    assert worker("status") == "running"
    worker.until_logged("step")
    assert worker("start", "sh", "-c", SAVES) == "running already"
    assert worker("stop", "20") == "halted"
    assert worker("log").splitlines() == ["step", "stopped at 3 of 5 steps"]
    # Started again it is a new attempt, with a log of its own.
    worker("start", "sh", "-c", "echo done: 5 of 5 steps")
    worker.until("done")
    assert worker("log") == "done: 5 of 5 steps\n"
    assert worker("stop", "1") == "done"


def test_a_stop_of_what_is_beside_it_leaves_a_mistake_a_mistake(worker: Worker) -> None:
    worker("start", "sh", "-c", "exit 2")
    worker.until("mistake")
    assert worker("stop", "1") == "mistake"


def test_a_worker_names_a_run_by_its_command_line(worker: Worker) -> None:
    command = ["sh", "-c", 'echo "$0"', "ä b\nc", ""]
    digest = hashlib.sha256("".join(f"{w}\0" for w in command).encode()).hexdigest()
    worker("start", *command)
    worker.until("done")
    assert worker.said.endswith(f": done {digest[:12]}\n")


def test_a_run_that_does_not_save_in_time_is_killed(worker: Worker) -> None:
    worker("start", "sh", "-c", "trap '' TERM; echo step; while :; do sleep 0.1; done")
    worker.until_logged("step")
    assert worker("stop", "1") == "halted"


@pytest.mark.parametrize(
    ("run", "word"),
    [("exit 2", "mistake"), ("exit 7", "failed 7"), ("echo stopped", "stopped")],
)
def test_status_tells_how_a_run_ended(worker: Worker, run: str, word: str) -> None:
    worker("start", "sh", "-c", run)
    worker.until(word)


def test_a_run_that_lost_its_guard_still_counts_as_running(worker: Worker) -> None:
    worker("start", "sh", "-c", "echo step; while :; do sleep 0.1; done")
    worker.until_logged("step")
    guard = int((worker.home / "hypert5_run" / "pid").read_text())
    # Only the guard dies; what it guards still holds the accelerator.
    subprocess.run(["kill", "-KILL", str(guard)], check=True)
    time.sleep(0.1)
    assert worker("status") == "running"
    subprocess.run(["kill", "-KILL", "--", f"-{guard}"], check=True)
    worker.until("lost")


# An interpreter whose environments have pip (or not), and whose pip ends with a code.
PYTHON = """#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python && echo made >>"$FAKE/made" ;;
  "-m pip --version") test -e "$FAKE/made" ;;
  "-m pip install"*) exit "$PIP" ;;
esac
"""


def install(fakes: Fakes, pip: int) -> int:
    checkout = fakes.place / "checkout"
    (checkout / "launch").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "launch" / "install.sh", checkout / "launch")
    fakes.program("python3.11", PYTHON)
    done = subprocess.run(
        ["bash", str(checkout / "launch" / "install.sh"), "tpu"],
        check=False,
        env={**fakes.env, "PIP": str(pip)},
        timeout=30,
    )
    return done.returncode


def test_a_pip_without_network_is_no_mistake_of_the_users(fakes: Fakes) -> None:
    # pip's code where a connection breaks off while it reads.
    assert install(fakes, pip=2) == 1
    assert install(fakes, pip=0) == 0


def test_an_environment_without_pip_is_made_anew_and_a_whole_one_kept(
    fakes: Fakes,
) -> None:
    half = fakes.place / "checkout" / ".venv" / "bin"
    half.mkdir(parents=True)
    (half / "python").write_text(PYTHON)
    (half / "python").chmod(0o755)
    assert install(fakes, pip=0) == 0
    assert install(fakes, pip=0) == 0
    assert (fakes.place / "made").read_text() == "made\n"


@pytest.mark.parametrize("front_door", ["train", "tune", "evaluate"])
def test_the_front_doors_say_stopped_at_the_beginning_of_a_line(
    front_door: str,
) -> None:
    text = (ROOT / "hypert5_jax" / f"{front_door}.py").read_text()
    assert re.search(r'(= |print\(\s*f?)"stopped', text)
