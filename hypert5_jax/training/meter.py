"""Sums from the devices -> rows of metrics, the progress line, and a check for NaN."""

import dataclasses
import logging
import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import jax

from hypert5_jax.training.not_finite import SKIPPED
from hypert5_jax.training.progress import Progress
from hypert5_jax.training.step import Sums

log = logging.getLogger(__name__)

# Steps handed to the devices before the host waits for a result: enough to keep them
# busy, few enough that a stop or a non-finite loss is noticed at once.
AHEAD = 2


@dataclasses.dataclass
class Carried:
    """What a checkpoint keeps of the meter, so that a resumed run writes the same rows.

    Attributes:
      sums: of the steps since the last row.
      steps: how many those are, without those left out.
      row_skips: of the steps since the last row, those left out.
      skips: all steps of the run that were left out.
      skips_in_a_row: those at its end.
    """

    sums: dict[str, float] = dataclasses.field(default_factory=dict)
    steps: int = 0
    row_skips: int = 0
    skips: int = 0
    skips_in_a_row: int = 0


class Meter:
    """Takes each step's sums, some steps late, and adds them up to the next row.

    Args:
      progress: the line that shows them.
      schedule: count of updates -> learning rate.
      name_batch: step (from 1) -> which rows its batch had, for messages.
      max_skips: most steps in a row that may be left out (not_finite.skipping).
      carried: of the checkpoint that the run goes on from.
    """

    def __init__(
        self,
        progress: Progress,
        schedule: Callable[[int], Any],
        name_batch: Callable[[int], str],
        max_skips: int,
        carried: Mapping[str, Any] | None = None,
    ):
        self._progress, self._schedule = progress, schedule
        self._name_batch, self._max_skips = name_batch, max_skips
        self._pending: deque[tuple[int, Sums]] = deque()
        self._carried = Carried(**(carried or {}))
        self._first = True

    def carried(self) -> dict[str, Any]:
        """JSON values of what the next life of the run has to know.

        Raises:
          FloatingPointError: as settle.
        """
        self.settle()
        return dataclasses.asdict(self._carried)

    def add(self, step: int, sums: Sums) -> None:
        """Notes that step number `step` (from 1) was handed to the devices.

        Raises:
          FloatingPointError: an earlier step, which the message names, is not finite.
        """
        self._pending.append((step, sums))
        if self._first:
            # What is compiled is compiled at the first step; the rates leave it out.
            self._first = False
            self.settle()
            self._progress.restart_clock()
        self.settle(AHEAD)

    def settle(self, keep: int = 0) -> None:
        """Waits for all but the newest `keep` steps.

        Raises:
          FloatingPointError: one of them, which the message names, is not finite, or
            more in a row than may be left out.
        """
        while len(self._pending) > keep:
            step, arrays = self._pending.popleft()
            sums = {name: float(x) for name, x in jax.device_get(arrays).items()}
            if sums.pop(SKIPPED, 0.0):
                self._skipped(step)
                continue
            if not all(map(math.isfinite, sums.values())):
                self._not_finite(step, sums)
            row = self._carried
            row.steps, row.skips_in_a_row = row.steps + 1, 0
            for name, value in sums.items():
                row.sums[name] = row.sums.get(name, 0.0) + value
            weight = sums["weight"]
            self._progress.update(step, weight, sums["loss"] / max(weight, 1.0))

    def row(self, step: int) -> dict[str, float]:
        """Means over the steps since the last row; losses per target token, in nats.

        The steps left out count in none of them; NaN where no other step was made.
        """
        self.settle()
        row = self._carried
        self._carried = Carried(skips=row.skips, skips_in_a_row=row.skips_in_a_row)
        sums = row.sums if row.steps else dict.fromkeys(_SUMS, math.nan)
        steps, tokens = max(row.steps, 1), max(sums["weight"], 1.0)
        skips = {"train/skipped_steps": float(row.row_skips)} if row.skips else {}
        return {
            "train/loss": sums["loss"] / tokens,
            "train/z_loss": sums["z_loss"] / tokens,
            "train/accuracy": sums["correct"] / tokens,
            "train/grad_norm": sums["grad_norm"] / steps,
            "train/learning_rate": float(self._schedule(step - 1 - row.skips)),
            "train/target_tokens_per_step": sums["weight"] / steps,
            **skips,
            **self._progress.rates(),
        }

    def _not_finite(self, step: int, sums: Mapping[str, float]) -> NoReturn:
        found = ", ".join(f"{name} {value}" for name, value in sums.items())
        raise FloatingPointError(
            f"step {step} is not finite ({found}); nothing after the last checkpoint is "
            "saved. Lower the learning rate, clip gradients, set TrainConfig.on_nan to "
            f"'skip', or look at the data of that step: {self._name_batch(step)}"
        )

    def _skipped(self, step: int) -> None:
        row = self._carried
        row.skips, row.row_skips = row.skips + 1, row.row_skips + 1
        row.skips_in_a_row += 1
        self._progress.update(step, 0.0, math.nan)
        batch = self._name_batch(step)
        if row.skips_in_a_row > self._max_skips:
            raise FloatingPointError(
                f"step {step} is not finite, nor are the {self._max_skips} before it, "
                "which were left out (TrainConfig.max_skips); nothing after the last "
                "checkpoint is saved. Lower the learning rate, clip gradients, or look "
                f"at the data of that step: {batch}"
            )
        log.warning("step %d is not finite and is left out: %s", step, batch)


_SUMS = ("loss", "z_loss", "correct", "grad_norm", "weight")
