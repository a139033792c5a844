"""A line that says where long work stands: redrawn on a terminal, else now and then."""

import sys
import time
from typing import TextIO


class ProgressLine:
    """Draws one line over and over on a terminal, and plain lines elsewhere.

    Args:
      stream: standard error by default.
      plain_every_seconds: least time between two plain lines.
      shown: False draws nothing: of several processes one speaks.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        plain_every_seconds: float = 15.0,
        shown: bool = True,
    ):
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._interval = 0.2 if self._terminal else plain_every_seconds
        self._drawn_at = time.monotonic()
        self._open = False
        self._shown = shown

    def due(self) -> bool:
        """Whether enough time has passed for another line."""
        return time.monotonic() - self._drawn_at >= self._interval

    def draw(self, text: str, done: float) -> None:
        """Shows `text`, on a terminal behind a bar that is filled to `done` (0 … 1)."""
        if not self._shown:
            return
        if self._terminal:
            filled = int(24 * min(max(done, 0.0), 1.0))
            bar = "#" * filled + "." * (24 - filled)
            # \x1b[K clears what a longer previous line left behind.
            self._stream.write(f"\r[{bar}] {text}\x1b[K")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
        self._drawn_at = time.monotonic()
        self._open = self._terminal

    def close(self) -> None:
        """Ends a redrawn line, so that what is printed next starts a new one."""
        if self._open:
            self._stream.write("\n")
            self._stream.flush()
            self._open = False


def clock(seconds: float) -> str:
    """90 -> "1:30", 3700 -> "1:01:40"."""
    minutes, seconds = divmod(int(min(seconds, 359_999_999)), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}"
