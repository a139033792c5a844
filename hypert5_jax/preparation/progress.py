"""How far a preparation is: units, examples and the time that is left."""

import time

from hypert5_jax.core.progress import ProgressLine, clock


class Progress:
    """Counts finished units and examples on stderr, with the time that is left."""

    def __init__(self, name: str, units: int, done: int = 0):
        self._name, self._units, self._done = name, units, done
        self._first = done
        self._examples = 0
        self._start = time.monotonic()
        self._line = ProgressLine(plain_every_seconds=10.0)

    def add(self, examples: int, unit_done: bool = False) -> None:
        """Reports that so many more examples, and perhaps a unit, are done."""
        self._examples += examples
        self._done += unit_done
        if self._line.due():
            self._show()

    def close(self) -> None:
        """Shows the final state."""
        self._show()
        self._line.close()

    def _show(self) -> None:
        spent = time.monotonic() - self._start
        text = (
            f"{self._name}: {self._done}/{self._units} units, "
            f"{self._examples:,} examples, {self._examples / max(spent, 1e-9):,.0f}/s"
        )
        fresh = self._done - self._first
        if 0 < fresh and self._done < self._units:
            text += f", {clock(spent / fresh * (self._units - self._done))} left"
        self._line.draw(text, self._done / max(self._units, 1))
