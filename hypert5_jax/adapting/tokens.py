"""Text to the ids of rows and back, by a model's vocabulary and row format."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from hypert5_jax.adapting.examples import TextExample, is_whole
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.inference.answering import bucket, padded

# Tokens of the shortest shape that inputs and contexts are padded to.
SHORTEST = 32


@dataclasses.dataclass(frozen=True)
class Tokens:
    """What text becomes for one model."""

    vocabulary: Vocabulary
    row: RowFormat

    def input_ids(self, text: str) -> list[int]:
        """What the downstream encoder reads of an input, cut at its end."""
        example = Example(self._encode(text), [])
        return rows.input_ids(example, [], self.row, self.vocabulary)

    def is_cut(self, text: str) -> bool:
        """Whether an input is longer than the model reads."""
        room = int(self.row.lengths["inputs"]) - self.row.inputs_eos
        return len(self._encode(text)) > room

    def target_ids(self, text: str, what: str) -> list[int]:
        """What the downstream decoder must say, with EOS at its end.

        Args:
          text: a target, or an option.
          what: names it in the message.

        Raises:
          UserError: it is longer than the model's targets.
        """
        ids = [*self._encode(text), self.vocabulary.eos_id]
        if len(ids) > self.row.target_length:
            raise UserError(
                f"{what} has {len(ids)} tokens (its end included), this model says "
                f"{self.row.target_length} at most; shorten it, or leave it out"
            )
        return rows.target_ids(ids, self.row, self.vocabulary)

    def instruction_ids(self, text: str) -> list[int]:
        """An instruction without markers; white space around it goes."""
        return self._encode(text.strip()) if text.strip() else []

    def shot(self, example: TextExample) -> Example:
        """An example as a context shows it.

        Raises:
          UserError: its target is longer than the model's targets.
        """
        target = self.target_ids(example.target, f"{example.where}: the target")
        return Example(self._encode(example.input), target)

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer: ids up to EOS, padding dropped."""
        ids, eos = list(ids), self.vocabulary.eos_id
        return self.vocabulary.decode(ids[: ids.index(eos)] if eos in ids else ids)

    def batch(self, examples: Sequence[TextExample], size: int) -> Batch:
        """Examples as a teacher-forced batch without contexts; rows that only fill it
        up weigh nothing.

        Raises:
          UserError: a target is longer than the model's targets.
        """
        inputs = [self.input_ids(example.input) for example in examples]
        targets = [
            self.target_ids(example.target, f"{example.where}: the target")
            for example in examples
        ]
        length = bucket(max(map(len, inputs)), self.row.input_length, SHORTEST)
        used = np.zeros((size, 1), np.int64)
        used[: len(targets), 0] = [len(ids) for ids in targets]
        return Batch(
            hyper_inputs=np.zeros((1, 0), np.int32),
            inputs=padded(inputs, length, size),
            targets=padded(targets, self.row.target_length, size),
            weights=(np.arange(self.row.target_length) < used).astype(np.float32),
        )

    def _encode(self, text: str) -> list[int]:
        if not is_whole(text):
            raise UserError(
                f"the text {text[:40]!r} holds half a character (a lone surrogate); mend "
                "the text"
            )
        return self.vocabulary.encode(text)
