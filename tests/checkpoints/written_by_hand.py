"""T5 checkpoints of other projects, written without any converter of ours.

Zarr arrays are a JSON file and files of bytes; T5X's index is flax's msgpack; Hugging
Face's folders come from the packages safetensors and flax.
"""

import gzip
import json
from pathlib import Path

import numpy as np
from flax import serialization
from safetensors.numpy import save_file

from hypert5_jax.core import trees
from tests.t5 import hf_weights
from tests.t5.parity import TINY

WEIGHTS = hf_weights.random_hf_weights(TINY, seed=1)
OURS = hf_weights.to_ours(WEIGHTS)

HF_CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": TINY.vocab_size,
    "d_model": TINY.emb_dim,
    "d_kv": TINY.head_dim,
    "d_ff": TINY.mlp_dim,
    "num_heads": TINY.num_heads,
    "num_layers": TINY.num_encoder_layers,
    "num_decoder_layers": TINY.num_decoder_layers,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}


def zarr(folder: Path, array: np.ndarray, dtype: str, rows: int, zipped: bool) -> None:
    """A zarr (version 2) array in chunks of `rows` rows; `dtype` is zarr's name."""
    folder.mkdir(parents=True)
    about = {
        "zarr_format": 2,
        "shape": list(array.shape),
        "chunks": [rows, *array.shape[1:]],
        "dtype": dtype,
        "compressor": {"id": "gzip", "level": 1} if zipped else None,
        "fill_value": None,
        "filters": None,
        "order": "C",
    }
    (folder / ".zarray").write_text(json.dumps(about))
    for i, start in enumerate(range(0, array.shape[0], rows)):
        chunk = np.zeros((rows, *array.shape[1:]), array.dtype)
        part = array[start : start + rows]
        chunk[: len(part)] = part  # the last chunk is full as well
        name = ".".join([str(i)] + ["0"] * (array.ndim - 1))
        raw = chunk.tobytes()
        (folder / name).write_bytes(gzip.compress(raw, 1) if zipped else raw)


def spec(path: str, shape: tuple[int, ...], dtype: str = "<f4") -> dict:
    """What T5X's index says of an array beside it."""
    metadata = {
        "shape": list(shape),
        "chunks": list(shape),
        "dtype": dtype,
        "compressor": {"id": "gzip"},
    }
    return {
        "driver": "zarr",
        "kvstore": {"driver": "gfile", "path": path},
        "metadata": metadata,
    }


def t5x_directory(folder: Path, flat=OURS, state: dict | None = None) -> Path:
    """A T5X directory: matrices of more than 100 numbers beside the index."""
    index = {}
    for number, (path, array) in enumerate(sorted(flat.items())):
        name = f"target.{path.replace('/', '.')}"
        if array.ndim < 2 or array.size <= 100:
            index[path] = array
            continue
        zarr(folder / name, array, "<f4", rows=7, zipped=number % 2 == 0)
        index[path] = spec(name, array.shape)
    write_index(folder, index, state)
    return folder


def write_index(folder: Path, target: dict, state: dict | None = None) -> None:
    """T5X's msgpack file: with {path: leaf} for the target, by flax."""
    content = {
        "version": 3,
        "optimizer": {
            "target": trees.unflatten(target),
            "state": state or {"step": np.int32(5), "param_states": {}},
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))


def hf_folder(folder: Path, weights=WEIGHTS, form: str = "one", **config) -> Path:
    """A Hugging Face folder, its weights "one", "sharded", "flax" or "sharded flax"."""
    folder.mkdir(parents=True)
    about = {k: v for k, v in {**HF_CONFIG, **config}.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(about))
    weights = {name: np.ascontiguousarray(x) for name, x in weights.items()}
    if form == "one":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    elif form == "sharded":
        names = sorted(weights)
        places = {}
        for shard in range(3):
            file = f"model-0000{shard + 1}-of-00003.safetensors"
            save_file({n: weights[n] for n in names[shard::3]}, folder / file)
            places |= dict.fromkeys(names[shard::3], file)
        index = {"metadata": {}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        flat = {flax_name(name): flax_array(name, x) for name, x in weights.items()}
        parts = {"flax_model.msgpack": sorted(flat)}
        if form == "sharded flax":
            names = sorted(flat)
            parts = {"a.msgpack": names[::2], "b.msgpack": names[1::2]}
            places = {name: file for file, part in parts.items() for name in part}
            index = folder / "flax_model.msgpack.index.json"
            index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
        for file, part in parts.items():
            tree = trees.unflatten({name: flat[name] for name in part})
            (folder / file).write_bytes(serialization.msgpack_serialize(tree))
    return folder


def flax_name(name: str) -> str:
    """Hugging Face's Flax name of a parameter of its PyTorch model."""
    kind = "kernel"
    if "norm" in name:
        kind = "weight"
    if name.startswith("shared") or "relative_attention_bias" in name:
        kind = "embedding"
    return f"{name.removesuffix('.weight')}.{kind}".replace(".", "/")


def flax_array(name: str, x: np.ndarray) -> np.ndarray:
    """Flax multiplies from the left: kernels are turned round, tables are not."""
    return np.ascontiguousarray(x.T) if flax_name(name).endswith("kernel") else x
