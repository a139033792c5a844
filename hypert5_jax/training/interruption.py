"""SIGTERM as a question the loop asks at each step boundary."""

import itertools
import signal
import threading
from types import TracebackType
from typing import Self

import jax

_calls = itertools.count()


class Interruption:
    """While entered, SIGTERM sets a flag instead of ending the process.

    Outside the main thread, where Python allows no signal handlers, it never fires.
    Over several processes they agree on the step to stop at, which needs
    `jax.distributed` to be running (it listens for SIGTERM itself).
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._previous: object = None
        self._installed = False

    def __enter__(self) -> Self:
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(
                signal.SIGTERM, lambda number, frame: self._asked.set()
            )
            self._installed = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def asked(self, step: int) -> bool:
        """Whether to save and stop before making step `step`."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # They agree on a call rather than a step: calls are counted over everything
            # a process does, training and judging, in the same order in all of them.
            return bool(multihost_utils.reached_preemption_sync_point(next(_calls)))
        return self._asked.is_set()
