"""Few-shot rows from a stream of examples that is read once, in whatever order it comes.

Where the examples cannot be read by index, shots have to come from what has just passed
by. Each logical task collects a window of its examples; then every example of the window
is a target once, and its shots are drawn from the others. So no example is left out, and
none is among its own shots, also not as an equal text or where a window spans two epochs.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows, sampling
from hypert5_jax.data.records import SHOTS_SLOT, Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import choose_distinct
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.writer import Item

# A window with too few different texts waits until it is so many times as long.
_PATIENCE = 8


@dataclass(frozen=True)
class FewShotRow:
    """One row and what it was made of.

    Attributes:
      task: its logical task.
      group: of that task; see docs/data.md.
      example: the target example, label words filled in.
      hyper_inputs, inputs, targets: ids, neither padded nor longer than the format says.
    """

    task: str
    group: str
    example: Example
    hyper_inputs: list[int]
    inputs: list[int]
    targets: list[int]


@dataclass
class _Window:
    """Examples of one logical task that wait, packed, for their turn as targets."""

    name: str
    pool: tuple[tuple[int, ...], ...]
    group: str
    records: list[bytes] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    # The window before, for the last ones of a task, which do not fill another.
    records_before: list[bytes] = field(default_factory=list)
    keys_before: list[int] = field(default_factory=list)
    number: int = 0

    def add(self, example: Example) -> None:
        self.records.append(example.to_bytes())
        self.keys.append(example.key())

    def turn(self) -> None:
        self.records_before, self.keys_before = self.records, self.keys
        self.records, self.keys = [], []

    def key(self, seed: int, kind: int) -> np.ndarray:
        """uint64, another one for each row of the task and kind of draw."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=7).digest()
        name = int.from_bytes(digest, "little")
        return sampling.hash_of(seed, kind, name, self.number)


class FewShotRows:
    """Makes rows of items, in the format of the stream that trains.

    Args:
      row: the format; targets_per_context and task_cap are for the stream alone.
      vocabulary: what the ids mean.
      window: examples of a logical task that wait together, at least max_shots + 1.
      seed: decides shots, their number, label words and empty contexts.

    Raises:
      UserError: settings that a stream read once cannot serve.
    """

    def __init__(self, row: RowFormat, vocabulary: Vocabulary, window: int, seed: int):
        check(row, window)
        self._row = row
        self._vocabulary = vocabulary
        self._window = window
        self._seed = seed

    def __call__(
        self, items: Iterable[Item], default_task: str
    ) -> Iterator[FewShotRow]:
        """Yields a row for every item, window by window; skipped items give none.

        Raises:
          UserError: a task of too few different examples, as row.too_few says.
        """
        windows: dict[str, _Window] = {}
        for item in items:
            if item.skipped:
                continue
            name = default_task if item.task is None else item.task
            window = windows.get(name)
            if window is None:
                window = _Window(name, item.label_pool, item.group)
                windows[name] = window
            if not self._wants_shots(item.example):
                yield self._make(window, item.example, [])
                continue
            window.add(item.example)
            if self._full(window):
                yield from self._rows_of(window)
                window.turn()
        for window in windows.values():
            yield from self._rows_of(window)

    def _wants_shots(self, example: Example) -> bool:
        own = example.context
        drawn = own is None or SHOTS_SLOT in own
        return drawn and self._row.context != "none" and self._row.max_shots > 0

    def _full(self, window: _Window) -> bool:
        count = len(window.keys)
        if count < self._window:
            return False
        enough = len(set(window.keys)) > self._row.max_shots
        return enough or count >= _PATIENCE * self._window

    def _rows_of(self, window: _Window) -> Iterator[FewShotRow]:
        """A row for each example that waits."""
        records, keys = window.records, window.keys
        count = len(keys)
        if len(set(keys)) <= self._row.max_shots:
            records = records + window.records_before
            keys = keys + window.keys_before
        examples = [Example.from_bytes(record) for record in records]
        texts = np.array(keys, np.uint64)
        for example, key in zip(examples[:count], keys):
            wanted = self._shot_count(window)
            draw = window.key(self._seed, sampling.SHOT_ORDER)
            chosen = choose_distinct(texts, wanted, draw, {key})
            if len(chosen) < wanted and not self._fewer(window, len(chosen), wanted):
                window.number += 1
                continue
            yield self._make(window, example, [examples[i] for i in chosen])

    def _shot_count(self, window: _Window) -> int:
        most = self._row.max_shots
        least = most if self._row.min_shots is None else self._row.min_shots
        key = window.key(self._seed, sampling.SHOT_COUNT)
        return least + int(float(sampling.uniform(key)) * (most - least + 1))

    def _fewer(self, window: _Window, found: int, wanted: int) -> bool:
        """Whether a row with fewer shots than wanted is made."""
        too_few = self._row.too_few
        if too_few == "fewer" and found:
            return True
        if too_few == "skip":
            return False
        raise UserError(
            f"task {window.name!r} has {found} different examples for the {wanted} shots "
            "of another; use fewer shots, or too_few='skip' to leave such tasks out, or "
            "too_few='fewer' to draw what there is"
        )

    def _make(
        self, window: _Window, example: Example, shots: list[Example]
    ) -> FewShotRow:
        row, vocabulary = self._row, self._vocabulary
        words: list[tuple[int, ...]] = []
        if size := len(window.pool):
            key = window.key(self._seed, sampling.LABEL_WORDS)
            order = sampling.permute(np.arange(size), size, key)
            words = [window.pool[i] for i in order]
        chance = sampling.uniform(window.key(self._seed, sampling.EMPTY))
        window.number += 1
        target = rows.relabel(example, words)
        context: list[int] = []
        if row.context != "none" and chance >= row.empty_context_rate:
            shown = [rows.relabel(shot, words) for shot in shots]
            own, length = target.context, row.context_length
            context = rows.context_ids(own, shown, vocabulary, length)
        return FewShotRow(
            task=window.name,
            group=window.group,
            example=target,
            hyper_inputs=context if row.context == "hypermodel" else [],
            inputs=rows.input_ids(target, context, row, vocabulary),
            targets=rows.target_ids(target.targets, row, vocabulary),
        )


def check(row: RowFormat, window: int) -> None:
    """Whether a stream that is read once can serve the format.

    Raises:
      UserError: it cannot.
    """
    if row.targets_per_context != 1 or row.task_cap is not None:
        raise UserError(
            f"RowFormat has targets_per_context={row.targets_per_context} and task_cap="
            f"{row.task_cap}; rows of plain seqio have 1 and None: each row stands "
            "alone, and mixing is seqio's. The prepared stream has both"
        )
    if window <= row.max_shots:
        raise UserError(
            f"window is {window}; {row.max_shots} shots and a target need at least "
            f"{row.max_shots + 1} examples"
        )
