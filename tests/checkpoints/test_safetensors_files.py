"""safetensors files: the package reads what is written and the reverse; lies are told."""

import io
import json
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors import flax as flax_package
from safetensors import numpy as package

from hypert5_jax.checkpoints import safetensors_files
from hypert5_jax.checkpoints.lazy import in_memory
from hypert5_jax.core.errors import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.standard_normal((5, 7)).astype(np.float32),
    "b.c": RNG.standard_normal(9).astype(ml_dtypes.bfloat16),
    "d": RNG.standard_normal((2, 3, 4)).astype(np.float16),
    "e": np.arange(6, dtype=np.int64),
    "f": np.zeros((0, 4), np.float32),
    "g": np.array(3.0, np.float32),
}


def read(content: bytes):
    return safetensors_files.read_arrays(lambda: io.BytesIO(content), "the file")


def same(a, b):
    assert set(a) == set(b)
    for name, x in a.items():
        assert x.dtype == b[name].dtype and x.shape == b[name].shape, name
        np.testing.assert_array_equal(x, b[name], name)


def test_what_the_package_wrote_is_read():
    arrays, metadata = read(package.save(ARRAYS, metadata={"format": "pt"}))
    assert metadata == {"format": "pt"}
    same({name: array.read() for name, array in arrays.items()}, ARRAYS)


def test_the_package_reads_what_is_written(tmp_path):
    file = io.BytesIO()
    lazy = {name: in_memory(x) for name, x in ARRAYS.items()}
    lazy["a"] = in_memory(np.ascontiguousarray(ARRAYS["a"].T)).transposed()
    safetensors_files.write_arrays(file, lazy, {"format": "pt"})
    (tmp_path / "x").write_bytes(file.getvalue())
    theirs = flax_package.load_file(tmp_path / "x")
    # JAX has no 64-bit integers, NumPy's half of the package no bfloat16.
    same({n: np.asarray(x) for n, x in theirs.items()} | {"e": ARRAYS["e"]}, ARRAYS)
    without = {name: array for name, array in lazy.items() if name != "b.c"}
    file = io.BytesIO()
    safetensors_files.write_arrays(file, without, {})
    same(package.load(file.getvalue()), {n: ARRAYS[n] for n in without})


def with_header(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


GOOD = {"x": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"shape": [2, 30]}, "takes 240"),
        ({"shape": [1 << 40, 1 << 40]}, "takes"),
        ({"shape": [-2, -3]}, "gives x"),
        ({"data_offsets": [0, 23]}, "gives x 23 bytes"),
        ({"data_offsets": [1, 25]}, "ends at byte"),
        ({"data_offsets": [-24, 0]}, "ends at byte"),
        ({"data_offsets": [0]}, "not a whole safetensors file"),
        ({"dtype": "F8_E4M3"}, "dtype F8_E4M3"),
        ({"dtype": "F16", "data_offsets": [0, 12]}, "the file holds 24"),
        ({"dtype": "F16", "data_offsets": [12, 24]}, "gap at byte 0"),
    ],
)
def test_a_header_that_lies_about_sizes_is_refused(entry, said):
    with pytest.raises(UserError, match=said):
        read(with_header({"x": {**GOOD["x"], **entry}}, bytes(24)))
    assert read(with_header(GOOD, bytes(24)))[0]["x"].read().shape == (2, 3)


def test_overlapping_arrays_and_broken_headers_are_refused():
    two = {**GOOD, "y": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}
    with pytest.raises(UserError, match="overlap"):
        read(with_header(two, bytes(24)))
    for content in (
        b"",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"nope",
        struct.pack("<Q", 2) + b"{}" + b"rest",
        with_header({"x": [1]}, b""),
    ):
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read(content)


def test_a_file_cut_short_anywhere_is_refused():
    content = package.save({"x": np.ones((3, 2), np.float32)})
    for length in range(len(content)):
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read(content[:length])
