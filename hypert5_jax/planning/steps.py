"""The steps of a run as programs for devices that need not exist, and what they hold.

train      the training step itself, its state donated
evaluate   what judging runs for every batch: options ranked, answers generated, or the
           loss of held-out rows
adapt      φ of one context, by the hypermodel
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.inference import decoding, sampling
from hypert5_jax.inference import options as option_scores
from hypert5_jax.inference.answering import options_at_a_time
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import MeshConfig, batch_ways, make_mesh
from hypert5_jax.planning.kept import kept_bytes
from hypert5_jax.planning.model_flops import (
    Rows,
    answer_flops,
    phi_flops,
    step_flops,
)
from hypert5_jax.training.abstract import abstract_step, groups
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.state import TrainState

PROGRAMS = ("train", "evaluate", "adapt")


@dataclasses.dataclass(frozen=True)
class Judging:
    """How a trained system is judged, as far as shapes say.

    Attributes:
      batch_size: questions at a time.
      inputs, targets, context: most tokens of a question, an answer, a context.
      options: of a question; 0 where answers are generated.
      decoding: of generated answers.
      mesh: of devices.
    """

    batch_size: int
    inputs: int
    targets: int
    context: int
    options: int
    decoding: Decoding
    mesh: MeshConfig


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run, as far as its steps depend on it.

    Attributes:
      system: models and variant.
      train: how it is trained; steps, seed, mesh, microbatches among it.
      rows: of the global batch.
      judging: at its end, or None.
    """

    system: System
    train: TrainConfig
    rows: Rows
    judging: Judging | None = None

    @property
    def batch(self) -> Batch:
        """The global batch as ShapeDtypeStructs."""
        rows: Rows = self.rows
        make: Any = jax.ShapeDtypeStruct
        targets = (rows.rows, rows.targets)
        return Batch(
            make((rows.contexts, rows.context), jnp.int32),
            make((rows.rows, rows.inputs), jnp.int32),
            make(targets, jnp.int32),
            make(targets, jnp.float32),
        )

    def with_batch(self, rows: int) -> "Run":
        """The same run with another number of target examples in its batch.

        Raises:
          UserError: not a multiple of the target examples of a context.
        """
        each = max(self.rows.rows // max(self.rows.contexts, 1), 1)
        if rows % each:
            raise UserError(f"a batch of {rows}: expected a multiple of {each}")
        changed = dataclasses.replace(self.rows, rows=rows, contexts=rows // each)
        return dataclasses.replace(self, rows=changed)


@dataclasses.dataclass(frozen=True)
class Program:
    """One step, ready to be compiled.

    Attributes:
      name: of PROGRAMS.
      lowered: what JAX made of it.
      mesh: of its devices.
      held: {what: bytes of it on one device}, of everything it is called with.
      flops: by its shapes, all devices together.
      tokens: that it reads and writes, all devices together.
      rows: examples that go through it, all devices together.
      kept: bytes that one device keeps for the backward pass.
    """

    name: str
    lowered: Any
    mesh: Mesh
    held: Mapping[str, int]
    flops: int
    tokens: int
    rows: int
    kept: int = 0


def program(run: Run, name: str, devices: Any) -> Program:
    """One of a run's steps.

    Raises:
      UserError: what is asked for does not divide, or the run has no such step.
    """
    return {"train": _train, "evaluate": _evaluate, "adapt": _adapt}[name](run, devices)


def _train(run: Run, devices: Any) -> Program:
    mesh = make_mesh(run.train.mesh, devices)
    rows = run.rows
    feed.check_batch(mesh, rows.contexts, rows.rows, run.train.microbatches)
    found = abstract_step(run.system, run.train, mesh)
    state, batch = _placed(found.state, found.shardings), _batch(run, mesh)
    with jax.set_mesh(mesh), rules.activate():
        lowered = found.step.lower(state, batch)
    held_here = _held_of_state(state) | {"batch": held(batch)}
    flops = step_flops(run.system, rows).total
    parts = batch_ways(mesh) * run.train.microbatches
    kept = kept_bytes(
        run.system, found.state.trainable, found.state.frozen, run.batch, parts
    )
    return Program(
        "train", lowered, mesh, held_here, flops, tokens(rows), rows.rows, kept
    )


def tokens(rows: Rows) -> int:
    """Tokens of a batch, those of its contexts too."""
    return rows.rows * (rows.inputs + rows.targets) + rows.contexts * rows.context


def _batch(run: Run, mesh: Mesh) -> Any:
    at = feed.batch_sharding(mesh)
    return _placed(run.batch, jax.tree.map(lambda _: at, run.batch))


def _placed(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at),
        shapes,
        shardings,
    )


def held(tree: Any) -> int:
    """Bytes on one device of ShapeDtypeStructs with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _held_of_state(state: TrainState) -> dict[str, int]:
    return {
        "trained parameters": held(state.trainable),
        "frozen parameters": held(state.frozen),
        "optimiser": held(state.opt_state),
    }


def _evaluate(run: Run, devices: Any) -> Program:
    judging = run.judging
    if judging is None:
        return _held_out(run, devices)
    mesh = make_mesh(judging.mesh, devices)
    params = _params(run, mesh)
    feed.check_batch(mesh, judging.batch_size, judging.batch_size, 1)
    everywhere, by_rows = rules.replicated(mesh), feed.batch_sharding(mesh)
    phi = _phi_of_one(run, params, judging, everywhere)
    size, config = judging.batch_size, run.system.downstream

    def rows(*shape: int) -> Any:
        return jax.ShapeDtypeStruct((size, *shape), jnp.int32, sharding=by_rows)

    def rank(params: Any, inputs: Any, options: Any, phi: Any) -> Any:
        own = params["downstream"]
        cache = option_scores.read_inputs(config, own, inputs, judging.targets, phi)
        return option_scores.score_options(config, own, cache, options, phi)

    def say(params: Any, inputs: Any, numbers: Any, phi: Any) -> Any:
        keys = sampling.row_keys(judging.decoding.seed, numbers)
        active = jnp.ones(size, bool)
        return decoding.decode(
            config, params["downstream"], inputs, judging.decoding, phi, active, keys
        )

    inputs = rows(judging.inputs)
    if judging.options:
        tokens_each, ways = size * judging.targets, batch_ways(mesh)
        answers = options_at_a_time(judging.options, tokens_each, ways)
        step: Any = rank
        more = rows(answers, judging.targets)
    else:
        step, more, answers = say, rows(), 1
    with jax.set_mesh(mesh), rules.activate():
        lowered = jax.jit(step).lower(params, inputs, more, phi)
    one = Rows(size, judging.inputs, judging.targets)
    flops = answer_flops(run.system, one, answers)
    held_here = {"parameters": held(params), "batch": held((inputs, more))}
    said = size * (judging.inputs + answers * judging.targets)
    return Program("evaluate", lowered, mesh, held_here, flops, said, size)


def _held_out(run: Run, devices: Any) -> Program:
    mesh = make_mesh(run.train.mesh, devices)
    feed.check_batch(mesh, run.rows.contexts, run.rows.rows, 1)
    params = _params(run, mesh)
    batch = _batch(run, mesh)
    with jax.set_mesh(mesh), rules.activate():
        lowered = jax.jit(
            lambda params, batch: run.system.loss(params, batch)._asdict()
        ).lower(params, batch)
    flops = step_flops(run.system, run.rows).forward
    held_here = {"parameters": held(params), "batch": held(batch)}
    return Program(
        "evaluate", lowered, mesh, held_here, flops, tokens(run.rows), run.rows.rows
    )


def _params(run: Run, mesh: Mesh) -> Any:
    trainable, frozen = groups(run.system, run.train)
    params = {**frozen, **trainable}
    axes = run.system.logical_axes()
    return _placed(
        params, rules.param_shardings(mesh, params, {g: axes[g] for g in params})
    )


def _phi_of_one(run: Run, params: Any, judging: Judging, at: Any) -> Any:
    """φ of one context, which serves a whole batch; None where there is none."""
    ids = jax.ShapeDtypeStruct((1, judging.context), jnp.int32)
    phi = jax.eval_shape(run.system.make_phi, params, ids)
    return _placed(phi, jax.tree.map(lambda _: at, phi))


def _adapt(run: Run, devices: Any) -> Program:
    if run.system.variant.source != "generated":
        raise UserError(
            f"φ of this run is {run.system.variant.source!r}: no hypermodel writes one, "
            "so there is no adapt step"
        )
    judging = run.judging
    mesh = make_mesh(run.train.mesh if judging is None else judging.mesh, devices)
    params = _params(run, mesh)
    context = run.rows.context if judging is None else judging.context
    ids = jax.ShapeDtypeStruct((1, context), jnp.int32, sharding=rules.replicated(mesh))
    with jax.set_mesh(mesh), rules.activate():
        lowered = jax.jit(run.system.make_phi).lower(params, ids)
    flops = phi_flops(run.system, Rows(0, 0, 0, 1, context)).forward
    held_here = {"parameters": held(params), "batch": held(ids)}
    return Program("adapt", lowered, mesh, held_here, round(flops), context, 1)
