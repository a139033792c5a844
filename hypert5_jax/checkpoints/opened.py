"""A T5 that is open for reading: its sizes known, its arrays still where they lie."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from hypert5_jax.checkpoints import coverage
from hypert5_jax.checkpoints.lazy import Lazy, in_memory
from hypert5_jax.checkpoints.t5_arrays import sizes_of, t5_arrays
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config

_STACKED = re.compile(r"^(encoder|decoder)/layers/(.*)$")


@dataclasses.dataclass(frozen=True)
class OpenT5:
    """A T5 as its file or folder has it.

    Attributes:
      kind: what was recognised, for people.
      place: where it lies.
      config: its sizes.
      arrays: {T5X's path, unstacked: array}.
      lines: what becomes of every array of the input.
      step: T5X's, 0 where there is none.
      optimiser: {path below T5X's `state`: Lazy or a plain value}, without the step.
      tokenizer: {name: contents} of the files of its tokenizer, as Hugging Face has
        them, where they lie beside it.
    """

    kind: str
    place: str
    config: T5Config
    arrays: Mapping[str, Lazy]
    lines: list[coverage.Line]
    step: int = 0
    optimiser: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


def from_t5x_names(found: Mapping[str, Lazy], kind: str, place: str) -> OpenT5:
    """A T5 out of arrays that have T5X's names, layers stacked or not.

    Raises:
      UserError: a gap, or a T5 that is none of ours, by name.
    """
    _refuse_relatives(found, place)
    found, stacked = _unstacked(found)
    config = sizes_of(found, place)
    wanted = [coverage.Wanted(a.path, a.shape, a.path) for a in t5_arrays(config)]
    arrays, lines = coverage.cover(found, wanted, lambda name: "", place)
    lines = [_as_it_lay(line, stacked) for line in lines]
    return OpenT5(kind, place, config, arrays, lines)


def _refuse_relatives(found: Mapping[str, Lazy], place: str) -> None:
    if any(path.startswith(("encoder/encoder/", "decoder/decoder/")) for path in found):
        raise UserError(
            f"{place} is a T5X checkpoint of scalable_t5 (scanned layers): it holds a "
            "table of relative positions for every layer, T5 1.1 one for a stack; the "
            "two are different models"
        )
    if "encoder/layers_0/mlp/wi/kernel" in found:
        raise UserError(
            f"{place} is a T5 v1.0 (one ReLU projection, layers_*/mlp/wi); this project "
            "runs T5 v1.1 (gated GELU, untied). Use t5_1_1_… or t5_1_1_lm100k_…"
        )
    if (
        "decoder/logits_dense/kernel" not in found
        and "token_embedder/embedding" in found
    ):
        raise UserError(
            f"{place} has no decoder/logits_dense: its output layer is tied to the "
            "embeddings as in T5 v1.0; this project runs T5 v1.1 (untied)"
        )


def _unstacked(
    found: Mapping[str, Lazy],
) -> tuple[dict[str, Lazy], dict[str, Lazy]]:
    """`found` with stacked layers taken apart, and which stack a path was taken from."""
    out: dict[str, Lazy] = {}
    stacked: dict[str, Lazy] = {}
    for path, array in found.items():
        match = _STACKED.match(path)
        if match is None or not array.shape:
            out[path] = array
            continue
        for i in range(array.shape[0]):
            name = f"{match[1]}/layers_{i}/{match[2]}"
            out[name], stacked[name] = array.layer(i), array
    return out, stacked


def _as_it_lay(line: coverage.Line, stacked: Mapping[str, Lazy]) -> coverage.Line:
    if line.source not in stacked:
        return line
    source = re.sub(r"/layers_\d+/", "/layers/", line.source)
    shape = stacked[line.source].shape
    return dataclasses.replace(
        line, outcome=coverage.RESHAPED, source=source, shape=shape
    )


def require_weights(arrays: Mapping[str, Any], place: str) -> dict[str, Lazy]:
    """The arrays among the leaves of a tree of weights.

    Raises:
      UserError: a leaf is something else; a uint16 is taken for bfloat16's bits.
    """
    out = {}
    for name, leaf in arrays.items():
        if isinstance(leaf, np.generic | np.ndarray):
            leaf = in_memory(leaf)
        if not isinstance(leaf, Lazy):
            raise UserError(f"{place}: {name} is {leaf!r:.60}, expected an array")
        out[name] = leaf.bits_as_bfloat16() if leaf.dtype == np.uint16 else leaf
    return out
