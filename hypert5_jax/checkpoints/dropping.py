"""Which checkpoints of a run stay, and how the others go.

Nothing goes that is not known to be unwanted, and what cannot be removed for now is no
reason to end a run: it is warned of, and tried again after the next checkpoint.
"""

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence

from etils import epath

from hypert5_jax.checkpoints import manifest
from hypert5_jax.checkpoints.steps import Saved, saved, steps
from hypert5_jax.core import storage

log = logging.getLogger(__name__)


def drop_old(
    directory: epath.Path,
    newest: int,
    keep: int,
    best_metric: str | None,
    best_mode: str,
) -> None:
    """Drops what is older than `newest`, a whole step, and neither kept nor best.

    A later step can only be a broken one, passed over until it is written anew.

    Args:
      directory: of all steps.
      newest: a whole step.
      keep, best_metric, best_mode: of CheckpointConfig.
    """
    # Without those whose manifest cannot be read: whether they are wanted is not known.
    known: dict[epath.Path, Saved | None] = {}
    with _staying(directory):
        for place in (directory / str(s) for s in steps(directory) if s <= newest):
            with _staying(place):
                known[place] = saved(place)
    sealed = [found for found in known.values() if found is not None]
    kept = {newest, *(found.step for found in sealed[-keep:])}
    if best_metric is not None:
        kept |= _best(sealed, best_metric, best_mode)
    for place in (place for place in known if int(place.name) not in kept):
        with _staying(place):
            # Unsealed first: half of a step is never taken for a whole one.
            (place / manifest.NAME).unlink(missing_ok=True)
            place.rmtree()


def drop_unfinished(directory: epath.Path) -> None:
    """Deletes what a killed or failed writer left under a temporary name."""
    with _staying(directory):
        if not directory.exists():
            return
        for entry in directory.iterdir():
            if ".orbax-checkpoint-tmp" in entry.name:
                with _staying(entry):
                    entry.rmtree(missing_ok=True)


def _best(sealed: Sequence[Saved], metric: str, mode: str) -> set[int]:
    """The step with the best value, of equal ones the earliest; none without values."""
    sign = 1 if mode == "min" else -1
    values = [(found.metrics.get(metric, math.nan), found.step) for found in sealed]
    # A value that is not finite is no value: nothing is less than nan, nor nan than it.
    scored = [(sign * value, step) for value, step in values if math.isfinite(value)]
    return {min(scored)[1]} if scored else set()


@contextlib.contextmanager
def _staying(place: epath.Path) -> Iterator[None]:
    """Makes a warning of what keeps `place` from being removed."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 (each library has its own for a bucket)
        why = storage.reason(error.__cause__ or error)
        log.warning("%s is not removed for now: %s", place, why)
