"""From result files to the numbers of tables: {(table, row, column): score}."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation import protocols
from hypert5_jax.reporting.comparable import require_one_measure, require_seeds
from hypert5_jax.reporting.paper.tables import CURVES, SMALL, TABLES
from hypert5_jax.reporting.result_files import Result
from hypert5_jax.reporting.scores import AVG, Score, average

REAL = "real"


@dataclass(frozen=True)
class Filled:
    """One table of evaluations, as far as there are any.

    Attributes:
      name: of the table.
      columns: in order; those of the paper, or those the results have.
      scores: {(row, column): score} under the real context.
      contexts: {(row, kind of context): headline}, real and others, where all seeds of
        the row have one.
      results: what it was made from.
      left_out: which results fill no cell, and why.
    """

    name: str
    columns: tuple[str, ...]
    scores: Mapping[tuple[str, str], Score]
    contexts: Mapping[tuple[str, str], Score]
    results: tuple[Result, ...]
    left_out: tuple[str, ...]


def fill(name: str, results: Sequence[Result]) -> Filled:
    """One table from the results whose recipe names it.

    For Figure 4 a column is a number of hyperpretraining steps. What has no number for
    the table is left out and named.

    Raises:
      UserError: results that were measured differently, two for one cell that are no
        training seeds of one recipe, or a column that only some of them have.
    """
    of_table = [result for result in results if result.table == name]
    reasons = [_reason_against(result) for result in of_table]
    used = [result for result, reason in zip(of_table, reasons) if not reason]
    require_one_measure([r for r in of_table if REAL in r.contexts])
    cells: dict[tuple[str, str], list[Result]] = {}
    for result in used:
        key = (result.recipe["system"], own_column(result))
        cells.setdefault(key, []).append(result)
    _require_same_columns(used)
    scores: dict[tuple[str, str], Score] = {}
    contexts: dict[tuple[str, str], Score] = {}
    for (system, column), found in cells.items():
        require_seeds(found)
        tables = [_numbers(result) for result in found]
        for each in tables[0]:
            scores[system, each] = _joined([table[each] for table in tables])
        row = f"{system}, {column}" if column else system
        for context in found[0].contexts:
            heads = [h for r in found if (h := _headline(r, context)) is not None]
            if len(heads) == len(found):
                contexts[row, context] = _joined(heads)
    columns = _columns(name, scores)
    if name in SMALL and AVG not in columns and name not in CURVES:
        columns, scores = _with_average(columns, scores)
    left_out = tuple(reason for reason in reasons if reason)
    return Filled(name, columns, scores, contexts, tuple(used), left_out)


def _reason_against(result: Result) -> str:
    """Why a result fills no cell; empty if it does."""
    if REAL not in result.contexts:
        return f"{result.file} was not judged under the real context"
    if not _numbers(result):
        missing = _missing_groups(result) or "no number"
        return f"{result.file} has no score for {result.table}: {missing}"
    return ""


def _numbers(result: Result) -> dict[str, Score]:
    """{column: score} that a result fills."""
    column = own_column(result)
    if not column:
        return columns_of(result)
    headline = _headline(result, REAL)
    return {} if headline is None else {column: headline}


def own_column(result: Result) -> str:
    """The one column a run fills, or "" where its protocol has columns."""
    table = TABLES[result.table]
    column = str(result.recipe.get("column") or "")
    if table.name in CURVES:
        steps = result.recipe.get("hyperpretrained")
        if not isinstance(steps, int) or isinstance(steps, bool):
            raise UserError(
                f"{result.file}: hyperpretrained is {steps!r} in its recipe; expected "
                f"the steps of hyperpretraining, which {table.name} is about"
            )
        return str(steps)
    known = tuple(c for c in table.columns if c != AVG)
    whole = AVG in table.columns
    if not table.columns or (whole and not column) or (not whole and column in known):
        return column
    raise UserError(
        f"{result.file}: its recipe names the column {column!r} of {table.name}; "
        f"expected {'none' if whole else 'one of ' + ', '.join(known)}"
    )


def _columns(name: str, scores: Mapping[tuple[str, str], Score]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(column for _, column in scores))
    if name in CURVES:
        return tuple(sorted(found, key=int))
    if TABLES[name].columns:
        return TABLES[name].columns
    return (*(c for c in found if c != AVG), *((AVG,) if AVG in found else ()))


def _with_average(
    columns: tuple[str, ...], scores: dict[tuple[str, str], Score]
) -> tuple[tuple[str, ...], dict[tuple[str, str], Score]]:
    """The plain mean, for systems that have all columns."""
    if not columns:
        return columns, scores
    found = dict(scores)
    for system in dict.fromkeys(system for system, _ in scores):
        own = [scores[system, c] for c in columns if (system, c) in scores]
        if len(own) == len(columns):
            found[system, AVG] = average(own)
    return (*columns, AVG), found


def columns_of(result: Result) -> dict[str, Score]:
    """{column: score} of an evaluation's real context, AVG last if it is known.

    P3's columns; else the mean by metric or by category, with the headline as AVG.
    """
    table = result.contexts[REAL]
    protocol = result.settings.get("protocol")
    kind = protocol.get("average") if isinstance(protocol, Mapping) else None
    parts: Mapping[str, Any] = table.get("mean", {})
    if kind == protocols.TASKS:
        parts = table.get("by_metric", {})
    if kind == protocols.INSTANCES:
        categories = table.get("categories", {})
        parts = {name: value.get("reported") for name, value in categories.items()}
    if not isinstance(parts, Mapping):
        raise UserError(f"{result.file} has {parts!r} where its columns should be")
    found = {name: _score(result, name, value) for name, value in parts.items()}
    headline = _headline(result, REAL)
    return found if headline is None else found | {AVG: headline}


def _missing_groups(result: Result) -> str:
    tables = result.contexts[REAL].get("tables", ())
    groups = [group for table in tables for group in table.get("missing_groups", ())]
    return f"no task of {', '.join(dict.fromkeys(groups))}" if groups else ""


def _headline(result: Result, context: str) -> Score | None:
    """The one number of a context; P3's is missing until all its columns are there,
    and all are where it was not judged."""
    table = result.contexts.get(context, {})
    if "headline" not in table:
        return None
    return _score(result, "headline", table["headline"])


def _score(result: Result, column: str, value: object) -> Score:
    draws = value.get("draws") if isinstance(value, Mapping) else None
    numbers = isinstance(draws, list) and all(
        isinstance(draw, int | float) and math.isfinite(draw) for draw in draws
    )
    if not draws or not numbers:
        raise UserError(
            f"{result.file} has no score for {column}: {value!r}; expected an object "
            "with finite draws, as evaluate writes it"
        )
    return Score(tuple(map(float, draws)), "draws")


def _joined(scores: Sequence[Score]) -> Score:
    """One cell: the draws of one evaluation, or the means of several seeds'."""
    if len(scores) == 1:
        return scores[0]
    return Score(tuple(score.mean for score in scores), "seeds")


def _require_same_columns(results: Sequence[Result]) -> None:
    """A column that others of the table have may not be missing: AVGs would differ."""
    whole = [result for result in results if not own_column(result)]
    for result in whole[1:]:
        first = whole[0]
        lacking = sorted(set(columns_of(first)) ^ set(columns_of(result)))
        if lacking:
            missing = _missing_groups(result) or _missing_groups(first)
            raise UserError(
                f"{first.file} and {result.file} are both for {result.table}, but only "
                f"one of them has {', '.join(lacking)}"
                f"{f' ({missing})' if missing else ''}; evaluate both on the same tasks"
            )
