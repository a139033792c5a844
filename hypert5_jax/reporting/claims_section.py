"""The paper's claims as blocks of the report: verdicts, then the numbers behind them."""

from hypert5_jax.reporting.book import Numbers
from hypert5_jax.reporting.document import Block, Grid, Heading, Paragraph, Text
from hypert5_jax.reporting.judgement import (
    HOLDS,
    UNKNOWN,
    Claim,
    Comparison,
    Side,
    Verdict,
    judge,
)
from hypert5_jax.reporting.paper.claims import CLAIMS
from hypert5_jax.reporting.paper.tables import SMALL, TABLES, printed
from hypert5_jax.reporting.scores import signed
from hypert5_jax.reporting.tables_section import NOTHING

_YES = {True: "yes", False: "no", None: "?"}


def places(claim: Claim, numbers: Numbers) -> list[str]:
    """Tables of a claim to speak of: small ones with results; the paper's, all of them.

    The paper's are left out where there are results in small and no others.
    """
    there = {table for table in TABLES if numbers.there(table)}
    paper = not there or bool(there - set(SMALL))
    return [t for t in claim.tables if (t in there if t in SMALL else paper)]


def summary(numbers: Numbers) -> list[Block]:
    """One line for each claim and table: does it hold there, in the paper and here?"""
    book = numbers.book
    lines: list[list[Text]] = []
    for claim in CLAIMS:
        for i, table in enumerate(places(claim, numbers)):
            words = f"{claim.text} (§{claim.section})" if i == 0 else ""
            ours = verdict_text(judge(claim, table, book))
            lines.append([words, TABLES[table].label, _paper_text(claim, table), ours])
    head: list[Text] = ["claim", "where", "paper's own numbers", "ours"]
    if all(line[2] == NOTHING for line in lines):
        head, lines = head[:2] + head[3:], [line[:2] + line[3:] for line in lines]
    return [Heading(2, "The paper's claims"), Grid(head, lines, left=len(head))]


def _paper_text(claim: Claim, table: str) -> str:
    if table in SMALL:
        return NOTHING
    verdict = judge(claim, table, printed())
    return "not in its text" if verdict.outcome == UNKNOWN else _outcome_text(verdict)


def _outcome_text(verdict: Verdict) -> str:
    """`does not hold in 1 of 2 comparisons`."""
    all_of = len(verdict.comparisons)
    known = [c for c in verdict.comparisons if c.outcome is not None]
    if verdict.outcome == HOLDS or not known:
        return verdict.outcome
    if verdict.outcome == UNKNOWN:
        return f"{UNKNOWN}: {len(known)} of {all_of} comparisons"
    wrong = sum(c.outcome is False for c in known)
    if len(known) == 1:
        return verdict.outcome
    return f"{verdict.outcome} in {wrong} of {len(known)} comparisons"


def verdict_text(verdict: Verdict) -> str:
    """The outcome, and for how many comparisons the difference is within the spread."""
    text = _outcome_text(verdict)
    if verdict.outcome == UNKNOWN:
        return text
    known = [c for c in verdict.comparisons if c.outcome is not None]
    if verdict.within_spread:
        return f"{text}; {verdict.within_spread} of {len(known)} within the spread"
    if not any(c.spread is not None for c in known):
        return f"{text}; no spread known"
    return text


def details(numbers: Numbers) -> list[Block]:
    """The comparisons with their numbers: where we have some, or the paper contradicts."""
    blocks: list[Block] = [
        Heading(2, "The claims in numbers"),
        Paragraph(
            "Comparisons of which there is a number of ours, and those that the paper's "
            "own numbers contradict. The spread of a difference is the root of the sum "
            "of both variances, as far as draws or seeds give them; a difference that "
            "is no larger says little. Draws of shots do not tell how far another "
            "training run would lie."
        ),
    ]
    book, paper = numbers.book, printed()
    head = ["where", "comparison", "paper", "ours", "difference", "spread", "so?"]
    for claim in CLAIMS:
        lines: list[list[Text]] = []
        for table in places(claim, numbers):
            ours = claim.compare(book, table)
            theirs = claim.compare(paper, table)
            for one, other in zip(ours, theirs, strict=True):
                known = one.left.score or one.right.score
                if known or other.outcome is False:
                    lines.append([TABLES[table].label, *_line(one, other)])
        if lines:
            blocks.append(Heading(3, claim.text))
            if claim.meaning:
                blocks.append(Paragraph(claim.meaning))
            blocks.append(Grid(head, lines, left=2))
    return blocks


def _line(ours: Comparison, paper: Comparison) -> list[Text]:
    words = f"{ours.left.label} {'≥' if ours.or_equal else '>'} {ours.right.label}"
    so = _YES[ours.outcome]
    if ours.within_spread:
        so += ", within the spread"
    return [
        f"{words}, {ours.column}" if ours.column else words,
        _numbers(paper.left, paper.right),
        _numbers(ours.left, ours.right),
        "" if ours.difference is None else signed(ours.difference),
        "" if ours.spread is None else f"{ours.spread:.1f}",
        so,
    ]


def _numbers(left: Side, right: Side) -> str:
    if left.score is None and right.score is None:
        return ""
    return " and ".join(str(s.score) if s.score else "?" for s in (left, right))
