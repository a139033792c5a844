"""One training step as a pure function: (state, batch) -> (state, sums).

The gradient is that of the loss summed over target tokens, accumulated over microbatches
and divided once by the global sum of weights: k microbatches equal one batch, and any
split of the batch over devices equals one device.

What the compiler makes of that adds the gradients of all devices up. An optimiser that
does so by itself is given each device's own: the same step, then, inside shard_map.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh, PartitionSpec

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import per_device, rules
from hypert5_jax.parallel.mesh import COPY_AXES, copies
from hypert5_jax.training.adam1bit import PerDeviceOptimiser
from hypert5_jax.training.state import TrainState

Tree = Any
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
        random needs saving; under a PerDeviceOptimiser from (seed, s, device,
        microbatch).
      microbatches: how many parts of the batch are computed one after the other; it
        must divide the number of contexts.
      z_loss: weight of log(Z)^2 per target token (PaLM, section 5; 0 in the paper).

    Returns:
      a function to be compiled; its sums are float32 scalars over the whole batch:
      LossSums by name, and `grad_norm` (of the mean loss' gradient, before clipping;
      under a PerDeviceOptimiser, whose gradient is nowhere whole, the root mean square
      of the devices' own).

    Raises:
      UserError: microbatches of several φ learned side by side, each of which owns
        consecutive rows that microbatches would tear apart; or devices that would.
    """
    mesh = optimiser.mesh if isinstance(optimiser, PerDeviceOptimiser) else None
    _require_whole_batches(system.variant.learned_batch, microbatches, mesh)
    devices = 1 if mesh is None else copies(mesh)
    gradient = functools.partial(_gradient, system, z_loss)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        if mesh is not None:
            rng = jax.random.fold_in(rng, jax.lax.axis_index(COPY_AXES))
        grads, sums = _accumulated(gradient, state, batch, rng, microbatches)
        if mesh is not None:
            sums = jax.lax.psum(sums, COPY_AXES)
        # A batch without a single weighted token has gradient 0, not 0 / 0. The mean
        # over devices of what they have for a gradient is that of the batch.
        weight = jnp.where(sums["weight"] > 0, sums["weight"], 1.0) / devices
        grads = jax.tree.map(lambda g: g / weight, grads)
        norm = optax.global_norm(grads)
        if mesh is not None:
            norm = jnp.sqrt(jax.lax.pmean(jnp.square(norm), COPY_AXES))
        updates, opt_state = optimiser.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        state = TrainState(state.step + 1, trainable, state.frozen, opt_state)
        return state, {**sums, "grad_norm": norm}

    return step if mesh is None else _on_each_device(step, mesh)


def _require_whole_batches(
    learned_batch: int, microbatches: int, mesh: Mesh | None
) -> None:
    if learned_batch == 1:
        return
    if microbatches > 1:
        raise UserError(
            f"microbatches={microbatches} with learned_batch={learned_batch}: each "
            "learned φ owns consecutive rows of the batch, which microbatches would tear "
            "apart; use microbatches=1"
        )
    if mesh is not None:
        raise UserError(
            f"adam1bit with learned_batch={learned_batch}: each learned φ owns "
            "consecutive rows of the batch, which the devices would tear apart; use "
            "another optimiser"
        )


def _gradient(
    system: Any, z_loss: float, trainable: Tree, frozen: Tree, batch: Batch, rng: Array
) -> tuple[Tree, Sums]:
    """The gradient of the loss summed over target tokens, and LossSums by name."""

    def summed_loss(train: Tree) -> tuple[Array, Sums]:
        params = {**frozen, **train}
        sums = system.loss(params, batch, dropout_rng=rng, z_loss=z_loss)
        return sums.total, sums._asdict()

    (_, sums), grads = jax.value_and_grad(summed_loss, has_aux=True)(trainable)
    return grads, sums


def _accumulated(
    gradient: Callable[..., tuple[Tree, Sums]],
    state: TrainState,
    batch: Batch,
    rng: Array,
    microbatches: int,
) -> tuple[Tree, Sums]:
    """The same, added up over the parts of a batch, each with randomness of its own."""
    if microbatches == 1:
        return gradient(state.trainable, state.frozen, batch, rng)
    parts = split(batch, microbatches)

    def one_more(carry: Any, part_and_index: Any) -> tuple[Any, None]:
        part, index = part_and_index
        part_rng = jax.random.fold_in(rng, index)
        more = gradient(state.trainable, state.frozen, part, part_rng)
        return jax.tree.map(jnp.add, carry, more), None

    first = jax.tree.map(lambda leaf: leaf[0], parts)
    shapes = jax.eval_shape(gradient, state.trainable, state.frozen, first, rng)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (grads, sums), _ = jax.lax.scan(one_more, zeros, (parts, jnp.arange(microbatches)))
    return grads, sums


def _on_each_device(step: Step, mesh: Mesh) -> Step:
    """The step, each copy of the model at its own rows and its own errors."""

    def one_device(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        with rules.inactive():
            return step(state, batch)

    def whole(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        everywhere: Any = PartitionSpec()
        of_state = TrainState(
            everywhere, everywhere, everywhere, per_device.specs(state.opt_state)
        )
        # Unchecked: what is alike on all devices is so by what the optimiser computes,
        # and gradients of parameters held by all must not be added up on the way back.
        return jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(of_state, PartitionSpec(COPY_AXES)),
            out_specs=(of_state, everywhere),
            check_vma=False,
        )(state, batch)

    return whole


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
