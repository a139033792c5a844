"""Learning-rate schedules: a frozen description in, a function of the step out."""

import dataclasses

import jax.numpy as jnp
import optax

from hypert5_jax.core.errors import UserError

SCHEDULES = ("linear", "constant", "inverse_square_root")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """How the learning rate moves with the step.

    The defaults are the paper's (Appendix A): 5e-5, linear decay to 0, no warm-up.

    Attributes:
      name: "linear" (from the peak to `final_learning_rate` at the last step),
        "constant", or "inverse_square_root" (peak * sqrt(hold / max(step, hold)), T5's
        pretraining schedule with hold = 10,000 steps).
      learning_rate: the peak, a factor on the optimiser's update.
      warmup_steps: steps over which the rate rises linearly from 0 to the schedule's
        value; step 0 of a warm-up has rate 0, as in T5X and Hugging Face.
      hold_steps: "inverse_square_root" only, steps before the decay begins.
      final_learning_rate: "linear" only, the rate reached at the end.
    """

    name: str = "linear"
    learning_rate: float = 5e-5
    warmup_steps: int = 0
    hold_steps: int = 10_000
    final_learning_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SCHEDULES:
            raise UserError(
                f"unknown schedule {self.name!r}; choose one of {', '.join(SCHEDULES)}"
            )
        if self.learning_rate <= 0:
            raise UserError(
                f"learning_rate is {self.learning_rate}; it must be positive"
            )
        if self.warmup_steps < 0 or self.hold_steps < 1:
            raise UserError(
                f"warmup_steps is {self.warmup_steps} and hold_steps "
                f"{self.hold_steps}; they must be at least 0 and 1"
            )


def make_schedule(config: ScheduleConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step (int scalar in, f32 scalar out).

    Args:
      config: which schedule.
      total_steps: length of the run; a linear schedule reaches its end there.

    Raises:
      UserError: the warm-up is longer than the run.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if warmup > total_steps:
        raise UserError(
            f"warmup_steps {warmup} is more than the run's {total_steps} steps"
        )
    if config.name == "constant":
        body = optax.constant_schedule(peak)
    elif config.name == "linear":
        body = optax.linear_schedule(
            peak, config.final_learning_rate, max(total_steps - warmup, 1)
        )
    else:
        body = _inverse_square_root(peak, config.hold_steps, warmup)
    if not warmup:
        return body
    rise = optax.linear_schedule(0.0, peak, warmup)
    return optax.join_schedules([rise, body], [warmup])


def _inverse_square_root(peak: float, hold: int, warmup: int) -> optax.Schedule:
    def schedule(steps_after_warmup):
        # join_schedules restarts the count after the warm-up; the root must not.
        step = steps_after_warmup + warmup
        return peak * jnp.sqrt(hold / jnp.maximum(step, hold))

    return schedule
