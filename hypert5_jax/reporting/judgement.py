"""Whether a claim holds on given numbers: comparisons, and a verdict from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hypert5_jax.reporting.scores import Book, Score, spread

HOLDS = "holds"
FAILS = "does not hold"
UNKNOWN = "not enough results"


@dataclass(frozen=True)
class Side:
    """One number of a comparison; score None if it is not known."""

    label: str
    score: Score | None


@dataclass(frozen=True)
class Comparison:
    """left > right, or left ≥ right.

    Attributes:
      left, right: what is compared.
      column: which of the table's numbers both are; "" for AVG.
      or_equal: whether equality is enough.
    """

    left: Side
    right: Side
    column: str = ""
    or_equal: bool = False

    @property
    def difference(self) -> float | None:
        """left − right; None if one is not known."""
        if self.left.score is None or self.right.score is None:
            return None
        return self.left.score.mean - self.right.score.mean

    @property
    def spread(self) -> float | None:
        """Standard deviation of the difference, as far as it is known."""
        if self.left.score is None or self.right.score is None:
            return None
        return spread(self.left.score, self.right.score)

    @property
    def outcome(self) -> bool | None:
        """Whether it is so; None if a number is missing.

        Sums of the same decimals differ in their last bits: 1e-9 counts as equal.
        """
        if self.difference is None:
            return None
        return self.difference > (-1e-9 if self.or_equal else 1e-9)

    @property
    def within_spread(self) -> bool:
        """Whether the difference is no larger than its spread."""
        known = self.difference is not None and self.spread is not None
        return known and abs(self.difference or 0.0) <= (self.spread or 0.0)


@dataclass(frozen=True)
class Claim:
    """What the paper says of its results, and how it is put to numbers.

    Attributes:
      name: a short name.
      text: the claim, in our words.
      section: where the paper makes it.
      tables: which tables it speaks of, scaled-down ones included.
      compare: (numbers, table) → the comparisons it means.
      meaning: how its words are put to numbers, where that is a choice.
    """

    name: str
    text: str
    section: str
    tables: tuple[str, ...]
    compare: Callable[[Book, str], list[Comparison]]
    meaning: str = ""


@dataclass(frozen=True)
class Verdict:
    """A claim on one table's numbers."""

    claim: Claim
    table: str
    comparisons: Sequence[Comparison]

    @property
    def outcome(self) -> str:
        """One contradiction is enough; to hold, everything must be known."""
        outcomes = [comparison.outcome for comparison in self.comparisons]
        if False in outcomes:
            return FAILS
        return UNKNOWN if None in outcomes or not outcomes else HOLDS

    @property
    def within_spread(self) -> int:
        """How many differences are no larger than their spread."""
        return sum(comparison.within_spread for comparison in self.comparisons)


def judge(claim: Claim, table: str, book: Book) -> Verdict:
    """The claim on what the book has of this table."""
    return Verdict(claim, table, claim.compare(book, table))
