"""The report: claims, tables and figures, as Markdown, HTML and PNG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from etils import epath

from hypert5_jax.evaluation.results import write_whole
from hypert5_jax.reporting import claims_section, document, plots
from hypert5_jax.reporting.book import Numbers
from hypert5_jax.reporting.document import Block, Code, Heading, Items, Paragraph, Text
from hypert5_jax.reporting.figures_section import figure_4_blocks, tuned_blocks
from hypert5_jax.reporting.paper.recipes import before, command
from hypert5_jax.reporting.paper.tables import CURVES, SMALL, SWEEPS, TABLES
from hypert5_jax.reporting.plots import Panel
from hypert5_jax.reporting.tables_section import Commands, table_blocks

_LEGEND = (
    "Scores are percentages; a difference is ours less the paper's. A number in round "
    "brackets stands in an empty cell and names the command below the table that fills it."
)


@dataclass(frozen=True)
class Report:
    """What is written.

    Attributes:
      blocks: the document.
      pictures: {file: panels} that it shows.
    """

    blocks: Sequence[Block]
    pictures: Mapping[str, Sequence[Panel]]


def compose(numbers: Numbers) -> Report:
    """The whole report from whatever there is, which may be nothing."""
    commands = Commands()
    pictures: dict[str, Sequence[Panel]] = {}
    sections: list[Block] = []
    paper = [name for name in TABLES if name not in SMALL]
    small = [name for name in SMALL if numbers.there(name)]
    for title, names in (
        ("In small", small),
        ("The paper's tables and figures", paper),
    ):
        if names:
            sections.append(Heading(2, title))
        for name in names:
            section, panels = _section(name, numbers, commands)
            sections += section
            pictures |= panels
    blocks: list[Block] = [Heading(1, "HyperTuning: ours beside the paper's")]
    blocks += [Paragraph(_what_there_is(numbers)), Paragraph(_LEGEND)]
    blocks += claims_section.summary(numbers) + sections
    first = before(commands.recipes)
    if first:
        blocks += [Heading(2, "What these commands start from"), _listed(first)]
    blocks += claims_section.details(numbers)
    if numbers.apart:
        blocks += [Heading(2, "Read, but in no table"), Items(list(numbers.apart))]
    return Report(blocks, pictures)


def _section(
    name: str, numbers: Numbers, commands: Commands
) -> tuple[list[Block], Mapping[str, Sequence[Panel]]]:
    if name in SWEEPS:
        return tuned_blocks(name, numbers.tuned.get(name), commands)
    if name in CURVES:
        return figure_4_blocks(numbers.filled[name], numbers, commands)
    return table_blocks(numbers.filled[name], commands), {}


def _what_there_is(numbers: Numbers) -> str:
    evaluations = sum(len(table.results) for table in numbers.filled.values())
    runs = sum(len(sweep.runs) for sweep in numbers.tuned.values())
    if not evaluations and not runs:
        return "There are no results yet: every table names the commands that fill it."
    return f"From {evaluations} evaluations and {runs} runs of tuning."


def _listed(recipes: Sequence[str]) -> Block:
    items: list[Text] = [Code(command(recipe)) for recipe in recipes]
    return Items(items)


def write(report: Report, output: str) -> list[epath.Path]:
    """Writes the pictures, then report.md and report.html.

    Raises:
      UserError: a file cannot be written.
    """
    folder = epath.Path(output)
    pages = {
        "report.md": document.markdown(report.blocks),
        "report.html": document.page(report.blocks),
    }
    # The Markdown file first: it makes the folder, or says why it cannot be made.
    for name, text in pages.items():
        write_whole(folder / name, text)
    for name, panels in report.pictures.items():
        plots.draw(folder / name, panels)
    return [folder / name for name in (*pages, *report.pictures)]
