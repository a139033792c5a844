"""What the quickstart judges: the same target examples under each kind of context."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hypert5_jax.config.quickstart_run import QuickstartRun
from hypert5_jax.data.contexts import KINDS, EvaluationRows, evaluation_rows
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.evaluation.context_columns import Case
from hypert5_jax.preparation.quickstart.corpus import GROUPS


@dataclass(frozen=True)
class Data:
    """Prepared mixtures by (name without `quickstart_`, split)."""

    mixtures: dict[tuple[str, str], PreparedMixture]

    def __getitem__(self, key: tuple[str, str]) -> PreparedMixture:
        return self.mixtures[key]


def cases_of(rows: EvaluationRows) -> list[Case]:
    """The rows grouped by the context they share."""
    cases = []
    for number, context in enumerate(rows.contexts):
        here = np.flatnonzero(rows.context_of == number)
        cases.append(
            Case(
                rows.task,
                context,
                [rows.inputs[i] for i in here],
                [rows.targets[i] for i in here],
                [rows.options[i] for i in here],
            )
        )
    return cases


def draws_of(run: QuickstartRun, group: str) -> int:
    """Contexts per task; training tasks are many, so one each will do."""
    return 1 if group == "train" else run.evaluation_draws


def list_cases(
    run: QuickstartRun, data: Data, row: RowFormat
) -> dict[str, list[tuple[str, Case]]]:
    """{kind of context: [(group, case)]}, the same targets in the same order."""
    found: dict[str, list[tuple[str, Case]]] = {kind: [] for kind in KINDS}
    for group, task, draw in numbered_tasks(run, data):
        for kind in KINDS:
            rows = evaluation_rows(
                data[group, "test"],
                task,
                row,
                seed=draw,
                kind=kind,
                limit=run.evaluation_examples,
                support=data[group, "train"],
            )
            found[kind].append((group, cases_of(rows)[0]))
    return found


def numbered_tasks(run: QuickstartRun, data: Data) -> Iterator[tuple[str, str, int]]:
    """(group, task, draw) of every case, in the order of all columns."""
    for group in GROUPS:
        for draw in range(draws_of(run, group)):
            for task in data[group, "test"].tasks:
                yield group, task.name, draw
