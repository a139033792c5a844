"""Files and folders that are there whole or not at all, also after a kill."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from etils import epath

from hypert5_jax.core import storage
from hypert5_jax.core.errors import UserError

PARTIAL = ".partial"
# What an earlier output looks like: beginnings of the names that its folder may hold, or,
# where it is a file, what tells whether a file looks like it.
EarlierOutput = Collection[str] | Callable[[Path], bool]


def write_whole(file: epath.Path, content: str | bytes) -> None:
    """Writes a file, local or gs://, and makes its folder.

    Raises:
      UserError, StorageError: it cannot be written.
    """
    with whole_stream(file) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_stream(file: epath.Path) -> Iterator[BinaryIO]:
    """A stream to write to; it becomes `file`, local or gs://, when the block ends.

    Raises:
      UserError, StorageError: it cannot be written.
    """
    temporary = file.with_name(file.name + PARTIAL)
    with _telling(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(file)


def require_writable(file: epath.Path) -> None:
    """Finds out before long work whether `file` can be written; makes its folder.

    Raises:
      UserError, StorageError: it cannot, or a folder is there.
    """
    if file.is_dir():
        raise UserError(f"cannot write {file}: it is a folder; name a file")
    temporary = file.with_name(file.name + PARTIAL)
    with _telling(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(b"")
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to; it becomes `path` when the block ends, or goes when it fails.

    Raises:
      UserError, StorageError: it cannot be written.
    """
    target = _local(path)
    temporary = target.with_name(target.name + PARTIAL)
    with _telling(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike) -> Iterator[Path]:
    """An empty folder to write to; it becomes `path` when the block ends.

    Whatever was at `path` goes in the moment the new folder is whole.

    Raises:
      UserError, StorageError: it cannot be written.
    """
    target = _local(path)
    temporary = target.with_name(target.name + PARTIAL)
    old = target.with_name(target.name + ".replaced")
    with _telling(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
            temporary.rename(target)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def require_free(path: str, overwrite: bool, known: EarlierOutput) -> None:
    """Refuses to write over anything but, when told so, an earlier output.

    Args:
      path: to be written.
      overwrite: an earlier output may go.
      known: what such an output looks like; it also says whether a folder or a file
        is to be written.

    Raises:
      UserError: something is there, or something other than an earlier output.
    """
    target = _local(path)
    if not target.exists():
        return
    if target.is_dir() == callable(known):
        here, new = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise UserError(
            f"{path} is a {here}, but a {new} is to be written; choose another --output"
        )
    if not callable(known) and not any(target.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{path} is there already; choose another, or add --overwrite")
    if callable(known):
        with _telling(target):
            fits = known(target)
        if not fits:
            raise UserError(
                f"{path} does not look like an earlier output of this format, so "
                "--overwrite does not replace it; choose another --output"
            )
    else:
        strange = sorted(
            entry.name
            for entry in target.iterdir()
            if not entry.name.startswith(tuple(known))
        )
        if strange:
            raise UserError(
                f"{path} holds what no earlier output of this format would "
                f"({', '.join(strange[:5])}), so --overwrite does not delete it; choose "
                "another --output"
            )


def _local(path: str | os.PathLike) -> Path:
    text = os.fspath(path)
    if "://" in text:
        raise UserError(
            f"{text}: outputs are written to this machine only; name a local path and "
            "copy it (gcloud storage cp -r)"
        )
    return Path(os.path.abspath(text))


@contextlib.contextmanager
def _telling(target: Path | epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage.unwritable(target, error) from error
