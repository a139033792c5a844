"""When one process of a run ends, all of them do, soon and with a word why.

A collective operation waits for every process, and for one that is gone it waits for
ever. So each process has a thread that gives a sign of life through the coordination
service and waits for the word that ends the run:

    a process fails          it says so itself: the others end with its exit code
    a process is killed      process 0 misses its sign of life: LOST, after `lost_after`
    process 0 is killed      with it the service: JAX ends the others at once (SIGABRT)

jax's own heartbeats stand behind this, but end a process by SIGABRT with a stack trace.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from typing import Any, NoReturn

import jax

# Exit code of a process that ended because another one was lost (EX_TEMPFAIL): the same
# command, started again, goes on.
LOST = 75
_ALIVE = "hypert5/alive"
_LEFT = "hypert5/left"
_ENDED = "hypert5/ended"
_LEAVING = 5.0  # seconds process 0 waits for the others to leave
_watch: "_Watch | None" = None


def client() -> Any:
    """This process's line to the coordination service of jax.distributed."""
    from jax._src import distributed

    return distributed.global_state.client


def watch(index: int, count: int, lost_after: float) -> None:
    """Begins to watch over the processes of this run.

    Args:
      index, count: of this process, of all.
      lost_after: seconds without a sign of life after which one is taken for dead.
    """
    global _watch
    _watch = _Watch(index, count, lost_after)
    _watch.start()


def watching() -> bool:
    """Whether this process is one of several that watch over each other."""
    return _watch is not None


def finish() -> None:
    """The good end: returns when all processes are done, and parts from them."""
    global _watch
    if _watch is None:
        return
    client().wait_at_barrier("hypert5/done", 7 * 24 * 3600 * 1000)
    if _watch.index == 0:
        client().key_value_set(_ENDED, json.dumps({"done": True}))
    _watch.join()
    _watch = None
    jax.distributed.shutdown()


def leave(code: int, message: str) -> None:
    """The bad end: tells the others why and exits, unless this process is alone.

    Args:
      code: the exit code, of this process and of those that end because of it.
      message: why; printed, but by one process if several say the same.
    """
    if _watch is not None:
        _watch.leave(code, message)


def await_verdict(error: BaseException) -> None:
    """Gives the word time to come, if `error` may be but the echo of another's end.

    Ends this process if it comes; returns if not, or if the error is its own.
    """
    if _watch is not None and _is_echo(error):
        _watch.join(_watch.lost_after + 3 * _watch.interval)
        if _watch.ending.locked():
            _watch.join()


def _is_echo(error: BaseException | None) -> bool:
    """Whether a collective operation or the coordination service has failed."""
    while error is not None:
        text = str(error)
        runtime = isinstance(error, jax.errors.JaxRuntimeError)
        if "Gloo" in text or (runtime and "RESOURCE_EXHAUSTED" not in text):
            return True
        error = error.__cause__ or error.__context__
    return False


def exit_now(code: int, message: str = "") -> NoReturn:
    """Ends this process from any thread, and those that make batches for it.

    Not as sys.exit would: the main thread may wait in an operation that never ends.
    """
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


class _Watch(threading.Thread):
    """Gives signs of life, and waits for the word that ends the run."""

    def __init__(self, index: int, count: int, lost_after: float):
        super().__init__(name="watch over the other processes", daemon=True)
        self.index, self.count, self.lost_after = index, count, lost_after
        self.interval = min(lost_after / 6, 5.0)
        self._client = client()
        self._seen: dict[int, tuple[str, float]] = {}
        self.ending = threading.Lock()

    def run(self) -> None:
        sign = 0
        while True:
            sign += 1
            ended = None
            # What fails here is tried again: whether the service is gone JAX decides.
            try:
                self._client.key_value_set(
                    f"{_ALIVE}/{self.index}",
                    f"{sign} {socket.gethostname()}",
                    allow_overwrite=True,
                )
                if self.index == 0:
                    self._look()
                ended = self._client.blocking_key_value_get(
                    _ENDED, int(self.interval * 1000)
                )
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    time.sleep(self.interval)
            if ended is not None:
                word = json.loads(ended)
                lost = word.get("code") == LOST
                # Its own word is the main thread's, which is about to end the process.
                if not word.get("done") and (lost or word["process"] != self.index):
                    self._end(word["code"], self._relayed(word), self.count - lost)
                return

    def _look(self) -> None:
        """Says that a process is lost whose sign of life has not changed for too long."""
        now = time.monotonic()
        found = self._client.key_value_dir_get(_ALIVE)
        signs = {int(key.rsplit("/", 1)[1]): sign for key, sign in found}
        for index in range(1, self.count):
            sign = signs.get(index, "")
            before, since = self._seen.get(index, ("?", now))
            if sign != before:
                since = now
            self._seen[index] = (sign, since)
            if now - since > self.lost_after:
                host = sign.partition(" ")[2] or "an unknown host"
                self._tell(
                    LOST,
                    index,
                    f"error: process {index} of {self.count}, on {host}, has given no sign of "
                    f"life for {self.lost_after:g} s: it was killed, or its host is "
                    "gone. All processes end; the same command goes on from the newest "
                    "whole checkpoint",
                )

    def _tell(self, code: int, index: int, message: str) -> None:
        """The word that ends the run; the first one counts."""
        word = {"process": index, "code": code, "message": message}
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(_ENDED, json.dumps(word))

    def _relayed(self, word: dict[str, Any]) -> str:
        if word["code"] == LOST:
            return word["message"]
        return f"process {word['process']} of {self.count} ended: {word['message']}"

    def leave(self, code: int, message: str) -> None:
        """Tells the others, prints the message and exits."""
        self._tell(code, self.index, message)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            word = json.loads(self._client.blocking_key_value_get(_ENDED, 2000))
            if word.get("process") != self.index and word.get("message") == message:
                message = ""  # said by the one that was first
        self._end(code, message, self.count)

    def _end(self, code: int, message: str, left: int) -> NoReturn:
        """Prints the message and exits; process 0 once `left` processes are at that."""
        self.ending.acquire()  # never released: one thread ends the process
        if message:
            print(message, file=sys.stderr, flush=True)
        # With process 0 goes the service, and whoever is left then is aborted: it is last.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._client.key_value_set(
                f"{_LEFT}/{self.index}", "", allow_overwrite=True
            )
            deadline = time.monotonic() + _LEAVING
            while self.index == 0 and time.monotonic() < deadline:
                if len(self._client.key_value_dir_get(_LEFT)) >= left:
                    time.sleep(0.2)
                    break
                time.sleep(0.1)
        exit_now(code)
