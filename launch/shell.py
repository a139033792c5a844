"""Commands, run or, with --dry_run, only printed."""

import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from request import UsersMistake


@dataclasses.dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
      code: its exit code.
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
    """

    dry_run: bool = False

    def run(self, command: Sequence[str], stdin: str | None = None) -> int:
        """Runs a command whose output goes where ours goes; returns its exit code."""
        self._say(command, stdin)
        if self.dry_run:
            return 0
        return _run(command, input=stdin).returncode

    def ask(self, command: Sequence[str], aloud: bool = False) -> Result:
        """Runs a command for its output.

        Args:
          command: and its arguments.
          aloud: whether the command and its standard error are shown, too.
        """
        if aloud or self.dry_run:
            self._say(command)
        if self.dry_run:
            return Result(0)
        done = _run(command, capture_output=True)
        if aloud:
            print(done.stderr, end="", file=sys.stderr, flush=True)
        return Result(done.returncode, done.stdout, done.stderr)

    def _say(self, command: Sequence[str], stdin: str | None = None) -> None:
        line = shlex.join(command)
        if stdin is not None:
            line += f" <<'END'\n{stdin.rstrip()}\nEND"
        if self.dry_run:
            print(line, flush=True)
        else:
            print(f"$ {line}", file=sys.stderr, flush=True)


def _run(command: Sequence[str], **how: Any) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, check=False, text=True, **how)
    except FileNotFoundError as error:
        raise UsersMistake(
            f"{command[0]} is not installed, or not on the PATH"
        ) from error
