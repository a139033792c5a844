"""A run that makes no step for too long says where every thread of it stands.

A straggler, a hung collective or a file system that does not answer looks the same from
outside: no line is printed any more. The stacks tell them apart. The watching thread
needs Python's lock for a moment; JAX's blocking calls give it up while they wait.
"""

import faulthandler
import logging
import os
import socket
import sys
import tempfile
import threading
import time
from types import TracebackType
from typing import Self

import jax
from etils import epath

from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.core.errors import StorageError, UserError

log = logging.getLogger(__name__)

# What is done for the first time is compiled first.
FIRST_TIME = 4
# The exit code of a run that was stopped here: a failure, so that launchers start again.
STALLED = 1
FOLDER = "stalled"
# With process 0 JAX ends the others, the straggler perhaps before it has said where it
# stands: so long process 0 waits for that.
_LAST_SECONDS = 30.0


class Watchdog:
    """While entered, waits for the next sign of life; without one, dumps all stacks.

    Args:
      seconds: the longest a step, an evaluation or a save may take; FIRST_TIME times
        that when it is the first of its kind. 0 watches nothing.
      stop: end the process after the dump, with code STALLED; else wait on, and dump
        again after as long.
      directory: of the run; the stacks go to `stalled/` in it as well. None: only to
        standard error.
    """

    def __init__(
        self, seconds: float, stop: bool, directory: str | epath.Path | None = None
    ):
        self._seconds, self._stop = seconds, stop
        self._directory = None if directory is None else epath.Path(directory)
        self._change = threading.Condition()
        self._step, self._doing, self._since = 0, "start", time.monotonic()
        self._known: set[str] = set()
        self._limit = seconds
        self._over = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._seconds:
            self._thread = threading.Thread(
                target=self._watch, name="watchdog", daemon=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._change:
            self._over = True
            self._change.notify()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def alive(self, step: int, doing: str) -> None:
        """A sign of life.

        Args:
          step: updates made so far.
          doing: what begins now: "step", "evaluation", "save"; for the message.
        """
        if self._thread is None:
            return
        with self._change:
            self._step, self._doing, self._since = step, doing, time.monotonic()
            first = doing not in self._known
            self._known.add(doing)
            limit = self._seconds * (FIRST_TIME if first else 1)
            if limit < self._limit:
                self._change.notify()
            self._limit = limit
        # Not before: building the state may take as long as it takes.
        if not self._thread.ident:
            self._thread.start()

    def _watch(self) -> None:
        while True:
            with self._change:
                left = self._since + self._limit - time.monotonic()
                if left > 0:
                    self._change.wait(left)
                if self._over:
                    return
                if time.monotonic() < self._since + self._limit:
                    continue
                message = self._message()
                self._since = time.monotonic()
                step = self._step
            self._dump(message, step)
            if self._stop:
                if jax.process_count() > 1 and jax.process_index() == 0:
                    time.sleep(_LAST_SECONDS)
                os._exit(STALLED)

    def _message(self) -> str:
        number = self._step + (self._doing == "step")
        then = (
            "the process ends (on_stall)"
            if self._stop
            else "it is waited for (on_stall)"
        )
        return (
            f"host {jax.process_index()} ({socket.gethostname()}, process "
            f"{os.getpid()}): {self._doing} {number} has not ended after "
            f"{self._limit:.6g} seconds; {then}. All threads:"
        )

    def _dump(self, message: str, step: int) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            stacks = file.read()
        text = f"{message}\n{stacks}"
        print(text, file=sys.stderr, flush=True)
        if self._directory is not None:
            name = f"step_{step}_host_{jax.process_index()}.txt"
            try:
                write_whole(self._directory / FOLDER / name, text)
            except (UserError, StorageError) as error:
                log.warning("%s", error)
