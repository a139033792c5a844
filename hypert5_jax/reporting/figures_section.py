"""Figures 4, 5 and 9 as blocks of the report, each with its numbers and its picture."""

import itertools
from collections.abc import Mapping, Sequence

from hypert5_jax.reporting.book import Numbers
from hypert5_jax.reporting.document import (
    Block,
    Grid,
    Heading,
    Paragraph,
    Picture,
    Text,
)
from hypert5_jax.reporting.filled import Filled
from hypert5_jax.reporting.paper.claims import PEFT_OF, points
from hypert5_jax.reporting.paper.recipes import recipe_of
from hypert5_jax.reporting.paper.tables import (
    PEFT_TABLE,
    SMALL,
    STARTS,
    TABLES,
    start_row,
)
from hypert5_jax.reporting.plots import Line, Panel
from hypert5_jax.reporting.scores import AVG
from hypert5_jax.reporting.sweeps import Cell, Tuned, started_elsewhere
from hypert5_jax.reporting.tables_section import (
    NOTHING,
    Commands,
    comparison,
    measurement,
    notes,
    rows_of,
)

# {figure: {panel's title: method}}
_TUNING: Mapping[str, Mapping[str, str]] = {
    "figure_5": {"Prefix (MLP)": "Prefix-MLP", "LoRA": "LoRA"},
    "figure_9": {"Prefix (flat)": "Prefix-Flat"},
}
Panels = dict[str, list[Panel]]


def prefix_of(table: str) -> str:
    """What the files of a scaled-down table's pictures begin with."""
    return "small_" if table in SMALL else ""


def figure_4_blocks(
    filled: Filled, numbers: Numbers, commands: Commands
) -> tuple[list[Block], Panels]:
    """AVG against hyperpretraining steps, with PEFT-only as horizontal lines."""
    table = TABLES[filled.name]
    blocks: list[Block] = [Heading(3, table.title)]
    systems = rows_of(table, filled.scores)
    lines: list[list[Text]] = []
    for system in systems:
        if any((system, column) in filled.scores for column in filled.columns):
            cells = [filled.scores.get((system, column)) for column in filled.columns]
            lines.append([system, *(str(cell) if cell else NOTHING for cell in cells)])
        else:
            mark = commands.mark(recipe_of(table.name, system, ""))
            lines.append([system, *([mark] * max(1, len(filled.columns)))])
    heads = [f"{int(column):,}" for column in filled.columns] or [AVG]
    blocks.append(Grid(["steps", *heads], lines))
    blocks += commands.new() + notes(list(filled.scores.values())) + measurement(filled)
    if not filled.scores:
        return blocks, {}
    book = numbers.book
    curves = {system: points(book, filled.name, system) for system in systems}
    shown = [
        Line(system, list(curve), list(curve.values()), f"C{i}")
        for i, (system, curve) in enumerate(curves.items())
        if curve
    ]
    levels = [
        (peft, book[filled.name, peft, AVG], f"C{systems.index(system)}")
        for system, peft in PEFT_OF.items()
        if (filled.name, peft, AVG) in book and curves.get(system)
    ]
    file = f"{prefix_of(filled.name)}figure_4.png"
    blocks.append(Picture(file, table.title))
    if differing := numbers.otherwise(filled.name):
        label = TABLES[PEFT_TABLE[filled.name]].label
        text = f"PEFT-only of {label} was measured otherwise and is not compared: "
        blocks.append(Paragraph(text + f"{'; '.join(differing)}."))
    return blocks, {file: [Panel("", "hyperpretraining steps", shown, levels)]}


def tuned_blocks(
    name: str, tuned: Tuned | None, commands: Commands
) -> tuple[list[Block], Panels]:
    """Tables 6 and 7 with the learning rates chosen, and Figures 5 and 9."""
    table = TABLES[name]
    blocks: list[Block] = [Heading(3, table.title)]
    scores = tuned.scores() if tuned else {}
    columns = (*tuned.columns, AVG) if tuned else table.columns
    unfinished = _unfinished(tuned) if tuned else {}
    blocks.append(comparison(table, columns, scores, commands, unfinished))
    blocks += commands.new()
    if tuned is None:
        return blocks, {}
    blocks += notes(list(scores.values())) + _about(tuned)
    pictures: Panels = {}
    for figure, methods in _TUNING.items():
        file = f"{prefix_of(name)}{figure}.png"
        panels, over = _panels(tuned, methods)
        if panels:
            pictures[file] = panels
            number_of = figure.removeprefix("figure_")
            blocks.append(Picture(file, f"Figure {number_of}: {over}"))
    return blocks, pictures


def _unfinished(tuned: Tuned) -> dict[tuple[str, str], str]:
    """{(row, column): `4/9`} of cells that lack runs."""
    found = {}
    for method, start in itertools.product(tuned.methods, tuned.starts):
        for column, tasks in tuned.tasks_of.items():
            counts = [tuned.counts.get((method, start, task)) for task in tasks]
            known = [count for count in counts if count is not None]
            if known:
                done, total = map(sum, zip(*known))
                found[start_row(method, start), column] = f"{done}/{total}"
    return found


def _about(tuned: Tuned) -> list[Block]:
    """How cells came about: learning rates, unfinished runs, the check at step 0."""
    tasks = [task for own in tuned.tasks_of.values() for task in own]
    lines: list[list[Text]] = []
    for method, start in itertools.product(tuned.methods, tuned.starts):
        found = [tuned.cells.get((method, start, task)) for task in tasks]
        if any(found):
            lines.append([start_row(method, start), *map(_rate, found)])
    blocks: list[Block] = []
    if lines:
        blocks += [
            Paragraph("The learning rate of each cell: the best mean over seeds.")
        ]
        single = len(tasks) == len(tuned.tasks_of)
        blocks += [Grid(["", *(tuned.columns if single else tasks)], lines)]
    if tuned.counts:
        left = sum(total - done for done, total in tuned.counts.values())
        blocks.append(
            Paragraph(
                f"{left} of {left + len(tuned.runs)} runs are missing. A cell counts "
                "the learning rates that have all their seeds; * marks where these are "
                "not all learning rates."
            )
        )
    return blocks + _check(tuned)


def _rate(cell: Cell | None) -> str:
    if cell is None:
        return NOTHING
    tried, total = cell.tried
    return f"{cell.learning_rate:g}{'*' if tried < total else ''}"


def _check(tuned: Tuned) -> list[Block]:
    known = [run for run in tuned.runs if run.source_score is not None]
    if not known:
        return []
    wrong = started_elsewhere(known)
    text = (
        f"{len(known) - len(wrong)} of {len(known)} runs that start from a trained φ "
        "score at step 0 exactly what its source scored."
    )
    if wrong:
        run = wrong[0]
        text += (
            f" Others do not: {run.place}, {run.scores[0]} instead of "
            f"{run.source_score}."
        )
    return [Paragraph(text)]


def _panels(tuned: Tuned, methods: Mapping[str, str]) -> tuple[list[Panel], str]:
    """One panel for each method that has a curve, and what they are means over."""
    panels, words = [], []
    for title, method in methods.items():
        columns = tuned.common_columns(method)
        lines = []
        for i, start in enumerate(STARTS):
            curve = tuned.curve(method, start, columns) if columns else None
            if curve is not None:
                lines.append(Line(f"{start} Init", *curve, f"C{i}"))
        if lines:
            panels.append(Panel(title, "training steps", lines))
            words.append(_over(method, columns, tuned.columns))
    return panels, "; ".join(words)


def _over(method: str, columns: Sequence[str], all_of: Sequence[str]) -> str:
    if len(columns) == len(all_of):
        return f"{method}, mean over all {len(all_of)} columns"
    return (
        f"{method}, mean over {len(columns)} of {len(all_of)} columns, those that all its "
        f"starts have ({', '.join(columns)})"
    )
