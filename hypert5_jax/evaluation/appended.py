"""A file of JSON lines that grows as results come, and survives a kill at any moment."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from hypert5_jax.core import storage
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation.results import Json


class AppendedLines:
    """One process's hold on such a file: what it has, and more lines at its end.

    Lines are written to the disk before `append` returns; a last line that a kill left
    unfinished is cut off when the file is opened again.

    Args:
      path: a local file; it and its folder are made.

    Raises:
      UserError: another process has it, or a line that is not the last is no JSON
        object.
      UserError, StorageError: it cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # No buffer: what could not be written would be tried again on closing.
            self._file = self.path.open("a+b", buffering=0)
        except OSError as error:
            raise storage.unwritable(self.path, error) from error
        try:
            # The system lets go of it for a process that is killed.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise UserError(
                f"another process is writing {self.path}; wait for it, or choose "
                "another place"
            ) from error
        self.lines = list(self._read())

    def _read(self) -> Iterator[Json]:
        self._file.seek(0)
        text = self._file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            self._file.truncate(whole)
        for number, line in enumerate(text[:whole].splitlines()):
            try:
                found, why = json.loads(line), "expected an object"
            except ValueError as error:
                found, why = None, str(error)
            if not isinstance(found, dict):
                raise UserError(
                    f"{self.path}:{number + 1} is not JSON ({why}); delete the line, and "
                    "what it was about is done again"
                )
            yield found

    def append(self, lines: Sequence[Json]) -> None:
        """Writes lines at the end, all of them at once.

        Raises:
          UserError, StorageError: they cannot be written.
        """
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        try:
            rest = memoryview(text.encode())
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage.unwritable(self.path, error) from error
        self.lines += lines

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
