"""Storage that fails: for a moment, or until a person mends it.

A full disk or a forbidden folder stays so until somebody does something: UserError. A
file server that starts anew, a connection that is reset or too many open files may be
past when it is tried again: here a few times, and by the launchers, which start again
what ended with StorageError.
"""

import errno
import os
import re
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from hypert5_jax.core.errors import StorageError, UserError

Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")
# A file that is not there; epath makes the first of what a bucket's libraries raise.
MISSING = (FileNotFoundError, NotADirectoryError)
# Seconds before the second, third and fourth attempt.
PAUSES = (0.1, 0.4, 1.5)
# Where TensorStore's messages, which Orbax passes on, have the system's error.
_TENSORSTORE = r"os_error_code='(\d+)'"
_TO_BE_MENDED = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
}


def patiently(
    action: Callable[Parameters, Value],
    *args: Parameters.args,
    **kwargs: Parameters.kwargs,
) -> Value:
    """What `action` returns, which is called again while the system's error may pass.

    What else it raises goes on at once: libraries for buckets try again by themselves, and
    each then has errors of its own.

    Raises:
      OSError: at once where a file is missing or a person must mend something, else that
        of the last attempt.
    """
    for pause in PAUSES:
        try:
            return action(*args, **kwargs)
        except MISSING:
            raise
        except OSError as error:
            if _is_to_be_mended(error):
                raise
        time.sleep(pause)
    return action(*args, **kwargs)


def failed(what: str, error: BaseException) -> UserError | StorageError:
    """The error to raise for what storage, or a library that uses it, has raised.

    Args:
      what: cannot be done, and where.
      error: why.
    """
    if _is_to_be_mended(error):
        return UserError(
            f"{what}: {reason(error)}; free some space (or mend what is said here) and "
            "run the same command again"
        )
    return StorageError(
        f"{what}: {reason(error)}; this may pass: run the same command again"
    )


def unwritable(place: str | os.PathLike, error: OSError) -> UserError | StorageError:
    """As `failed`, for a place that the caller named and whose folders were made first.

    One that is missing even so cannot be made (as in /proc), or a file is in its place.
    """
    if isinstance(error, (*MISSING, FileExistsError, IsADirectoryError)):
        return UserError(f"cannot write {place}: {reason(error)}; choose another place")
    return failed(f"cannot write {place}", error)


def reason(error: BaseException) -> str:
    """The error in a line; of TensorStore's call chain only what the system said."""
    if code := re.search(_TENSORSTORE, str(error)):
        return os.strerror(int(code[1]))
    return (str(error) or repr(error)).splitlines()[0][:300]


def _is_to_be_mended(error: BaseException) -> bool:
    if code := re.search(_TENSORSTORE, str(error)):
        return int(code[1]) in _TO_BE_MENDED
    return isinstance(error, OSError) and error.errno in _TO_BE_MENDED
