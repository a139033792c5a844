"""A whole T5 from one format to another."""

import dataclasses
from collections.abc import Callable

from hypert5_jax.checkpoints import coverage, huggingface, t5x
from hypert5_jax.checkpoints.any_t5 import open_any_t5
from hypert5_jax.checkpoints.lazy import FLOATS
from hypert5_jax.checkpoints.opened import OpenT5
from hypert5_jax.checkpoints.t5_arrays import require_same_sizes, t5_arrays
from hypert5_jax.checkpoints.whole_files import EarlierOutput, require_free
from hypert5_jax.config.convert_arguments import Conversion
from hypert5_jax.config.pytorch_files import read_pytorch
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import SIZES

_WRITES: dict[str, EarlierOutput] = {
    "huggingface": huggingface.WRITES,
    "t5x": t5x.WRITES,
    "t5x-file": t5x.starts_as_t5x,
}


def convert_t5(
    conversion: Conversion, say: Callable[[str], None] = print
) -> list[coverage.Line]:
    """Writes the T5 that the conversion names, and says what became of every array.

    Returns:
      the account, targets in the output's names.

    Raises:
      UserError: see `Conversion`, `open_any_t5`; or the output cannot be written.
    """
    if conversion.base:
        raise UserError(
            f"--base={conversion.base} is for a φ; a whole T5 has no other T5 below it"
        )
    require_free(conversion.output, conversion.overwrite, _WRITES[conversion.to])
    conversion.require_apart()
    opened = open_any_t5(conversion.input, read_pytorch)
    if conversion.size:
        require_same_sizes(opened.config, SIZES[conversion.size], opened.place)
    if conversion.keep_optimiser and not opened.optimiser:
        raise UserError(
            f"--keep_optimiser: {opened.place} ({opened.kind}) has no optimiser state"
        )
    if conversion.dtype != "same":
        opened = _as_dtype(opened, conversion.dtype)
    say(f"{opened.kind}: {opened.place}")
    lines = _account(opened, conversion)
    for line in coverage.text(lines):
        say(line)
    _write(opened, conversion)
    say(f"done: {conversion.output}")
    return lines


def _as_dtype(opened: OpenT5, dtype: str) -> OpenT5:
    arrays = {path: a.astype(FLOATS[dtype]) for path, a in opened.arrays.items()}
    return dataclasses.replace(opened, arrays=arrays)


def _account(opened: OpenT5, conversion: Conversion) -> list[coverage.Line]:
    """The lines of the input, with the output's names and turns."""
    theirs = conversion.to == "huggingface"
    known = {a.path: a for a in t5_arrays(opened.config)}
    lines = []
    for line in opened.lines:
        if line.outcome == coverage.UNUSED and conversion.keep_optimiser:
            if line.source.startswith(coverage.STATE):
                line = dataclasses.replace(
                    line, outcome=coverage.COPIED, target=line.source, reason=""
                )
        elif line.target and theirs:
            array = known[line.target]
            line = _renamed(line, array.torch, array.torch_transposed)
        lines.append(line)
    return lines


def _renamed(line: coverage.Line, name: str, turned: bool) -> coverage.Line:
    """`line` with the name of the output; turned twice is not turned."""
    outcome = line.outcome
    from_stack = "/layers/" in line.source
    if turned and not from_stack and outcome in (coverage.COPIED, coverage.RESHAPED):
        outcome = {
            coverage.COPIED: coverage.RESHAPED,
            coverage.RESHAPED: coverage.COPIED,
        }[outcome]
    return dataclasses.replace(line, outcome=outcome, target=name)


def _write(opened: OpenT5, conversion: Conversion) -> None:
    if conversion.to == "huggingface":
        huggingface.write_folder(
            conversion.output,
            opened.arrays,
            opened.config,
            conversion.shard_bytes,
            opened.tokenizer,
        )
        return
    optimiser = opened.optimiser if conversion.keep_optimiser else {}
    write = t5x.write_directory if conversion.to == "t5x" else t5x.write_file
    write(conversion.output, opened.arrays, opened.step, optimiser)
