"""Commands, run or, with --dry_run, only printed."""

import contextlib
import dataclasses
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from request import UsersMistake

# The exit code of a command that was given up, as that of ssh when it reaches nobody.
NO_ANSWER = 255


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
      code: its exit code; NO_ANSWER if it took too long.
      out, err: what it wrote, where that was captured.
    """

    code: int
    out: str = ""
    err: str = ""


@dataclasses.dataclass(frozen=True)
class Shell:
    """Runs commands.

    Attributes:
      dry_run: print commands on standard output, ready to be pasted; run none.
      deadline: of all commands, as time.time() counts; none if None.
    """

    dry_run: bool = False
    deadline: float | None = None

    def run(
        self,
        command: Sequence[str],
        stdin: str | None = None,
        seconds: float | None = None,
    ) -> int:
        """Runs a command whose output goes where ours goes.

        Args:
          command: and its arguments.
          stdin: what it reads.
          seconds: how long it may take.

        Returns:
          its exit code; NO_ANSWER if it took too long.
        """
        self._say(command, stdin)
        if self.dry_run:
            return 0
        done = _run(command, self._limit(seconds), input=stdin)
        if done.returncode == NO_ANSWER and done.stderr:
            _tell(done.stderr)
        return done.returncode

    def ask(
        self,
        command: Sequence[str],
        aloud: bool = False,
        seconds: float | None = None,
    ) -> Result:
        """Runs a command for its output.

        Args:
          command: and its arguments.
          aloud: whether the command and its standard error are shown, too.
          seconds: how long it may take.
        """
        if aloud or self.dry_run:
            self._say(command)
        if self.dry_run:
            return Result(0)
        done = _run(command, self._limit(seconds), capture_output=True)
        if aloud:
            _tell(done.stderr)
        return Result(done.returncode, done.stdout, done.stderr)

    def _say(self, command: Sequence[str], stdin: str | None = None) -> None:
        line = shlex.join(command)
        if stdin is not None:
            line += f" <<'END'\n{stdin.rstrip()}\nEND"
        if self.dry_run:
            print(line, flush=True)
        else:
            _tell(f"$ {line}\n")

    def _limit(self, seconds: float | None) -> float | None:
        if self.deadline is None:
            return seconds
        left = max(self.deadline - time.time(), 0.0)
        return left if seconds is None else min(left, seconds)


def _tell(text: str) -> None:
    # A terminal that is gone is no reason to leave a machine alone.
    with contextlib.suppress(OSError):
        print(text, end="", file=sys.stderr, flush=True)


def _run(
    command: Sequence[str], limit: float | None, **how: Any
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, check=False, text=True, errors="replace", timeout=limit, **how
        )
    except subprocess.TimeoutExpired:
        said = f"{command[0]} did not answer in {limit:.0f} s\n"
        return subprocess.CompletedProcess(command, NO_ANSWER, "", said)
    except FileNotFoundError as error:
        raise UsersMistake(
            f"{command[0]} is not installed, or not on the PATH"
        ) from error
