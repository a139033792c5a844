"""Tables 6 and 7 and Figures 5 and 9 from the runs of `tune`.

A cell is one method, start and task; its learning rate is the one with the best mean
final score over seeds (paper, section 6).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting.comparable import value_differences
from hypert5_jax.reporting.paper.tables import TABLES, start_row
from hypert5_jax.reporting.result_files import Run, Sweep
from hypert5_jax.reporting.scores import AVG, Score, average

# Settings that say which runs there are: parts of one sweep may differ in them.
_LISTS = ("methods", "starts", "tasks", "learning_rates", "seeds")
_MAY_DIFFER = (*_LISTS, "recipe", "versions")


@dataclass(frozen=True)
class Cell:
    """One method, start and task at its best learning rate.

    Attributes:
      learning_rate: the chosen one.
      tried: how many learning rates had all their seeds, of how many.
      runs: one for each seed.
    """

    learning_rate: float
    tried: tuple[int, int]
    runs: tuple[Run, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Where it was judged."""
        return self.runs[0].steps

    def score(self, point: int = -1) -> Score:
        """Over seeds, at one of the steps; the last by default."""
        return Score(tuple(run.scores[point] for run in self.runs), "seeds")


Curve = tuple[tuple[int, ...], tuple[Score, ...]]


@dataclass(frozen=True)
class Tuned:
    """All cells of a table of sweeps, as far as there are any.

    Attributes:
      name: of the table.
      tasks_of: {column: its tasks}, in order.
      methods, starts: in the settings' order.
      cells: {(method, start, task): cell}.
      counts: {(method, start, task): (finished runs, all runs)}, of unfinished ones.
      runs: all finished ones.
    """

    name: str
    tasks_of: Mapping[str, tuple[str, ...]]
    methods: tuple[str, ...]
    starts: tuple[str, ...]
    cells: Mapping[tuple[str, str, str], Cell]
    counts: Mapping[tuple[str, str, str], tuple[int, int]]
    runs: tuple[Run, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Without AVG."""
        return tuple(self.tasks_of)

    def scores(self) -> dict[tuple[str, str], Score]:
        """{(row, column): final score}, AVG where all columns are there."""
        found = {}
        for method, start in itertools.product(self.methods, self.starts):
            wanted = {column: (column,) for column in self.columns}
            for column, columns in (wanted | {AVG: self.columns}).items():
                if curve := self.curve(method, start, columns):
                    found[start_row(method, start), column] = curve[1][-1]
        return found

    def curve(self, method: str, start: str, columns: Sequence[str]) -> Curve | None:
        """(steps, mean over these columns at each, over seeds), or None if one lacks.

        A column is the plain mean of its tasks.
        """
        means: list[list[Score]] = []
        steps: tuple[int, ...] = ()
        for column in columns:
            keys = [(method, start, task) for task in self.tasks_of[column]]
            cells = [self.cells[key] for key in keys if key in self.cells]
            if not cells or len(cells) < len(keys):
                return None
            steps = cells[0].steps
            points = range(len(steps))
            means.append([average([c.score(i) for c in cells]) for i in points])
        return (steps, tuple(map(average, zip(*means)))) if means else None

    def common_columns(self, method: str) -> tuple[str, ...]:
        """Columns that all starts with any whole column of the method have."""
        whole = {
            start: [c for c in self.columns if self.curve(method, start, [c])]
            for start in self.starts
        }
        some = [columns for columns in whole.values() if columns]
        return tuple(c for c in self.columns if some and all(c in s for s in some))


def tuned(name: str, sweeps: Sequence[Sweep]) -> Tuned | None:
    """One table from the sweeps whose recipe names it; None if there are none.

    Raises:
      UserError: sweeps with other settings, a run that is there twice, runs of one task
        that were judged by different metrics or after different steps, or a run that
        the settings do not know.
    """
    sweeps = [sweep for sweep in sweeps if sweep.table == name]
    if not sweeps:
        return None
    _require_one_setting(sweeps)
    lists = {
        each: list(dict.fromkeys(v for s in sweeps for v in s.settings[each]))
        for each in _LISTS
    }
    rates, seeds = lists["learning_rates"], lists["seeds"]
    runs = _all_runs(sweeps)
    _require_one_metric(runs)
    groups: dict[tuple[str, str, str], list[Run]] = {
        key: []
        for key in itertools.product(lists["methods"], lists["starts"], lists["tasks"])
    }
    for run in runs:
        groups[run.method, run.start, run.task].append(run)
    cells = {key: _cell(own, rates, seeds) for key, own in groups.items()}
    total = len(rates) * len(seeds)
    return Tuned(
        name,
        _tasks_of(name, lists["tasks"], runs),
        tuple(lists["methods"]),
        tuple(lists["starts"]),
        {key: cell for key, cell in cells.items() if cell is not None},
        {k: (len(own), total) for k, own in groups.items() if len(own) < total},
        tuple(runs),
    )


def _all_runs(sweeps: Sequence[Sweep]) -> list[Run]:
    """Of all sweeps, each planned by its settings and there once."""
    runs: dict[tuple, Run] = {}
    for sweep in sweeps:
        for run in sweep.runs:
            _require_planned(sweep, run)
            key = (run.method, run.start, run.task, run.learning_rate, run.seed)
            if key in runs:
                raise UserError(
                    f"{runs[key].place} and {run.place} are the same run: "
                    f"{', '.join(map(str, key))}; delete one of them"
                )
            runs[key] = run
    return list(runs.values())


def _cell(
    runs: Sequence[Run], rates: Sequence[float], seeds: Sequence[int]
) -> Cell | None:
    """The best of the learning rates that have all seeds; of equal ones the first."""
    complete: list[tuple[float, tuple[Run, ...]]] = []
    for rate in rates:
        own = {run.seed: run for run in runs if run.learning_rate == rate}
        if all(seed in own for seed in seeds):
            complete.append((rate, tuple(own[seed] for seed in seeds)))
    if not complete:
        return None
    finals = [Score(tuple(run.scores[-1] for run in r)).mean for _, r in complete]
    rate, best = complete[finals.index(max(finals))]
    return Cell(rate, (len(complete), len(rates)), best)


def _tasks_of(
    name: str, tasks: Sequence[str], runs: Sequence[Run]
) -> dict[str, tuple[str, ...]]:
    """{column: tasks}: the paper's columns, or those of the runs.

    A task without any run says no column yet: it is one of its own, unless all columns
    are the paper's, one task each.

    Raises:
      UserError: runs of one task that name different columns.
    """
    column_of: dict[str, Run] = {}
    for run in runs:
        other = column_of.setdefault(run.task, run)
        if other.column != run.column:
            raise UserError(
                f"{other.place} and {run.place} put task {run.task} into different "
                f"columns, {other.column} and {run.column}"
            )
    found: dict[str, tuple[str, ...]] = {}
    for task in tasks:
        column = column_of[task].column if task in column_of else task
        found[column] = (*found.get(column, ()), task)
    printed = [column for column in TABLES[name].columns if column != AVG]
    if printed and {run.column for run in runs} <= set(printed):
        # What no run is there for has a name that no task has, and so no cell.
        return {column: found.get(column, (column,)) for column in printed}
    return found


def _require_one_setting(sweeps: Sequence[Sweep]) -> None:
    first = sweeps[0]
    for sweep in sweeps[1:]:
        one, other = (
            {k: v for k, v in s.settings.items() if k not in _MAY_DIFFER}
            for s in (first, sweep)
        )
        # Each names the runs that its own starts need.
        marks = [s.pop("parameters", {}) for s in (one, other)]
        shared = [{k: m[k] for k in marks[0].keys() & marks[1].keys()} for m in marks]
        differing = value_differences("parameters", *shared)
        differing += value_differences("settings", one, other)
        if differing:
            raise UserError(
                f"{first.file} and {sweep.file} are both for {sweep.table} but were "
                f"tuned differently: {'; '.join(differing[:5])}. Report on them apart"
            )


def _require_planned(sweep: Sweep, run: Run) -> None:
    values = (run.method, run.start, run.task, run.learning_rate, run.seed)
    for name, value in zip(_LISTS, values):
        if value not in sweep.settings[name]:
            raise UserError(
                f"{run.place}: {value!r} is none of the {name} in the settings.json "
                f"beside it ({', '.join(map(str, sweep.settings[name]))})"
            )


def _require_one_metric(runs: Sequence[Run]) -> None:
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.task, run)
        if run.metric != other.metric:
            raise UserError(
                f"{other.place} and {run.place} judge task {run.task} by different "
                f"metrics, {other.metric} and {run.metric}"
            )
        if run.steps != runs[0].steps:
            raise UserError(
                f"{runs[0].place} and {run.place} were judged after different steps: "
                f"{runs[0].steps} and {run.steps}"
            )


def started_elsewhere(runs: Sequence[Run]) -> list[Run]:
    """Runs that do not score at step 0 what the source of their φ scored."""
    return [
        run
        for run in runs
        if run.source_score is not None
        and run.steps[0] == 0
        and run.scores[0] != run.source_score
    ]
