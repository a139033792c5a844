"""The draws of one task's evaluation: its shots, its label words, its targets."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows, sampling
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import choose_distinct, words_in_order
from hypert5_jax.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class TaskDraw:
    """The draws of one task: number 0 for the whole task, i + 1 for its example i."""

    mixture: PreparedMixture
    support: PreparedMixture
    task: PreparedTask
    row: RowFormat
    seed: int
    fixed: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def _source(self) -> PreparedTask:
        return self.support.task(self.task.name)

    def _key(self, kind_of_draw: int, number: int) -> np.ndarray:
        name = hashlib.blake2b(self.task.name.encode(), digest_size=7).digest()
        name_number = int.from_bytes(name, "little")
        return sampling.hash_of(self.seed, kind_of_draw, name_number, number)

    def words(self, number: int) -> list[tuple[int, ...]]:
        """The label words of a draw, in the order of their slots."""
        return words_in_order(self.task, self._key(sampling.LABEL_WORDS, number))

    def _texts(self, mixture: PreparedMixture, task: PreparedTask) -> np.ndarray:
        return mixture.index["key"][task.first : task.first + task.count]

    def shots(self, number: int, taken: set[int]) -> np.ndarray:
        """Indices of the shots among the examples of the support."""
        if number == 0 and self.task.name in self.fixed:
            return np.array(self.fixed[self.task.name], np.int64)
        wanted = self.row.max_shots if self.task.wants_shots else 0
        if self.row.context == "none":
            wanted = 0
        texts = self._texts(self.support, self._source)
        key = self._key(sampling.SHOT_ORDER, number)
        chosen = choose_distinct(texts, wanted, key, taken)
        if len(chosen) < wanted and self.row.too_few != "fewer":
            raise UserError(
                f"task {self.task.name!r} has {len(chosen)} different examples for "
                f"{wanted} shots; use fewer shots, or too_few='fewer'"
            )
        return chosen

    def target_indices(self, per: str, limit: int | None) -> np.ndarray:
        """The target examples: all whose text is not among the task's shots."""
        texts = self._texts(self.mixture, self.task)
        kept = np.ones(len(texts), bool)
        if per == "task":
            shots = self._texts(self.support, self._source)[self.shots(0, set())]
            kept = ~np.isin(texts, shots)
        found = np.flatnonzero(kept)[:limit]
        if not len(found):
            raise UserError(
                f"all {self.task.count} examples of task {self.task.name!r} are shots; "
                "none is left to evaluate: use fewer shots"
            )
        return found

    def lender(self, name: str | None) -> "TaskDraw":
        """The draw of the task whose context stands in for this task's."""
        if self.task.context == "per_example" and name is None:
            return self
        if name is None:
            others = [t for t in self.support.tasks if t.name != self.task.name]
            if not others:
                raise UserError(
                    f"{self.support.name!r} has one task only, so no other task can "
                    "lend its context; leave out kind='other'"
                )
            # Tasks of one group, such as prompts of one data set, may be nearly the same.
            group = self.task.group
            others = [t for t in others if group and t.group != group] or others
            name = others[int(self._key(sampling.TASK_ORDER, 0)) % len(others)].name
        return replace(self, mixture=self.support, task=self.support.task(name))

    def context(
        self, kind: str, number: int, index: int, judged: "TaskDraw", target: Example
    ) -> list[int]:
        """The ids of the context for example `index` of the judged task."""
        if kind == "empty" or self.row.context == "none":
            return []
        own = self._own(kind, number, index, target)
        shots = self._shot_examples(number, index, judged)
        if kind == "shuffled_targets":
            if not shots:
                raise UserError(
                    f"task {self.task.name!r} has a context of its own and no shots, so "
                    "there are no targets to shuffle; leave out shuffled_targets"
                )
            key = self._key(sampling.SHOT_COUNT, number)
            shots = _shuffled(shots, key)
        row, vocabulary = self.row, self.mixture.vocabulary
        ids = rows.context_ids(
            own, shots, vocabulary, row.context_length, row.shot_length
        )
        if kind != "random":
            return ids
        return _randomised(ids, vocabulary, self._key(sampling.RANDOM_IDS, number))

    def _shot_examples(
        self, number: int, index: int, judged: "TaskDraw"
    ) -> list[Example]:
        # One context for the whole task: its shots are not among the targets at all.
        taken = set[int]()
        if number and judged is self:
            taken = {int(self._texts(self.mixture, self.task)[index])}
        chosen = self.shots(number, taken)
        words = self.words(number)
        found = self.support.examples(self._source, chosen)
        return [rows.relabel(shot, words) for shot in found]

    def _own(
        self, kind: str, number: int, index: int, target: Example
    ) -> Sequence[int] | None:
        if self.task.context == "none":
            return None
        if kind != "other":
            return target.context
        if self.task.context == "per_example" and self.task.count < 2:
            raise UserError(
                f"task {self.task.name!r} has one example, so no other's context"
            )
        # Far from the judged example, so that it is another document's.
        far = (index + self.task.count // 2) % self.task.count
        example = self.mixture.examples(self.task, np.array([far]))[0]
        return rows.relabel(example, self.words(number)).context


def _shuffled(shots: list[Example], key: np.ndarray) -> list[Example]:
    """The shots, each with the answer that another one shows."""
    order = changed_about([shot.shown_targets for shot in shots], key)
    return [
        replace(shot, shot_targets=shots[j].shown_targets)
        for shot, j in zip(shots, order, strict=True)
    ]


def _randomised(
    ids: Sequence[int], vocabulary: Vocabulary, key: np.ndarray
) -> list[int]:
    """The ids with every ordinary one drawn anew, uniformly; markers stay."""
    first, end = vocabulary.ordinary_ids
    drawn = sampling.hash_of(key, np.arange(len(ids))) % np.uint64(end - first)
    return [first + int(new) if first <= i < end else i for i, new in zip(ids, drawn)]


def changed_about(targets: Sequence[Sequence[int]], key: np.ndarray) -> list[int]:
    """An order of the targets in which as few as possible stay equal to their own.

    Sorting by value and turning the ring by the size of the largest group moves every
    value off itself, unless one value has more than half of them.

    Args:
      targets: the targets' ids.
      key: uint64, decides between equally good orders.

    Returns:
      For each place, the index of the target it gets.
    """
    count = len(targets)
    values = [tuple(target) for target in targets]
    chance = sampling.hash_of(key, np.arange(count))
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in np.argsort(chance, kind="stable"):
        groups.setdefault(values[i], []).append(int(i))
    largest = max(map(len, groups.values()), default=0)
    ring = [i for group in groups.values() for i in group]
    order = [0] * count
    for place, i in enumerate(ring):
        order[i] = ring[(place + largest) % count]
    return order
