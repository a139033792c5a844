"""Where checkpoints lie: local folders and buckets alike."""

import os

from etils import epath


def absolute(path: str | os.PathLike) -> epath.Path:
    """The path as Orbax and tensorstore want it: local ones absolute, others as given.

    (`epath.Path.resolve` takes a gs:// path for a local one.)
    """
    text = os.fspath(path)
    return epath.Path(text if "://" in text else os.path.abspath(text))
