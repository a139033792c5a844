"""A step whose loss or gradient is not finite, left out: nothing but the step's number moves."""

import jax
import jax.numpy as jnp

from hypert5_jax.core.batch import Batch
from hypert5_jax.training.state import TrainState
from hypert5_jax.training.step import Step, Sums

SKIPPED = "skipped"


def skipping(step: Step) -> Step:
    """The step, without its update where one of its sums is not finite.

    Parameters and optimiser state stay what they were, the schedule's count in it too;
    the step counter, which the data and dropout follow, goes on. The sums are those of
    the global batch, so all devices and hosts decide alike.

    Returns:
      a function like `step`, with one more sum, `skipped`: 1 for an update left out,
      whose other sums are then 0; else 0.
    """

    def guarded(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        after, sums = step(state, batch)
        finite = jnp.stack([jnp.isfinite(value) for value in sums.values()]).all()

        def choose(new, old):
            return jnp.where(finite, new, old)

        kept = TrainState(
            after.step,
            jax.tree.map(choose, after.trainable, state.trainable),
            after.frozen,
            jax.tree.map(choose, after.opt_state, state.opt_state),
        )
        applied = {name: jnp.where(finite, x, 0.0) for name, x in sums.items()}
        return kept, {**applied, SKIPPED: 1.0 - finite}

    return guarded
