"""msgpack files: flax reads what is written, what flax wrote is read, damage is told."""

import io

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from hypert5_jax.checkpoints import msgpack_files
from hypert5_jax.checkpoints.lazy import Lazy, in_memory
from hypert5_jax.core.errors import UserError

RNG = np.random.default_rng(0)
TREE = {
    "version": 3,
    "a": {
        "matrix": RNG.standard_normal((5, 7)).astype(np.float32),
        "half": RNG.standard_normal(9).astype(ml_dtypes.bfloat16),
        "nothing": np.zeros((0, 3), np.float32),
        "scalar": np.array(2.5, np.float32),
        "long": np.arange(70000, dtype=np.int64),
        "b": {"number": np.int32(7), "none": None, "truth": True, "empty": {}},
    },
    "text": "PLACEHOLDER://" + "x" * 300,
    "numbers": [1, -5, 300, 70000, 1 << 40, -70000, 0.5],
}


def read(content: bytes):
    tree = msgpack_files.read_tree(lambda: io.BytesIO(content), "the file")
    return jax.tree.map(
        lambda leaf: leaf.read() if isinstance(leaf, Lazy) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Lazy) or leaf is None,
    )


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if isinstance(y, np.ndarray):
            assert x.dtype == y.dtype and x.shape == y.shape
        np.testing.assert_array_equal(x, y)


def test_what_flax_wrote_is_read():
    same(read(serialization.msgpack_serialize(TREE)), TREE)


def test_arrays_that_flax_wrote_in_chunks_are_read(monkeypatch):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 64)
    content = serialization.msgpack_serialize(TREE)
    assert b"__msgpack_chunked_array__" in content
    same(read(content), TREE)


@pytest.mark.parametrize("chunk_bytes", [1 << 30, 40])
def test_flax_reads_what_is_written(monkeypatch, chunk_bytes):
    monkeypatch.setattr(msgpack_files, "MAX_CHUNK_BYTES", chunk_bytes)
    file = io.BytesIO()
    lazy = jax.tree.map(
        lambda leaf: in_memory(leaf) if isinstance(leaf, np.ndarray) else leaf, TREE
    )
    msgpack_files.write_tree(file, lazy)
    assert (b"__msgpack_chunked" in file.getvalue()) == (chunk_bytes == 40)
    same(serialization.msgpack_restore(file.getvalue()), TREE)


def test_a_file_cut_short_anywhere_is_refused_before_any_array_is_read():
    tree = {"version": 3, "a": {"b": np.ones((3, 5), np.float32), "c": np.int32(1)}}
    content = serialization.msgpack_serialize(tree)
    for length in range(len(content)):
        with pytest.raises(UserError, match="the file is not a whole msgpack file"):
            msgpack_files.read_tree(
                lambda n=length: io.BytesIO(content[:n]), "the file"
            )
    with pytest.raises(UserError, match="1 bytes follow"):
        read(content + b"\0")


def test_damage_is_a_users_error_or_another_tree_but_nothing_else():
    content = serialization.msgpack_serialize(
        {"version": 3, "a": {"b": np.ones((3, 5), np.float32), "c": np.int32(1)}}
    )
    told = 0
    for position in range(len(content)):
        for value in (0x00, 0x81, 0x9F, 0xC1, 0xC7, 0xDD, 0xDF, 0xFF):
            wrong = content[:position] + bytes([value]) + content[position + 1 :]
            try:
                read(wrong)
            except UserError:
                told += 1
    assert told > 200
    with pytest.raises(UserError, match="maps deep"):
        read(b"\x81\xa1a" * 5000 + b"\xc0")
