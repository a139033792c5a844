"""A number of a table, with what it was measured from, and how two of them compare.

All scores are percentages.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"
AVG = "AVG"


@dataclass(frozen=True)
class Score:
    """One cell.

    Attributes:
      values: one for each context draw or seed; a single one has no spread.
      over: what they are of, "draws" or "seeds"; "" for a number of the paper.
    """

    values: tuple[float, ...]
    over: str = ""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a score is of at least one value")

    @property
    def mean(self) -> float:
        """Over values."""
        return statistics.fmean(self.values)

    @property
    def sd(self) -> float | None:
        """The sample's standard deviation; None for one value."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        """`54.8`, or `54.8 ± 0.3`."""
        mean = number(self.mean)
        return mean if self.sd is None else f"{mean} ± {self.sd:.1f}"


# {(table, row, column): score}: all that is known, or all that the paper prints.
Book = Mapping[tuple[str, str, str], Score]


def number(value: float) -> str:
    """With one decimal, as the paper prints its scores."""
    return signed(value).removeprefix("+")


def signed(value: float) -> str:
    """With one decimal and a sign, `0.0` without."""
    text = f"{abs(value):.1f}"
    if text == "0.0":
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def average(scores: Sequence[Score]) -> Score:
    """The plain mean of columns.

    Draw by draw (seed by seed) where columns have equally many; a column of one value
    counts with it in all of them. Otherwise the mean of the means, without a spread.
    """
    lengths = {len(score.values) for score in scores} - {1}
    if len(lengths) > 1:
        return Score((statistics.fmean(score.mean for score in scores),))
    count = lengths.pop() if lengths else 1
    columns = [s.values if len(s.values) > 1 else s.values * count for s in scores]
    over = next((s.over for s in scores if len(s.values) > 1), scores[0].over)
    return Score(tuple(statistics.fmean(values) for values in zip(*columns)), over)


def spread(left: Score, right: Score) -> float | None:
    """Of the difference of two scores: the root of the sum of their variances.

    A score without a spread adds none; None where neither has one.
    """
    known = [score.sd for score in (left, right) if score.sd is not None]
    return math.hypot(*known) if known else None
