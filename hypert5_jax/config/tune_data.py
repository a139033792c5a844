"""What a sweep reads of one task: rows to train on, questions to judge, its contexts."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from hypert5_jax.config.evaluation import text_of
from hypert5_jax.config.tune_run import TuneRun
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows, sampling
from hypert5_jax.data.contexts import EvaluationRows, evaluation_rows
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.evaluation import metrics, protocols
from hypert5_jax.evaluation.protocols import Protocol
from hypert5_jax.inference.answering import Question, bucket


@dataclasses.dataclass(frozen=True)
class TuneTask:
    """One task of a sweep.

    Attributes:
      run: the sweep.
      judged, training: the mixtures its questions and its training rows are in.
      task: as `judged` has it.
    """

    run: TuneRun
    judged: PreparedMixture
    training: PreparedMixture
    task: PreparedTask

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task.name

    @property
    def _protocol(self) -> Protocol:
        return protocols.find(self.run.protocol)

    @property
    def metric(self) -> str:
        """The metric that counts."""
        return self._protocol.metric(self.task.group)

    @property
    def column(self) -> str:
        """Where its scores stand in a table: a column of the protocol, or its group."""
        found = self._protocol.column(self.task.group)
        return found or self.task.group or self.task.name

    @property
    def _row(self) -> rows.RowFormat:
        """What the tuned T5 reads and says: no context, nothing longer than needed."""
        most = {}
        for name, least in (("inputs", 32), ("targets", 4)):
            limit = int(self.run.data.row_format.lengths[name])
            source = self.training.task(self.task.name)
            here = slice(source.first, source.first + source.count)
            # Padding is invisible, but takes a T5 as long as words do. How many ids a
            # label word has is not in the index.
            longest = int(self.training.index[name][here].max())
            eos = name == "inputs" and self.run.data.row_format.inputs_eos
            longest = limit if self.task.label_pool else min(longest + eos, limit)
            most[name] = bucket(longest, limit, least)
        return dataclasses.replace(
            self.run.data.row_format, context="none", max_shots=0, lengths=most
        )

    def _seed(self, seed: int) -> int:
        """Seeds whose rows are the same words share them."""
        return seed if self.task.label_pool else 0

    @functools.cached_property
    def _made(self) -> dict[tuple[str, int], object]:
        return {}

    def rows(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """All training examples: inputs int32 [N, length], targets [N, length]."""
        key = ("rows", self._seed(seed))
        if key not in self._made:
            row = self._row
            found = evaluation_rows(self.training, self.name, row, key[1])
            self._made[key] = (
                rows.pad(found.inputs, row.input_length),
                rows.pad(found.targets, row.target_length),
            )
        return self._made[key]  # type: ignore[return-value]

    def batch(self, seed: int, step: int) -> Batch:
        """The rows of a step: those of all learning rates of a seed.

        Each epoch goes through the training examples in an order of its own.
        """
        inputs, targets = self.rows(seed)
        size = self.run.batch_size
        epoch, turn = np.divmod(np.arange(step * size, (step + 1) * size), len(inputs))
        key = sampling.hash_of(seed, sampling.TARGET_ORDER, epoch)
        chosen = sampling.permute(turn, len(inputs), key)
        said = targets[chosen]
        weights = (said > 0).astype(np.float32)
        return Batch(np.zeros((size, 0), np.int32), inputs[chosen], said, weights)

    def _judged_rows(self, seed: int) -> EvaluationRows:
        key = ("judged", self._seed(seed))
        if key not in self._made:
            row = dataclasses.replace(
                self.run.data.row_format, context="none", max_shots=0
            )
            limit = self.run.data.limit
            self._made[key] = evaluation_rows(
                self.judged, self.name, row, key[1], limit=limit
            )
        return self._made[key]  # type: ignore[return-value]

    def questions(self, seed: int) -> list[Question]:
        """The examples judged, the same ones for every seed.

        Raises:
          UserError: one has no options.
        """
        found = self._judged_rows(seed)
        if not all(found.options):
            raise UserError(
                f"task {self.name!r} of {self.judged.name!r} has examples without "
                f"options, and protocol {self.run.protocol} ranks options; prepare "
                "options, or leave the task out of EvaluationData.tasks"
            )
        return [
            Question(i, o) for i, o in zip(found.inputs, found.options, strict=True)
        ]

    @property
    def same_words(self) -> bool:
        """Whether the questions of all seeds are in the same words."""
        return not self.task.label_pool

    def score(self, seed: int, choices: Sequence[int | None]) -> float:
        """Percent of the task's metric.

        Args:
          seed: whose questions were asked.
          choices: the option chosen for each of them; None is no answer.
        """
        options, references = self._texts(self._seed(seed))
        said = [
            "" if choice is None else options[i][choice]
            for i, choice in enumerate(choices)
        ]
        return next(iter(metrics.METRICS[self.metric](references, said).values()))

    def _texts(self, seed: int) -> tuple[list[list[str]], list[list[str]]]:
        key = ("texts", seed)
        if key not in self._made:
            vocabulary = self.judged.vocabulary
            examples = self._judged_rows(seed).examples
            self._made[key] = (
                [[text_of(o, vocabulary) for o in e.options] for e in examples],
                [[text_of(e.targets, vocabulary)] for e in examples],
            )
        return self._made[key]  # type: ignore[return-value]

    def context(self, seed: int) -> list[int]:
        """Ids of what a hypermodel reads to start the runs of a seed.

        Up to `max_shots` training examples, drawn by the seed; the task's own context
        where it has one.
        """
        found = evaluation_rows(
            self.judged,
            self.name,
            self.run.data.row_format,
            seed,
            limit=1,
            support=self.training,
        )
        return found.contexts[0]


def chosen_tasks(
    run: TuneRun, judged: PreparedMixture, training: PreparedMixture
) -> list[TuneTask]:
    """The tasks of a sweep, in the mixture's order.

    Raises:
      UserError: an unknown task, or one without training examples, without options,
        without the group that decides its metric, or with a context per example.
    """
    for name in run.data.tasks:
        judged.task(name)
    chosen = [t for t in judged.tasks if not run.data.tasks or t.name in run.data.tasks]
    trained = {task.name for task in training.tasks if task.count}
    protocol = protocols.find(run.protocol)
    for task in chosen:
        if protocol.average == protocols.TASKS and not task.group:
            raise UserError(
                f"task {task.name!r} of {judged.name!r} declares no `group`, but "
                f"protocol {protocol.name} chooses its metric by it; add the feature "
                "to the task, or choose another protocol"
            )
        if task.name not in trained:
            raise UserError(
                f"task {task.name!r} has no training examples in "
                f"{training.name}/{training.split}, which has "
                f"{', '.join(sorted(trained)[:5])}, …; name another "
                "SUPPORT_SPLIT, or leave the task out of EvaluationData.tasks"
            )
        if task.context == "per_example":
            raise UserError(
                f"task {task.name!r} brings a context for each example, so one φ does "
                "not stand for it; leave it out of EvaluationData.tasks"
            )
    found = [TuneTask(run, judged, training, task) for task in chosen]
    for one in found:
        one.questions(run.seeds[0])
    return found
