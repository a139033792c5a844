"""Arrays that lie in a file until somebody reads them, one at a time.

A conversion passes a T5 from one file to another and holds one array of it at a time.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from hypert5_jax.core.errors import UserError

# Opens a file for reading at any offset.
Opener = Callable[[], BinaryIO]
# What weights come in. ml_dtypes registers bfloat16 with NumPy.
FLOATS: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float64": np.dtype(np.float64),
}
_CHUNK = 1 << 22


@dataclasses.dataclass(frozen=True)
class Lazy:
    """An array by its shape and dtype, and a way to read it.

    Attributes:
      shape, dtype: of what `read` returns.
      read: reads it, anew at every call.
      entry: reads one entry of its leading axis, where that costs less than all.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    entry: Callable[[int], np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes it takes once read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def transposed(self) -> "Lazy":
        """The same with the axes in reverse order."""
        return Lazy(self.shape[::-1], self.dtype, lambda: self.read().T)

    def astype(self, dtype: np.dtype) -> "Lazy":
        """The same as `dtype`."""
        if dtype == self.dtype:
            return self

        def read() -> np.ndarray:
            with np.errstate(over="ignore"):  # `finite` says which array does not fit
                return self.read().astype(dtype)

        return Lazy(self.shape, dtype, read)

    def bits_as_bfloat16(self) -> "Lazy":
        """uint16 read as the bits of bfloat16."""
        wide = FLOATS["bfloat16"]
        return Lazy(self.shape, wide, lambda: self.read().view(wide))

    def layer(self, index: int) -> "Lazy":
        """One entry of the leading axis."""
        entry = self.entry or (lambda i: self.read()[i])
        return Lazy(self.shape[1:], self.dtype, partial(entry, index))


def opener(file: Path) -> Opener:
    """Opens a local file."""
    return lambda: file.open("rb")


def in_memory(array: Any) -> Lazy:
    """An array that is there already; taken from a device when it is read."""
    return Lazy(tuple(array.shape), np.dtype(array.dtype), partial(np.asarray, array))


def in_file(
    opened: Opener, offset: int, shape: tuple[int, ...], dtype: np.dtype
) -> Lazy:
    """An array whose bytes lie in a file, row-major, at `offset`."""

    def read() -> np.ndarray:
        array = np.empty(shape, dtype)
        room = array.reshape(-1).view(np.uint8).data
        with opened() as file:
            file.seek(offset)
            done = 0
            while done < len(room):
                count = file.readinto(room[done:])  # type: ignore[attr-defined]
                if not count:
                    raise UserError(
                        f"{getattr(file, 'name', 'a file')} ended while it was read"
                    )
                done += count
        return array

    def entry(index: int) -> np.ndarray:
        start = offset + index * math.prod(shape[1:]) * dtype.itemsize
        return in_file(opened, start, shape[1:], dtype).read()

    return Lazy(shape, dtype, read, entry)


def finite(name: str, array: np.ndarray) -> np.ndarray:
    """`array`, or an error that names it.

    Raises:
      UserError: it holds NaN or infinity.
    """
    flat = array.reshape(-1, order="A")
    for start in range(0, flat.size, _CHUNK):
        if not np.isfinite(flat[start : start + _CHUNK]).all():
            raise UserError(
                f"{name} holds NaN or infinity as {array.dtype}; nothing is written. "
                "Take another checkpoint, or a wider --dtype if it was narrowed"
            )
    return array


def read_all(arrays: Mapping[str, Lazy]) -> Iterator[tuple[str, np.ndarray]]:
    """(name, row-major array), one after the other; each checked to be finite.

    Raises:
      UserError: an array holds NaN or infinity.
    """
    for name, lazy in arrays.items():
        yield name, np.asarray(finite(name, lazy.read()), order="C")
