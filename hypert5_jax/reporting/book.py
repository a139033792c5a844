"""All numbers of a set of result files, by table, row and column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hypert5_jax.reporting.comparable import differences
from hypert5_jax.reporting.filled import Filled, fill
from hypert5_jax.reporting.paper.claims import ALL_STEPS, AT_START, PEFT_OF
from hypert5_jax.reporting.paper.tables import PEFT_TABLE, SWEEPS, TABLES, start_row
from hypert5_jax.reporting.result_files import Result, Sweep
from hypert5_jax.reporting.scores import AVG, Book, Score, average
from hypert5_jax.reporting.sweeps import Tuned, tuned


@dataclass(frozen=True)
class Numbers:
    """What there is to report.

    Attributes:
      filled: {table: its numbers} of evaluations; empty ones included.
      tuned: {table: its numbers} of sweeps that are there.
      apart: files that belong to no table, and why.
    """

    filled: Mapping[str, Filled]
    tuned: Mapping[str, Tuned]
    apart: tuple[str, ...]

    @property
    def book(self) -> Book:
        """Everything that claims may speak of."""
        found: dict[tuple[str, str, str], Score] = {}
        for name, table in self.filled.items():
            found |= {(name, *cell): score for cell, score in table.scores.items()}
        for curve, peft_table in PEFT_TABLE.items():
            for system in PEFT_OF.values():
                score = self.filled[peft_table].scores.get((system, AVG))
                if score is not None and not self.otherwise(curve):
                    found[curve, system, AVG] = score
        for name, sweep in self.tuned.items():
            found |= {(name, *cell): score for cell, score in sweep.scores().items()}
            for (row, column), score in _of_curves(sweep).items():
                found[name, row, column] = score
        return found

    def otherwise(self, curve: str) -> list[str]:
        """How PEFT-only of a table was measured otherwise than Figure 4, if it was."""
        only = [
            result
            for result in self.filled[PEFT_TABLE[curve]].results
            if result.recipe["system"] in PEFT_OF.values()
        ]
        found = [
            difference
            for one in self.filled[curve].results
            for other in only
            for difference in differences(one, other)
        ]
        return list(dict.fromkeys(found))

    def there(self, table: str) -> bool:
        """Whether the table has any number."""
        if table in SWEEPS:
            return table in self.tuned
        return bool(self.filled[table].scores)


def _of_curves(sweep: Tuned) -> dict[tuple[str, str], Score]:
    """Where a curve over all tasks starts, and its mean over all steps."""
    found = {}
    for method in sweep.methods:
        for start in sweep.starts:
            curve = sweep.curve(method, start, sweep.columns)
            if curve is None:
                continue
            row, (steps, scores) = start_row(method, start), curve
            if steps[0] == 0:
                found[row, AT_START] = scores[0]
            found[row, ALL_STEPS] = average(scores)
    return found


def numbers_of(results: Sequence[Result], sweeps: Sequence[Sweep]) -> Numbers:
    """Sorts files into tables.

    Raises:
      UserError: what `filled.fill` and `sweeps.tuned` refuse.
    """
    filled = {n: fill(n, results) for n in TABLES if n not in SWEEPS}
    found = {n: t for n in SWEEPS if (t := tuned(n, sweeps)) is not None}
    apart = [reason for table in filled.values() for reason in table.left_out]
    found_apart = [r.file for r in results if not r.table]
    found_apart += [s.file for s in sweeps if not s.table]
    apart += [f"{file}: its recipe names no table" for file in found_apart]
    return Numbers(filled, found, tuple(apart))
