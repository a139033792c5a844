"""Target examples of a task under chosen contexts, for evaluation.

The same draw decides the target examples, the shots and the label words of every kind
of context, so that columns of a table differ in nothing but the context:

    right             the task's examples, or its own context
    other             those of another task; another example's, where each has its own
    shuffled_targets  the right shots with their targets changed about
    empty             nothing
    random            the right context's markers with random ids between them
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows, sampling
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import choose_distinct, words_in_order
from hypert5_jax.data.vocabulary import Vocabulary

KINDS = ("right", "other", "shuffled_targets", "empty")
ALL_KINDS = (*KINDS, "random")


@dataclass(frozen=True)
class ContextDraw:
    """The examples of one draw for a task, by their number within their task.

    Attributes:
      targets: the target examples, of the mixture.
      shots: the shots in order, of the task of the same name in the support.
      lender: the task that lends its context for kind="other", None if none was asked.
      lender_shots: its shots, of the support.
    """

    targets: tuple[int, ...]
    shots: tuple[int, ...]
    lender: str | None = None
    lender_shots: tuple[int, ...] = ()


@dataclass(frozen=True)
class EvaluationRows:
    """Target examples of one task and the contexts they are judged under.

    Attributes:
      task: name of the task.
      kind: one of ALL_KINDS.
      row: the format.
      contexts: ids of G contexts.
      context_of: int64 [N], which context each target example has.
      indices: int64 [N], which examples of the task these are.
      inputs: N id lists for the downstream encoder, as Batch.inputs before padding.
      targets: N id lists, as Batch.targets before padding.
      options: N tuples of id lists formed like targets; empty without options.
      examples: the N target examples themselves, nothing cut, label words filled in.
    """

    task: str
    kind: str
    row: RowFormat
    contexts: list[list[int]]
    context_of: np.ndarray
    indices: np.ndarray
    inputs: list[list[int]]
    targets: list[list[int]]
    options: list[tuple[list[int], ...]]
    examples: list[Example] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.inputs)

    def hyper_inputs(self) -> np.ndarray:
        """The contexts as int32 [G, hyper_length]; G is 1 for one φ per task."""
        read = self.row.context == "hypermodel"
        ids = self.contexts if read else [[] for _ in self.contexts]
        return rows.pad(ids, self.row.hyper_length)

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Batches of `batch_size` rows, in order; the last filled up with weight 0.

        With one context for the task, hyper_inputs is [1, hyper_length]; with one for
        each example it is [batch_size, hyper_length].
        """
        shared = len(self.contexts) == 1
        for start in range(0, len(self), batch_size):
            here = range(start, min(start + batch_size, len(self)))
            missing = batch_size - len(here)
            contexts = [self.contexts[self.context_of[i]] for i in here]
            arrays = rows.to_arrays(
                contexts[:1] if shared else contexts + [[]] * missing,
                [self.inputs[i] for i in here] + [[]] * missing,
                [self.targets[i] for i in here] + [[]] * missing,
                self.row,
            )
            yield Batch(*arrays)


def evaluation_rows(
    mixture: PreparedMixture,
    task_name: str,
    row: RowFormat,
    seed: int,
    kind: str = "right",
    per: str = "task",
    limit: int | None = None,
    support: PreparedMixture | None = None,
    other: str | None = None,
    draw: ContextDraw | None = None,
) -> EvaluationRows:
    """Target examples of a task, each with a context of the chosen kind.

    Args:
      mixture: where the target examples are.
      task_name: the logical task.
      row: the format; max_shots shots are drawn.
      seed: decides shots and label words, the same for every kind.
      kind: one of ALL_KINDS.
      per: "task", one context for all (one φ); or "example", each its own draw. A task
        with a context for each example always has the latter.
      limit: most target examples, the first in prepared order.
      support: where shots are drawn from, e.g. the train split; the mixture itself by
        default. A target is never a shot of its own, also not as an equal text.
      other: the task that lends its context for kind="other"; drawn by default, from
        another group where the tasks have groups.
      draw: examples drawn before (`draw_examples`), for per="task"; seed and limit then
        decide label words and random ids alone.

    Raises:
      UserError: unknown kind or task, too few examples, nothing to shuffle.
    """
    for name, given, known in (("kind", kind, ALL_KINDS), ("per", per, _PER)):
        if given not in known:
            raise UserError(f"{name} is {given!r}; expected one of {', '.join(known)}")
    support = support or mixture
    drawer = _TaskDraw(mixture, support, mixture.task(task_name), row, seed)
    if draw is not None:
        other = other or draw.lender
        fixed = {task_name: draw.shots}
        if draw.lender is not None:
            fixed[draw.lender] = draw.lender_shots
        drawer = replace(drawer, fixed=fixed)
    lender = drawer
    if kind == "other":
        lender = drawer.lender(other)
    if drawer.task.context == "per_example":
        per = "example"
    if draw is None:
        targets = drawer.target_indices(per, limit)
    else:
        targets = np.array(draw.targets, np.int64)
    number_of = targets + 1 if per == "example" else np.zeros_like(targets)
    contexts, inputs, outputs, options = [], [], [], []
    examples = mixture.examples(drawer.task, targets)
    kept = []
    for i, example in enumerate(examples):
        number, index = int(number_of[i]), int(targets[i])
        words = drawer.words(number)
        example = rows.relabel(example, words)
        kept.append(example)
        if i == 0 or per == "example":
            contexts.append(lender.context(kind, number, index, drawer, example))
        inputs.append(rows.input_ids(example, contexts[-1], row, mixture.vocabulary))
        outputs.append(rows.target_ids(example.targets, row, mixture.vocabulary))
        options.append(
            tuple(rows.target_ids(o, row, mixture.vocabulary) for o in example.options)
        )
    return EvaluationRows(
        task=task_name,
        kind=kind,
        row=row,
        contexts=contexts,
        context_of=np.arange(len(targets)) if per == "example" else number_of,
        indices=targets,
        inputs=inputs,
        targets=outputs,
        options=options,
        examples=kept,
    )


def draw_examples(
    mixture: PreparedMixture,
    task_name: str,
    row: RowFormat,
    seed: int,
    limit: int | None = None,
    support: PreparedMixture | None = None,
    other: bool = False,
) -> ContextDraw:
    """What `evaluation_rows` with per="task" would draw, to be kept and used again.

    Args:
      mixture, task_name, row, seed, limit, support: as there.
      other: whether a task that lends its context is drawn too.

    Raises:
      UserError: as there.
    """
    support = support or mixture
    drawer = _TaskDraw(mixture, support, mixture.task(task_name), row, seed)
    per_example = drawer.task.context == "per_example"
    targets = drawer.target_indices("example" if per_example else "task", limit)
    shots = () if per_example else drawer.shots(0, set())
    lender = drawer.lender(None) if other and not per_example else None
    return ContextDraw(
        targets=tuple(map(int, targets)),
        shots=tuple(map(int, shots)),
        lender=None if lender is None else lender.task.name,
        lender_shots=() if lender is None else tuple(map(int, lender.shots(0, set()))),
    )


_PER = ("task", "example")


@dataclass(frozen=True)
class _TaskDraw:
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

    def lender(self, name: str | None) -> "_TaskDraw":
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
        self, kind: str, number: int, index: int, judged: "_TaskDraw", target: Example
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
        self, number: int, index: int, judged: "_TaskDraw"
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
