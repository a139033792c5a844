"""Any T5 that can be read, recognised by what lies there, as T5X names it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import tensorstore as ts

from hypert5_jax.checkpoints import (
    huggingface,
    remote,
    safetensors_files,
    store,
    t5_arrays,
    t5x,
)
from hypert5_jax.checkpoints.lazy import Lazy, opener, read_all
from hypert5_jax.checkpoints.near_misses import CARRIED, refuse_near_misses
from hypert5_jax.checkpoints.opened import OpenT5, from_t5x_names
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config

Tree = dict[str, Any]
_GROUP = "downstream."


def is_t5(path: str) -> bool:
    """Whether `path` is a T5 alone in another project's format, or a public name; the
    checkpoints of a run are not."""
    return t5x.is_t5x(path) or huggingface.is_huggingface(path)


def load_any_t5(path: str, config: T5Config | None = None) -> tuple[Tree, T5Config]:
    """A T5's parameters, as NumPy arrays in T5X's unstacked layout, and its sizes.

    Args:
      path: a T5X checkpoint (directory or file, local or gs://) or the name of a public
        one, a Hugging Face folder, a run that trained a T5, or a folder that
        `Model.save` wrote.
      config: the sizes it must have; its other switches are kept.

    Raises:
      UserError: nothing there, damaged, not finite, or a T5 of other sizes.
    """
    opened = open_any_t5(path)
    if config is not None:
        t5_arrays.require_same_sizes(opened.config, config, path)
    return trees.unflatten(dict(read_all(opened.arrays))), config or opened.config


def open_any_t5(
    path: str, torch_reader: huggingface.TorchReader | None = None
) -> OpenT5:
    """Opens a T5 without reading its arrays.

    Args:
      path: as for `load_any_t5`.
      torch_reader: for pytorch_model.bin.

    Raises:
      UserError: nothing there that is a T5; of several kinds of near misses, which.
    """
    if t5x.is_t5x(path):
        return t5x.open_t5x(path)
    if not path.startswith(remote.GS):
        refuse_near_misses(path)
        if huggingface.is_huggingface(path):
            return huggingface.open_huggingface(path, torch_reader)
        if (Path(path) / CARRIED).is_file():
            return _open_carried(path)
        return _open_run(path)
    try:
        return _open_run(path)
    except UserError:
        raise
    except Exception as error:
        # Whatever library reads the bucket, each with errors of its own.
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"no T5X checkpoint at {path}, and whether a run is there cannot be seen: "
            f"{reason}"
        ) from error


def _open_carried(path: str) -> OpenT5:
    file = Path(path) / CARRIED
    found, _ = safetensors_files.read_arrays(opener(file), str(file))
    opened = from_t5x_names(found, "folder of a saved model", path)
    return dataclasses.replace(opened, tokenizer=_vocabulary(Path(path)))


def _vocabulary(folder: Path) -> dict[str, bytes]:
    """The tokenizer of a run, or of a saved model, as Hugging Face has it."""
    about, model = folder / "model.json", folder / "vocabulary.model"
    if not about.is_file() or not model.is_file():
        return {}
    try:
        extra_ids = int(json.loads(about.read_text())["vocabulary"]["extra_ids"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{about} is damaged: {error!r}") from error
    return huggingface.tokenizer_of(model.read_bytes(), extra_ids)


def _open_run(path: str) -> OpenT5:
    """The T5 of a run's newest whole checkpoint (Orbax: one zarr array each, all of them
    in one key-value store)."""
    place = store.newest(path)
    base = f"{remote_url(str(place))}/params/"
    try:
        listed = ts.KvStore.open({"driver": "ocdbt", "base": base}).result().list()
        keys = [key.decode() for key in listed.result()]
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"the arrays of {place} cannot be read: {error}") from error
    names = [key.removesuffix("/.zarray") for key in keys if key.endswith("/.zarray")]
    chosen = [name for name in names if name.startswith(_GROUP)]
    if not chosen:
        groups = sorted({name.split(".")[0] for name in names})
        raise UserError(
            f"{path} holds {', '.join(groups)}, but no downstream T5: that run kept it "
            "frozen. Name the checkpoint it started from"
        )
    found: dict[str, Lazy] = {
        name.removeprefix(_GROUP).replace(".", "/"): remote.zarr(
            {"driver": "ocdbt", "base": base, "path": name}, f"{place}/{name}"
        )
        for name in chosen
    }
    opened = from_t5x_names(found, "run", str(place))
    # {run}/checkpoints/{step}
    vocabulary = {} if "://" in path else _vocabulary(Path(place).parent.parent)
    return dataclasses.replace(opened, tokenizer=vocabulary)


def remote_url(path: str) -> str:
    """A path as tensorstore's URL."""
    return path if "://" in path else f"file://{path}"
