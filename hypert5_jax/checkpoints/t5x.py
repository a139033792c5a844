"""T5X's checkpoints of a T5: read both of its layouts, write the single file.

    directory:   checkpoint (msgpack index) + target.<a.b.c>/ (one zarr array each)
    single file: msgpack {"version": 3, "optimizer": {"target": tree, "state": {…}}}

Only `target`, the parameters, is read; the optimiser's state is ignored and counted as
ignored. Layers are T5X's `layers_0` …; `t5/stacking.py` stacks them.
"""

from typing import Any

import numpy as np
import tensorstore as ts
from etils import epath
from flax import serialization

from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import unstack_layers

INDEX = "checkpoint"
VERSION = 3


def is_t5x(path: str) -> bool:
    """Whether `path` looks like a T5X checkpoint: a directory with an index, or a file
    that starts as T5X's msgpack map does."""
    root = absolute(path)
    if root.is_dir():
        return (root / INDEX).is_file()
    if not root.is_file():
        return False
    with root.open("rb") as file:
        start = file.read(32)
    return b"version" in start or b"optimizer" in start


def load_t5(path: str) -> dict[str, Any]:
    """The parameters of a T5X checkpoint, in its own layout, as NumPy arrays.

    Args:
      path: a checkpoint directory or a single file; local or gs://.

    Raises:
      UserError: nothing there, not a T5X checkpoint, or a part of it is damaged.
    """
    root = absolute(path)
    file = root / INDEX if root.is_dir() else root
    if not file.is_file():
        raise UserError(
            f"no T5X checkpoint at {path}: expected a file, or a directory that holds "
            f"a file named {INDEX!r}"
        )
    try:
        content = serialization.msgpack_restore(file.read_bytes())
        target = content["optimizer"]["target"]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file} is not a whole T5X msgpack file: {error!r}") from error
    flat = {
        name: _read_array(root, leaf) if isinstance(leaf, dict) else np.asarray(leaf)
        for name, leaf in _flatten(target).items()
    }
    return trees.unflatten(flat)


def save_t5(path: str, params: dict[str, Any], step: int = 0) -> None:
    """Writes a T5's parameters as a T5X single file, whole or not at all.

    Args:
      path: of the file.
      params: the "downstream" group, layers stacked or not.
      step: T5X's optimiser step.
    """
    target = {
        name: np.asarray(leaf)
        for name, leaf in trees.flatten(unstack_layers(params)).items()
    }
    state = {"step": np.int32(step), "param_states": {}}
    content = {
        "version": VERSION,
        "optimizer": {"target": trees.unflatten(target), "state": state},
    }
    file = absolute(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".partial")
    temporary.write_bytes(serialization.msgpack_serialize(content))
    temporary.replace(file)


def _flatten(tree: dict[str, Any]) -> dict[str, Any]:
    """`trees.flatten` that stops at tensorstore specifications."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and "driver" not in value:
            flat |= {f"{key}/{path}": leaf for path, leaf in _flatten(value).items()}
        else:
            flat[key] = value
    return flat


def _read_array(root: epath.Path, spec: dict[str, Any]) -> np.ndarray:
    """One array of a directory checkpoint; its index holds a tensorstore spec with a
    path relative to the directory."""
    name = str(spec["kvstore"]["path"]).rstrip("/").rsplit("/", 1)[-1]
    spec = {"driver": spec["driver"], "kvstore": _kvstore(root / name)}
    try:
        return np.asarray(ts.open(spec, open=True, read=True).result().read().result())
    except ValueError as error:
        raise UserError(f"{root / name} cannot be read: {error}") from error


def _kvstore(path: epath.Path) -> dict[str, str]:
    text = str(path)
    if text.startswith("gs://"):
        bucket, _, inside = text.removeprefix("gs://").partition("/")
        return {"driver": "gcs", "bucket": bucket, "path": inside}
    return {"driver": "file", "path": text}
