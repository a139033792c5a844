"""SIGTERM, or the cluster's notice, as a question the loop asks at each step boundary."""

import itertools
import signal
import threading
from types import TracebackType
from typing import Self

import jax


class Interruption:
    """While entered, SIGTERM sets a flag instead of ending the process.

    Outside the main thread, where Python allows no signal handlers, it never fires. The
    flag is set when the main thread is next in Python: a step or a compilation that is
    under way ends first.

    Over several processes, of which perhaps only one is told to go, they agree on the
    step to stop at. The coordination service of `jax.distributed`, which must be running,
    listens for SIGTERM itself from its start on, hands the notice on to all, and picks the
    next time that none of them has asked about yet: so every process must ask as often as
    the others.
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

    def asked(self) -> bool:
        """Whether to save and stop now, before the next step."""
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            number = next(_numbers)
            return bool(multihost_utils.reached_preemption_sync_point(number))
        return self.signalled

    @property
    def signalled(self) -> bool:
        """Whether SIGTERM came here; over several processes that is not for one to say."""
        return self._asked.is_set()


# The hosts stop at the first number that none has asked about. Would it be the step, a
# sweep's second run would ask about the same numbers again, or pass over some.
_numbers = itertools.count()
