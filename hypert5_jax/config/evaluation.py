"""An evaluation, unit by unit: one task under one context of one draw.

A unit's φ is made once and serves all its examples. Finished units are kept and passed
over when the same evaluation is started again.
"""

import dataclasses
import functools
import time
from collections.abc import Iterator, Sequence

from etils import epath

from hypert5_jax.config.evaluate_run import CONTEXTS, EvaluateRun
from hypert5_jax.config.evaluation_draws import Draws
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.progress import ProgressLine, clock
from hypert5_jax.data.contexts import EvaluationRows, evaluation_rows
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import without_eos
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.evaluation import metrics, protocols
from hypert5_jax.evaluation.protocols import GENERATE, Protocol
from hypert5_jax.evaluation.results import Json, ResultsFolder
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.preparation.first_use import ensure_prepared


@dataclasses.dataclass(frozen=True)
class Unit:
    """One task under one kind of context (as users call it) of one draw."""

    task: PreparedTask
    context: str
    seed: int


def open_data(run: EvaluateRun, split: str, mixture: str) -> PreparedMixture:
    """A prepared mixture, made on first use, whose ids the models can read."""
    data = run.data
    opened = ensure_prepared(
        mixture,
        split,
        data.prepared_dir,
        modules=data.modules,
        lengths=data.row_format.lengths,
    )
    rows = min(model.vocab_size for model in run.models)
    opened.require_vocabulary(rows=rows)
    return opened


def chosen_tasks(run: EvaluateRun, mixture: PreparedMixture) -> list[PreparedTask]:
    """The tasks to judge, in the mixture's order.

    Raises:
      UserError: an unknown task, or one without what the protocol needs.
    """
    for name in run.data.tasks:
        mixture.task(name)
    tasks = [t for t in mixture.tasks if not run.data.tasks or t.name in run.data.tasks]
    protocol = protocols.find(run.protocol)
    if protocol.average == protocols.TASKS:
        for task in tasks:
            if not task.group:
                raise UserError(
                    f"task {task.name!r} of {mixture.name!r} declares no `group`, but "
                    f"protocol {protocol.name} chooses its metric by it: "
                    "'classification', or another word; add the feature to the task"
                )
    return tasks


def units_of(run: EvaluateRun, tasks: Sequence[PreparedTask]) -> list[Unit]:
    """All units, the contexts of a task beside each other.

    Where nothing of a unit is drawn (no shots, no label words) one draw stands for all.
    """
    found = []
    for task in tasks:
        for context in run.contexts:
            seeds = run.seeds
            if same_for_all_draws(run, task, context):
                seeds = seeds[:1]
            found += [Unit(task, context, seed) for seed in seeds]
    return found


def same_for_all_draws(run: EvaluateRun, task: PreparedTask, context: str) -> bool:
    """Whether draws of this task's context do not differ."""
    shots = task.wants_shots and run.data.row_format.context != "none"
    return not shots and not task.label_pool and context in ("real", "empty")


class Evaluation:
    """Judges units and keeps what they score.

    Args:
      run: the evaluation.
      mixture: what is judged.
      answerer: the loaded system.
      folder: of the results.
    """

    def __init__(
        self,
        run: EvaluateRun,
        mixture: PreparedMixture,
        answerer: Answerer,
        folder: ResultsFolder,
    ):
        self.run, self.mixture = run, mixture
        self.answerer, self.folder = answerer, folder
        self.protocol = protocols.find(run.protocol)
        self.draws = Draws(
            epath.Path(run.draws_dir or folder.directory / "draws"),
            mixture,
            run.data.row_format,
            run.data.limit,
            other="other_task" in run.contexts,
        )

    @functools.cached_property
    def _opened(self) -> dict[tuple[str, str], PreparedMixture]:
        return {(self.mixture.name, self.mixture.split): self.mixture}

    def digests(self) -> dict[str, str]:
        """{mixture/split: digest} of all prepared data that were read."""
        return {f"{n}/{s}": opened.digest for (n, s), opened in self._opened.items()}

    def support(self, seed: int) -> PreparedMixture:
        """Where the shots of a draw come from.

        Raises:
          UserError: it is not there, or was prepared with another vocabulary.
        """
        name, split = self.run.data.support(seed)
        if (name, split) not in self._opened:
            found = open_data(self.run, split, name)
            found.require_vocabulary(self.mixture.vocabulary.fingerprint)
            self._opened[name, split] = found
        return self._opened[name, split]

    def judge_all(self, units: Sequence[Unit]) -> dict[tuple[str, str, int], Json]:
        """{(task, context, seed): scores} of all units, those already done read."""
        line, start, judged = ProgressLine(), time.monotonic(), 0
        found: dict[tuple[str, str, int], Json] = {}
        try:
            for number, unit in enumerate(units):
                name = (unit.task.name, unit.context, unit.seed)
                kept = self.folder.unit(*name)
                if kept is None:
                    kept = self._judge(unit, line, f"{number + 1}/{len(units)}")
                    judged += 1
                    per_unit = (time.monotonic() - start) / judged
                    left = clock(per_unit * (len(units) - number - 1))
                    if line.due():
                        done = (number + 1) / len(units)
                        line.draw(
                            f"{number + 1}/{len(units)} judged, {left} left", done
                        )
                found[name] = kept
        finally:
            line.close()
        return found

    def _judge(self, unit: Unit, line: ProgressLine, place: str) -> Json:
        support = self.support(unit.seed)
        rows = evaluation_rows(
            self.mixture,
            unit.task.name,
            self.run.data.row_format,
            unit.seed,
            kind=CONTEXTS[unit.context],
            support=support,
            draw=self.draws.of(unit.task, unit.seed, support),
        )
        answers: list[Json] = [{} for _ in range(len(rows))]
        for done, (number, answer) in enumerate(self._answers(rows)):
            answers[number] = answer
            if line.due():
                text = f"{place} {unit.task.name} {unit.context} {unit.seed}"
                line.draw(f"{text}: {done}/{len(rows)} examples", done / len(rows))
        predictions = [answer["prediction"] for answer in answers]
        scores = self._scores(unit, rows, answers, predictions)
        lines = [
            {"index": int(index), **answer}
            for index, answer in zip(rows.indices, answers)
        ]
        self.folder.write_unit(
            unit.task.name,
            unit.context,
            unit.seed,
            scores,
            lines if self.run.predictions else None,
        )
        return scores

    def _answers(self, rows: EvaluationRows) -> Iterator[tuple[int, Json]]:
        """(number of the example, its answer beside what it is compared with)."""
        vocabulary = self.mixture.vocabulary
        questions = [
            Question(inputs, rows.options[i], int(rows.context_of[i]))
            for i, inputs in enumerate(rows.inputs)
        ]
        if self.protocol.answer == GENERATE:
            for i, ids in self.answerer.generate(questions, rows.contexts):
                references = references_of(rows.examples[i], vocabulary)
                said = text_of(ids, vocabulary)
                yield i, {"prediction": said, "references": references}
            return
        if not all(question.options for question in questions):
            raise UserError(
                f"task {rows.task!r} of {self.mixture.name!r} has examples without "
                f"options, and protocol {self.protocol.name} ranks options; choose a "
                "protocol that generates text (metaicl, sni), or prepare options"
            )
        rule = self.protocol.answer
        for i, choice in self.answerer.rank(questions, rows.contexts, rule):
            example = rows.examples[i]
            # Options are compared in whole, however much of them was scored.
            options = [text_of(option, vocabulary) for option in example.options]
            yield (
                i,
                {
                    "prediction": options[choice.option],
                    "references": [text_of(example.targets, vocabulary)],
                    "options": options,
                    "scores": list(choice.scores),
                },
            )

    def _scores(
        self,
        unit: Unit,
        rows: EvaluationRows,
        answers: Sequence[Json],
        predictions: Sequence[str],
    ) -> Json:
        references = [answer["references"] for answer in answers]
        protocol: Protocol = self.protocol
        scores = {
            name: next(iter(metrics.METRICS[name](references, predictions).values()))
            for name in protocol.metrics
        }
        sums = {
            name: 100.0 * sum(metrics.each(name, references, predictions))
            for name in protocol.metrics
            if name in metrics.PER_EXAMPLE
        }
        found = {
            "task": unit.task.name,
            "group": unit.task.group,
            "context": unit.context,
            "seed": unit.seed,
            "examples": len(rows),
            "contexts": len(rows.contexts),
            "context_tokens": sum(map(len, rows.contexts)) / len(rows.contexts),
            "scores": scores,
            "sums": sums,
        }
        if protocol.answer != GENERATE:
            found["target_not_among_options"] = sum(
                answer["references"][0] not in answer["options"] for answer in answers
            )
        return found


def text_of(ids: Sequence[int], vocabulary: Vocabulary) -> str:
    """Text of an answer's ids: what is no ordinary id, EOS included, is left out."""
    first, end = vocabulary.ordinary_ids
    return vocabulary.decode([i for i in ids if first <= i < end])


def references_of(example: Example, vocabulary: Vocabulary) -> list[str]:
    """What an answer is compared with: the texts as written, or that of the target."""
    if example.references:
        return list(example.references)
    return [text_of(without_eos(example.targets, vocabulary), vocabulary)]
