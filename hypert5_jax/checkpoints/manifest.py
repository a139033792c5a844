"""What makes a checkpoint whole: a list of its files, written last, checked first.

    {step}/params/…  {step}/optimiser/…     written by Orbax, made visible by one rename
    {step}/manifest.json                    sizes and checksums of all of them, and what
                                            the run says about this step

A directory without a whole manifest, or with a file that differs from it, is not a
checkpoint, however it came about: a kill between two writes, a full disk, a truncation.
One that cannot be read may well be one: that is an error, never an answer.
"""

import json
import zlib
from typing import Any

from etils import epath

from hypert5_jax.core import storage

NAME = "manifest.json"
VERSION = 1
_CHUNK = 1 << 24


def write(directory: epath.Path, contents: dict[str, Any]) -> None:
    """Lists every file below `directory` and seals it, `contents` included.

    Args:
      directory: of one finished step.
      contents: JSON values kept beside the list of files.
    """
    files = {
        path: {"bytes": size, "crc32": _crc32(directory / path)}
        for path, size in _files(directory)
    }
    text = json.dumps({"version": VERSION, "files": files, **contents}, indent=1)
    # The seal is over the text itself: a manifest cut short or edited is none.
    sealed = f"{text}\n{zlib.crc32(text.encode()):08x}\n"
    unfinished = directory / f"{NAME}.unfinished"
    unfinished.write_text(sealed)
    unfinished.replace(directory / NAME)


def read(directory: epath.Path) -> dict[str, Any] | None:
    """The manifest of a step, or None where there is none that is whole.

    Raises:
      UserError, StorageError: there may be one, but it cannot be read.
    """
    try:
        text, seal, end = (_content(directory) or b"").decode().rsplit("\n", 2)
        if end or int(seal, 16) != zlib.crc32(text.encode()):
            return None
        return json.loads(text)
    except ValueError:
        return None


def is_sealed(directory: epath.Path) -> bool:
    """Whether a step has a manifest, be it whole or not.

    Raises:
      UserError, StorageError: as `read`.
    """
    return _content(directory) is not None


def damage(directory: epath.Path, checksums: bool = True) -> str | None:
    """Why `directory` is not a whole checkpoint, or None if it is.

    Args:
      directory: of one step.
      checksums: read every file and compare its checksum; else compare sizes alone.

    Raises:
      UserError, StorageError: it cannot be told, since a file cannot be read.
    """
    manifest = read(directory)
    if manifest is None:
        return "it has no whole manifest (writing it was never finished)"
    for path, expected in manifest["files"].items():
        try:
            found = storage.patiently(
                _difference, directory / path, expected, checksums
            )
        except storage.MISSING:
            found = "is missing"
        except Exception as error:
            raise storage.failed(f"cannot read {directory / path}", error) from error
        if found is not None:
            return f"its file {path} {found}"
    return None


def _content(directory: epath.Path) -> bytes | None:
    """What is in a step's manifest, or None where there is none."""
    path = directory / NAME
    try:
        return storage.patiently(path.read_bytes)
    except storage.MISSING:
        return None
    except Exception as error:
        raise storage.failed(f"cannot read {path}", error) from error


def _difference(
    file: epath.Path, expected: dict[str, int], checksums: bool
) -> str | None:
    size = file.stat().length
    if size != expected["bytes"]:
        return f"has {size} bytes instead of {expected['bytes']}"
    if checksums and _crc32(file) != expected["crc32"]:
        return "has the right size but other contents"
    return None


def _files(directory: epath.Path, below: str = "") -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for entry in sorted((directory / below).iterdir()):
        path = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir():
            found += _files(directory, path)
        elif not entry.name.startswith(NAME):
            found.append((path, entry.stat().length))
    return found


def _crc32(path: epath.Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
