"""A training step without memory: shapes, layout and function, for checks and plans."""

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh

from hypert5_jax.training import state as states
from hypert5_jax.training.jitted import jit_step
from hypert5_jax.training.optimisers import make_optimiser
from hypert5_jax.training.schedules import make_schedule
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class AbstractStep:
    """What a run would begin with.

    Attributes:
      state: the state as ShapeDtypeStructs.
      shardings: a TrainState of NamedShardings.
      step: the run's own, not compiled yet.
    """

    state: TrainState
    shardings: TrainState
    step: jax.stages.Wrapped


def groups(system: Any, config: TrainConfig) -> tuple[Any, Any]:
    """(trainable, frozen) groups as ShapeDtypeStructs, in the dtypes they are held in."""
    return jax.eval_shape(
        lambda params: states.partition(
            params, system.variant.trainable, config.frozen_dtype
        ),
        system.abstract_params(),
    )


def abstract_step(system: Any, config: TrainConfig, mesh: Mesh) -> AbstractStep:
    """A run's step over a mesh whose devices need not exist.

    Raises:
      UserError: the mesh, the microbatches or the schedule do not fit.
    """
    schedule = make_schedule(config.schedule, config.steps)
    axes = system.logical_axes()
    trainable, frozen = groups(system, config)
    optimiser = make_optimiser(
        config.optimiser, schedule, {g: axes[g] for g in trainable}, mesh
    )
    shapes = jax.eval_shape(
        lambda t, f: states.new_state(t, f, optimiser), trainable, frozen
    )
    shardings = states.state_shardings(mesh, shapes, axes)
    step = jit_step(system, config, optimiser, shardings, mesh)
    return AbstractStep(shapes, shardings, step)
