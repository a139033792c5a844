"""One training step as a pure function: (state, batch) -> (state, sums).

The gradient is that of the loss summed over target tokens, accumulated over microbatches
and divided once by the global sum of weights: k microbatches equal one batch, and any
split of the batch over devices equals one device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.training.state import TrainState

Sums = dict[str, Array]
Step = Callable[[TrainState, Batch], tuple[TrainState, Sums]]


def make_step(
    system: Any,
    optimiser: optax.GradientTransformation,
    *,
    seed: int,
    microbatches: int = 1,
    z_loss: float = 0.0,
) -> Step:
    """The step of a system under an optimiser.

    Args:
      system: with `loss(params, batch, dropout_rng=, z_loss=) -> LossSums`.
      optimiser: for the trainable groups.
      seed: dropout of step s is drawn from (seed, s, microbatch), so that nothing
        random needs saving.
      microbatches: how many parts of the batch are computed one after the other; it
        must divide the number of contexts.
      z_loss: weight of log(Z)^2 per target token (PaLM, section 5; 0 in the paper).

    Returns:
      a function to be compiled; its sums are float32 scalars over the whole batch:
      LossSums by name, and `grad_norm` (of the mean loss' gradient, before clipping).

    Raises:
      UserError: microbatches of several φ learned side by side, each of which owns
        consecutive rows that microbatches would tear apart.
    """
    if microbatches > 1 and system.variant.learned_batch > 1:
        raise UserError(
            f"microbatches={microbatches} with learned_batch="
            f"{system.variant.learned_batch}: each learned φ owns consecutive rows of "
            "the batch, which microbatches would tear apart; use microbatches=1"
        )

    def gradient(trainable, frozen, batch: Batch, rng: Array):
        def summed_loss(train):
            params = {**frozen, **train}
            sums = system.loss(params, batch, dropout_rng=rng, z_loss=z_loss)
            return sums.total, sums._asdict()

        (_, sums), grads = jax.value_and_grad(summed_loss, has_aux=True)(trainable)
        return grads, sums

    def accumulated(state: TrainState, batch: Batch, rng: Array):
        if microbatches == 1:
            return gradient(state.trainable, state.frozen, batch, rng)
        parts = split(batch, microbatches)

        def one_more(carry, part_and_index):
            part, index = part_and_index
            part_rng = jax.random.fold_in(rng, index)
            more = gradient(state.trainable, state.frozen, part, part_rng)
            return jax.tree.map(jnp.add, carry, more), None

        first = jax.tree.map(lambda leaf: leaf[0], parts)
        shapes = jax.eval_shape(gradient, state.trainable, state.frozen, first, rng)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        (grads, sums), _ = jax.lax.scan(
            one_more, zeros, (parts, jnp.arange(microbatches))
        )
        return grads, sums

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, sums = accumulated(state, batch, rng)
        # A batch without a single weighted token has gradient 0, not 0 / 0.
        weight = jnp.where(sums["weight"] > 0, sums["weight"], 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        state = TrainState(state.step + 1, trainable, state.frozen, opt_state)
        return state, {**sums, "grad_norm": optax.global_norm(grads)}

    return step


def split(batch: Batch, parts: int) -> Batch:
    """[C, ...] and [C * T, ...] -> [parts, C / parts, ...] and [parts, B / parts, ...].

    Part i takes contexts i, i + parts, i + 2 * parts ... with their target examples:
    each device keeps the rows it holds, so splitting moves nothing between devices.
    """
    contexts = batch.hyper_inputs.shape[0]

    def one(rows: Array) -> Array:
        per_context = rows.shape[0] // contexts
        rest = rows.shape[1:]
        rows = rows.reshape(contexts // parts, parts, per_context, *rest)
        rows = jnp.moveaxis(rows, 1, 0)
        return rows.reshape(parts, contexts // parts * per_context, *rest)

    return jax.tree.map(one, batch)
