"""Reading JSON that people wrote: what is wrong is told with file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object.

    Raises:
      UserError: no such file, or not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{error.lineno}: malformed JSON ({error.msg}); mend or remove it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}:1: expected a JSON object, got {type(value).__name__}")
    return value


def read_lines(
    path: Path, bad: Bad = refuse, *, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text) of a UTF-8 file, gzipped if it ends in .gz.

    Args:
      path: of the file.
      bad: told of lines that are not UTF-8. A damaged archive is no bad line: how much
        of it is lost nobody knows.
      part: (i, n) reads only every n-th line, from the i-th (of 0) on.

    Raises:
      UserError: no such file, or a damaged archive.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if (number - 1) % part[1] != part[0]:
                    continue
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    bad(f"{path}:{number}: not UTF-8 ({error.reason})")
                    continue
                yield number, text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} is damaged after line {number} ({error}); fetch it again"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_json_lines(
    path: Path, bad: Bad = refuse, *, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a .jsonl or .jsonl.gz file.

    Args:
      path: of the file; empty lines are passed over.
      bad: told of lines that are no JSON object.
      part: (i, n) reads only every n-th line, from the i-th (of 0) on.

    Raises:
      UserError: no such file, or a damaged archive.
    """
    for number, line in read_lines(path, bad, part=part):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad(
                f"{path}:{number}: malformed JSON ({error.msg}); mend or remove the line"
            )
            continue
        if not isinstance(value, dict):
            kind = type(value).__name__
            bad(f"{path}:{number}: expected a JSON object, got {kind}")
            continue
        yield number, value
