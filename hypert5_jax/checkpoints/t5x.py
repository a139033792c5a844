"""T5X's checkpoints of a T5: both of its layouts, read and written.

    directory:   checkpoint (msgpack index) + target.<a.b.c>/ (one zarr array each)
    single file: msgpack {"version": 3, "optimizer": {"target": tree, "state": {…}}}

`target` are the parameters, `state` is the optimiser's. In the index of a directory a
leaf is an array, a tensorstore specification with a path relative to the directory, or,
where Orbax wrote it, "PLACEHOLDER://<name of the zarr array>". Before version 3, T5X
wrote bfloat16 as uint16 (t5x/checkpoints.py). Layers are T5X's `layers_0` …;
`t5/stacking.py` stacks them.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from hypert5_jax.checkpoints import coverage, msgpack_files, remote
from hypert5_jax.checkpoints.lazy import Lazy, Opener, in_memory, read_all
from hypert5_jax.checkpoints.opened import OpenT5, from_t5x_names, require_weights
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.checkpoints.public_t5 import resolve
from hypert5_jax.checkpoints.whole_files import whole_file, whole_folder
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import unstack_layers

INDEX = "checkpoint"
VERSION = 3
# Beginnings of the names in a directory that `write_directory` wrote.
WRITES = (INDEX, "target.", "state.")
_PLACEHOLDER = "PLACEHOLDER://"
_CHUNK_BYTES = 64 << 20  # T5X's
_MESH_TF = b"model_checkpoint_path"


def is_t5x(path: str) -> bool:
    """Whether `path` looks like a T5X checkpoint: a public name, a directory with an
    index, or a file that starts as T5X's msgpack map does."""
    place = resolve(path)
    if place != path:
        return True
    if place.startswith(remote.GS):
        return _index_opener(place) is not None
    root = Path(place)
    if root.is_dir():
        return (root / INDEX).is_file()
    return root.is_file() and starts_as_t5x(root)


def starts_as_t5x(file: Path) -> bool:
    """Whether a file starts as T5X's msgpack map does."""
    with file.open("rb") as opened:
        start = opened.read(32)
    # 0x81 … 0x8f begin a msgpack map of 1 … 15 entries.
    return 0x81 <= int.from_bytes(start[:1]) <= 0x8F and (
        b"version" in start or b"optimizer" in start or b"target" in start
    )


def _index_opener(place: str) -> Opener | None:
    if place.startswith(remote.GS):
        found = remote.opener_of(f"{place.rstrip('/')}/{INDEX}")
        return found or remote.opener_of(place)
    file = Path(place) / INDEX if Path(place).is_dir() else Path(place)
    return remote.opener_of(str(file))


def open_t5x(path: str) -> OpenT5:
    """Opens a T5X checkpoint: reads its index, and no array of any size.

    Args:
      path: a directory or a single file, local or gs://, or a public name.

    Raises:
      UserError: nothing there, not a T5X checkpoint of a T5 v1.1, or a part is missing.
    """
    place = resolve(path)
    opener = _index_opener(place)
    if opener is None:
        raise UserError(
            f"no T5X checkpoint at {place}: expected a file, or a directory that holds "
            f"a file named {INDEX!r}"
        )
    with opener() as file:
        if file.read(len(_MESH_TF)) == _MESH_TF:
            raise UserError(
                f"{place} is a checkpoint of Mesh TensorFlow; take the same model in "
                "T5X's format (t5_1_1_… or t5_1_1_lm100k_…)"
            )
    content = msgpack_files.read_tree(opener, place)
    root = _root(content, place)
    leaves = _leaves(place, root["target"])
    state = _leaves(place, root.get("state") or {})
    step = _step(state.pop("step", 0), place)
    kind = "T5X directory" if _is_folder(place) else "T5X single file"
    opened = from_t5x_names(require_weights(leaves, place), kind, place)
    return dataclasses.replace(
        opened,
        step=step,
        optimiser=state,
        lines=opened.lines + list(_state_lines(state)),
    )


def _root(content: Any, place: str) -> Mapping[str, Any]:
    """The part of a T5X file that holds `target` and `state`."""
    if not isinstance(content, Mapping):
        raise UserError(
            f"{place} holds {_kind_of(content)}, not the tree of a T5X checkpoint"
        )
    below = (content.get(name) for name in ("optimizer", "_optimizer"))
    for root in (*below, content):
        if isinstance(root, Mapping) and isinstance(root.get("target"), Mapping):
            return root
    raise UserError(
        f"{place} is msgpack, but no T5X checkpoint: it has no optimizer/target"
    )


def _kind_of(value: Any) -> str:
    if not isinstance(value, Lazy):
        return f"a {type(value).__name__}"
    if len(value.shape) == 2:
        return f"a single array {value.shape}: a soft prompt of prompt-tuning, perhaps"
    return f"a single array {value.shape}"


def _is_folder(place: str) -> bool:
    return place.startswith(remote.GS) or Path(place).is_dir()


def _state_lines(state: Mapping[str, Any]) -> Iterator[coverage.Line]:
    for name, leaf in state.items():
        if isinstance(leaf, Lazy):
            yield coverage.Line(
                coverage.UNUSED,
                f"{coverage.STATE}{name}",
                "",
                leaf.shape,
                str(leaf.dtype),
                "the optimiser's state",
            )


def _flatten(tree: Mapping[str, Any], below: str = "") -> dict[str, Any]:
    """`trees.flatten` that stops at tensorstore specifications."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and "driver" not in value:
            flat |= _flatten(value, f"{below}{key}/")
        else:
            flat[f"{below}{key}"] = value
    return flat


def _step(leaf: Any, place: str) -> int:
    try:
        return int(leaf.read() if isinstance(leaf, Lazy) else leaf)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: its step is no number ({error})") from error


def _leaves(root: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """{path: leaf} of one part of an index, each zarr array opened; many at once, since
    a bucket takes a moment for each."""
    flat = _flatten(tree)
    with ThreadPoolExecutor(16) as pool:
        return dict(zip(flat, pool.map(partial(_leaf, root), flat.values())))


def _leaf(root: str, leaf: Any) -> Any:
    """An array of a checkpoint, wherever it lies; other leaves as they are."""
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        name = leaf.removeprefix(_PLACEHOLDER)
    elif isinstance(leaf, Mapping):
        if leaf.get("driver") != "zarr":
            raise UserError(
                f"{root}: its index names an array of driver {leaf.get('driver')!r}; "
                "expected 'zarr'"
            )
        # Before 0.1.14, tensorstore had the path beside the kvstore.
        store = leaf.get("kvstore")
        path = store.get("path") if isinstance(store, Mapping) else None
        name = str(path or leaf.get("path", ""))
    else:
        return leaf
    # Only ever below the checkpoint: the index may come from anywhere.
    name = name.rstrip("/").rsplit("/", 1)[-1]
    if name in ("", ".", ".."):
        raise UserError(f"{root}: its index names an array without a path")
    place = f"{root.rstrip('/')}/{name}"
    local = place if place.startswith(remote.GS) else str(absolute(place))
    return remote.zarr(remote.kvstore(local), place)


def load_t5(path: str) -> dict[str, Any]:
    """The parameters of a T5X checkpoint, in its own layout, as NumPy arrays.

    Args:
      path: a checkpoint directory or a single file, local or gs://, or a public name.

    Raises:
      UserError: nothing there, not a T5X checkpoint, or a part of it is damaged.
    """
    return trees.unflatten(dict(read_all(open_t5x(path).arrays)))


def save_t5(path: str, params: Mapping[str, Any], step: int = 0) -> None:
    """Writes a T5's parameters as a T5X single file, whole or not at all.

    Args:
      path: of the file.
      params: the "downstream" group, layers stacked or not.
      step: T5X's optimiser step.

    Raises:
      UserError: a parameter is not finite, or the file cannot be written.
    """
    flat = trees.flatten(unstack_layers(params))
    write_file(path, {name: in_memory(leaf) for name, leaf in flat.items()}, step, {})


def write_file(
    path: str, arrays: Mapping[str, Lazy], step: int, optimiser: Mapping[str, Any]
) -> None:
    """Writes a T5X single file, array by array, whole or not at all.

    Args:
      path: of the file.
      arrays: parameters by T5X's paths.
      step: T5X's.
      optimiser: leaves by their paths below `state`; none writes an empty state.

    Raises:
      UserError: a parameter is not finite, or the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        msgpack_files.write_tree(file, _content(dict(arrays), step, optimiser))


def _content(target: Mapping[str, Any], step: int, optimiser: Mapping[str, Any]) -> Any:
    state = trees.unflatten({"step": np.int32(step), **optimiser})
    state.setdefault("param_states", {})
    optimizer = {"target": trees.unflatten(target), "state": state}
    return {"version": VERSION, "optimizer": optimizer}


def write_directory(
    path: str, arrays: Mapping[str, Lazy], step: int, optimiser: Mapping[str, Any]
) -> None:
    """Writes a T5X directory: matrices as zarr, the rest in the index; arguments and
    errors as for `write_file`."""
    with whole_folder(path) as folder:
        index = {
            name: _write_leaf(folder, f"target/{name}", leaf)
            for name, leaf in arrays.items()
        }
        state = {
            name: _write_leaf(folder, f"state/{name}", leaf)
            for name, leaf in optimiser.items()
        }
        # The index comes last: without it the folder is no checkpoint.
        with (folder / INDEX).open("wb") as file:
            msgpack_files.write_tree(file, _content(index, step, state))


def _write_leaf(folder: Path, path: str, leaf: Any) -> Any:
    """Writes a matrix beside the index; what stands for the leaf in the index."""
    if not isinstance(leaf, Lazy) or len(leaf.shape) < 2:
        return leaf
    ((_, array),) = read_all({path: leaf})
    name = path.replace("/", ".")
    spec = {
        "driver": "zarr",
        "dtype": leaf.dtype.name,
        "kvstore": {"driver": "file", "path": name},
        "metadata": {
            "shape": list(leaf.shape),
            "chunks": _chunks(leaf.shape, leaf.dtype.itemsize),
            "compressor": {"id": "gzip", "level": 1},
        },
    }
    here = {**spec, "kvstore": {"driver": "file", "path": str(folder / name)}}
    opened = ts.open(here, create=True).result()
    try:
        opened.write(array).result()
    except (ValueError, RuntimeError) as error:
        raise OSError(remote.short(error)) from error
    return spec


def _chunks(shape: tuple[int, ...], itemsize: int) -> list[int]:
    """Rows of at most 64 MiB, the same number in every chunk."""
    rows = shape[0]
    row_bytes = itemsize * math.prod(shape[1:])
    parts = next(
        n
        for n in range(1, rows + 1)
        if not rows % n and (n == rows or rows // n * row_bytes <= _CHUNK_BYTES)
    )
    return [rows // parts, *shape[1:]]
