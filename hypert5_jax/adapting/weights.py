"""A group's parameters as one safetensors file: T5X's names, a layer an array.

    {"encoder/layers_0/attention/query/kernel": [d, h * c], …}

Written and read array by array, so that neither needs a second copy of a model.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open

from hypert5_jax.checkpoints.lazy import in_memory
from hypert5_jax.checkpoints.safetensors_files import write_arrays
from hypert5_jax.checkpoints.whole_files import whole_stream
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import unstack_layers

Tree = Any


def write_group(file: epath.Path, params: Tree) -> None:
    """Writes a group, whole or not at all.

    Args:
      file: local or gs://.
      params: a tree of float32 or bfloat16 arrays, layers stacked or not.

    Raises:
      UserError: the file cannot be written, or a value is not finite.
    """
    host = {path: np.asarray(leaf) for path, leaf in trees.flatten(params).items()}
    arrays = trees.flatten(unstack_layers(trees.unflatten(host)))
    with whole_stream(file) as stream:
        lazy = {name: in_memory(array) for name, array in arrays.items()}
        write_arrays(stream, lazy, {})


def read_group(file: epath.Path, shapes: Tree) -> Tree:
    """Reads a group into arrays stacked as `shapes` are.

    Args:
      file: a local file.
      shapes: the group as ShapeDtypeStructs in memory's layout.

    Returns:
      The tree of NumPy arrays, each of the dtype it has in the file.

    Raises:
      UserError: no such file, damaged, of another model, or a value is not finite.
    """
    if not file.is_file():
        raise UserError(
            f"{file} is missing: the folder is half a model; copy it again whole"
        )
    try:
        with safe_open(str(file), framework="np") as opened:
            _check_names(file, opened, shapes)
            return trees.unflatten(
                {
                    path: _read(file, opened, path, leaf.shape)
                    for path, leaf in trees.flatten(shapes).items()
                }
            )
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is not a whole safetensors file: {error}; copy it again"
        ) from error


def _names(path: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(name, shape) in the file of each part of an array in memory."""
    parts = path.split("/")
    if "layers" not in parts:
        yield path, shape
        return
    at = parts.index("layers")
    for i in range(shape[0]):
        yield "/".join([*parts[:at], f"layers_{i}", *parts[at + 1 :]]), shape[1:]


def _check_names(file: epath.Path, opened: Any, shapes: Tree) -> None:
    want: dict[str, tuple[int, ...]] = {}
    for path, leaf in trees.flatten(shapes).items():
        want |= dict(_names(path, tuple(leaf.shape)))
    names = list(opened.keys())
    have = {name: tuple(opened.get_slice(name).get_shape()) for name in names}
    for name in sorted(want.keys() | have.keys()):
        if want.get(name) != have.get(name):
            raise UserError(
                f"{file} is of another model than the model.json beside it: {name} is "
                f"{have.get(name, 'absent')} there, {want.get(name, 'absent')} here; "
                "copy the whole folder again"
            )


def _read(
    file: epath.Path, opened: Any, path: str, shape: tuple[int, ...]
) -> np.ndarray:
    names = [name for name, _ in _names(path, tuple(shape))]
    whole = None
    for i, name in enumerate(names):
        part = opened.get_tensor(name)
        if not np.isfinite(part.astype(np.float32)).all():
            raise UserError(
                f"{file}: {name} holds NaN or infinity; these parameters are of no "
                "use. Copy the file again, or save the model again"
            )
        if len(names) == 1 and "layers" not in path.split("/"):
            return part
        if whole is None:
            whole = np.empty(shape, part.dtype)
        whole[i] = part
    assert whole is not None
    return whole
