"""A run from its first to its last step, read from top to bottom.

The loop is handed everything it needs (system, batches, writers, an evaluation) and
knows neither files of data nor configuration languages.
"""

import contextlib
import dataclasses
import logging
import time
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
from hypert5_jax.training.jitted import jit_step
from hypert5_jax.training.meter import Meter
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.progress import Progress
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.start import Initial, Start, start
from hypert5_jax.training.state import Params, TrainState
from hypert5_jax.training.step import Step
from hypert5_jax.training.watchdog import Watchdog

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

    def flush(self) -> None:
        """A checkpoint is saved: rows until now are not made again."""

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
    name_batch: Callable[[int], str] = "its batch is number {} of the stream".format,
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
      name_batch: step (from 1) -> where to find the rows it was made from, for messages.

    Returns:
      TrainResult.

    Raises:
      UserError: what was asked does not fit the devices, the batch or the checkpoint;
        a checkpoint cannot be written; the data end early; the metric that the best
        checkpoint is kept by is none of the run's.
      StorageError: a checkpoint cannot be read or written, which may pass.
      FloatingPointError: the loss of a step, which the message names, is not finite, or
        of more steps in a row than may be skipped.
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
        first = int(begin.state.step)
        if on_start is not None:
            on_start(begin.state, first)

        # 2. What goes in and what comes out beside the state.
        rows = _checked(batches(first), mesh, config) if first < config.steps else ()
        feeding = feed.prefetch(iter(rows), feed.batch_sharding(mesh))
        progress = Progress(config.steps, first, label=label, shown=is_writer())
        stack.callback(progress.close)
        for writer in writers:
            writer.resume(first)
            stack.callback(writer.close)
        meter = Meter(
            progress, begin.schedule, name_batch, config.max_skips, begin.since_row
        )
        watchdog = Watchdog(config.stall_seconds, config.on_stall == "stop", directory)
        stack.enter_context(watchdog)
        run = _Run(
            config=config,
            begin=begin,
            state=begin.state,
            first=first,
            at=first,
            step=jit_step(system, config, begin.optimiser, begin.shardings, mesh),
            feeding=feeding,
            evaluate=evaluate,
            config_text=config_text,
            store=store,
            writers=writers,
            meter=meter,
            progress=progress,
            watchdog=watchdog,
            metrics=dict(begin.metrics),
        )

        # 3. The loop.
        while run.at < config.steps and not interruption.asked():
            run.make_step()
            run.report()

        # 4. The end, planned or not.
        stopped = run.at < config.steps
        if stopped:
            run.save()
            log.info("stopped by SIGTERM at step %d", run.at)
        elif run.at == first:
            log.warning("nothing to do: all %d steps are made", run.at)
        if store is not None:
            store.wait()
        return TrainResult(run.state.params, run.at, stopped, run.metrics)


@dataclasses.dataclass
class _Run:
    """What changes from step to step, and what each step does with it.

    Attributes:
      begin: what the run began with.
      state: the newest.
      first: updates made before.
      at: updates made.
      step: compiled at its first call.
      feeding: batches on the devices.
      metrics: the last value of each.
      config, evaluate, config_text, store, writers, meter, progress, watchdog: of
        train.
    """

    config: TrainConfig
    begin: Start
    state: TrainState
    first: int
    at: int
    step: Step
    feeding: Iterator[Batch]
    evaluate: Evaluate | None
    config_text: str
    store: CheckpointStore | None
    writers: Sequence[Writer]
    meter: Meter
    progress: Progress
    watchdog: Watchdog
    metrics: dict[str, float]

    def make_step(self) -> None:
        """Waits for a batch and hands one step to the devices."""
        self.watchdog.alive(self.at, "step")
        began = time.monotonic()
        batch = next(self.feeding, None)
        self.progress.waited(time.monotonic() - began)
        if batch is None:
            raise UserError(
                f"the data ended at step {self.at} of {self.config.steps}; a stream of "
                "batches must be endless"
            )
        self.state, sums = self.step(self.state, batch)
        self.at += 1
        self.meter.add(self.at, sums)

    def report(self) -> None:
        """What is due after this step: a row, an evaluation, a checkpoint."""
        config, at = self.config, self.at
        last = at == config.steps
        if at % config.log_every == 0 or last:
            self._write(self.meter.row(at))
        if self.evaluate is not None and (at % config.eval_every == 0 or last):
            self.meter.settle()
            self.watchdog.alive(at, "evaluation")
            self._write(self.evaluate(self.state.params, at))
            self.progress.restart_clock()
        if at % config.checkpoints.every == 0 or last:
            self.save()
            self._require_best_metric()
        if self.store is not None:
            self.store.check()

    def save(self) -> None:
        """Begins a checkpoint; nothing that is not finite is saved."""
        if self.store is None:
            return
        since_row = self.meter.carried()
        self.watchdog.alive(self.at, "save")
        for writer in self.writers:
            writer.flush()
        snapshot.save(
            self.store,
            self.state,
            self.begin.identity,
            self.config_text,
            self.metrics,
            since_row,
        )

    def _require_best_metric(self) -> None:
        """Refuses a name that no metric has, once each has been written in this life.

        After a checkpoint, so that the same run goes on with another name.
        """
        config, name = self.config, self.config.checkpoints.best_metric
        due = max(config.log_every, config.eval_every if self.evaluate else 0)
        written = self.at - self.first >= due or self.at == config.steps
        if self.store is not None and written and name not in (None, *self.metrics):
            raise UserError(
                f"the best checkpoint is to be kept by {name} "
                "(CheckpointConfig.best_metric), which is no metric of this run; it has "
                f"{', '.join(sorted(self.metrics))}. Choose one of them, or None, and "
                "run the same command again: it goes on"
            )

    def _write(self, scalars: Mapping[str, float]) -> None:
        self.metrics.update(scalars)
        for writer in self.writers:
            writer.write(self.at, scalars)


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
