"""A process started for work ends when the one that started it is gone."""

import os
import threading
import time

_EVERY_SECONDS = 1.0


def follow_parent(parent: int) -> None:
    """From now on ends this process, with code 1, within about a second of its parent.

    Also of a parent that was killed and could tell nobody. Linux' own signal for that
    (PR_SET_PDEATHSIG) comes when the *thread* that started the process ends, which may be
    long before.

    Args:
      parent: number of the process that started this one, as it says itself: asked here,
        it may be gone already.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="follow parent", daemon=True).start()
