"""T5X's directories: every peculiarity of their index, and what is missing or broken."""

import gzip
import json

import ml_dtypes
import numpy as np
import pytest
from flax import serialization

from hypert5_jax.checkpoints import t5x
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.checkpoints.public_t5 import PATHS, resolve
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from tests.checkpoints.written_by_hand import (
    OURS,
    spec,
    t5x_directory,
    write_index,
    zarr,
)
from tests.t5.parity import TINY

EMBEDDING = "token_embedder/embedding"
BESIDE = f"target.{EMBEDDING.replace('/', '.')}"


def same(params, flat):
    found = trees.flatten(params)
    assert set(found) == set(flat)
    for path, x in flat.items():
        assert found[path].dtype == x.dtype, path
        np.testing.assert_array_equal(found[path], x, path)


def test_a_directory_written_by_hand_is_read_with_its_sizes(tmp_path):
    path = t5x_directory(tmp_path / "checkpoint_5")
    params, config = load_any_t5(str(path))
    same(params, OURS)
    for name in ("vocab_size", "emb_dim", "num_heads", "head_dim", "mlp_dim"):
        assert getattr(config, name) == getattr(TINY, name)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (2, 3)
    opened = t5x.open_t5x(str(path))
    assert opened.step == 5 and opened.kind == "T5X directory"


def index_of(path):
    content = (path / "checkpoint").read_bytes()
    return serialization.msgpack_restore(content)


def with_leaf(path, leaf):
    """The directory with another leaf for the embeddings in its index."""
    content = index_of(path)
    content["optimizer"]["target"]["token_embedder"]["embedding"] = leaf
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


OLD_SPEC = {
    **spec("", OURS[EMBEDDING].shape),
    "kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket"},
    "path": f"{BESIDE}/",  # before tensorstore 0.1.14
}


@pytest.mark.parametrize(
    "leaf",
    [
        OLD_SPEC,
        f"PLACEHOLDER://{BESIDE}",
        spec(f"some/absolute/folder/{BESIDE}/", OURS[EMBEDDING].shape),
    ],
)
def test_every_way_the_index_names_an_array_is_followed(tmp_path, leaf):
    path = t5x_directory(tmp_path / "c")
    with_leaf(path, leaf)
    same(t5x.load_t5(str(path)), OURS)


@pytest.mark.parametrize("root", ["_optimizer", None])
def test_trees_that_orbax_wrote_for_t5x_are_read(tmp_path, root):
    path = t5x_directory(tmp_path / "c")
    content = index_of(path)["optimizer"]
    content = {"flax_mutables": None, root: content} if root else content
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    same(t5x.load_t5(str(path)), OURS)


@pytest.mark.parametrize("dtype", ["<u2", "bfloat16"])
def test_bfloat16_is_read_also_where_old_t5x_wrote_it_as_uint16(tmp_path, dtype):
    path = t5x_directory(tmp_path / "c")
    half = OURS[EMBEDDING].astype(ml_dtypes.bfloat16)
    for file in (path / BESIDE).iterdir():
        file.unlink()
    (path / BESIDE).rmdir()
    zarr(path / BESIDE, half.view(np.uint16), dtype, rows=50, zipped=True)
    norm = "encoder/encoder_norm/scale"
    content = index_of(path)
    scale = OURS[norm].astype(ml_dtypes.bfloat16)
    inline = scale.view(np.uint16) if dtype == "<u2" else scale
    content["optimizer"]["target"]["encoder"]["encoder_norm"]["scale"] = inline
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    same(t5x.load_t5(str(path)), {**OURS, EMBEDDING: half, norm: scale})


def a_matrix(path):
    return sorted(folder for folder in path.iterdir() if folder.is_dir())[4]


def test_half_a_checkpoint_is_refused(tmp_path):
    def fresh(name):
        path = t5x_directory(tmp_path / name)
        return path, a_matrix(path)

    path, matrix = fresh("chunk missing")
    max(f for f in matrix.iterdir() if f.name != ".zarray").unlink()
    refused(path, "is not whole")
    path, matrix = fresh("chunk cut")
    chunk = matrix / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    refused(path, "is not whole")
    path, matrix = fresh("array missing")
    for file in matrix.iterdir():
        file.unlink()
    matrix.rmdir()
    refused(path, "cannot be opened")
    path, matrix = fresh("sizes lie")
    about = json.loads((matrix / ".zarray").read_text())
    about["shape"][0] += 1
    (matrix / ".zarray").write_text(json.dumps(about))
    refused(path, "no whole T5")
    path, _ = fresh("index cut")
    index = (path / "checkpoint").read_bytes()
    (path / "checkpoint").write_bytes(index[:-20])
    refused(path, "cut short")


def refused(path, said):
    with pytest.raises(UserError, match=said):
        load_any_t5(str(path))


def test_missing_and_foreign_arrays_are_gaps(tmp_path):
    flat = dict(OURS)
    del flat["decoder/layers_1/mlp/wo/kernel"]
    refused(t5x_directory(tmp_path / "less", flat), "layers_1/mlp/wo/kernel is missing")
    flat = {**OURS, "encoder/adapter/kernel": np.ones((3, 3), np.float32)}
    refused(t5x_directory(tmp_path / "more", flat), "adapter/kernel .* has no place")
    flat = {**OURS, "encoder/encoder_norm/scale": np.array([np.nan] * 24, np.float32)}
    refused(t5x_directory(tmp_path / "nan", flat), "encoder_norm/scale holds NaN")
    flat = {**OURS, "encoder/encoder_norm/scale": np.ones(24, np.int32)}
    refused(t5x_directory(tmp_path / "int", flat), "int32, which no weight is")


def test_relatives_that_are_no_t5_v1_1_are_named(tmp_path):
    scanned = {f"encoder/{path}": x for path, x in OURS.items()}
    refused(t5x_directory(tmp_path / "scanned", scanned), "scalable_t5")
    relu = {
        path.replace("wi_0", "wi"): x for path, x in OURS.items() if "wi_1" not in path
    }
    refused(t5x_directory(tmp_path / "relu", relu), "T5 v1.0")
    tied = {path: x for path, x in OURS.items() if "logits_dense" not in path}
    refused(t5x_directory(tmp_path / "tied", tied), "tied to the embeddings")
    (tmp_path / "mtf").mkdir()
    (tmp_path / "mtf/checkpoint").write_text('model_checkpoint_path: "model.ckpt-0"\n')
    refused(tmp_path / "mtf", "Mesh TensorFlow")


def test_stacked_layers_are_taken_apart(tmp_path):
    flat = {}
    for path, x in OURS.items():
        if "layers_0" not in path:
            if "layers_" not in path:
                flat[path] = x
            continue
        depth = 2 if path.startswith("encoder") else 3
        layers = [OURS[path.replace("layers_0", f"layers_{i}")] for i in range(depth)]
        flat[path.replace("layers_0", "layers")] = np.stack(layers)
    write_index(tmp_path / "c", flat)
    same(t5x.load_t5(str(tmp_path / "c")), OURS)
    (line,) = [
        line
        for line in t5x.open_t5x(str(tmp_path / "c")).lines
        if line.target == "decoder/layers_2/mlp/wo/kernel"
    ]
    assert line.source == "decoder/layers/mlp/wo/kernel" and line.outcome == "reshaped"


def test_what_is_written_is_plain_zarr_and_an_index_t5x_can_follow(tmp_path):
    """T5X deletes metadata's chunks and compressor from each specification and joins
    its relative path to the directory: both must be there."""
    source = t5x_directory(
        tmp_path / "in",
        state={
            "step": np.int32(9),
            "param_states": {
                "a": {"v": np.ones((30, 40), np.float32), "m": np.ones(1)}
            },
        },
    )
    opened = t5x.open_t5x(str(source))
    out = tmp_path / "checkpoint_9"
    t5x.write_directory(str(out), opened.arrays, opened.step, opened.optimiser)
    content = index_of(out)
    assert content["version"] == 3
    state = content["optimizer"]["state"]
    assert state["step"] == 9 and state["param_states"]["a"]["m"].shape == (1,)
    leaf = state["param_states"]["a"]["v"]
    assert {"chunks", "compressor", "shape"} <= set(leaf["metadata"])
    np.testing.assert_array_equal(read_zarr(out / leaf["kvstore"]["path"]), 1)
    target = content["optimizer"]["target"]
    for path, x in OURS.items():
        leaf = target
        for name in path.split("/"):
            leaf = leaf[name]
        if isinstance(leaf, dict):
            assert leaf["dtype"] == "float32" and leaf["driver"] == "zarr"
            assert leaf["kvstore"]["path"] == f"target.{path.replace('/', '.')}"
            leaf = read_zarr(out / leaf["kvstore"]["path"])
        np.testing.assert_array_equal(leaf, x, path)
    assert t5x.open_t5x(str(out)).step == 9


def read_zarr(folder):
    """A zarr array of one column of chunks, by its JSON and its bytes alone."""
    about = json.loads((folder / ".zarray").read_text())
    assert about["zarr_format"] == 2 and about["compressor"]["id"] == "gzip"
    rows = []
    for i in range(-(-about["shape"][0] // about["chunks"][0])):
        name = ".".join([str(i)] + ["0"] * (len(about["shape"]) - 1))
        raw = gzip.decompress((folder / name).read_bytes())
        rows.append(np.frombuffer(raw, about["dtype"]).reshape(about["chunks"]))
    return np.concatenate(rows)[: about["shape"][0]]


def test_public_names_stand_for_their_buckets(shared):
    reference = json.loads((shared / "reference/t5_checkpoints.json").read_text())
    for size, model in reference["models"].items():
        assert resolve(f"t5_1_1_lm100k_{size}") == model["t5x_lm_adapted"]
        assert resolve(f"t5_1_1_{size}") == model["t5x_v1_1"]
    assert len(PATHS) == 2 * len(reference["models"])
    assert resolve("runs/t5_1_1_small") == "runs/t5_1_1_small"
    assert all(t5x.is_t5x(name) for name in PATHS)
