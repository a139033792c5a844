"""Which meshes a slice can have, and the largest batch that fits."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from hypert5_jax.core.errors import UserError

# Whether a batch fits, and of how many bytes how many it takes (None: nobody says).
Fits = tuple[bool, float | None, float | None]


def meshes(chips: int, slices: int = 1) -> Iterator[dict[str, int]]:
    """Every rule table of a slice as {"fsdp", "model"}; what they leave is data.

    Tensor parallel over more than 8 devices is left out: it splits products too small.
    """
    each = chips // slices
    for model in (1, 2, 4, 8):
        for fsdp in range(1, each + 1):
            if each % (fsdp * model) == 0:
                yield {"fsdp": fsdp, "model": model}


class Largest(NamedTuple):
    """fits: the largest batch that is known to fit; too_large: the smallest that is known
    not to, None if every one that was tried fits."""

    fits: int
    too_large: int | None


def largest_batch(
    fits: Callable[[int], Fits], start: int, unit: int, most_tries: int = 8
) -> Largest:
    """The largest multiple of `unit` that fits, found by bisection.

    Where two batches are known the next is where a straight line through their bytes
    meets the limit, if that lies between what fits and what does not.

    Args:
      fits: compiles a batch; called once for each.
      start: first batch tried, a multiple of `unit`.
      unit: what the mesh divides a batch by.
      most_tries: compilations; what lies between the two batches is then not known.

    Raises:
      UserError: not even `unit` fits.
    """
    low, high = 0, None
    known: list[tuple[int, float]] = []
    limit: float | None = None
    batch = start
    for _ in range(most_tries):
        good, used, most = fits(batch)
        limit = most or limit
        if used is not None:
            known.append((batch, used))
        if good:
            low = max(low, batch)
        else:
            high = batch if high is None else min(high, batch)
        if high is not None and high - low <= unit:
            break
        batch = _next(low, high, known, limit, unit)
    if not low:
        raise UserError(
            f"not even a batch of {high} fits; use more chips, a larger mesh axis fsdp "
            "or model, or remat"
        )
    return Largest(low, high)


def _next(
    low: int,
    high: int | None,
    known: list[tuple[int, float]],
    limit: float | None,
    unit: int,
) -> int:
    guess = 2 * low if high is None else (low + high) // 2
    if limit is not None and len(known) > 1:
        (a, x), (b, y) = known[-2:]
        if x != y:
            guess = int(a + (b - a) * (limit - x) / (y - x))
    top = high - unit if high is not None else 4 * low
    guess = min(max(guess // unit * unit, low + unit), top)
    return max(guess, unit)
