"""What becomes of every array when weights change their format.

Every array that a T5 has is copied, reshaped (its axes turned round, its layer taken out
of a stack) or made new for a stated reason; every array of the input is used or left for
a stated reason. Whatever else happens is a gap, and an error.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from hypert5_jax.checkpoints.lazy import FLOATS, Lazy
from hypert5_jax.core.errors import UserError

# Where T5X has its optimiser.
STATE = "state/"
COPIED, RESHAPED, NEW, UNUSED = "copied", "reshaped", "made new", "unused"
# What of a line stands for a layer's number.
_LAYER = re.compile(r"((?:layers_|block[./]))(\d+)")


@dataclasses.dataclass(frozen=True)
class Line:
    """What became of one array.

    Attributes:
      outcome: COPIED, RESHAPED, NEW or UNUSED.
      source: its name in the input; "" for a new one.
      target: its path in T5X's layout; "" for an unused one.
      shape, dtype: in the input; of a new one, as it was made.
      reason: why it is new or unused.
    """

    outcome: str
    source: str
    target: str
    shape: tuple[int, ...]
    dtype: str
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """An array of the T5, and the array of the input that it is.

    Attributes:
      path, shape: T5X's.
      source: name in the input.
      transposed: the input has its axes in reverse order.
    """

    path: str
    shape: tuple[int, ...]
    source: str
    transposed: bool = False


def cover(
    found: Mapping[str, Lazy],
    wanted: Sequence[Wanted],
    unused: Callable[[str], str],
    place: str,
    made: Mapping[str, tuple[Lazy, str]] | None = None,
) -> tuple[dict[str, Lazy], list[Line]]:
    """Every array of the T5 out of what was found, and the account of it.

    Args:
      found: the input's arrays, by its names.
      wanted: what the T5 consists of.
      unused: why an array that is not wanted may stay behind; "" if it may not.
      place: of the input, for messages.
      made: {path: (array, reason)} where the input has none.

    Returns:
      {path: array in T5X's orientation}, in the order of `wanted`, and a line for each
      array of either side.

    Raises:
      UserError: an array is missing, of another shape, no weight, or unaccounted for.
    """
    made = made or {}
    arrays: dict[str, Lazy] = {}
    lines: list[Line] = []
    gaps: list[str] = []
    for want in wanted:
        if want.path in made:
            array, reason = made[want.path]
            if array.shape != want.shape:
                gaps.append(f"{reason} gives {array.shape}, expected {want.shape}")
            arrays[want.path] = array
            dtype = str(array.dtype)
            lines.append(Line(NEW, "", want.path, array.shape, dtype, reason))
            continue
        if want.source not in found:
            gaps.append(f"{want.source} is missing")
            continue
        there = found[want.source]
        expected = want.shape[::-1] if want.transposed else want.shape
        if there.shape != expected:
            gaps.append(f"{want.source} is {there.shape}, expected {expected}")
        elif there.dtype not in FLOATS.values():
            gaps.append(f"{want.source} is of dtype {there.dtype}, which no weight is")
        turned = want.transposed and len(want.shape) > 1
        arrays[want.path] = there.transposed() if turned else there
        outcome = RESHAPED if turned else COPIED
        dtype = str(there.dtype)
        lines.append(Line(outcome, want.source, want.path, there.shape, dtype))
    known = {want.source for want in wanted if want.path not in made}
    for name, array in found.items():
        if name in known:
            continue
        reason = unused(name)
        if not reason:
            gaps.append(f"{name} {array.shape} has no place in a T5 v1.1")
        lines.append(Line(UNUSED, name, "", array.shape, str(array.dtype), reason))
    if gaps:
        more = f"; and {len(gaps) - 6} more" if len(gaps) > 6 else ""
        raise UserError(f"{place} is no whole T5 v1.1: {'; '.join(gaps[:6])}{more}")
    return arrays, lines


def text(lines: Iterable[Line]) -> list[str]:
    """The account for people: arrays of one kind in all layers, and the optimiser's, in
    one line each."""
    groups: dict[tuple, list[int]] = {}
    count: dict[str, int] = {}
    state: list[Line] = []
    for line in lines:
        count[line.outcome] = count.get(line.outcome, 0) + 1
        if line.source.startswith(STATE):
            state.append(line)
            continue
        number = _LAYER.search(line.target or line.source)
        names = [_LAYER.sub(r"\g<1>*", name, 1) for name in (line.source, line.target)]
        key = (line.outcome, *names, line.shape, line.dtype, line.reason)
        groups.setdefault(key, []).append(int(number[2]) if number else -1)
    out = [_one(*key, layers=layers) for key, layers in groups.items()]  # type: ignore
    if state:
        out.append(
            f"{state[0].outcome:>8}  {STATE}…  {len(state)} arrays of the optimiser"
        )
    order = (COPIED, RESHAPED, NEW, UNUSED)
    out.append(", ".join(f"{count.get(o, 0)} {o}" for o in order))
    return out


def _one(
    outcome: str,
    source: str,
    target: str,
    shape: tuple[int, ...],
    dtype: str,
    reason: str,
    layers: list[int],
) -> str:
    names = f"{source} -> {target}" if source and target else source or target
    size = f"{dtype} [{', '.join(map(str, shape))}]"
    times = f", * = {_ranges(layers)}" if layers[0] >= 0 else ""
    why = f": {reason}" if reason else ""
    return f"{outcome:>8}  {names}  {size}{times}{why}"


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2, 5"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
