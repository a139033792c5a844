"""Rows of many callers gathered into batches of a few static shapes.

One worker thread takes what waits longest and fills its batch with rows of the same
kind, runs it, and hands every row's result to that row's own future. Cancelled and
overdue rows are dropped before a batch is made, so nothing is spent on them. The queue
is bounded: what does not fit is refused at once.
"""

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from hypert5_jax.core.errors import UserError

_logger = logging.getLogger(__name__)


class Full(Exception):
    """The queue has no room; try again after `seconds`."""

    def __init__(self, seconds: int):
        super().__init__(f"too many requests wait; try again in {seconds} s")
        self.seconds = seconds


class Closed(Exception):
    """The server is shutting down."""


class Late(Exception):
    """The row's deadline passed while it waited."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is done to the rows of one kind.

    Attributes:
      run: (padded length, padded rows, payloads, at most `rows[-1]`) -> a result or an
        exception for every payload, in order.
      lengths: what rows are padded to, ascending.
      rows: sizes of a batch, ascending.
    """

    run: Callable[[int, int, list[Any]], Sequence[Any]]
    lengths: tuple[int, ...]
    rows: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, sizes in (("lengths", self.lengths), ("rows", self.rows)):
            if not sizes or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
                raise UserError(f"{name}={sizes}: expected ascending positive numbers")


@dataclasses.dataclass
class Counts:
    """What happened so far; numbers only grow.

    Attributes:
      batches, rows, padding: per kind: batches run, rows in them, rows that filled up.
      seconds: per kind, in its batches.
      cancelled, late, refused: rows dropped before a batch, and rows never queued.
    """

    batches: dict[str, int]
    rows: dict[str, int]
    padding: dict[str, int]
    seconds: dict[str, float]
    cancelled: int = 0
    late: int = 0
    refused: int = 0


@dataclasses.dataclass
class _Row:
    kind: str
    length: int
    payload: Any
    future: Future
    arrived: float
    deadline: float


class Batcher:
    """The queue and its worker.

    Args:
      kinds: by name.
      max_queue: rows that may wait.
      max_wait_seconds: how long a row waits for others to fill its batch.
      clock: monotonic seconds.
    """

    def __init__(
        self,
        kinds: Mapping[str, Kind],
        max_queue: int,
        max_wait_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.counts = Counts(
            dict.fromkeys(kinds, 0),
            dict.fromkeys(kinds, 0),
            dict.fromkeys(kinds, 0),
            dict.fromkeys(kinds, 0.0),
        )
        self._kinds = dict(kinds)
        self._max_queue, self._max_wait = max_queue, max_wait_seconds
        self._clock = clock
        # In the order of arrival.
        self._waiting: list[_Row] = []
        self._closed = False
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Rows in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether rows are still run."""
        return self._worker.is_alive()

    def submit(
        self, kind: str, rows: Sequence[tuple[int, Any]], timeout_seconds: float
    ) -> list[Future]:
        """Queues all rows of a request, or none of them.

        Args:
          kind: their kind's name.
          rows: (length, payload) of each; no length above the kind's longest.
          timeout_seconds: from now; rows that have not begun by then fail with `Late`.

        Returns:
          a future for each; cancelling it before its batch begins drops the row.

        Raises:
          Full: they do not fit into the queue.
          Closed: after `close`.
        """
        now = self._clock()
        lengths = self._kinds[kind].lengths
        new = [
            _Row(
                kind,
                next(size for size in lengths if size >= length),
                payload,
                Future(),
                now,
                now + timeout_seconds,
            )
            for length, payload in rows
        ]
        with self._changed:
            if self._closed:
                raise Closed("the server is shutting down")
            if len(self._waiting) + len(new) > self._max_queue:
                self._drop_the_dead(now)
            if len(self._waiting) + len(new) > self._max_queue:
                self.counts.refused += len(new)
                raise Full(self._seconds_until_room())
            self._waiting += new
            self._changed.notify()
        return [row.future for row in new]

    def close(self, timeout_seconds: float | None = None) -> None:
        """Takes no more rows, runs those that wait, and ends the worker."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join(timeout_seconds)

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._run(batch)

    def _next_batch(self) -> list[_Row] | None:
        """The rows to run now, begun; None when all is done and closed."""
        with self._changed:
            while True:
                self._drop_the_dead(self._clock())
                if not self._waiting:
                    if self._closed:
                        return None
                    self._changed.wait()
                    continue
                batch = self._full_batch() or self._with_company(self._waiting[0])
                oldest = min(row.arrived for row in batch)
                full = len(batch) == self._kinds[batch[0].kind].rows[-1]
                patience = oldest + self._max_wait - self._clock()
                if not full and patience > 0 and not self._closed:
                    self._changed.wait(patience)
                    continue
                chosen = {id(row) for row in batch}
                self._waiting = [r for r in self._waiting if id(r) not in chosen]
                begun = [r for r in batch if r.future.set_running_or_notify_cancel()]
                self.counts.cancelled += len(batch) - len(begun)
                if begun:
                    return begun

    def _full_batch(self) -> list[_Row] | None:
        """The first batch that is full with rows of one length; the queue's head is
        never passed over for longer than it would wait for company."""
        head = self._waiting[0]
        if self._clock() - head.arrived >= self._max_wait:
            return None
        groups: dict[tuple[str, int], list[_Row]] = {}
        for row in self._waiting:
            group = groups.setdefault((row.kind, row.length), [])
            group.append(row)
            if len(group) == self._kinds[row.kind].rows[-1]:
                return group
        return None

    def _with_company(self, head: _Row) -> list[_Row]:
        """`head` and others of its length, then shorter ones, as many as fit."""
        room = self._kinds[head.kind].rows[-1]
        same = [row for row in self._waiting if row.kind == head.kind]
        fitting = [row for row in same if row.length <= head.length]
        # Sorting is stable: the oldest of each length first.
        return sorted(fitting, key=lambda row: -row.length)[:room]

    def _run(self, batch: list[_Row]) -> None:
        name = batch[0].kind
        kind = self._kinds[name]
        length = max(row.length for row in batch)
        size = next(rows for rows in kind.rows if rows >= len(batch))
        begun = self._clock()
        try:
            results = kind.run(length, size, [row.payload for row in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for {len(batch)} rows")
        except Exception as error:  # a defect: its callers learn of it, others go on
            _logger.exception("a batch of %d rows (%s) failed", len(batch), name)
            results = [error] * len(batch)
        self.counts.batches[name] += 1
        self.counts.rows[name] += len(batch)
        self.counts.padding[name] += size - len(batch)
        self.counts.seconds[name] += self._clock() - begun
        for row, result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                row.future.set_exception(result)
            else:
                row.future.set_result(result)

    def _drop_the_dead(self, now: float) -> None:
        """Takes cancelled and overdue rows out of the queue."""
        kept = []
        for row in self._waiting:
            if row.future.cancelled():
                row.future.set_running_or_notify_cancel()
                self.counts.cancelled += 1
            elif now >= row.deadline:
                if row.future.set_running_or_notify_cancel():
                    row.future.set_exception(Late("waited too long for its turn"))
                self.counts.late += 1
            else:
                kept.append(row)
        self._waiting = kept

    def _seconds_until_room(self) -> int:
        """About how long the rows that wait now will take, at least 1."""
        seconds = 0.0
        for name, kind in self._kinds.items():
            rows = sum(row.kind == name for row in self._waiting)
            done = self.counts.batches[name]
            if rows and done:
                batches = math.ceil(rows / kind.rows[-1])
                seconds += batches * self.counts.seconds[name] / done
        return max(1, min(60, math.ceil(seconds)))
