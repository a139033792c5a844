"""Everything about a run that is neither model nor data, as one frozen dataclass."""

import dataclasses

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel.mesh import MeshConfig
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a run trains.

    Attributes:
      steps: updates in the whole run, those before a resumption included.
      seed: of data order, dropout and parameters made at random.
      microbatches: parts a batch is computed in, one after the other, to save memory.
      z_loss: weight of the squared log normaliser, per target token; the paper has none.
      frozen_dtype: how frozen groups are held, "bfloat16" or "float32".
      log_every: steps between rows of metrics, each a mean over those steps.
      eval_every: steps between evaluations, if the caller hands one in.
      on_nan: what a step whose loss or gradient is not finite does: "stop" ends the run,
        nothing of it saved; "skip" leaves that update out and goes on.
      max_skips: most updates in a row that are left out; one more ends the run.
      stall_seconds: a step, an evaluation or a save that takes longer than that (the
        first of each, which is compiled, four times that) prints the stacks of all
        threads, and keeps them in the run's folder `stalled`; 0 watches nothing.
      on_stall: and then: "wait" for it, or "stop" the process with code 1, for a
        launcher to start it again.
      optimiser, schedule, mesh, checkpoints: see their classes.
    """

    steps: int = 10_000
    seed: int = 0
    microbatches: int = 1
    z_loss: float = 0.0
    frozen_dtype: str = "bfloat16"
    log_every: int = 50
    eval_every: int = 1000
    on_nan: str = "stop"
    max_skips: int = 10
    stall_seconds: float = 1800.0
    on_stall: str = "wait"
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    checkpoints: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "microbatches", "log_every", "eval_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("z_loss", "max_skips", "stall_seconds"):
            if getattr(self, name) < 0:
                raise UserError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} is {getattr(self, name)!r}; choose {' or '.join(known)}"
                )


_CHOICES = {
    "frozen_dtype": ("bfloat16", "float32"),
    "on_nan": ("stop", "skip"),
    "on_stall": ("wait", "stop"),
}
