"""A table as blocks of the report: the paper's numbers, ours, and the difference."""

from collections.abc import Mapping, Sequence

from hypert5_jax.reporting.comparable import measured, told
from hypert5_jax.reporting.document import (
    Block,
    Code,
    Grid,
    Heading,
    Items,
    Paragraph,
    Text,
)
from hypert5_jax.reporting.filled import REAL, Filled
from hypert5_jax.reporting.paper.recipes import RECIPES, command, recipe_of
from hypert5_jax.reporting.paper.tables import TABLES, Table
from hypert5_jax.reporting.scores import Score, number, signed

NOTHING = "–"


class Commands:
    """Numbers the recipes that would fill what is empty."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._listed = 0

    @property
    def recipes(self) -> list[str]:
        """All of them, in the order of their numbers."""
        return list(self._numbers)

    def mark(self, recipe: str | None) -> str:
        """`(3)` in an empty cell, or a dash where no recipe fills it."""
        if recipe is None:
            return NOTHING
        return f"({self._numbers.setdefault(recipe, len(self._numbers) + 1)})"

    def new(self) -> list[Block]:
        """Those that were marked since the last call, as a list."""
        recipes = self.recipes[self._listed :]
        self._listed = len(self._numbers)
        items: list[Text] = [
            (f"{self.mark(recipe)} ", Code(command(recipe))) for recipe in recipes
        ]
        return [Items(items)] if items else []


def rows_of(table: Table, scores: Mapping[tuple[str, str], Score]) -> list[str]:
    """Row names in order: the paper's, those of recipes, and what else there is."""
    printed = [row.system for row in table.rows]
    recipes = [system for system, _ in RECIPES.get(table.name, {})]
    return list(dict.fromkeys([*printed, *recipes, *(row for row, _ in scores)]))


def comparison(
    table: Table,
    columns: Sequence[str],
    scores: Mapping[tuple[str, str], Score],
    commands: Commands,
    unfinished: Mapping[tuple[str, str], str] | None = None,
) -> Grid:
    """Three lines for a row of the paper's: its numbers, ours, the difference.

    Args:
      table: the paper's.
      columns: to show.
      scores: {(row, column): ours}.
      commands: takes what would fill empty cells.
      unfinished: {(row, column): how far an empty cell is}.
    """
    printed = {row.system: row for row in table.rows}
    lines: list[list[Text]] = []
    for system in rows_of(table, scores):
        row = printed.get(system)
        name = system
        if row is not None:
            cells: list[Text] = [
                number(row.scores[c]) if c in row.scores else NOTHING for c in columns
            ]
            name = f"{system} (quoted there)" if row.quoted else system
            lines.append([name, "paper", *cells])
            if row.quoted:
                continue
            name = ""
        ours: list[Text] = []
        for column in columns:
            score = scores.get((system, column))
            mark = (
                commands.mark(recipe_of(table.name, system, column))
                if not score
                else ""
            )
            more = (unfinished or {}).get((system, column), "")
            ours.append(str(score) if score else f"{mark} {more}".strip())
        lines.append([name, "ours", *ours])
        if row is not None and any((system, c) in scores for c in columns):
            lines.append(
                ["", "difference", *_differences(row.scores, system, scores, columns)]
            )
    if not printed:  # nothing to tell ours from
        lines = [[line[0], *line[2:]] for line in lines]
        return Grid(["", *columns], lines)
    return Grid(["", "", *columns], lines, left=2)


def _differences(
    printed: Mapping[str, float],
    system: str,
    scores: Mapping[tuple[str, str], Score],
    columns: Sequence[str],
) -> list[Text]:
    return [
        signed(scores[system, c].mean - printed[c])
        if c in printed and (system, c) in scores
        else ""
        for c in columns
    ]


def table_blocks(filled: Filled, commands: Commands) -> list[Block]:
    """A table of evaluations with what is worth knowing about it."""
    table = TABLES[filled.name]
    columns = filled.columns or table.columns
    blocks: list[Block] = [Heading(3, table.title)]
    blocks.append(comparison(table, columns, filled.scores, commands))
    blocks += commands.new()
    blocks += notes(list(filled.scores.values()))
    blocks += measurement(filled)
    return blocks + context_blocks(filled)


def notes(scores: Sequence[Score]) -> list[Block]:
    """What ± stands for."""
    counts: dict[str, set[int]] = {}
    for score in scores:
        if score.sd is not None:
            counts.setdefault(score.over, set()).add(len(score.values))
    parts = [
        f"{' or '.join(map(str, sorted(found)))} {over}"
        for over, found in counts.items()
    ]
    if not parts:
        return []
    return [Paragraph(f"± is the sample's standard deviation over {', '.join(parts)}.")]


def measurement(filled: Filled) -> list[Block]:
    """What was measured, and what was not the same for all and was not refused."""
    places = dict.fromkeys(measured(result) for result in filled.results)
    blocks: list[Block] = []
    if places:
        blocks.append(Paragraph(f"Measured by {'; '.join(places)}."))
    if found := told(filled.results):
        text = f"Not the same for all of these results: {'; '.join(found)}."
        blocks.append(Paragraph(text))
    return blocks


def context_blocks(filled: Filled) -> list[Block]:
    """The same systems under other contexts than the real one, if they were judged."""
    kinds = list(dict.fromkeys(kind for _, kind in filled.contexts))
    if kinds in ([], [REAL]):
        return []
    kinds.sort(key=lambda kind: kind != REAL)
    order = rows_of(TABLES[filled.name], filled.scores)
    rows = sorted(
        dict.fromkeys(row for row, _ in filled.contexts),
        key=lambda row: [f"{row}, ".startswith(f"{each}, ") for each in order],
        reverse=True,
    )
    lines: list[list[Text]] = []
    for row in rows:
        found = [filled.contexts.get((row, kind)) for kind in kinds]
        if sum(score is not None for score in found) > 1:
            lines.append([row, *(str(score) if score else NOTHING for score in found)])
    if not lines:
        return []
    text = f"{TABLES[filled.name].label} under other contexts than the real one:"
    return [Paragraph(text), Grid(["", *kinds], lines)]
