"""Runs of a learned φ trained side by side: one pass of the frozen T5 for all of them.

    parameters, optimiser states    a leading run axis on every array
    φ                               run i at place i of φ's batch axis
    rows [n * b, …]                 those of run i from i * b to (i + 1) * b - 1
    loss                            each run's mean over its own target tokens

A row meets the φ of its run alone, so the gradient of the summed losses holds each run's
own gradient; clipping, moments and learning rate are each run's own, too. A run beside
others is the run by itself, up to rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import Params, System
from hypert5_jax.parallel import rules
from hypert5_jax.t5.loss import token_log_probs

Tree = Any


@struct.dataclass
class Runs:
    """What n runs change as they train.

    Attributes:
      params: {"phi": the group of each run, arrays [n, ...] float32}.
      opt_state: the optimiser's state of each run, arrays [n, ...].
    """

    params: Params
    opt_state: Tree


@struct.dataclass
class RunSums:
    """float32 [n] each: a step's loss (nats) and weight, summed over target tokens."""

    loss: Array
    weight: Array


Step = Callable[[Runs, Params, Batch, Array], tuple[Runs, RunSums]]


def start_runs(optimiser: optax.GradientTransformation, phi: Tree) -> Runs:
    """Runs at step 0 with parameters of `learned.stack_runs`."""
    params = {"phi": phi}
    return Runs(params, jax.vmap(optimiser.init)(params))


def runs_shardings(mesh: Mesh, shapes: Runs, axes: Params) -> Runs:
    """Where every array lies: as for one run, whatever is on the run axis.

    Args:
      mesh: with axes data, fsdp and model.
      shapes: ShapeDtypeStructs.
      axes: {"phi": tree of tuples of logical axis names, of one run}.
    """
    structure = jax.tree.structure(shapes.params)
    leading = [(None, *names) for names in structure.flatten_up_to(axes)]
    params = rules.param_shardings(mesh, shapes.params, structure.unflatten(leading))
    opt_state = rules.like_params(mesh, shapes.opt_state, shapes.params, params)
    return Runs(params, opt_state)


def make_step(
    system: System, optimiser: optax.GradientTransformation, microbatches: int = 1
) -> Step:
    """The step of all runs at once, to be compiled.

    Args:
      system: of one run: a learned φ beside a frozen downstream T5.
      optimiser: of one run, with a learning rate of 1: the rates are arguments.
      microbatches: parts of each run's rows computed one after the other; it must divide
        their number.

    Returns:
      (runs, frozen groups, batch of n * b rows, learning rates float32 [n]) -> (runs,
      sums). The batch's hyper_inputs are not read.
    """

    def summed_losses(params: Params, frozen: Params, batch: Batch):
        phi = learned.phi_of_runs(params["phi"], system.downstream, system.variant)
        logits = system.logits(frozen, batch, phi=phi)
        log_probs, _ = token_log_probs(logits, batch.targets)
        runs = jax.tree.leaves(params)[0].shape[0]
        loss = -jnp.sum(_by_run(log_probs * batch.weights, runs), axis=(1, 2))
        weight = jnp.sum(_by_run(jnp.asarray(batch.weights), runs), axis=(1, 2))
        return jnp.sum(loss), RunSums(loss, weight)

    def gradients(params: Params, frozen: Params, batch: Batch):
        grad = jax.grad(summed_losses, has_aux=True)
        if microbatches == 1:
            return grad(params, frozen, batch)
        runs = jax.tree.leaves(params)[0].shape[0]
        parts = jax.tree.map(lambda rows: _parts(rows, runs, microbatches), batch)

        def one_more(carry, part):
            return jax.tree.map(jnp.add, carry, grad(params, frozen, part)), None

        first = jax.tree.map(lambda leaf: leaf[0], parts)
        shapes = jax.eval_shape(grad, params, frozen, first)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(one_more, zeros, parts)[0]

    def one_run(grads: Tree, weight: Array, rate: Array, params: Tree, opt_state: Tree):
        # A run without a single weighted token has gradient 0, not 0 / 0.
        weight = jnp.where(weight > 0, weight, 1.0)
        grads = jax.tree.map(lambda g: g / weight, grads)
        updates, opt_state = optimiser.update(grads, opt_state, params)
        updates = jax.tree.map(lambda u: rate * u, updates)
        return Runs(optax.apply_updates(params, updates), opt_state)

    def step(runs: Runs, frozen: Params, batch: Batch, rates: Array):
        grads, sums = gradients(runs.params, frozen, batch)
        args = (grads, sums.weight, rates, runs.params, runs.opt_state)
        return jax.vmap(one_run)(*args), sums

    return step


def _by_run(rows: Array, runs: int) -> Array:
    """[n * b, ...] -> [n, b, ...]."""
    return rows.reshape(runs, -1, *rows.shape[1:])


def _parts(rows: Array, runs: int, parts: int) -> Array:
    """[n * b, ...] -> [parts, n * (b / parts), ...], every part of rows of every run."""
    count, *rest = rows.shape
    split = rows.reshape(runs, parts, count // (runs * parts), *rest)
    return jnp.moveaxis(split, 1, 0).reshape(parts, count // parts, *rest)
