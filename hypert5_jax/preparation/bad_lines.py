"""Lines that cannot be read: refused, or left out and counted up to a bound."""

from collections.abc import Callable, Sequence

from hypert5_jax.core.errors import UserError

# Told of a bad line, file and number first; a reader that gets one goes on after it.
Bad = Callable[[str], None]
REASON = "bad line"
_SHOWN = 3


def refuse(message: str) -> None:
    """What a reader does with a bad line where nothing was said about them.

    Raises:
      UserError: always.
    """
    raise UserError(message)


def unheard(message: str) -> None:
    """Leaves out a bad line that is told of elsewhere, where each part reads all."""


class BadLines:
    """Remembers the bad lines of one unit, up to a bound.

    Args:
      most: how many may be left out.
    """

    def __init__(self, most: int = 0):
        self._most = most
        self.messages: list[str] = []

    def __call__(self, message: str) -> None:
        """Remembers one.

        Raises:
          UserError: it is one too many.
        """
        if not self._most:
            raise UserError(
                f"{message}; or prepare with --skip_bad_lines=N to leave out up to N"
            )
        self.messages.append(message)
        check_bound(self.messages, self._most)


def check_bound(messages: Sequence[str], most: int) -> None:
    """Compares the bad lines of a whole split with the bound.

    Raises:
      UserError: there are more than `most`; the first are shown.
    """
    if len(messages) > most:
        first = "; ".join(messages[:_SHOWN])
        raise UserError(
            f"{len(messages)} bad lines or more, --skip_bad_lines={most} was given; "
            f"the first: {first}"
        )
