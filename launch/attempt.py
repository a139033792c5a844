"""One attempt at a run: python launch/attempt.py [--exit_code_file=FILE] COMMAND …

Runs the command, hands SIGTERM on to it, repeats its output, and says by its own exit
code what the machines' schedulers need to know:

0    the run is done
2    a mistake of the user's: starting it again would end the same way
75   another process of the run was lost, or could not be met: start it again
143  stopped by SIGTERM, everything saved: start it again
else it failed; 128 + n if signal n killed it

The front doors exit with 0 when they are done and when they were stopped; in the second
case they say so in a line that begins with "stopped". Of several processes perhaps only
one writes, so a line "done" is not asked of each.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import IO

STOPPED = 128 + signal.SIGTERM
LOST = 75


def main(argv: Sequence[str]) -> int:
    """Makes the attempt; returns its exit code."""
    file = None
    if argv and argv[0].startswith("--exit_code_file="):
        file = argv[0].removeprefix("--exit_code_file=")
        argv = argv[1:]
    if not argv:
        print(f"error: no command\n\n{__doc__}", file=sys.stderr)
        return 2
    code = attempt(argv)
    if file is not None:
        with open(f"{file}.part", "w") as part:
            part.write(f"{code}\n")
        os.replace(f"{file}.part", file)
    return code


def attempt(command: Sequence[str]) -> int:
    """Runs the command to its end; returns the exit code described above."""
    child: subprocess.Popen[bytes] | None = None
    asked = False

    def hand_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        if child is not None:
            child.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    # close_fds=False: the run inherits the lock that on_worker.sh holds, so that a run
    # which outlives this process is still seen to be running.
    try:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, close_fds=False
        )
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 127
    if asked:
        child.terminate()
    reader = _Repeater(child.stdout)
    reader.start()
    code = _ended(child)
    reader.join(timeout=10)  # a child of the child may hold the pipe open for longer
    if code == -signal.SIGABRT and reader.said_lost:
        # So JAX ends a process when process 0, where all of them meet, is gone.
        print(
            "error: process 0 of the run was killed, or its host is gone: see its log"
        )
        return LOST
    if code == 0:
        return STOPPED if reader.said_stopped else 0
    return code if code > 0 else 128 - code


def _ended(child: subprocess.Popen[bytes]) -> int:
    """Waits for the command's end; returns its code.

    In turns: a signal that arrives just before a wait without an end would be seen only
    after it, when the command it was to stop has ended by itself.
    """
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return child.wait(timeout=60)


class _Repeater(threading.Thread):
    """Repeats a stream on standard output and notes whether it said "stopped"."""

    def __init__(self, stream: IO[bytes] | None) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self.said_stopped = self.said_lost = False

    def run(self) -> None:
        assert self._stream is not None
        for line in self._stream:
            self.said_stopped |= line.startswith(b"stopped")
            self.said_lost |= b"JAX distributed service detected fatal errors" in line
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
