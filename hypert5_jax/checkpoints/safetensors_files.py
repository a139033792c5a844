"""safetensors files, read and written one array at a time.

    8 bytes: length of the header, little-endian
    header:  JSON {name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__"}
    arrays:  row-major, little-endian, end to end

https://github.com/huggingface/safetensors (README, "Format"). The package itself writes
only what is in memory all at once.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from hypert5_jax.checkpoints.lazy import Lazy, Opener, in_file, read_all
from hypert5_jax.core.errors import UserError

_DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# The package's own bound on the header.
_LONGEST_HEADER = 100_000_000


class _Damaged(Exception):
    """Not safetensors, or sizes that do not fit."""


def read_arrays(opener: Opener, name: str) -> tuple[dict[str, Lazy], dict[str, str]]:
    """The arrays of a file by name, each still in it, and its metadata.

    Args:
      opener: opens the file.
      name: of the file, for messages.

    Raises:
      UserError: not a safetensors file, cut short, or its header lies about sizes.
    """
    with opener() as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            header, begin = _header(file, size)
            metadata = header.pop("__metadata__", None) or {}
            arrays = {
                key: _array(opener, key, entry, begin, size)
                for key, entry in header.items()
            }
            _check_no_gap(header, size - begin)
        except (_Damaged, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"{name} is not a whole safetensors file: {error}"
            ) from error
    return arrays, metadata


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    start = file.read(8)
    if len(start) < 8:
        raise _Damaged(f"{size} bytes hold no header")
    (length,) = struct.unpack("<Q", start)
    if length > min(_LONGEST_HEADER, size - 8):
        raise _Damaged(f"a header of {length:,} bytes is announced in {size:,} bytes")
    header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise _Damaged("its header is not a table of arrays")
    return header, 8 + length


def _array(
    opener: Opener, name: str, entry: Mapping[str, Any], begin: int, size: int
) -> Lazy:
    shape = tuple(int(n) for n in entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise _Damaged(f"{name} is of dtype {entry['dtype']}")
    dtype = _DTYPES[entry["dtype"]]
    first, last = entry["data_offsets"]
    needed = dtype.itemsize
    for n in shape:  # Python's integers do not wrap round
        needed *= n
    if min(shape, default=0) < 0 or last - first != needed:
        raise _Damaged(
            f"its header gives {name} {last - first:,} bytes, but {entry['dtype']} of "
            f"shape {list(shape)} takes {needed:,}"
        )
    if first < 0 or begin + last > size:
        raise _Damaged(
            f"{name} ends at byte {begin + last:,}, the file at byte {size:,}"
        )
    return in_file(opener, begin + first, shape, dtype)


def _check_no_gap(header: Mapping[str, Any], data_bytes: int) -> None:
    at = 0
    for first, last in sorted(tuple(e["data_offsets"]) for e in header.values()):
        if first != at:
            raise _Damaged(f"its arrays overlap or leave a gap at byte {at:,}")
        at = last
    if at != data_bytes:
        raise _Damaged(f"its arrays take {at:,} bytes, the file holds {data_bytes:,}")


def write_arrays(
    file: BinaryIO, arrays: Mapping[str, Lazy], metadata: Mapping[str, str]
) -> None:
    """Writes arrays end to end, each read when it is its turn.

    Raises:
      UserError: an array holds NaN or infinity.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, lazy in arrays.items():
        header[name] = {
            "dtype": _NAMES[lazy.dtype],
            "shape": list(lazy.shape),
            "data_offsets": [at, at + lazy.nbytes],
        }
        at += lazy.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    file.writelines(
        array.reshape(-1).view(np.uint8).data for _, array in read_all(arrays)
    )
