"""An evaluation, unit by unit: one task under one context of one draw.

A unit's φ is made once and serves all its examples. Finished units are kept and passed
over when the same evaluation is started again.
"""

import functools
import time
from collections.abc import Callable, Iterator, Sequence

from etils import epath

from hypert5_jax.config.evaluate_run import CONTEXTS
from hypert5_jax.config.evaluation_data import OpenedEvaluation, Unit
from hypert5_jax.config.evaluation_draws import Draws
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.progress import ProgressLine, clock
from hypert5_jax.data.contexts import EvaluationRows, evaluation_rows
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import without_eos
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.evaluation import metrics, protocols
from hypert5_jax.evaluation.protocols import GENERATE, Protocol
from hypert5_jax.evaluation.results import Json, ResultsFolder
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.parallel import hosts


class Evaluation:
    """Judges units and keeps what they score.

    Args:
      opened: the evaluation and its data.
      answerer: the loaded system.
      folder: of the results.
      stop: asked after every answer; True leaves the unit unfinished.
    """

    def __init__(
        self,
        opened: OpenedEvaluation,
        answerer: Answerer,
        folder: ResultsFolder,
        stop: Callable[[], bool] = lambda: False,
    ):
        self.run, self.mixture = opened.run, opened.mixture
        self.opened, self.stop = opened, stop
        self.answerer, self.folder = answerer, folder
        self.protocol = protocols.find(self.run.protocol)
        self.draws = Draws(
            epath.Path(self.run.draws_dir or folder.directory / "draws"),
            self.mixture,
            self.run.data.row_format,
            self.run.data.limit,
            other="other_task" in self.run.contexts,
        )

    def judge_all(self) -> dict[tuple[str, str, int], Json] | None:
        """{(task, context, seed): scores} of all units, those already done read; None
        if it was stopped.

        Raises:
          UserError: the shots of a unit that is done came from other data.
        """
        units = self.opened.units
        line = ProgressLine(shown=hosts.is_writer())
        start, judged = time.monotonic(), 0
        found: dict[tuple[str, str, int], Json] = {}
        try:
            for number, unit in enumerate(units):
                name = (unit.task.name, unit.context, unit.seed)
                kept = hosts.told(functools.partial(self._kept, unit))
                if kept is None:
                    kept = self._judge(unit, line, f"{number + 1}/{len(units)}")
                    if kept is None:
                        return None
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

    def _kept(self, unit: Unit) -> Json | None:
        """The scores of a unit that is done, or None."""
        kept = self.folder.unit(unit.task.name, unit.context, unit.seed)
        support = self.opened.support(unit.seed)
        # Not among the settings: each draw may have a split of its own.
        then = support.digest if kept is None else kept.get("support", support.digest)
        if then != support.digest:
            raise UserError(
                f"{self.folder.directory} holds results of other data: the shots of task "
                f"{unit.task.name!r}, draw {unit.seed}, came from a {support.name}/"
                f"{support.split} with digest {then[:12]}, now it has "
                f"{support.digest[:12]}. Choose another OUTPUT_DIR, or delete that one"
            )
        return kept

    def _judge(self, unit: Unit, line: ProgressLine, place: str) -> Json | None:
        support = self.opened.support(unit.seed)
        rows = evaluation_rows(
            self.mixture,
            unit.task.name,
            self.run.data.row_format,
            unit.seed,
            kind=CONTEXTS[unit.context],
            support=support,
            draw=hosts.writer_first(
                lambda: self.draws.of(unit.task, unit.seed, support)
            ),
        )
        answers: list[Json] = [{} for _ in range(len(rows))]
        for done, (number, answer) in enumerate(self._answers(rows)):
            answers[number] = answer
            if self.stop():
                return None
            if line.due():
                text = f"{place} {unit.task.name} {unit.context} {unit.seed}"
                line.draw(f"{text}: {done}/{len(rows)} examples", done / len(rows))
        predictions = [answer["prediction"] for answer in answers]
        scores = self._scores(unit, rows, answers, predictions)
        lines = [
            {"index": int(index), **answer}
            for index, answer in zip(rows.indices, answers)
        ]
        if hosts.is_writer():
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
            "support": self.opened.support(unit.seed).digest,
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
