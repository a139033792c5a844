"""SIGTERM, or the cluster's notice, as a question the loop asks at each step boundary."""

import itertools
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

import jax

_calls = itertools.count()


class Interruption:
    """While entered, SIGTERM sets a flag instead of ending the process.

    Outside the main thread, where Python allows no signal handlers, it never fires. The
    flag is set when the main thread is next in Python: a step or a compilation that is
    under way ends first.

    Where one is entered within another, as a run's within a sweep's, SIGTERM sets the flag
    of both: one that came before the inner one was entered stops what that one is about,
    and one that came too late for it stops what the outer one would do next.

    Over several processes, of which perhaps only one is told to go, they agree on the
    step to stop at. The coordination service of `jax.distributed`, which must be running,
    listens for SIGTERM itself from its start on, hands the notice on to all, and picks the
    next time that none of them has asked about yet: so every process must ask as often as
    the others.
    """

    def __init__(self) -> None:
        self._asked = False
        self._outer: Interruption | None = None
        self._previous: object = None
        self._installed = False

    def __enter__(self) -> Self:
        alone = jax.process_count() == 1
        if alone and threading.current_thread() is threading.main_thread():
            # Whose it is now; before ours is installed, which may be called at once.
            handler = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            self._outer = handler if isinstance(handler, Interruption) else None
            self._previous = signal.signal(signal.SIGTERM, self._ask)
            self._installed = True
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        # No lock: a second signal may come while this one is handled.
        self._asked = True
        if self._outer is not None:
            self._outer._ask(number, frame)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]

    def asked(self) -> bool:
        """Whether to save and stop now, before the next step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            # They agree on a call rather than a step: calls are counted over everything
            # a process does, training and judging, in the same order in all of them.
            return bool(multihost_utils.reached_preemption_sync_point(next(_calls)))
        return self._came()

    def _came(self) -> bool:
        return self._asked or (self._outer is not None and self._outer._came())
