"""The runs of a sweep, cell by cell: a method, a start and a task.

The learning rates and seeds of a cell train side by side, as many at a time as
`TuneRun.side_by_side` allows; their lines are written when they have ended. Which runs go
together follows from the settings alone, so that a sweep that was stopped ends as one
that was not.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from hypert5_jax.config.tune_data import TuneTask
from hypert5_jax.config.tune_run import TuneRun
from hypert5_jax.config.tune_sources import Start, StartMaker
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.progress import ProgressLine, clock
from hypert5_jax.evaluation import protocols
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.evaluation.results import Json
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.inference import side_by_side as ranking
from hypert5_jax.parallel import rules
from hypert5_jax.training import side_by_side
from hypert5_jax.training.interruption import Interruption
from hypert5_jax.training.optimisers import make_optimiser
from hypert5_jax.training.schedules import make_schedule

# Two programs round differently. How far the log-probability of an option may then be
# from its source's, relative to 1 + its size.
_ROUNDING = {"float32": 1e-4, "bfloat16": 3e-2}


@dataclasses.dataclass(frozen=True)
class Cell:
    """The runs that share a method, a start and a task: all (learning rate, seed)."""

    method: str
    start: str
    task: TuneTask
    runs: tuple[tuple[float, int], ...]

    def key(self, rate: float, seed: int) -> tuple[str, str, str, float, int]:
        """What names one run in the results."""
        return (self.method, self.start, self.task.name, rate, seed)


def key_of(line: Mapping[str, Any]) -> tuple[str, str, str, float, int]:
    """The run that a line of results is of."""
    names = ("method", "start", "task", "learning_rate", "seed")
    return tuple(line[name] for name in names)  # type: ignore[return-value]


def cells_of(run: TuneRun, tasks: Sequence[TuneTask]) -> list[Cell]:
    """All cells, those of a (method, start) one after another."""
    runs = tuple((rate, seed) for rate in run.learning_rates for seed in run.seeds)
    return [
        Cell(method, start, task, runs)
        for method in run.methods
        for start in run.starts
        for task in tasks
    ]


def chunks_of(cell: Cell, most: int) -> list[Cell]:
    """The cell in equal parts (the last may be smaller) of at most `most` runs."""
    count = math.ceil(len(cell.runs) / most)
    size = math.ceil(len(cell.runs) / count)
    return [
        dataclasses.replace(cell, runs=cell.runs[i : i + size])
        for i in range(0, len(cell.runs), size)
    ]


class Sweep:
    """Trains what is not yet in the results.

    Args:
      run: the sweep.
      frozen: the T5's parameters, laid out over the mesh.
      starts: makes the runs' starts.
      results: where lines go.
      mesh: in use while `train` runs.
    """

    def __init__(
        self,
        run: TuneRun,
        frozen: Any,
        starts: StartMaker,
        results: AppendedLines,
        mesh: Mesh,
    ):
        self.run, self.starts, self.results = run, starts, results
        self.frozen, self.mesh = frozen, mesh
        self._steps: dict[System, tuple[Callable, Callable]] = {}
        self.phi_of = jax.jit(learned.phi_of_runs, static_argnums=(1, 2))
        one = {
            rate: make_schedule(
                dataclasses.replace(run.schedule, learning_rate=rate), run.steps
            )
            for rate in run.learning_rates
        }
        at = np.arange(run.steps)
        self._rates = {rate: np.asarray(jax.vmap(one[rate])(at)) for rate in one}

    def train(self, cells: Sequence[Cell]) -> bool:
        """Trains all runs of the cells that have no line; False if SIGTERM stopped it.

        Raises:
          UserError: a start does not score what its source does; nothing of it is kept.
        """
        done = {key_of(line) for line in self.results.lines}
        chunks = [part for c in cells for part in chunks_of(c, self.run.side_by_side)]
        missing = [c for c in chunks if any(c.key(*run) not in done for run in c.runs)]
        total = sum(len(chunk.runs) for chunk in chunks)
        left = sum(len(chunk.runs) for chunk in missing)
        progress = SweepProgress(total, left)
        with Interruption() as interruption, progress:
            for _, group in _groups(missing):
                wanted = [(c.task, seed) for c in group for _, seed in c.runs]
                wanted = list({(t.name, s): (t, s) for t, s in wanted}.values())
                first = group[0]
                starts = self.starts.make(first.method, first.start, wanted)
                for chunk in group:
                    begun = time.monotonic()
                    lines = self._train(chunk, starts, progress, interruption)
                    if lines is None:
                        return False
                    seconds = (time.monotonic() - begun) / len(chunk.runs)
                    lines = [{**line, "seconds": round(seconds, 3)} for line in lines]
                    self.results.append([x for x in lines if key_of(x) not in done])
                    progress.add(len(chunk.runs))
        return True

    def _train(
        self,
        chunk: Cell,
        starts: Mapping[tuple[str, int], Start],
        progress: "SweepProgress",
        interruption: Interruption,
    ) -> list[Json] | None:
        """The lines of a chunk's runs, without their seconds; None if stopped."""
        run = self.run
        system = self.starts.system(chunk.method, chunk.start)
        mine = [starts[chunk.task.name, seed] for _, seed in chunk.runs]
        phi = learned.stack_runs([start.params for start in mine])
        begin, step = self._compiled(system, phi)
        state = begin(phi)
        judge = Judge(self, system, chunk)
        ranks = judge.ranks(state.params["phi"])
        for (_, seed), start, found in zip(chunk.runs, mine, ranks, strict=True):
            check_start(chunk, seed, start, found, run.downstream.dtype)
        scores, losses = [judge.scores(ranks)], [np.full(len(chunk.runs), np.nan)]
        since: list[side_by_side.RunSums] = []
        frozen = {"downstream": self.frozen}
        for at in range(run.steps):
            if interruption.asked():
                return None
            batch = self._batch(chunk, at)
            rates = np.array([self._rates[rate][at] for rate, _ in chunk.runs])
            state, sums = step(state, frozen, batch, rates)
            since.append(sums)
            if at + 1 in run.eval_steps:
                scores.append(judge.scores(judge.ranks(state.params["phi"])))
                losses.append(_mean_losses(since))
                since = []
            progress.draw(chunk, (at + 1) / run.steps)
        return [self._line(chunk, i, mine[i], scores, losses) for i in range(len(mine))]

    def _batch(self, chunk: Cell, step: int) -> Batch:
        """The rows of all runs, each run's beside each other."""
        of_seed = {s: chunk.task.batch(s, step) for s in {s for _, s in chunk.runs}}
        parts = [of_seed[seed] for _, seed in chunk.runs]
        return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)

    def _line(
        self,
        chunk: Cell,
        place: int,
        start: Start,
        scores: Sequence[np.ndarray],
        losses: Sequence[np.ndarray],
    ) -> Json:
        rate, seed = chunk.runs[place]
        task = chunk.task
        source = start.scores
        return {
            "method": chunk.method,
            "start": chunk.start,
            "task": task.name,
            "column": task.column,
            "learning_rate": rate,
            "seed": seed,
            "metric": task.metric,
            "steps": self.run.eval_steps,
            "scores": [float(each[place]) for each in scores],
            "losses": [_number(each[place]) for each in losses],
            "source_score": None if source is None else _score(task, seed, source),
        }

    def _compiled(self, system: System, phi: Any) -> tuple[Callable, Callable]:
        """(start, step) of a system; kept, so that cells of one shape compile once."""
        if system not in self._steps:
            begin, step, axes = functions(self.run, system)
            shapes = jax.eval_shape(begin, phi)
            layout = side_by_side.runs_shardings(self.mesh, shapes, axes)
            whole = rules.replicated(self.mesh)
            self._steps[system] = (
                jax.jit(begin, out_shardings=layout),
                jax.jit(step, donate_argnums=0, out_shardings=(layout, whole)),
            )
        return self._steps[system]


def functions(run: TuneRun, system: System) -> tuple[Callable, Callable, Any]:
    """(start of runs, step, logical axes of one run's parameters), not compiled."""
    axes = {"phi": system.logical_axes()["phi"]}
    # Each run's learning rate is an argument of the step.
    optimiser = make_optimiser(run.optimiser, optax.constant_schedule(1.0), axes)
    step = side_by_side.make_step(system, optimiser, run.microbatches)
    return lambda phi: side_by_side.start_runs(optimiser, phi), step, axes


class Judge:
    """Scores the runs of a chunk, all of them under each pass of the T5.

    Args:
      sweep: whose T5 and settings.
      system: what the runs train.
      chunk: the runs.
    """

    def __init__(self, sweep: Sweep, system: System, chunk: Cell):
        self._sweep, self._system, self._chunk = sweep, system, chunk
        run, task = sweep.run, chunk.task
        seeds = [seed for _, seed in chunk.runs]
        seeds = seeds[:1] if task.same_words else seeds
        self._sheets = ranking.lay_out(
            [task.questions(seed) for seed in seeds],
            len(chunk.runs),
            run.evaluation_rows,
            int(run.data.row_format.lengths["inputs"]),
            run.data.row_format.target_length,
            sweep.mesh,
        )

    def ranks(self, params: Any) -> np.ndarray:
        """What each run ranks options by: float64 [n, questions, o]."""
        sweep, config = self._sweep, self._system.downstream
        phi = sweep.phi_of(params, config, self._system.variant)
        rule = protocols.find(sweep.run.protocol).answer
        return ranking.rank(config, sweep.frozen, self._sheets, phi, rule, sweep.mesh)

    def scores(self, ranks: np.ndarray) -> np.ndarray:
        """Percent of the task's metric of each run."""
        pairs = zip(self._chunk.runs, ranks, strict=True)
        return np.array([_score(self._chunk.task, s, found) for (_, s), found in pairs])


def check_start(
    cell: Cell, seed: int, start: Start, ranks: np.ndarray, dtype: str
) -> None:
    """At step 0 the tuned model says what the source of its φ says.

    Log-probabilities of all options agree up to rounding, and so do the choices, except
    between options that rounding cannot tell apart.

    Args:
      cell: of the run.
      seed: of the run.
      start: where the run begins.
      ranks: float64 [questions, o], of the tuned model.
      dtype: of activations, which decides what rounding can be.

    Raises:
      UserError: it does not; with both scores.
    """
    if start.scores is None:
        return
    theirs = start.scores
    here = np.isfinite(theirs)
    room = _ROUNDING[dtype] * (1 + np.abs(np.where(here, theirs, 0.0)))
    ours = np.where(here, ranks[:, : theirs.shape[1]], 0.0)
    away = np.abs(ours - np.where(here, theirs, 0.0))
    if np.all(away <= room):
        return
    worst = int(np.argmax((away - room).max(axis=1)))
    scores = [_score(cell.task, seed, found) for found in (ranks, theirs)]
    raise UserError(
        f"{cell.method} ({cell.start}) on {cell.task.name}, seed {seed}, does not start "
        f"as its source: at step 0 it scores {scores[0]:.2f}, {start.source} by itself "
        f"{scores[1]:.2f}; option scores of question {worst} are "
        f"{_text(ours[worst])} and {_text(theirs[worst])}"
    )


def _text(values: np.ndarray) -> str:
    return "(" + ", ".join(f"{value:.4f}" for value in values) + ")"


def _score(task: TuneTask, seed: int, ranks: np.ndarray) -> float:
    """Percent, of the best options of ranks [questions, o]; of equal ones the first.

    What a run that has diverged ranks by is NaN, and chooses nothing.
    """
    best, lost = np.argmax(ranks, axis=-1), np.isnan(ranks).any(axis=-1)
    choices = zip(best.tolist(), lost.tolist(), strict=True)
    return task.score(seed, [None if no else choice for choice, no in choices])


def _mean_losses(sums: Sequence[side_by_side.RunSums]) -> np.ndarray:
    """Mean nats per target token of each run over some steps: float64 [n]."""
    fetched = jax.device_get(sums)
    loss = np.sum([np.asarray(one.loss, np.float64) for one in fetched], axis=0)
    weight = np.sum([np.asarray(one.weight, np.float64) for one in fetched], axis=0)
    return loss / np.maximum(weight, 1.0)


def _number(value: float) -> float | None:
    """What JSON can hold: a loss that is not finite is none."""
    return float(value) if np.isfinite(value) else None


def _groups(chunks: Sequence[Cell]) -> Iterator[tuple[tuple[str, str], list[Cell]]]:
    """The chunks of each (method, start), in order."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for chunk in chunks:
        found.setdefault((chunk.method, chunk.start), []).append(chunk)
    yield from found.items()


class SweepProgress:
    """The line that says how far a sweep is.

    Args:
      total: runs of the sweep.
      left: those not yet done.
    """

    def __init__(self, total: int, left: int):
        self._total, self._left, self._made = total, left, 0
        self._line, self._begun = ProgressLine(), time.monotonic()

    def add(self, runs: int) -> None:
        """So many runs have ended."""
        self._left -= runs
        self._made += runs

    def draw(self, chunk: Cell, done: float) -> None:
        """A chunk is trained to a part `done` (0 … 1) of its steps."""
        if not self._line.due():
            return
        under_way = done * len(chunk.runs)
        per_run = (time.monotonic() - self._begun) / (self._made + under_way)
        left = clock(per_run * (self._left - under_way))
        name = f"{chunk.method} {chunk.start} {chunk.task.name}"
        ended = self._total - self._left
        text = f"{ended}/{self._total} runs, {name}, {left} left"
        self._line.draw(text, (ended + under_way) / self._total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._line.close()
