"""The steps in a run's folder of checkpoints, and what their manifests say."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from hypert5_jax.checkpoints import manifest
from hypert5_jax.core import storage


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint: its step, where it is, and what its manifest says."""

    step: int
    directory: epath.Path
    metrics: Mapping[str, float]
    about: Mapping[str, Any]


def steps(directory: epath.Path) -> list[int]:
    """Steps that have a directory, whole or not, oldest first.

    Raises:
      UserError, StorageError: the folder is there but cannot be read.
    """
    try:
        # A bucket's libraries differ in what listing a missing folder raises. Of a local
        # one `exists` would say no also where the system does not answer.
        if "://" in str(directory) and not directory.exists():
            return []
        names = storage.patiently(lambda: [e.name for e in directory.iterdir()])
    except storage.MISSING:
        return []
    except Exception as error:
        raise storage.failed(f"cannot read {directory}", error) from error
    return sorted(int(name) for name in names if name.isdigit())


def saved(directory: epath.Path) -> Saved | None:
    """What the manifest of a step says, or None where there is none that is whole.

    Raises:
      UserError, StorageError: it cannot be read.
    """
    contents = manifest.read(directory)
    if contents is None:
        return None
    return Saved(contents["step"], directory, contents["metrics"], contents["about"])
