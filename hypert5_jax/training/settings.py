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
      optimiser, schedule, mesh, checkpoints: see their classes.
    """

    steps: int = 10_000
    seed: int = 0
    microbatches: int = 1
    z_loss: float = 0.0
    frozen_dtype: str = "bfloat16"
    log_every: int = 50
    eval_every: int = 1000
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    checkpoints: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "microbatches", "log_every", "eval_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.z_loss < 0:
            raise UserError(f"z_loss is {self.z_loss}; expected 0 or more")
        if self.frozen_dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"frozen_dtype is {self.frozen_dtype!r}; choose bfloat16 or float32"
            )
