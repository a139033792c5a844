"""Metric writers: console, JSON lines, TensorBoard; all continue where a run resumes.

A writer has `resume(step)` (rows after `step` are those of a life that was lost),
`write(step, scalars)`, `flush()` (before a checkpoint, from which a later life goes on
without making these rows again) and `close()`.
"""

import contextlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from etils import epath

from hypert5_jax.core import storage

log = logging.getLogger(__name__)

# TensorBoard shows a point after so long, if no checkpoint comes before.
_SHOWN_SECONDS = 120.0


class ConsoleWriter:
    """One line per row, on standard output unless told otherwise."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream

    def resume(self, step: int) -> None:
        """Nothing to drop."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Prints `step 50  train/loss 3.21  …`."""
        row = "  ".join(f"{name} {value:.5g}" for name, value in scalars.items())
        print(f"step {step}  {row}", file=self._stream or sys.stdout, flush=True)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Nothing to close."""


class JsonlWriter:
    """One JSON object per row: {"step": 50, "train/loss": 3.21, ...}.

    Local files are appended to; on stores without appending (gs://) the file is
    written anew every `flush_every` rows and when it is flushed or closed.
    """

    def __init__(self, path: str | epath.Path, flush_every: int = 20):
        self.path = epath.Path(path)
        self._local = "://" not in str(path)
        self._flush_every = flush_every
        self._rows: list[str] = []
        self._unwritten = 0

    def resume(self, step: int) -> None:
        """Drops rows after `step`, and a last line cut short by a kill."""
        if not self.path.exists():
            return
        for line in self.path.read_text().splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and row.get("step", math.inf) <= step:
                self._rows.append(line)
        self._write_all()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a row; values that are not finite become null, which JSON has."""
        values = {
            name: float(value) if math.isfinite(value) else None
            for name, value in scalars.items()
        }
        line = json.dumps({"step": step, **values})
        if self._local:
            self._append(line)
            return
        self._rows.append(line)
        self._unwritten += 1
        if self._unwritten >= self._flush_every:
            self._write_all()

    def flush(self) -> None:
        """Writes what is not written yet."""
        if self._unwritten:
            self._write_all()

    def close(self) -> None:
        """Writes what is not written yet."""
        self.flush()

    def _append(self, line: str) -> None:
        with _telling(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a") as file:
                file.write(line + "\n")

    def _write_all(self) -> None:
        # Through a second name: a kill in between leaves the old rows.
        with _telling(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = self.path.parent / f"{self.path.name}.unfinished"
            unfinished.write_text("".join(line + "\n" for line in self._rows))
            unfinished.replace(self.path)
        self._unwritten = 0
        if self._local:
            self._rows = []


class TensorBoardWriter:
    """Event files through tensorboardX, which needs no TensorFlow.

    Not through its SummaryWriter: that hands points to a thread, which cannot be waited
    for but by closing the file.
    """

    def __init__(self, directory: str | epath.Path):
        self._directory = str(directory)
        self._resume_step = 0
        self._events: Any = None
        self._flushed = 0.0

    def resume(self, step: int) -> None:
        """Tells TensorBoard that events after `step` in older files are void."""
        self._resume_step = step

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with _telling(self._directory):
            if self._events is None:
                self._events = self._begun()
            for name, value in scalars.items():
                point = Event(wall_time=time.time(), step=step)
                point.summary.CopyFrom(scalar(name, value))
                self._events.write_event(point)
        if time.monotonic() - self._flushed > _SHOWN_SECONDS:
            self.flush()

    def _begun(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter, directory_check
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        directory_check(self._directory)
        events = EventsWriter(f"{self._directory}/events")
        void = Event(wall_time=time.time(), step=self._resume_step + 1)
        void.session_log.status = SessionLog.START
        events.write_event(void)
        return events

    def flush(self) -> None:
        """Writes what is not written yet."""
        if self._events is not None:
            with _telling(self._directory):
                self._events.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        """Flushes and closes the event file."""
        if self._events is not None:
            events, self._events = self._events, None
            with _telling(self._directory):
                events.close()


@contextlib.contextmanager
def _telling(place: str | epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage.failed(f"cannot write metrics to {place}", error) from error


def default_writers(directory: str | epath.Path, tensorboard: bool = True) -> list[Any]:
    """The writers of a front door: console, metrics.jsonl and TensorBoard.

    Args:
      directory: of the run.
      tensorboard: leave it out where tensorboardX is not installed, with a warning.
    """
    directory = epath.Path(directory)
    writers: list[Any] = [ConsoleWriter(), JsonlWriter(directory / "metrics.jsonl")]
    if tensorboard:
        try:
            import tensorboardX  # noqa: F401
        except ImportError:
            log.warning("tensorboardX is not installed: no TensorBoard event files")
        else:
            writers.append(TensorBoardWriter(directory / "tensorboard"))
    return writers
