"""A run's folder for one run at a time: a second one would write between its lines."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts

NAME = ".lock"
_PATIENCE = 20.0  # seconds that a life of the run which is about to end may still take


@contextlib.contextmanager
def only_run(
    directory: str | epath.Path, doing: str = "training", setting: str = "MODEL_DIR"
) -> Iterator[None]:
    """Holds the folder, which is made, for this run; called by every process of it.

    Process 0 locks a file there, and the system lets go of it for a process that is
    killed. Nothing is held in a bucket, or where the file system knows no locks.

    Args:
      directory: the folder.
      doing: what the run does there, for the message.
      setting: that names the folder.

    Raises:
      UserError: another run holds it.
    """
    with contextlib.ExitStack() as held:
        if not hosts.told(lambda: _hold(absolute(directory), held)):
            raise UserError(
                f"another process is {doing} in {directory}; wait for it, stop it, or "
                f"choose another {setting}"
            )
        yield


def _hold(place: epath.Path, held: contextlib.ExitStack) -> bool:
    """Whether nobody else has the folder now."""
    if "://" in str(place):
        return True
    try:
        place.mkdir(parents=True, exist_ok=True)
        file = Path(place / NAME).open("ab")  # noqa: SIM115 (closed by `held`)
    except OSError:  # what is wrong with the folder is said by who writes there next
        return True
    held.callback(file.close)
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.5)
        except OSError:
            return True
        else:
            return True
