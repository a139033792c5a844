"""A progress line: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time


class Progress:
    """Counts finished units and examples on stderr, with the time that is left."""

    def __init__(self, name: str, units: int, done: int = 0):
        self._name, self._units, self._done = name, units, done
        self._first = done
        self._examples = 0
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def add(self, examples: int, unit_done: bool = False) -> None:
        """Reports that so many more examples, and perhaps a unit, are done."""
        self._examples += examples
        self._done += unit_done
        now = time.monotonic()
        if now - self._shown > (0.2 if self._terminal else 10.0):
            self._shown = now
            self._show(now)

    def close(self) -> None:
        """Shows the final state."""
        self._show(time.monotonic())
        if self._terminal:
            print(file=sys.stderr)

    def _show(self, now: float) -> None:
        spent = now - self._start
        line = (
            f"{self._name}: {self._done}/{self._units} units, "
            f"{self._examples:,} examples, {self._examples / max(spent, 1e-9):,.0f}/s"
        )
        fresh = self._done - self._first
        if 0 < fresh and self._done < self._units:
            left = spent / fresh * (self._units - self._done)
            line += f", {left:,.0f} s left"
        if self._terminal:
            filled = 24 * self._done // max(self._units, 1)
            bar = "#" * filled + "." * (24 - filled)
            print(f"\r[{bar}] {line}\033[K", end="", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
