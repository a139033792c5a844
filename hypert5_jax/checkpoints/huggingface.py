"""A Hugging Face T5's folder: read in any of its forms, written as safetensors.

config.json                                       sizes and switches
model.safetensors                                 PyTorch's names, or
model.safetensors.index.json + model-0000n-of-…   {"weight_map": {name: file}}
flax_model.msgpack (+ .index.json)                Flax's names
pytorch_model.bin (+ .index.json)                 read where torch may be imported
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax.checkpoints import coverage, msgpack_files, safetensors_files
from hypert5_jax.checkpoints.huggingface_config import (
    GENERATION_CONFIG,
    Switches,
    read_config,
    write_config,
)
from hypert5_jax.checkpoints.lazy import Lazy, in_memory, opener
from hypert5_jax.checkpoints.opened import OpenT5, require_weights
from hypert5_jax.checkpoints.t5_arrays import t5_arrays
from hypert5_jax.checkpoints.whole_files import whole_folder
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.stacking import unstack_layers

CONFIG = "config.json"
SAFETENSORS, FLAX, TORCH = (
    "model.safetensors",
    "flax_model.msgpack",
    "pytorch_model.bin",
)
SHARD_BYTES = 5 * 10**9
SPIECE = "spiece.model"
TOKENIZER = (
    SPIECE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Beginnings of the names in a folder that `write_folder` wrote.
WRITES = (CONFIG, "generation_config.json", "model", *TOKENIZER)

# Reads a file of PyTorch's; the room that may import torch has one.
TorchReader = Callable[[Path], Mapping[str, Lazy]]
_EMBEDDING_COPIES = re.compile(r"(encoder|decoder)[./]embed_tokens[./]\w+")
# Released T5s hold a table that no layer of theirs reads.
_DEAD_TABLE = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def is_huggingface(path: str) -> bool:
    """Whether `path` is a folder with Hugging Face's config.json."""
    return (Path(path) / CONFIG).is_file()


def _weights(folder: Path) -> str:
    """The form of the weights in a folder, the first of those that are read, or ""."""
    for name in (SAFETENSORS, FLAX, TORCH):
        if (folder / name).is_file() or _index(folder, name).is_file():
            return name
    return ""


def _index(folder: Path, name: str) -> Path:
    return folder / f"{name}.index.json"


def open_huggingface(path: str, torch_reader: TorchReader | None = None) -> OpenT5:
    """Opens a folder: reads its configuration and its headers, and no weights.

    Args:
      path: of the folder.
      torch_reader: for pytorch_model.bin; None refuses it.

    Raises:
      UserError: another architecture, a file missing or damaged, or a gap.
    """
    folder = Path(path)
    switches = read_config(_json(folder / CONFIG), path)
    config = switches.config
    form = _weights(folder)
    if not form:
        raise UserError(
            f"{path} has a config.json but no weights: expected one of {SAFETENSORS}, "
            f"{FLAX} or {TORCH}, whole or in shards with an index"
        )
    found = dict(_read_files(folder, form, torch_reader))
    by_flax = form == FLAX
    wanted = [
        coverage.Wanted(
            a.path,
            a.shape,
            a.flax if by_flax else a.torch,
            a.flax_transposed if by_flax else a.torch_transposed,
        )
        for a in t5_arrays(config)
    ]
    shared = "shared/embedding" if by_flax else "shared.weight"
    _take_copy_for_shared(found, shared)
    made = _output_layer(found, by_flax, shared, switches)
    unused = _why_unused(found, shared)
    arrays, lines = coverage.cover(found, wanted, unused, path, made)
    kind = f"Hugging Face folder ({form})"
    return OpenT5(kind, path, config, arrays, lines, tokenizer=tokenizer_files(folder))


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """{name: contents} of the files of a tokenizer that lie in a folder."""
    files = (folder / name for name in TOKENIZER)
    return {file.name: file.read_bytes() for file in files if file.is_file()}


def tokenizer_of(model: bytes, extra_ids: int) -> dict[str, bytes]:
    """The files of a T5 tokenizer out of a SentencePiece model.

    Args:
      model: contents of the model's file.
      extra_ids: sentinels that come after its pieces.
    """
    settings = {"extra_ids": extra_ids, "tokenizer_class": "T5Tokenizer"}
    text = json.dumps(settings, indent=2) + "\n"
    return {SPIECE: model, "tokenizer_config.json": text.encode()}


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error


def _read_files(
    folder: Path, form: str, torch_reader: TorchReader | None
) -> Iterator[tuple[str, Lazy]]:
    """(name, array) of the weights, from one file or from shards."""

    def arrays_of(file: Path) -> Mapping[str, Lazy]:
        if form == SAFETENSORS:
            return safetensors_files.read_arrays(opener(file), str(file))[0]
        if form == FLAX:
            tree = msgpack_files.read_tree(opener(file), str(file))
            flat = trees.flatten(tree) if isinstance(tree, Mapping) else {"": tree}
            return require_weights(flat, str(file))
        if torch_reader is None:
            raise UserError(
                f"{file} is PyTorch's; convert it first: python -m hypert5_jax.convert "
                f"--input={folder} --to=huggingface --output=…"
            )
        return torch_reader(file)

    index = _index(folder, form)
    if (folder / form).is_file() or not index.is_file():
        yield from arrays_of(folder / form).items()
        return
    content = _json(index)
    places = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(places, Mapping) or not places:
        raise UserError(f"{index} has no weight_map")
    for shard in sorted({str(file) for file in places.values()}):
        file = folder / shard
        if Path(shard).name != shard or not file.is_file():
            raise UserError(
                f"{index} names the shard {shard}, which is not there: download the "
                "folder once more"
            )
        here = arrays_of(file)
        for name in (name for name, place in places.items() if place == shard):
            if name not in here:
                raise UserError(f"{file} lacks {name}, which {index.name} puts there")
        strays = set(here) - set(places)
        if strays:
            raise UserError(f"{file} holds {min(strays)}, which no index names")
        yield from here.items()


def _take_copy_for_shared(found: dict[str, Lazy], shared: str) -> None:
    """Files of PyTorch hold the embeddings once, under one of three names."""
    copies = sorted(name for name in found if _EMBEDDING_COPIES.fullmatch(name))
    if shared not in found and copies:
        found[shared] = found.pop(copies[0])


def _output_layer(
    found: Mapping[str, Lazy], by_flax: bool, shared: str, switches: Switches
) -> dict[str, tuple[Lazy, str]]:
    """The output layer where it is tied or scaled, made so that our T5, which does
    neither, gives the same logits."""
    name = "lm_head/kernel" if by_flax else "lm_head.weight"
    if name in found:
        if not switches.scales:
            return {}
        source = found[name] if by_flax else found[name].transposed()
        reason = name
    elif switches.tied and shared in found:
        source = found[shared].transposed()
        reason = "the embeddings, to which it was tied"
    else:
        return {}
    if switches.scales:
        reason += " times d_model**-0.5, which scaled the decoder's outputs"
        source = _scaled(source, switches.config.emb_dim**-0.5)
    return {"decoder/logits_dense/kernel": (source, reason)}


def _scaled(array: Lazy, factor: float) -> Lazy:
    """`array` times a number, rounded once."""

    def read() -> np.ndarray:
        return (array.read().astype(np.float32) * np.float32(factor)).astype(
            array.dtype
        )

    return Lazy(array.shape, array.dtype, read)


def _why_unused(found: Mapping[str, Lazy], shared: str) -> Callable[[str], str]:
    def unused(name: str) -> str:
        if name.replace("/", ".") == _DEAD_TABLE:
            return "no layer reads it"
        if name in ("lm_head.weight", "lm_head/kernel"):
            return "in decoder/logits_dense/kernel, scaled"
        if not _EMBEDDING_COPIES.fullmatch(name) or shared not in found:
            return ""
        same = found[name].shape == found[shared].shape and np.array_equal(
            found[name].read(), found[shared].read()
        )
        return f"a copy of {shared}" if same else ""

    return unused


def save_huggingface(folder: str, params: Mapping[str, Any], config: T5Config) -> None:
    """Writes a T5 as a folder that transformers loads, whole or not at all.

    Args:
      folder: to be made; what is there goes.
      params: the "downstream" group, layers stacked or not.
      config: its sizes.

    Raises:
      UserError: parameters of another model or not finite, or it cannot be written.
    """
    flat = trees.flatten(unstack_layers(params))
    found = {path: in_memory(leaf) for path, leaf in flat.items()}
    wanted = [coverage.Wanted(a.path, a.shape, a.path) for a in t5_arrays(config)]
    arrays, _ = coverage.cover(found, wanted, lambda name: "", "params")
    write_folder(folder, arrays, config)


def write_folder(
    path: str,
    arrays: Mapping[str, Lazy],
    config: T5Config,
    shard_bytes: int = SHARD_BYTES,
    tokenizer: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a T5's folder, array by array, whole or not at all.

    Args:
      path: of the folder; what is there goes.
      arrays: all of a T5's by T5X's paths.
      config: its sizes.
      shard_bytes: of the largest file of weights; an array above it has one of its own.
      tokenizer: {name: contents} of files to lie beside the weights.

    Raises:
      UserError: an array is not finite, or the folder cannot be written.
    """
    theirs = {}
    for a in t5_arrays(config):
        array = arrays[a.path]
        theirs[a.torch] = array.transposed() if a.torch_transposed else array
    with whole_folder(path) as folder:
        for name, content in (tokenizer or {}).items():
            (folder / name).write_bytes(content)
        _write_weights(folder, theirs, shard_bytes)
        _write_json(folder / "generation_config.json", GENERATION_CONFIG)
        dtypes = [str(array.dtype) for array in theirs.values()]
        most = max(sorted(set(dtypes)), key=dtypes.count)
        _write_json(folder / CONFIG, write_config(config, most))


def _write_weights(folder: Path, arrays: Mapping[str, Lazy], shard_bytes: int) -> None:
    shards = _shards(arrays, shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = SAFETENSORS
        if len(shards) > 1:
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with (folder / file).open("wb") as opened:
            chosen = {name: arrays[name] for name in names}
            safetensors_files.write_arrays(opened, chosen, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        size = sum(array.nbytes for array in arrays.values())
        index = {"metadata": {"total_size": size}, "weight_map": places}
        _write_json(_index(folder, SAFETENSORS), index)


def _shards(arrays: Mapping[str, Lazy], shard_bytes: int) -> list[list[str]]:
    """Names, file by file, in order."""
    shards: list[list[str]] = [[]]
    room = shard_bytes
    for name, array in arrays.items():
        if shards[-1] and array.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(name)
        room -= array.nbytes
    return shards


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
