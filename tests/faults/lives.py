"""Lives of a training in processes of their own, ended by SIGKILL at a chosen moment.

Every life is forked from one process that has imported everything and touched no device,
so that it costs a second, not five. What a life is doing is kept in memory that both
share: it is known also of one that was killed.
"""

import dataclasses
import faulthandler
import functools
import gc
import json
import mmap
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax import train
from hypert5_jax.checkpoints import manifest
from hypert5_jax.checkpoints.store import CheckpointStore
from hypert5_jax.config import cli, train_and_judge
from hypert5_jax.data.records import RecordReader
from hypert5_jax.evaluation.results import ResultsFolder
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.training import loop, snapshot
from tests.faults import world

# What a life does, by the functions that do it. The last one is everything before.
PHASES: dict[str, tuple[tuple[Any, str], ...]] = {
    "reading data": ((RecordReader, "read"),),
    "restoring": ((CheckpointStore, "newest_whole"), (snapshot, "restore")),
    "step": ((loop._Run, "make_step"),),
    "row of metrics": ((JsonlWriter, "write"), (JsonlWriter, "resume")),
    "held-out loss": ((train_and_judge, "held_out_loss"),),
    "saving": ((snapshot, "save"),),
    "writing in the background": ((CheckpointStore, "_finish"),),
    "sealing": ((manifest, "write"),),
    "dropping old ones": ((CheckpointStore, "_drop_old"),),
    "judging": ((train_and_judge, "judge"),),
    "writing scores": ((ResultsFolder, "write_unit"), (ResultsFolder, "write_results")),
    "starting": (),
}
NAMES = tuple(PHASES)
LONGEST_LIFE = 300.0


@dataclasses.dataclass(frozen=True)
class Moment:
    """When to kill: `delay` seconds after the `count`-th time that `phase` begins.

    A delay of None kills in the function's first line, from within. The phase "" is the
    life itself, which begins once.
    """

    phase: str
    count: int
    delay: float | None

    def __str__(self) -> str:
        if not self.phase:
            return f"{self.delay:.3f} s after its start"
        delay = "at once" if self.delay is None else f"{1000 * self.delay:.1f} ms later"
        return f"{self.phase} number {self.count}, {delay}"


@dataclasses.dataclass(frozen=True)
class Life:
    """How a life ended.

    Attributes:
      killed: by us.
      code: exit code where it ended by itself.
      phases: what it was doing when it was killed.
      entries: how often each phase began.
      seconds: how long each phase took, all of its times together.
      lasted: seconds.
      outcome: of world.outcome, where it came to its end.
    """

    killed: bool
    code: int
    phases: tuple[str, ...]
    entries: dict[str, int]
    seconds: dict[str, float]
    lasted: float
    outcome: dict[str, str] | None


def apart(function: Callable[[], None]) -> int:
    """Calls the function in a process of its own, forked; its exit code.

    The process that lives are forked from must never start a thread, as TensorStore,
    ArrayRecord and XLA do when they are first used.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:  # noqa: BLE001 (nothing of ours may run in the fork)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def live(home: Path, log: Path, moment: Moment | None) -> Life:
    """One life of the training in `home`, ended at `moment` or by itself."""
    shared = mmap.mmap(-1, 3 * 8 * len(NAMES))
    table = np.frombuffer(shared, np.float64).reshape(3, len(NAMES))
    there, here = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(there)
        _be_child(home, log, moment, table, here)
    os.close(here)
    killed = _end(pid, there, moment, began)
    _, status = os.waitpid(pid, 0)
    os.close(there)
    lasted = time.monotonic() - began
    active, entries, seconds = table.copy()
    phases = tuple(name for name, n in zip(NAMES, active) if n > 0)
    code = os.waitstatus_to_exitcode(status)
    file = home / "outcome.json"
    whole = code == 0
    return Life(
        killed=killed or code == -signal.SIGKILL,
        code=code,
        phases=phases or ("between these",),
        entries=dict(zip(NAMES, entries.astype(int).tolist())),
        seconds=dict(zip(NAMES, seconds.tolist())),
        lasted=lasted,
        outcome=json.loads(file.read_text()) if whole else None,
    )


def _end(pid: int, there: int, moment: Moment | None, began: float) -> bool:
    """Waits for the moment and kills, or for the life's own end."""
    wait = LONGEST_LIFE
    if moment is not None and not moment.phase:
        assert moment.delay is not None
        wait = moment.delay
    ready, _, _ = select.select([there], [], [], wait)
    if ready:
        if not os.read(there, 1):
            return False
        assert moment is not None and moment.delay is not None
        time.sleep(moment.delay)
    elif wait == LONGEST_LIFE:
        os.kill(pid, signal.SIGABRT)
        return False
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
        return False
    os.kill(pid, signal.SIGKILL)
    return time.monotonic() - began < LONGEST_LIFE


def _be_child(
    home: Path, log: Path, moment: Moment | None, table: np.ndarray, here: int
) -> None:
    code = 99
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        faulthandler.enable()
        gc.disable()  # a life is short, and collecting copies what the fork shares
        watch = _Watch(table, moment, here)
        watch.begin("starting")
        watch.wrap_all()
        # A quarter of a life, before anything is read or written.
        train.check_abstractly = lambda run: {}
        ended = cli.exit_code(train.main, world.arguments(home))
        if ended == 0:
            end = world.outcome(home / world.RUN)
            (home / "outcome.json").write_text(json.dumps(end))
        code = ended
    except BaseException:  # noqa: BLE001 (nothing of ours may run in a forked child)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class _Watch:
    """In a life: notes what is being done and kills at the moment."""

    def __init__(self, table: np.ndarray, moment: Moment | None, here: int):
        self._active, self._entries, self._seconds = table
        self._moment, self._here = moment, here
        self._lock = threading.Lock()

    def begin(self, phase: str) -> None:
        number = NAMES.index(phase)
        with self._lock:
            self._active[number] += 1
            self._entries[number] += 1
            if phase == "step":
                self._active[NAMES.index("starting")] = 0
            moment = self._moment
            now = moment is not None and phase == moment.phase
            now = now and self._entries[number] == moment.count
        if now and moment is not None:
            if moment.delay is None:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(self._here, b"x")

    def end(self, phase: str, since: float) -> None:
        number = NAMES.index(phase)
        with self._lock:
            self._active[number] -= 1
            self._seconds[number] += time.monotonic() - since

    def wrap_all(self) -> None:
        for phase, functions in PHASES.items():
            for owner, name in functions:
                inner = getattr(owner, name)
                if name == "held_out_loss":  # a function that makes the one we mean
                    outer = self._maker(phase, inner)
                else:
                    outer = self._wrapped(phase, inner)
                setattr(owner, name, outer)

    def _wrapped(self, phase: str, inner: Callable) -> Callable:
        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            since = time.monotonic()
            self.begin(phase)
            try:
                return inner(*args, **kwargs)
            finally:
                self.end(phase, since)

        return outer

    def _maker(self, phase: str, inner: Callable) -> Callable:
        return lambda *args, **kwargs: self._wrapped(phase, inner(*args, **kwargs))
