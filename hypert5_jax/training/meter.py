"""Sums from the devices -> rows of metrics, the progress line, and a check for NaN."""

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import jax

from hypert5_jax.training.progress import Progress
from hypert5_jax.training.step import Sums

# Steps handed to the devices before the host waits for a result: enough to keep them
# busy, few enough that a stop or a non-finite loss is noticed at once.
AHEAD = 2


class Meter:
    """Takes each step's sums, some steps late, and adds them up to the next row."""

    def __init__(self, progress: Progress, schedule: Callable[[int], Any]):
        self._progress, self._schedule = progress, schedule
        self._pending: deque[tuple[int, Sums]] = deque()
        self._row: dict[str, float] = {}
        self._steps = 0

    def add(self, step: int, sums: Sums) -> None:
        """Notes that step number `step` (from 1) was handed to the devices.

        Raises:
          FloatingPointError: an earlier step, which the message names, is not finite.
        """
        first = not self._steps and not self._pending
        self._pending.append((step, sums))
        self.settle(AHEAD)
        if first:
            # What is compiled is compiled at the first step; the rates leave it out.
            jax.block_until_ready(sums)
            self._progress.restart_clock()

    def settle(self, keep: int = 0) -> None:
        """Waits for all but the newest `keep` steps.

        Raises:
          FloatingPointError: one of them, which the message names, is not finite.
        """
        while len(self._pending) > keep:
            step, arrays = self._pending.popleft()
            sums = {name: float(x) for name, x in jax.device_get(arrays).items()}
            if not all(map(math.isfinite, sums.values())):
                found = ", ".join(f"{name} {value}" for name, value in sums.items())
                raise FloatingPointError(
                    f"step {step} is not finite ({found}); nothing after the last "
                    "checkpoint is saved. Lower the learning rate, clip gradients, or "
                    "look at the data of that step"
                )
            self._steps += 1
            for name, value in sums.items():
                self._row[name] = self._row.get(name, 0.0) + value
            weight = sums["weight"]
            self._progress.update(step, weight, sums["loss"] / max(weight, 1.0))

    def row(self, step: int) -> dict[str, float]:
        """Means over the steps since the last row; losses per target token, in nats."""
        self.settle()
        row, steps = self._row, max(self._steps, 1)
        tokens = max(row["weight"], 1.0)
        self._row, self._steps = {}, 0
        return {
            "train/loss": row["loss"] / tokens,
            "train/z_loss": row["z_loss"] / tokens,
            "train/accuracy": row["correct"] / tokens,
            "train/grad_norm": row["grad_norm"] / steps,
            "train/learning_rate": float(self._schedule(step - 1)),
            "train/target_tokens_per_step": row["weight"] / steps,
            **self._progress.rates(),
        }
