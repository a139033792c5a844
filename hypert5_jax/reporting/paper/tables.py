"""The paper's tables (HyperTuning, Tables 1 to 7), as printed.

Rows marked * are quoted there from other papers and are nobody's to repeat here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from hypert5_jax.reporting.scores import AVG, Book, Score

P3 = ("ANLI", "HSwag", "CB", "COPA", "RTE", "WiC", "WSC", "WGD", AVG)
_SNI = ("Def", "Def+2Pos")


@dataclass(frozen=True)
class Row:
    """One system of a table.

    Attributes:
      system: its name as printed.
      scores: {column: percent}.
      quoted: whether the paper took it from another one.
    """

    system: str
    scores: Mapping[str, float]
    quoted: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
      name: recipes say it in Recipe.table.
      title: as a heading.
      columns: as printed, in order.
      rows: as printed; none for what the paper does not have.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def label(self) -> str:
        """What it is called in a sentence: "Table 1"."""
        return self.title.split(":")[0]


def start_row(method: str, start: str) -> str:
    """A row of Tables 6 and 7: `Prefix-Flat (Rand Init)`."""
    return f"{method} ({start} Init)"


def _rows(columns: tuple[str, ...], text: str) -> tuple[Row, ...]:
    """Reads `name: number number …`, one line for a row; `-` is an empty cell."""
    found = []
    for line in text.strip().splitlines():
        name, numbers = line.rsplit(":", 1)
        cells = zip(columns, numbers.split(), strict=True)
        scores = {column: float(cell) for column, cell in cells if cell != "-"}
        found.append(Row(name.strip(" *"), scores, name.startswith("*")))
    return tuple(found)


def _table(name: str, title: str, columns: tuple[str, ...], text: str) -> Table:
    return Table(name, title, columns, _rows(columns, text))


METHODS = ("Prefix-Flat", "Prefix-MLP", "LoRA")
STARTS = ("Rand", "Shared", "Hyper")

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        _table(
            "table_1",
            "Table 1: P3, held-out tasks, T5-Large",
            P3,
            """
T5-MTF:           33.4 28.0 63.0 77.9 71.1 50.8 61.0 53.4 54.8
T5-MTF-Few-shot:  35.3 27.5 68.6 70.5 75.2 51.7 62.1 52.2 55.4
T5-MTF (Prefix):  33.1 26.1 53.9 67.8 60.5 49.8 54.7 51.4 49.7
T5-MTF (LoRA):    32.9 26.0 36.0 59.7 49.8 51.2 58.1 50.5 45.5
HyperT5-Prefix:   33.4 32.3 60.1 73.9 71.5 51.1 63.0 51.1 54.6
HyperT5-LoRA:     33.6 33.0 49.5 74.2 67.4 52.0 64.0 52.9 53.3
HyperT5-Prefix+:  34.5 32.2 58.1 78.4 76.5 50.4 63.8 54.3 56.0
HyperT5-LoRA+:    33.9 30.7 62.1 75.8 72.3 50.8 64.6 54.5 55.6
""",
        ),
        _table(
            "table_2",
            "Table 2: P3, held-out tasks, T5-XL",
            P3,
            """
T5-MTF:           39.9 29.4 64.5 88.0 80.8 51.7 60.7 57.9 59.1
T5-MTF-Few-shot:  37.9 30.9 67.6 90.5 76.6 51.2 63.3 61.1 59.9
T5-MTF (Prefix):  38.3 31.2 61.4 82.4 78.6 52.6 57.0 54.3 57.0
T5-MTF (LoRA):    33.9 26.4 47.1 67.2 53.3 50.8 51.5 50.3 47.6
HyperT5-Prefix:   38.7 33.6 69.6 88.4 79.5 53.1 57.6 56.6 59.6
HyperT5-LoRA:     35.3 30.8 66.4 83.3 68.5 50.3 60.0 56.1 56.4
*T0:              33.4 27.3 45.4 73.1 64.5 50.7 65.0 51.0 51.3
""",
        ),
        _table(
            "table_3",
            "Table 3: MetaICL, test tasks, T5-Large",
            ("HR→LR", "Non-NLI→NLI", "Non-Class→Class"),
            """
T5-MTF:           34.3 48.8 30.3
T5-MTF-Few-shot:  41.0 56.7 40.6
T5-MTF (Prefix):  29.8 42.8 29.6
T5-MTF (LoRA):    31.5 41.3 28.7
HyperT5-Prefix:   38.0 58.3 38.6
HyperT5-LoRA:     35.4 54.2 34.8
""",
        ),
        _table(
            "table_4",
            "Table 4: Super-NaturalInstructions, test tasks, T5-Large, ROUGE-L",
            _SNI,
            """
T5-MTF:           40.6 47.6
HyperT5-Prefix:   37.1 43.5
HyperT5-LoRA:     34.9 42.0
*Tk-Instruct:     -    48.0
""",
        ),
        _table(
            "table_5",
            "Table 5: Super-NaturalInstructions, test tasks, T5-XL, ROUGE-L",
            _SNI,
            """
T5-MTF:           46.6 54.3
HyperT5-Prefix:   38.9 48.6
HyperT5-LoRA:     38.9 45.0
*Tk-Instruct:     -    54.0
""",
        ),
        Table("figure_4", "Figure 4: hyperpretraining steps, P3, T5-Large", (AVG,), ()),
        _table(
            "tables_6_7",
            "Tables 6 and 7: tuning single tasks of P3 from three starts, T5-Large",
            P3,
            """
Prefix-Flat (Rand Init):    43.6 36.3 82.7 74.0 72.9 64.4 64.2 53.0 61.4
Prefix-Flat (Shared Init):  54.3 40.4 98.8 82.7 83.9 71.0 67.4 57.1 69.4
Prefix-Flat (Hyper Init):   56.6 43.5 91.7 84.3 85.3 69.3 73.0 67.6 71.4
Prefix-MLP (Rand Init):     54.6 50.5 98.8 79.0 78.8 71.6 63.5 52.2 68.6
Prefix-MLP (Shared Init):   60.8 51.6 99.4 85.7 84.8 72.4 72.6 65.1 74.0
Prefix-MLP (Hyper Init):    61.4 51.5 97.6 84.3 87.1 71.2 76.5 71.6 75.2
LoRA (Rand Init):           59.5 51.3 93.5 78.0 82.6 73.5 77.9 65.1 72.7
LoRA (Shared Init):         57.9 51.6 99.4 83.0 83.8 73.1 73.3 67.9 73.7
LoRA (Hyper Init):          57.7 48.4 99.4 87.3 84.1 73.0 83.9 66.2 75.0
""",
        ),
        # The same systems in small; the paper has no such numbers.
        Table("small_p3", "Generated tasks: the systems in small", (), ()),
        Table("small_real", "Real small tasks: the systems in small", (), ()),
        Table(
            "small_figure_4", "Figure 4 in small: hyperpretraining steps", (AVG,), ()
        ),
        Table("small_tune", "Tables 6 and 7 in small: tuning single tasks", (), ()),
    )
}
SMALL = tuple(name for name in TABLES if name.startswith("small_"))
# Filled by sweeps of `tune`, and by runs that differ in hyperpretraining.
SWEEPS = ("tables_6_7", "small_tune")
CURVES = ("figure_4", "small_figure_4")
# Where what Figure 4 is compared with comes from: PEFT-only without a hypermodel.
PEFT_TABLE = {"figure_4": "table_1", "small_figure_4": "small_p3"}


def printed() -> Book:
    """All numbers of the paper; those of figures are not in its text."""
    return {
        (table.name, row.system, column): Score((score,))
        for table in TABLES.values()
        for row in table.rows
        for column, score in row.scores.items()
    }
