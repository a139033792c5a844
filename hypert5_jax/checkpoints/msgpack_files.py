"""flax's msgpack files without loading them: what is in them and where.

A tree is msgpack maps of maps; an array is the extension type 1 around
[shape, dtype's name, row-major bytes]; an array above 1 GiB is a map
{"__msgpack_chunked_array__": True, "shape": {"0": …}, "chunks": {"0": array, …}}.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import msgpack
import numpy as np

from hypert5_jax.checkpoints.lazy import FLOATS, Lazy, Opener, finite, in_file
from hypert5_jax.core.errors import UserError

Tree = Any
_NDARRAY, _SCALAR = 1, 3
_CHUNKED = "__msgpack_chunked_array__"
# What flax writes as one array; msgpack itself ends at 4 GiB.
MAX_CHUNK_BYTES = 1 << 30
_DEEPEST, _LONGEST = 64, 1 << 20


class _Damaged(Exception):
    """Not msgpack, or cut short."""


def read_tree(opener: Opener, name: str) -> Tree:
    """The tree of a msgpack file; arrays stay in it until they are read.

    Args:
      opener: opens the file.
      name: of the file, for messages.

    Returns:
      nested dicts; leaves are Lazy, numbers, strings, None, or lists of them.

    Raises:
      UserError: not a whole msgpack file.
    """
    with opener() as file:
        size = file.seek(0, 2)
        file.seek(0)
        try:
            tree = _Walk(file, size, opener).value()
            if file.tell() != size:
                raise _Damaged(f"{size - file.tell()} bytes follow its end")
        except (_Damaged, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{name} is not a whole msgpack file: {error}") from error
    return tree


class _Walk:
    """Walks over one file, from value to value, and reads no array's bytes."""

    def __init__(self, file: BinaryIO, size: int, opener: Opener):
        self.file, self.size, self.opener = file, size, opener

    def value(self, depth: int = 0) -> Any:
        if depth > _DEEPEST:
            raise _Damaged(f"more than {_DEEPEST} maps deep")
        tag = self._take(1)[0]
        if tag <= 0x7F or tag >= 0xE0:
            return tag if tag <= 0x7F else tag - 256
        if tag <= 0x8F or tag in (0xDE, 0xDF):
            return self._map(self._count(tag, 0x80, 0xDE), depth)
        if tag <= 0x9F or tag in (0xDC, 0xDD):
            return self._list(self._count(tag, 0x90, 0xDC), depth)
        if tag <= 0xBF or tag in (0xD9, 0xDA, 0xDB):
            length = tag & 0x1F if tag <= 0xBF else self._number("BHI"[tag - 0xD9])
            return self._take(length).decode(errors="replace")
        if tag in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[tag]
        if tag in (0xC4, 0xC5, 0xC6):
            return self._take(self._number("BHI"[tag - 0xC4]))
        if tag in (0xC7, 0xC8, 0xC9):
            return self._extension(self._number("BHI"[tag - 0xC7]))
        if 0xD4 <= tag <= 0xD8:
            return self._extension(1 << (tag - 0xD4))
        if 0xCA <= tag <= 0xD3:
            return self._number("fdBHIQbhiq"[tag - 0xCA])
        raise _Damaged(f"byte {tag:#x} begins nothing")

    def _take(self, length: int) -> bytes:
        if length > self.size - self.file.tell():
            raise _Damaged(
                f"cut short: {length} bytes are announced at byte {self.file.tell()} "
                f"of {self.size}"
            )
        return self.file.read(length)

    def _number(self, code: str) -> Any:
        return struct.unpack(f">{code}", self._take(struct.calcsize(code)))[0]

    def _count(self, tag: int, short: int, long: int) -> int:
        count = tag - short if tag < 0xA0 else self._number("HI"[tag - long])
        if count > _LONGEST:
            raise _Damaged(f"a list or map of {count:,} entries, which no tree has")
        return count

    def _map(self, count: int, depth: int) -> Any:
        tree: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            tree[key if isinstance(key, str) else str(key)] = self.value(depth + 1)
        return _join(tree) if _CHUNKED in tree else tree

    def _list(self, count: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(count)]

    def _extension(self, length: int) -> Any:
        kind = self._take(1)[0]
        end = self.file.tell() + length
        if end > self.size:
            raise _Damaged(f"cut short: an array ends at byte {end} of {self.size}")
        if kind not in (_NDARRAY, _SCALAR):
            return self._take(length)
        header = self.file.read(min(length, 1024))
        shape, dtype, begin, count = _array_header(header)
        begin += end - length
        if begin + count != end:
            raise _Damaged(f"an array of {count} bytes in a room of {end - begin}")
        if count != math.prod(shape) * dtype.itemsize:
            raise _Damaged(f"an array {shape} of {dtype} in {count} bytes")
        self.file.seek(end)
        array = in_file(self.opener, begin, shape, dtype)
        return array.read()[()] if kind == _SCALAR else array


def _array_header(header: bytes) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, dtype, and where in `header` the array's bytes begin and how many."""
    unpacker = msgpack.Unpacker(raw=True)
    unpacker.feed(header)
    try:
        if unpacker.read_array_header() != 3:
            raise _Damaged("an array without shape, dtype and bytes")
        shape = tuple(int(n) for n in unpacker.unpack())
        name = unpacker.unpack()
        at = unpacker.tell()
        if any(n < 0 for n in shape):
            raise _Damaged(f"an array of shape {shape}")
        name = name.decode() if isinstance(name, bytes) else str(name)
        dtype = FLOATS[name] if name in FLOATS else np.dtype(name)
    except (msgpack.UnpackException, ValueError, TypeError, AttributeError) as error:
        raise _Damaged(f"an array with a damaged header ({error})") from error
    if dtype.hasobject:
        raise _Damaged(f"an array of {dtype}")
    code = {0xC4: "B", 0xC5: "H", 0xC6: "I"}.get(header[at] if at < len(header) else 0)
    if code is None:
        raise _Damaged("an array without bytes")
    (count,) = struct.unpack_from(f">{code}", header, at + 1)
    return shape, dtype, at + 1 + struct.calcsize(code), count


def _join(tree: Mapping[str, Any]) -> Lazy:
    """The array that lies in chunks."""
    shape = tuple(int(tree["shape"][str(i)]) for i in range(len(tree["shape"])))
    chunks = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
    if not chunks or not all(isinstance(chunk, Lazy) for chunk in chunks):
        raise _Damaged("a chunked array without chunks")
    if sum(chunk.shape[0] for chunk in chunks) != math.prod(shape):
        raise _Damaged(f"an array {shape} with too few or too many chunks")

    def read() -> np.ndarray:
        array = np.empty(shape, chunks[0].dtype)
        flat, start = array.reshape(-1), 0
        for chunk in chunks:
            flat[start : start + chunk.shape[0]] = chunk.read()
            start += chunk.shape[0]
        return array

    return Lazy(shape, chunks[0].dtype, read)


def write_tree(file: BinaryIO, tree: Tree, name: str = "") -> None:
    """Writes a tree of Lazy arrays and plain values, array by array, as flax would.

    Raises:
      UserError: an array holds NaN or infinity.
    """
    if isinstance(tree, Lazy):
        _write_array(file, np.asarray(finite(name, tree.read()), order="C"))
    elif isinstance(tree, np.generic):
        _write_extension(file, _SCALAR, np.asarray(tree))
    elif isinstance(tree, Mapping):
        file.write(msgpack.Packer().pack_map_header(len(tree)))
        for key, value in tree.items():
            file.write(msgpack.packb(key))
            write_tree(file, value, f"{name}/{key}" if name else key)
    else:
        file.write(msgpack.packb(tree))


def _write_array(file: BinaryIO, array: np.ndarray) -> None:
    if array.nbytes <= MAX_CHUNK_BYTES:
        _write_extension(file, _NDARRAY, array)
        return
    step = MAX_CHUNK_BYTES // array.itemsize
    starts = range(0, array.size, step)
    pack = msgpack.Packer()
    file.write(pack.pack_map_header(3) + msgpack.packb(_CHUNKED) + msgpack.packb(True))
    shape = {str(i): size for i, size in enumerate(array.shape)}
    file.write(msgpack.packb("shape") + msgpack.packb(shape))
    file.write(msgpack.packb("chunks") + pack.pack_map_header(len(starts)))
    for i, start in enumerate(starts):
        file.write(msgpack.packb(str(i)))
        _write_extension(file, _NDARRAY, array.reshape(-1)[start : start + step])


def _write_extension(file: BinaryIO, kind: int, array: np.ndarray) -> None:
    header = (
        msgpack.Packer().pack_array_header(3)
        + msgpack.packb(array.shape)
        + msgpack.packb(array.dtype.name)
        + b"\xc6"
        + struct.pack(">I", array.nbytes)
    )
    file.write(b"\xc9" + struct.pack(">IB", len(header) + array.nbytes, kind) + header)
    file.write(array.reshape(-1).view(np.uint8).data)
