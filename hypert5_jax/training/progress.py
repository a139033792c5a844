"""Where a run stands: steps, loss, rates and the time that is left."""

import time
from typing import TextIO

from hypert5_jax.core.progress import ProgressLine, clock


class Progress:
    """Steps per second, target tokens per second, loss and time left.

    Rates are those since the previous report, so that an evaluation does not weigh on
    them for ever. The first step, compilation with it, has no rate.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        *,
        label: str = "train",
        stream: TextIO | None = None,
        plain_every_seconds: float = 15.0,
        shown: bool = True,
    ):
        self._line = ProgressLine(stream, plain_every_seconds, shown)
        self._total, self._label = total_steps, label
        self._first_step = start_step + 1
        self._step, self._tokens = start_step, 0.0
        self._reported_step = start_step
        self._reported_at = time.monotonic()
        self._rated_step, self._rated_tokens = start_step, 0.0
        self._rated_at = self._reported_at
        self._waited = 0.0

    def update(self, step: int, tokens: float, loss: float) -> None:
        """Notes a finished step.

        Args:
          step: updates made so far.
          tokens: weighted target tokens of this step.
          loss: mean loss over them, nats per token.
        """
        self._step = step
        self._tokens += tokens
        self._rated_tokens += tokens
        if not self._line.due() and step < self._total:
            return
        now = time.monotonic()
        elapsed = now - self._reported_at
        rate = (step - self._reported_step) / max(elapsed, 1e-9)
        if step == self._first_step:
            pace = f"compiled and made the first step in {clock(elapsed)}"
        else:
            pace = (
                f"{rate:.2f} steps/s  {self._tokens / max(elapsed, 1e-9):,.0f} target "
                f"tokens/s  {clock((self._total - step) / max(rate, 1e-9))} left"
            )
        self._line.draw(
            f"{self._label} {step}/{self._total} "
            f"({100 * step / max(self._total, 1):.0f}%)  loss {loss:.4f}  {pace}",
            done=step / max(self._total, 1),
        )
        self._reported_step, self._reported_at, self._tokens = step, now, 0.0

    def waited(self, seconds: float) -> None:
        """Notes for how long a step had to wait for its batch."""
        self._waited += seconds

    def rates(self) -> dict[str, float]:
        """Means since the previous call.

        Steps and target tokens per second, and the share of the time, from 0 to 1, in
        which the host waited for data instead of handing out steps.
        """
        now = time.monotonic()
        elapsed = max(now - self._rated_at, 1e-9)
        steps, tokens = self._step - self._rated_step, self._rated_tokens
        waited = self._waited
        self._rated_at, self._rated_step, self._rated_tokens = now, self._step, 0.0
        self._waited = 0.0
        return {
            "speed/steps_per_second": steps / elapsed,
            "speed/target_tokens_per_second": tokens / elapsed,
            "speed/share_waiting_for_data": waited / elapsed,
        }

    def restart_clock(self) -> None:
        """Leaves the time since the last report out of the rates (after a pause)."""
        self._reported_step, self._reported_at = self._step, time.monotonic()
        self._rated_step, self._rated_at = self._step, self._reported_at
        self._tokens = self._rated_tokens = self._waited = 0.0

    def close(self) -> None:
        """Ends a redrawn line, so that what is printed next starts a new one."""
        self._line.close()
