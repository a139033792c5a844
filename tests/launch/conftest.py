"""gcloud, kubectl and the like, faked: recorded calls, answers as the test says.

The fakes are the only programs of these names on the PATH, so that nothing here can reach
a real cloud whatever is installed.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "--gin_file=gin/recipes/p3_large/hypert5_prefix.gin"
NAME = "p3-large-hypert5-prefix"

_FAKED = ("gcloud", "kubectl", "xpk", "docker", "sbatch", "squeue", "scancel")
_FAKED_ON_NODES = ("srun", "scontrol", "sudo")
_REAL = (
    *(
        "bash",
        "basename",
        "cat",
        "cp",
        "date",
        "dirname",
        "env",
        "flock",
        "git",
        "grep",
    ),
    *(
        "gzip",
        "hostname",
        "ln",
        "mkdir",
        "mv",
        "nohup",
        "rm",
        "setsid",
        "sh",
        "sha256sum",
        "sleep",
    ),
    *("tail", "tar", "touch"),
)

# Answers with the first rule whose pattern the call matches: its first answer at the first
# call, its second at the second, …; the last one for good.
_FAKE = """#!/bin/sh
name=$(basename "$0")
printf '%s\\n' "$name $*" >>"$FAKE/calls"
if [ "$name $1" = "kubectl apply" ]; then cat >"$FAKE/stdin"; fi
for rule in "$FAKE"/rules/*; do
  pattern=$(cat "$rule/pattern")
  case "$name $*" in
    $pattern)
      n=$(cat "$rule/next" 2>/dev/null || echo 1)
      if [ -e "$rule/$((n + 1))" ]; then echo $((n + 1)) >"$rule/next"; fi
      . "$rule/$n"
      exit
      ;;
  esac
done
"""


class Fakes:
    """A folder of fake programs, what they were asked, and what they answer.

    Attributes:
      place: the folder; $FAKE in answers.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        programs = place / "bin"
        programs.mkdir()
        (place / "rules").mkdir()
        (place / "calls").touch()
        for name in _REAL:
            real = shutil.which(name)
            if real is None:
                pytest.skip(f"{name} is not on this machine")
            (programs / name).symlink_to(real)
        for name in _FAKED + _FAKED_ON_NODES:
            self.program(name, _FAKE)
        self.env = {
            "PATH": str(programs),
            "FAKE": str(place),
            "HOME": str(place / "home"),
            "TMPDIR": str(place),
        }

    def program(self, name: str, text: str) -> None:
        """Puts an executable of this text on the PATH."""
        path = self.place / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def answer(self, pattern: str, *answers: str) -> None:
        """Shell commands with which calls that match the pattern are answered."""
        rules = self.place / "rules"
        rule = rules / f"{len(list(rules.iterdir())):02}"
        rule.mkdir()
        (rule / "pattern").write_text(pattern)
        for number, answer in enumerate(answers, start=1):
            (rule / str(number)).write_text(answer + "\n")

    def calls(self, having: str = "") -> list[str]:
        """The calls so far that contain a text."""
        lines = (self.place / "calls").read_text().splitlines()
        return [line for line in lines if having in line]

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Starts launch/SCRIPT."""
        # A shell that put the tests into the background made them, and what they start,
        # deaf to Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # And nohup to a closed terminal. A child does not inherit a handler.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            signal.signal(signal.SIGHUP, lambda *_: None)
        return subprocess.Popen(
            [sys.executable, "-S", str(ROOT / "launch" / script), *arguments],
            cwd=self.place,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        """Runs launch/SCRIPT; its exit code, output and messages."""
        process = self.start(script, *arguments)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            said = process.communicate()
            raise AssertionError(f"does not end: {said[0][-800:]}") from None
        return process.returncode, out, err

    def until(self, having: str, count: int) -> None:
        """Waits until there were so many calls."""
        deadline = time.monotonic() + 30
        while len(self.calls(having)) < count:
            assert time.monotonic() < deadline, self.calls()
            time.sleep(0.01)


@pytest.fixture
def fakes(tmp_path: Path):
    if not (ROOT / ".git").exists():
        pytest.skip("what goes to a machine is what git tracks, and this is no clone")
    made = Fakes(tmp_path)
    made.answer("gcloud config get-value project", "echo my-project")
    yield made
    # What a test left running on a faked worker.
    for pid in tmp_path.glob("home/*/hypert5_run/pid"):
        try:
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        except (ProcessLookupError, ValueError):
            pass
