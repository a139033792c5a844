"""The quickstart's table as Markdown, JSON and a figure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# {group: {column: {score: value}}}, e.g. table["heldout"]["right"]["loss"].
Table = Mapping[str, Mapping[str, Mapping[str, float]]]

GROUP_TITLES = {
    "documents": "Documents (CACLM): C, by what the hypermodel read",
    "train": "Training tasks",
    "heldout": "Held-out tasks: new compositions, new label words",
    "heldout_pairs": "Held-out tasks where only the pairing tells the task",
    "family": "Held-out family, new label words",
}
COLUMN_TITLES = {
    "right": "right",
    "other": "another's",
    "shuffled_targets": "shuffled targets",
    "empty": "empty",
    "none": "no φ",
    "learned": "learned φ (ceiling)",
}
SCORE_TITLES = {
    "loss": "loss",
    "exact_match": "exact match",
    "option_accuracy": "option accuracy",
}


def markdown(tables: Sequence[Table]) -> str:
    """The tables of one or more seeds, mean ± standard deviation if more than one.

    Columns are where φ comes from, rows are scores.
    """
    lines: list[str] = []
    for group in tables[0]:
        columns = [c for c in COLUMN_TITLES if c in tables[0][group]]
        lines += [f"**{GROUP_TITLES.get(group, group)}**", ""]
        lines += [_row(["φ from", *(COLUMN_TITLES[c] for c in columns)])]
        lines += [_row(["---"] + ["---:"] * len(columns))]
        for score, title in SCORE_TITLES.items():
            if any(score in tables[0][group][column] for column in columns):
                cells = [_cell(tables, group, column, score) for column in columns]
                lines += [_row([title, *cells])]
        lines += [""]
    return "\n".join(lines)


def write_report(
    directory: Path, tables: Sequence[Table], about: Mapping[str, Any]
) -> None:
    """Writes table.md, table.json and table.png into the folder.

    Args:
      directory: made if absent.
      tables: one for each seed.
      about: what else table.json keeps, such as times and seeds.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "table.md").write_text(markdown(tables))
    found = {"about": dict(about), "tables": list(tables)}
    (directory / "table.json").write_text(json.dumps(found, indent=1))
    draw(directory / "table.png", tables)


def draw(path: Path, tables: Sequence[Table]) -> None:
    """A row of bar charts for each score, one chart for each group."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = list(tables[0])
    scores = ("loss", "exact_match")
    figure = Figure(figsize=(3.2 * len(groups), 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(scores), len(groups), squeeze=False)
    for c, group in enumerate(groups):
        columns = [name for name in COLUMN_TITLES if name in tables[0][group]]
        colours = ["tab:green" if name == "right" else "tab:grey" for name in columns]
        for r, score in enumerate(scores):
            values = [_values(tables, group, name, score) for name in columns]
            axis = axes[r][c]
            axis.bar(
                range(len(columns)),
                [statistics.fmean(v) for v in values],
                yerr=[_deviation(v) for v in values] if len(tables) > 1 else None,
                color=colours,
            )
            axis.set_xticks(
                range(len(columns)),
                [COLUMN_TITLES[name] for name in columns],
                rotation=60,
                ha="right",
                fontsize=7,
            )
            axis.set_ylabel(SCORE_TITLES[score])
            if score != "loss":
                axis.set_ylim(0, 1)
        axes[0][c].set_title(GROUP_TITLES.get(group, group), fontsize=8, wrap=True)
    figure.savefig(path, dpi=130)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _values(
    tables: Sequence[Table], group: str, column: str, score: str
) -> list[float]:
    return [t[group][column][score] for t in tables if score in t[group][column]]


def _deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _cell(tables: Sequence[Table], group: str, column: str, score: str) -> str:
    values = _values(tables, group, column, score)
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.2f}"
    return f"{mean} ± {_deviation(values):.2f}" if len(values) > 1 else mean
