"""Which examples of a task a hypermodel reads, in one context or in several.

A context is what training rows hold: `<x> x1 <y> y1 …`, after `<x> instruction` where
there is one, in at most `hyper_inputs` tokens. It may have more examples than `max_shots`:
up to three times as many as in training do good (docs/adapt.md).
"""

import dataclasses
import itertools
from collections.abc import Sequence

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.records import SHOTS_SLOT, Example
from hypert5_jax.data.rows import RowFormat, context_ids, shot_ids
from hypert5_jax.data.vocabulary import Vocabulary

COMBINE = ("none", "mean", "concatenate")


@dataclasses.dataclass(frozen=True)
class Contexts:
    """The contexts of one task.

    Attributes:
      ids: of each context.
      used: numbers of the examples in each context, from 0.
      left_out: numbers of the examples that are in none.
      cut: what is there in part only: "the instruction", "example 3".
    """

    ids: tuple[tuple[int, ...], ...]
    used: tuple[tuple[int, ...], ...]
    left_out: tuple[int, ...] = ()
    cut: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many examples are used."""
        return sum(map(len, self.used))


def contexts_of(
    examples: Sequence[Example],
    instruction: Sequence[int],
    row: RowFormat,
    vocabulary: Vocabulary,
    combine: str = "none",
) -> Contexts:
    """Lays examples out in contexts.

    Args:
      examples: of one task, in the order they should be read.
      instruction: ids of what the task is in words; empty without.
      row: its lengths.
      vocabulary: for the markers.
      combine: "none": one context, and what does not fit is left out; else as few
        contexts as hold all examples, of numbers that differ by one at most.

    Raises:
      UserError: neither examples nor an instruction, or an unknown way to combine.
    """
    if combine not in COMBINE:
        raise UserError(f"combine is {combine!r}; expected {', '.join(COMBINE)}")
    if not examples and not instruction:
        raise UserError(
            "there is nothing to adapt to: neither examples nor an instruction"
        )
    layout = _Layout(examples, instruction, row, vocabulary)
    if combine == "none" or not examples:
        return layout.contexts([range(layout.that_fit(0))])
    return layout.contexts(layout.chunks())


@dataclasses.dataclass(frozen=True)
class _Layout:
    examples: Sequence[Example]
    instruction: Sequence[int]
    row: RowFormat
    vocabulary: Vocabulary

    @property
    def _own(self) -> list[int] | None:
        if not self.instruction:
            return None
        return [self.vocabulary.x_id, *self.instruction, SHOTS_SLOT]

    @property
    def _room(self) -> int:
        """Tokens for examples."""
        return self.row.context_length - (1 + len(self.instruction)) * bool(self._own)

    def _length(self, number: int) -> int:
        shot = self.examples[number]
        return len(shot_ids(shot, self.vocabulary, self.row.shot_length))

    def that_fit(self, start: int) -> int:
        """How many examples from `start` on a context holds: one at least where there is
        room for a part of it and no instruction to read instead."""
        room, count = self._room, 0
        most = len(self.examples) - start
        while count < most and (length := self._length(start + count)) <= room:
            room -= length
            count += 1
        alone = count == 0 and most > 0 and self._room >= 4
        return 1 if alone else count

    def chunks(self) -> list[range]:
        """All examples in as few even parts as fit."""
        total = len(self.examples)
        for parts in range(1, total + 1):
            edges = [round(i * total / parts) for i in range(parts + 1)]
            ranges = [range(a, b) for a, b in itertools.pairwise(edges)]
            if all(self.that_fit(r.start) >= len(r) for r in ranges):
                return ranges
        # Not even one by one: the instruction leaves no room.
        return [range(0)]

    def contexts(self, chunks: Sequence[range]) -> Contexts:
        row, words = self.row, self.vocabulary
        ids = []
        for chunk in chunks:
            shots = [self.examples[i] for i in chunk]
            ids.append(
                context_ids(
                    self._own, shots, words, row.context_length, row.shot_length
                )
            )
        used = [i for chunk in chunks for i in chunk]
        cut = ["the instruction"] if self._own and self._room < 0 else []
        for chunk in chunks:
            if len(chunk) == 1 and self._length(chunk[0]) > self._room:
                cut.append(f"example {chunk[0] + 1}")
        return Contexts(
            ids=tuple(map(tuple, ids)),
            used=tuple(map(tuple, chunks)),
            left_out=tuple(i for i in range(len(self.examples)) if i not in used),
            cut=tuple(cut),
        )
