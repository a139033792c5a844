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

# Settings that say which runs there are, not how a run is done; parts of one sweep may
# differ in them.
_LISTS = ("methods", "starts", "tasks", "learning_rates", "seeds")
_PARTS = (*_LISTS, "recipe")


@dataclass(frozen=True)
class Cell:
    """One method, start and task at its best learning rate.

    Attributes:
      column: of the table.
      learning_rate: the chosen one.
      tried: how many learning rates had all their seeds, of how many.
      runs: one for each seed.
    """

    column: str
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


@dataclass(frozen=True)
class Tuned:
    """All cells of a table of sweeps, as far as there are any.

    Attributes:
      name: of the table.
      columns: of all tasks the sweeps are to have, AVG last.
      methods, starts: in the settings' order.
      cells: {(method, start, column): cell}.
      counts: {(method, start, column): (finished runs, all runs)}, of unfinished ones.
      runs: all finished ones.
    """

    name: str
    columns: tuple[str, ...]
    methods: tuple[str, ...]
    starts: tuple[str, ...]
    cells: Mapping[tuple[str, str, str], Cell]
    counts: Mapping[tuple[str, str, str], tuple[int, int]]
    runs: tuple[Run, ...]

    def scores(self) -> dict[tuple[str, str], Score]:
        """{(row, column): final score}, AVG where all columns are there."""
        found = {(start_row(m, s), c): x.score() for (m, s, c), x in self.cells.items()}
        for method in self.methods:
            for start in self.starts:
                if curve := self.curve(method, start, self.columns[:-1]):
                    found[start_row(method, start), AVG] = curve[1][-1]
        return found

    def curve(
        self, method: str, start: str, columns: Sequence[str]
    ) -> tuple[tuple[int, ...], tuple[Score, ...]] | None:
        """(steps, mean over these columns at each, over seeds), or None if one lacks."""
        cells = [self.cells.get((method, start, column)) for column in columns]
        found = [cell for cell in cells if cell is not None]
        if not found or len(found) < len(cells):
            return None
        points = range(len(found[0].steps))
        means = tuple(average([cell.score(i) for cell in found]) for i in points)
        return found[0].steps, means

    def common_columns(self, method: str) -> tuple[str, ...]:
        """Columns that all starts with any cell of the method have."""
        starts = {s for m, s, _ in self.cells if m == method}
        return tuple(
            column
            for column in self.columns[:-1]
            if starts and all((method, s, column) in self.cells for s in starts)
        )


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
    columns = _columns(name, lists["tasks"], runs)
    groups: dict[tuple[str, str, str], list[Run]] = {
        key: [] for key in itertools.product(lists["methods"], lists["starts"], columns)
    }
    for run in runs:
        groups[run.method, run.start, run.column].append(run)
    cells = {key: _cell(key[-1], own, rates, seeds) for key, own in groups.items()}
    total = len(rates) * len(seeds)
    return Tuned(
        name,
        (*columns, AVG),
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
    column: str, runs: Sequence[Run], rates: Sequence[float], seeds: Sequence[int]
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
    return Cell(column, rate, (len(complete), len(rates)), best)


def _columns(name: str, tasks: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Of the paper's table, or of the tasks in order; an unfinished task is itself.

    Raises:
      UserError: two tasks of one column.
    """
    column_of: dict[str, str] = {}
    for run in runs:
        other = column_of.setdefault(run.task, run.column)
        same = [t for t, c in column_of.items() if c == run.column and t != run.task]
        if other != run.column or same:
            raise UserError(
                f"{run.place}: task {run.task} has the column {run.column}, which is "
                f"also that of {', '.join(same) or other}; expected one task for each"
            )
    printed = [column for column in TABLES[name].columns if column != AVG]
    found = [column_of[task] for task in tasks if task in column_of]
    if printed and set(found) <= set(printed):
        return printed
    return [column_of.get(task, task) for task in tasks]


def _require_one_setting(sweeps: Sequence[Sweep]) -> None:
    for sweep in sweeps[1:]:
        first = sweeps[0]
        shared = [
            {k: v for k, v in s.settings.items() if k not in _PARTS}
            for s in (first, sweep)
        ]
        differing = value_differences("settings", *shared)
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
