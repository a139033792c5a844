"""What makes a checkpoint whole: a list of its files, written last, checked first.

    {step}/params/…  {step}/optimiser/…     written by Orbax, made visible by one rename
    {step}/manifest.json                    sizes and checksums of all of them, and what
                                            the run says about this step

A directory without a readable manifest, or with a file that differs from it, is not a
checkpoint, however it came about: a kill between two writes, a full disk, a truncation.
"""

import json
import zlib
from typing import Any

from etils import epath

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
    """The manifest of a step, or None where there is none that is whole."""
    path = directory / NAME
    try:
        text, seal, end = path.read_text().rsplit("\n", 2)
        if end or int(seal, 16) != zlib.crc32(text.encode()):
            return None
        return json.loads(text)
    except (OSError, ValueError):
        return None


def damage(directory: epath.Path, checksums: bool = True) -> str | None:
    """Why `directory` is not a whole checkpoint, or None if it is.

    Args:
      directory: of one step.
      checksums: read every file and compare its checksum; else compare sizes alone.
    """
    manifest = read(directory)
    if manifest is None:
        return "it has no whole manifest (writing it was never finished)"
    for path, expected in manifest["files"].items():
        try:
            size = (directory / path).stat().length
        except OSError:
            return f"its file {path} is missing"
        if size != expected["bytes"]:
            return f"its file {path} has {size} bytes instead of {expected['bytes']}"
        if checksums and _crc32(directory / path) != expected["crc32"]:
            return f"its file {path} has the right size but other contents"
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
