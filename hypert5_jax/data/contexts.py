"""Target examples of a task under chosen contexts, for evaluation.

The same draw decides the target examples, the shots and the label words of every kind
of context, so that columns of a table differ in nothing but the context:

    right             the task's examples, or its own context
    other             those of another task; another example's, where each has its own
    shuffled_targets  the right shots with their targets changed about
    empty             nothing
    random            the right context's markers with random ids between them
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.task_draw import TaskDraw

KINDS = ("right", "other", "shuffled_targets", "empty")
ALL_KINDS = (*KINDS, "random")
_PER = ("task", "example")


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
    drawer = TaskDraw(mixture, support, mixture.task(task_name), row, seed)
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
    drawer = TaskDraw(mixture, support, mixture.task(task_name), row, seed)
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
