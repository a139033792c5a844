"""What the contexts of a stream consist of: tasks, targets, shots, label words.

Everything about context number g is a hash of (seed, g): see sampling.py.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows, sampling
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import Arrays, RowFormat


@dataclass(frozen=True)
class Draw:
    """What the contexts of one step consist of, as rows of the mixture's index.

    Attributes:
      tasks: int64 [c], which task of `Sampler.tasks`.
      targets: int64 [c, T], index rows of the target examples.
      shots: for each context, int64 [k], index rows of its shots, in order.
      empty: bool [c], contexts left empty.
      numbers: int64 [c], the contexts' numbers in the sequence.
    """

    tasks: np.ndarray
    targets: np.ndarray
    shots: list[np.ndarray]
    empty: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True)
class Sampler:
    """Draws and formats contexts by their number.

    Raises:
      UserError: the mixture cannot serve the row format; says which task and why.
    """

    mixture: PreparedMixture
    row: RowFormat
    seed: int

    def __post_init__(self) -> None:
        _ = self._schedule  # tells of tasks that do not fit before the first batch

    def __reduce__(self) -> tuple[Any, ...]:
        return Sampler, (self.mixture, self.row, self.seed)

    @cached_property
    def tasks(self) -> tuple[PreparedTask, ...]:
        """The tasks in use: all, less those skipped for having too few examples."""
        kept = [task for task in self.mixture.tasks if self._serves(task)]
        if not kept:
            raise UserError(
                f"no task of {self.mixture.name!r} has the "
                f"{self.row.max_shots + self.row.targets_per_context} different "
                "examples asked for; use fewer shots"
            )
        return tuple(kept)

    def _serves(self, task: PreparedTask) -> bool:
        row, shared = self.row, self.row.targets_per_context
        if shared > 1 and row.context != "none" and task.context == "per_example":
            raise UserError(
                f"task {task.name!r} brings a context for each example, so "
                f"targets_per_context={shared} has no meaning for it; use 1"
            )
        shots = row.max_shots if self._shots(task) else 0
        needed = min(shots, 1) if row.too_few == "fewer" else shots
        enough = task.count >= shared
        if needed:
            enough = enough and task.distinct >= shared + needed
        if not enough and row.too_few != "skip":
            raise UserError(
                f"task {task.name!r} has {task.distinct} different examples; "
                f"{shots} shots and {shared} target example(s) need {shots + shared}. "
                "Use fewer shots, or too_few='skip' to leave such tasks out, or "
                "too_few='fewer' to draw what there is"
            )
        return enough

    def _shots(self, task: PreparedTask) -> bool:
        return self.row.context != "none" and task.wants_shots

    @cached_property
    def _schedule(self) -> sampling.Schedule:
        return sampling.Schedule(task_rates(self.tasks, self.row.task_cap), self.seed)

    @cached_property
    def _takes_shots(self) -> np.ndarray:
        return np.array([self._shots(task) for task in self.tasks])

    @cached_property
    def _counts(self) -> np.ndarray:
        return np.array([task.count for task in self.tasks], np.int64)

    @cached_property
    def _firsts(self) -> np.ndarray:
        return np.array([task.first for task in self.tasks], np.int64)

    def draw(self, numbers: np.ndarray) -> Draw:
        """Draws the contexts of these numbers (int64 [c])."""
        shared = self.row.targets_per_context
        tasks, turns = self._schedule(numbers)
        counts, firsts = self._counts[tasks], self._firsts[tasks]
        # A task's examples in T-sized groups, each once per epoch; with T > 1 the
        # rest of count / T sits out, another rest in each epoch.
        epochs, groups = np.divmod(turns, counts // shared)
        key = sampling.hash_of(self.seed, sampling.TARGET_ORDER, tasks, epochs)
        place = groups[:, None] * shared + np.arange(shared)
        targets = sampling.permute(place, counts[:, None], key[:, None])
        chance = sampling.uniform(self.seed, sampling.EMPTY, numbers)
        empty = chance < self.row.empty_context_rate
        wanted = self._shot_counts(tasks, numbers)
        shots = self._draw_shots(numbers, counts, firsts, targets, wanted)
        targets = targets + firsts[:, None]
        return Draw(tasks, targets, shots, empty, numbers)

    def _shot_counts(self, tasks: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        most = self.row.max_shots
        least = most if self.row.min_shots is None else self.row.min_shots
        chance = sampling.uniform(self.seed, sampling.SHOT_COUNT, numbers)
        wanted = least + (chance * (most - least + 1)).astype(np.int64)
        return np.where(self._takes_shots[tasks], wanted, 0)

    def _draw_shots(
        self,
        numbers: np.ndarray,
        counts: np.ndarray,
        firsts: np.ndarray,
        targets: np.ndarray,
        wanted: np.ndarray,
    ) -> list[np.ndarray]:
        """Shots without repeats and without the targets, also as equal texts."""
        if not wanted.any():
            return [np.zeros(0, np.int64) for _ in numbers]
        keys = sampling.hash_of(self.seed, sampling.SHOT_ORDER, numbers)
        taken = self.mixture.index["key"][targets + firsts[:, None]]
        # A few more candidates than wanted: targets and duplicates fall out.
        width = int(wanted.max(initial=0)) + targets.shape[1] + 8
        place = np.broadcast_to(np.arange(width), (len(numbers), width))
        real = place < counts[:, None]
        candidates = sampling.permute(
            np.where(real, place, 0), counts[:, None], keys[:, None]
        )
        candidates = candidates + firsts[:, None]
        texts = self.mixture.index["key"][candidates]
        clash = (texts[:, :, None] == taken[:, None, :]).any(-1)
        same = texts[:, :, None] == texts[:, None, :]
        repeat = np.tril(same & real[:, None, :], -1).any(-1)
        good = real & ~clash & ~repeat
        shots = []
        for i, count in enumerate(wanted):
            chosen = candidates[i, good[i]][:count]
            if len(chosen) < count and width < counts[i]:
                # A task of many equal texts: look on for as long as it takes.
                mine = slice(firsts[i], firsts[i] + counts[i])
                texts_of_task = self.mixture.index["key"][mine]
                chosen = firsts[i] + choose_distinct(
                    texts_of_task, int(count), keys[i], set(taken[i].tolist())
                )
            shots.append(chosen)
        return shots

    def label_words(self, task: PreparedTask, number: int) -> list[tuple[int, ...]]:
        """The pool of the task in the order drawn for this context."""
        key = sampling.hash_of(self.seed, sampling.LABEL_WORDS, number)
        return words_in_order(task, key)

    def _affordable(self, shots: np.ndarray) -> np.ndarray:
        """Drops shots that cannot fit, before their records are read."""
        lengths = self.mixture.index[shots]
        # Markers are at least two ids, an EOS at most one less.
        ends = np.cumsum(
            lengths["inputs"] + np.maximum(lengths["shot_targets"] - 1, 0) + 2
        )
        kept = max(1, int((ends <= self.row.context_length).sum()))
        return shots[:kept]

    def arrays(self, numbers: np.ndarray) -> Arrays:
        """hyper_inputs, inputs, targets, weights of these contexts, as in Batch."""
        draw = self.draw(numbers)
        shots = [self._affordable(s) if len(s) else s for s in draw.shots]
        records = self.mixture.index["record"]
        used = np.concatenate([draw.targets.ravel(), *shots])
        numbers_of = dict(zip(used.tolist(), records[used].tolist()))
        found = self.mixture.reader.read(np.fromiter(numbers_of.values(), np.int64))

        def example(index_row: np.int64) -> Example:
            return found[numbers_of[int(index_row)]]

        contexts, inputs, targets = [], [], []
        for i, number in enumerate(draw.numbers):
            task = self.tasks[draw.tasks[i]]
            words = self.label_words(task, int(number)) if task.label_pool else []
            chosen = [rows.relabel(example(s), words) for s in shots[i]]
            mine = [rows.relabel(example(t), words) for t in draw.targets[i]]
            context = self._context(mine[0], chosen, bool(draw.empty[i]))
            contexts.append(context)
            for one in mine:
                inputs.append(
                    rows.input_ids(one, context, self.row, self.mixture.vocabulary)
                )
                targets.append(
                    rows.target_ids(one.targets, self.row, self.mixture.vocabulary)
                )
        return rows.to_arrays(contexts, inputs, targets, self.row)

    def _context(self, first: Example, shots: list[Example], empty: bool) -> list[int]:
        if empty or self.row.context == "none":
            return []
        row, vocabulary = self.row, self.mixture.vocabulary
        return rows.context_ids(
            first.context, shots, vocabulary, row.context_length, row.shot_length
        )


def choose_distinct(
    texts: np.ndarray, count: int, key: np.ndarray, taken: set[int]
) -> np.ndarray:
    """Draws up to `count` examples of different texts, none of them taken.

    Args:
      texts: uint64 [examples], a task's column `key` of the index.
      count: how many are wanted.
      key: uint64, decides the draw.
      taken: texts that may not be drawn.

    Returns:
      int64 [at most count], in the order drawn.
    """
    seen, chosen = set(taken), list[int]()
    for start in range(0, len(texts), 1024):
        if len(chosen) >= count:
            break
        place = np.arange(start, min(start + 1024, len(texts)))
        found = sampling.permute(place, len(texts), key)
        for candidate, text in zip(found.tolist(), texts[found].tolist()):
            if text not in seen and len(chosen) < count:
                seen.add(text)
                chosen.append(candidate)
    return np.array(chosen, np.int64)


def words_in_order(task: PreparedTask, key: np.ndarray) -> list[tuple[int, ...]]:
    """The task's label words in the order that `key` (uint64) decides."""
    size = len(task.label_pool)
    order = sampling.permute(np.arange(size), max(size, 1), key)
    return [task.label_pool[i] for i in order]


def task_rates(tasks: tuple[PreparedTask, ...], cap: int | None = None) -> np.ndarray:
    """Shares of the tasks, float64 [tasks] that sum to 1.

    A seqio task has its mixing rate; its logical tasks share that by their number of
    examples, counted up to `cap`.
    """
    weights = np.array([min(t.count, cap or t.count) for t in tasks], np.float64)
    names = np.array([task.seqio_task for task in tasks])
    shares = np.zeros(len(tasks))
    for name in dict.fromkeys(names):
        here = names == name
        rate = next(task.rate for task in tasks if task.seqio_task == name)
        shares[here] = rate * weights[here] / weights[here].sum()
    if shares.sum() <= 0:
        raise UserError("all mixing rates are 0; give at least one task a rate above 0")
    return shares / shares.sum()
