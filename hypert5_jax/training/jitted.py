"""The step of a run as it is compiled: the one that the loop makes and plans measure."""

from typing import Any

import jax
import optax
from jax.sharding import Mesh

from hypert5_jax.parallel import rules
from hypert5_jax.training.not_finite import skipping
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.state import TrainState
from hypert5_jax.training.step import make_step


def jit_step(
    system: Any,
    config: TrainConfig,
    optimiser: optax.GradientTransformation,
    shardings: TrainState,
    mesh: Mesh,
) -> jax.stages.Wrapped:
    """The step, compiled at its first call; it takes its state's memory over.

    Args:
      system, optimiser: of training.step.make_step.
      config: the run; seed, microbatches, z_loss and on_nan are read.
      shardings: a TrainState of NamedShardings, that of the state it returns.
      mesh: theirs; what is summed over the batch is on all of it.

    Returns:
      a function as make_step's.

    Raises:
      UserError: as make_step.
    """
    step = make_step(
        system,
        optimiser,
        seed=config.seed,
        microbatches=config.microbatches,
        z_loss=config.z_loss,
    )
    return jax.jit(
        skipping(step) if config.on_nan == "skip" else step,
        out_shardings=(shardings, rules.replicated(mesh)),
        donate_argnums=0,
    )
