"""Reading JSON that people wrote: what is wrong is told with file and line."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError


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


def read_json_lines(
    path: Path, *, part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number from 1, object) of a .jsonl or .jsonl.gz file.

    Args:
      path: the file.
      part: (i, n) reads only every n-th line, from the i-th (of 0) on.

    Raises:
      UserError: no such file, a damaged archive, or a line that is no JSON object.
    """
    number = 0
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if (number - 1) % part[1] == part[0] and line.strip():
                    yield number, _object(path, number, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{path} is damaged after line {number} ({error}); fetch it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number + 1}: not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}:{number}: malformed JSON ({error.msg}); mend or remove the line"
        ) from error
    if not isinstance(value, dict):
        raise UserError(
            f"{path}:{number}: expected a JSON object, got {type(value).__name__}"
        )
    return value
