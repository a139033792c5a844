"""A run from its first to its last step, read from top to bottom.

The loop is handed everything it needs (system, batches, writers, an evaluation) and
knows neither files of data nor configuration languages.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
from etils import epath
from jax.sharding import Mesh

from hypert5_jax.checkpoints.store import CheckpointConfig, CheckpointStore
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.global_arrays import share
from hypert5_jax.parallel.hosts import is_writer
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.training import snapshot
from hypert5_jax.training.interruption import Interruption
from hypert5_jax.training.meter import Meter
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.progress import Progress
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.start import Initial, start
from hypert5_jax.training.state import Params, TrainState
from hypert5_jax.training.step import make_step

# The settings of a run, so that callers need one import.
__all__ = [
    "CheckpointConfig",
    "MeshConfig",
    "OptimiserConfig",
    "ScheduleConfig",
    "TrainConfig",
    "TrainResult",
    "train",
]

log = logging.getLogger(__name__)

Batches = Callable[[int], Iterator[Batch]]
Evaluate = Callable[[Params, int], Mapping[str, float]]


class Writer(Protocol):
    """What takes the metrics; reporting/writers.py has some."""

    def resume(self, step: int) -> None:
        """The run goes on after `step`; rows beyond it are void."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One row."""

    def close(self) -> None:
        """No more rows."""


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
      params: {group: tree}, trained groups in float32, frozen ones as they were held.
      step: updates made.
      stopped: ended early because SIGTERM asked for it; everything is saved.
      metrics: the last value of each metric.
    """

    params: Params
    step: int
    stopped: bool
    metrics: Mapping[str, float]


def train(
    system: Any,
    config: TrainConfig,
    batches: Batches,
    initial: Initial,
    *,
    directory: str | epath.Path | None = None,
    writers: Sequence[Writer] = (),
    evaluate: Evaluate | None = None,
    config_text: str = "",
    vocabulary: str = "",
    stream: Mapping[str, str | int] | None = None,
    label: str = "train",
    devices: Sequence[jax.Device] | None = None,
    on_start: Callable[[TrainState, int], None] | None = None,
) -> TrainResult:
    """Trains the system's trainable groups; continues where `directory` left off.

    Args:
      system: hyper.system.System, or anything with its loss, logical_axes and
        variant.trainable.
      config: the run.
      batches: start_step -> endless iterator over this host's rows of the global
        batches from that step on; a pure function of its argument.
      initial: every group's parameters and origin, or a function making them. Arrays
        are copied: the caller's stay valid.
      directory: of the run; its `checkpoints` folder is created. None saves nothing.
      writers: take the metrics.
      evaluate: (params, step) -> scalars, every `eval_every` steps and at the end; it
        must not keep the arrays, which the next step overwrites.
      config_text: kept with each checkpoint.
      vocabulary: fingerprint of the data's, kept with each checkpoint and compared.
      stream: what the batches depend on beside seed and step, kept and compared too.
      label: leads the progress lines.
      devices: for the mesh; default all of them.
      on_start: called once with the state and the start step.

    Returns:
      TrainResult.

    Raises:
      UserError: what was asked does not fit the devices, the batch or the checkpoint;
        a checkpoint cannot be written; the data end early.
      FloatingPointError: the loss of a step, which the message names, is not finite.
    """
    mesh = make_mesh(config.mesh, devices)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.set_mesh(mesh))
        stack.enter_context(rules.activate())
        interruption = stack.enter_context(Interruption())
        store = None
        if directory is not None:
            store = CheckpointStore(
                epath.Path(directory) / "checkpoints", config.checkpoints
            )
            stack.callback(store.close)

        # 1. The state: restored or new, laid out over the mesh.
        begin = start(system, config, initial, store, mesh, vocabulary, stream)
        state = begin.state
        at = first = int(state.step)
        if on_start is not None:
            on_start(state, at)

        # 2. The step, compiled at its first call.
        step = jax.jit(
            make_step(
                system,
                begin.optimiser,
                seed=config.seed,
                microbatches=config.microbatches,
                z_loss=config.z_loss,
            ),
            out_shardings=(begin.shardings, rules.replicated(mesh)),
            donate_argnums=0,
        )

        # 3. What goes in and what comes out beside the state.
        rows = _checked(batches(at), mesh, config) if at < config.steps else iter(())
        feeding = feed.prefetch(rows, feed.batch_sharding(mesh))
        progress = Progress(config.steps, at, label=label, shown=is_writer())
        stack.callback(progress.close)
        meter = Meter(progress, begin.schedule)
        metrics: dict[str, float] = {}
        for writer in writers:
            writer.resume(at)
            stack.callback(writer.close)

        def write(scalars: Mapping[str, float]) -> None:
            metrics.update(scalars)
            for writer in writers:
                writer.write(at, scalars)

        def save() -> None:
            if store is not None:
                meter.settle()  # nothing that is not finite is saved
                snapshot.save(store, state, begin.identity, config_text, metrics)

        # 4. The loop.
        while at < config.steps and not interruption.asked(at):
            batch = next(feeding, None)
            if batch is None:
                raise UserError(
                    f"the data ended at step {at} of {config.steps}; a stream of "
                    "batches must be endless"
                )
            state, sums = step(state, batch)
            at += 1
            meter.add(at, sums)
            last = at == config.steps
            if at % config.log_every == 0 or last:
                write(meter.row(at))
            if evaluate is not None and (at % config.eval_every == 0 or last):
                meter.settle()
                write(evaluate(state.params, at))
                progress.restart_clock()
            if at % config.checkpoints.every == 0 or last:
                save()
            if store is not None:
                store.check()

        # 5. The end, planned or not.
        stopped = at < config.steps
        if stopped:
            save()
            log.info("stopped by SIGTERM at step %d", at)
        elif at == first:
            log.warning("nothing to do: all %d steps are made", at)
        if store is not None:
            store.wait()
        return TrainResult(state.params, at, stopped, metrics)


def _checked(
    batches: Iterator[Batch], mesh: Mesh, config: TrainConfig
) -> Iterator[Batch]:
    """The batches, the first one's size checked against mesh and microbatches."""
    for index, batch in enumerate(batches):
        if index == 0:
            whole = share(feed.batch_sharding(mesh)).whole
            contexts, targets = batch.hyper_inputs.shape[0], batch.inputs.shape[0]
            feed.check_batch(mesh, whole(contexts), whole(targets), config.microbatches)
        yield batch
