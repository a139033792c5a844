"""Whether all processes of a run see one folder, asked before anything is written there."""

import time
import uuid

from etils import epath

from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts

_PATIENCE = 10.0  # seconds a file of another host may take to appear


def require_shared(directory: str | epath.Path) -> None:
    """Makes the folder and checks that what process 0 writes there all of them see.

    Raises:
      UserError: one of them does not.
    """
    if hosts.alone():
        return
    place = absolute(directory)

    def lay() -> str:
        place.mkdir(parents=True, exist_ok=True)
        mark = place / f".seen-{uuid.uuid4().hex}"
        mark.write_text("")
        return mark.name

    mark = place / hosts.told(lay)
    deadline = time.monotonic() + _PATIENCE
    while not mark.exists():
        if time.monotonic() > deadline:
            raise UserError(
                f"{directory} is not one folder for all processes: what process 0 "
                "writes there this one does not see; name a gs:// path, or a folder of "
                "a file system that all hosts share"
            )
        time.sleep(0.5)
    hosts.barrier("shared")
    if hosts.is_writer():
        mark.unlink()
