"""One training run as one frozen dataclass, and the checks that need all of it."""

import dataclasses

import jax

from hypert5_jax.config.data import DataConfig, check_context
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import make_mesh
from hypert5_jax.training.abstract import abstract_step
from hypert5_jax.training.initial import InitialConfig
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class TrainRun:
    """Everything `python -m hypert5_jax.train` needs to know.

    Attributes:
      model_dir: the run's folder: checkpoints, metrics, config.gin. Local or gs://.
      system: the models and the variant.
      data: what it is trained on.
      train: how.
      initial: where its parameters come from.
      tensorboard: whether event files are written.
      held_out: data whose loss is measured every TrainConfig.eval_every steps, or None.
      held_out_batches: how many batches of it, always the same.
      evaluation: how the trained system is judged at the end, or None; its output_dir,
        checkpoint_path and recipe are this run's unless set.
      recipe: which experiment this is.
    """

    model_dir: str
    system: System
    data: DataConfig
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    initial: InitialConfig = dataclasses.field(default_factory=InitialConfig)
    tensorboard: bool = True
    held_out: DataConfig | None = None
    held_out_batches: int = 8
    evaluation: EvaluateRun | None = None
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        if self.evaluation is not None:
            whole = self.evaluation.after(self.model_dir, self.recipe)
            object.__setattr__(self, "evaluation", whole)
        check_context(self.system.variant, self.data.row_format)
        if self.held_out is not None:
            check_context(self.system.variant, self.held_out.row_format)
        if self.held_out_batches < 1:
            raise UserError(
                f"held_out_batches is {self.held_out_batches}; expected 1 or more"
            )
        if not self.system.variant.trainable:
            raise UserError(
                "the variant trains nothing; name at least one of "
                f"{', '.join(self.system.groups)} in Variant.trainable"
            )


def check_abstractly(run: TrainRun) -> TrainState:
    """Builds the run without memory: mesh, shardings, one step on abstract arrays.

    Returns:
      The state as ShapeDtypeStructs.

    Raises:
      UserError: the mesh, the batch, the microbatches or the schedule do not fit.
    """
    mesh = make_mesh(run.train.mesh)
    feed.check_batch(
        mesh, run.data.contexts, run.data.batch_size, run.train.microbatches
    )
    if run.held_out is not None:
        feed.check_batch(mesh, run.held_out.contexts, run.held_out.batch_size, 1)
    found = abstract_step(run.system, run.train, mesh)
    with jax.set_mesh(mesh), rules.activate():
        jax.eval_shape(found.step, found.state, run.data.batch_shapes())
    return found.state
