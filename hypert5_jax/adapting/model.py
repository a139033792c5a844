"""A trained system with its vocabulary: examples in text to φ, inputs in text to answers.

model = hypert5_jax.load("runs/hyper")
phi = model.adapt([("my cat", "ZUMA"), ("the dog", "FIDA")])
answers = model.generate(["our cat"], phi)
"""

import functools
import os
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.adapting import description as descriptions
from hypert5_jax.adapting import examples as texts
from hypert5_jax.adapting import loading, weights
from hypert5_jax.adapting.contexts import Contexts, contexts_of
from hypert5_jax.adapting.description import Description
from hypert5_jax.adapting.tokens import SHORTEST, Tokens
from hypert5_jax.checkpoints import store
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.hyper.system import System
from hypert5_jax.inference import scoring
from hypert5_jax.inference.answering import Answerer, Choice, Question, bucket, padded
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.inference.options import RANKINGS
from hypert5_jax.phi import combine as combining
from hypert5_jax.phi import files, types
from hypert5_jax.phi.files import PhiHeader
from hypert5_jax.phi.task_phi import TaskPhi, combined, side_by_side, task_phis
from hypert5_jax.training.state import fingerprints

Path = str | os.PathLike[str]
Phis = TaskPhi | Sequence[TaskPhi] | None
# Contexts that go through the hypermodel together.
_CONTEXTS = 16


class Model:
    """A system, its parameters and its vocabulary.

    Args:
      system: models and variant.
      params: its groups, layers as the system lays them out.
      vocabulary: of all ids.
      row: what a row holds and how long it may be.
      base_model: fingerprint of the downstream T5, as `core.trees.fingerprint` of its
        unstacked parameters; φ of another is refused.
      name: where it came from, for people.
    """

    def __init__(
        self,
        system: System,
        params: dict[str, Any],
        vocabulary: Vocabulary,
        row: RowFormat,
        base_model: str,
        name: str = "",
    ):
        self.system = system
        self.params: dict[str, Any] = jax.tree.map(jnp.asarray, params)
        self.vocabulary = vocabulary
        self.row = row
        self.base_model = base_model
        self.name = name
        self.tokens = Tokens(vocabulary, row)
        self._make_phi = jax.jit(system.make_phi)
        self._score = jax.jit(functools.partial(scoring.score_targets, system))
        self._answerers: dict[tuple[Decoding, int], Answerer] = {}

    @classmethod
    def load(
        cls, path: Path, *, base: Path | None = None, frozen_dtype: str | None = None
    ) -> "Model":
        """Reads a run of `hypert5_jax.train` or a folder of `save`.

        Args:
          path: the run, one of its checkpoints, or the folder.
          base: the frozen downstream T5 of a run, where it is not at the place the run
            had it from; another T5 is refused.
          frozen_dtype: what frozen groups are held in, "float32" or "bfloat16"; as the
            run held them by default.

        Raises:
          UserError: nothing there, half a model, or parameters of no use.
        """
        loaded = loading.load(
            str(path), None if base is None else str(base), frozen_dtype
        )
        said = loaded.description
        step = "" if loaded.step is None else f" at step {loaded.step}"
        return cls(
            said.system,
            loaded.params,
            said.vocabulary,
            said.row,
            loaded.base_model,
            f"{path}{step}",
        )

    def save(self, folder: Path) -> None:
        """Writes everything that `load` needs into one folder, to carry elsewhere.

        Raises:
          UserError: the folder holds a run, or cannot be written.
        """
        place = absolute(folder)
        if store.holds_steps(place):
            raise UserError(f"{place} holds a run's checkpoints; choose another folder")
        (place / descriptions.FILE).unlink(missing_ok=True)
        for group, tree in self.params.items():
            weights.write_group(place / f"{group}.safetensors", tree)
        frozen = [self.params[group] for group in self.system.variant.frozen]
        dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(frozen)}
        said = Description(
            self.system,
            self.row,
            self.vocabulary,
            frozen_dtype="bfloat16" if dtypes == {"bfloat16"} else "float32",
            base_model=self.base_model,
            stored=fingerprints(self.params),
        )
        descriptions.write(place, said)

    def adapt(
        self,
        examples: Any,
        instruction: str | Sequence[str] = "",
        combine: str = "none",
    ) -> Any:
        """φ of a task, by one forward pass; or of many tasks, in batches.

        Args:
          examples: a list of pairs (input, target), or of dicts with those two names; or
            a list of such lists, one per task.
          instruction: what the task is in words, for systems that were trained with it;
            of many tasks one for all, or a list.
          combine: "none": one context of what fits; "mean" or "concatenate": the φ of as
            many contexts as hold all examples, see phi/combine.py.

        Returns:
          TaskPhi, or a list of them for a list of tasks.

        Raises:
          UserError: no hypermodel, nothing to adapt to, an example that is none, or a
            target that is longer than this model's limit.
        """
        examples = list(examples)
        many = bool(examples) and not texts.is_example(examples[0])
        tasks = examples if many else [examples]
        said = (
            [instruction] * len(tasks) if isinstance(instruction, str) else instruction
        )
        if len(said) != len(tasks):
            raise UserError(
                f"{len(said)} instructions for {len(tasks)} tasks; expected one for all, "
                "or one each"
            )
        plans = [self.contexts(t, i, combine) for t, i in zip(tasks, said, strict=True)]
        phi = self.make_phi([ids for plan in plans for ids in plan.ids])
        found, start = [], 0
        for task, plan in zip(tasks, plans, strict=True):
            places = range(start, start + len(plan.ids))
            start += len(plan.ids)
            own = [combining.take(phi, [place]) for place in places]
            found.append(combined(own, self._header(plan, len(task)), combine))
        return found if many else found[0]

    def contexts(
        self, examples: Sequence[Any], instruction: str = "", combine: str = "none"
    ) -> Contexts:
        """What `adapt` would read of one task, and what it would leave out.

        Raises:
          UserError: as `adapt`.
        """
        if self.system.variant.source != "generated":
            raise UserError(
                f"{self.name or 'this system'} has no hypermodel (its φ is "
                f"{self.system.variant.source!r}), so there is nothing that adapts"
            )
        given = [texts.as_example(value, i) for i, value in enumerate(examples)]
        return contexts_of(
            [self.tokens.shot(example) for example in given],
            self.tokens.instruction_ids(instruction),
            self.row,
            self.vocabulary,
            combine,
        )

    def make_phi(self, contexts: Sequence[Sequence[int]]) -> types.Phi:
        """φ of contexts in ids, one each, as NumPy arrays; an empty context is one too."""
        parts = []
        for start in range(0, len(contexts), _CONTEXTS):
            here = contexts[start : start + _CONTEXTS]
            longest = max(map(len, here))
            length = bucket(longest, self.row.context_length, SHORTEST)
            count = bucket(len(here), _CONTEXTS, 1)
            made = self._make_phi(self.params, padded(here, length, count))
            parts.append(combining.take(jax.device_get(made), range(len(here))))
        return combining.stack(parts)

    def generate(
        self,
        inputs: Sequence[str],
        phi: Phis = None,
        decoding: Decoding | None = None,
        batch_size: int = 32,
    ) -> list[str]:
        """Answers to inputs.

        Args:
          inputs: texts; what is longer than the model's inputs is cut at its end.
          phi: of a task; or one per input, decoded in mixed batches; None is the T5 as
            it is, with the φ that its run learned, if it learned one.
          decoding: how; greedy and as long as the model's targets by default.
          batch_size: inputs that go through together.

        Raises:
          UserError: inputs that are no texts, φ of another T5, or not one per input.
        """
        found = dict(self.answers(inputs, phi, decoding, batch_size))
        return [found[i] for i in range(len(inputs))]

    def answers(
        self,
        inputs: Sequence[str],
        phi: Phis = None,
        decoding: Decoding | None = None,
        batch_size: int = 32,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, str]]:
        """(Number of the input, answer) batch by batch, shortest inputs first.

        Args:
          inputs, phi, decoding, batch_size: as `generate`.
          done: numbers of inputs that are answered; the others' answers stay as they
            would be without it.
        """
        settings = decoding or Decoding(max_tokens=self.row.target_length)
        questions, arrays = self._questions(inputs, phi)
        machine = self._answerer(settings, batch_size)
        found = machine.generate(questions, arrays, done)
        return ((number, self.text(ids)) for number, ids in found)

    def rank(
        self,
        inputs: Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str]],
        phi: Phis = None,
        rule: str = "sum",
    ) -> list[int]:
        """The number of the likeliest option of each input.

        Args:
          inputs, phi: as `generate`.
          options: one list for all inputs, or a list for each.
          rule: "sum" of log-probabilities (T0), or their "mean" per token (MetaICL).

        Raises:
          UserError: as `generate`; or no options.
        """
        found = dict(self.choices(inputs, options, phi, rule))
        return [found[i].option for i in range(len(inputs))]

    def choices(
        self,
        inputs: Sequence[str],
        options: Sequence[str] | Sequence[Sequence[str]],
        phi: Phis = None,
        rule: str = "sum",
        batch_size: int = 32,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Choice]]:
        """(Number of the input, its choice with all scores) batch by batch.

        Args:
          inputs, options, phi, rule: as `rank`.
          batch_size, done: as `answers`.
        """
        if rule not in RANKINGS:
            raise UserError(f"rule is {rule!r}; expected {' or '.join(RANKINGS)}")
        texts.require_texts(inputs, "inputs")
        own = texts.options_of_each(options, len(inputs))
        ids = {
            text: self.tokens.target_ids(text, f"the option {text[:40]!r}")
            for text in {text for choice in own for text in choice}
        }
        questions, arrays = self._questions(inputs, phi)
        questions = [
            Question(q.inputs, tuple(ids[text] for text in choice), q.context)
            for q, choice in zip(questions, own, strict=True)
        ]
        machine = self._answerer(Decoding(), batch_size)
        return machine.rank(questions, arrays, rule, done) if inputs else iter(())

    def loss(self, examples: Sequence[Any], phi: TaskPhi | None = None) -> float:
        """Mean nats per target token (EOS counts) of examples, as `adapt` takes them.

        Raises:
          UserError: no examples, one that is none, or φ of another T5.
        """
        given = [texts.as_example(value, i) for i, value in enumerate(examples)]
        if not given:
            raise UserError("no examples to take a loss of; give one or more")
        _, arrays = self._phi_of(phi, len(given))
        total = tokens = 0.0
        for start in range(0, len(given), _CONTEXTS):
            batch = self.tokens.batch(given[start : start + _CONTEXTS], _CONTEXTS)
            scores = self._score(self.params, batch, arrays)
            total -= float(scores.log_prob.sum())
            tokens += float(scores.tokens.sum())
        return total / tokens

    def input_ids(self, text: str) -> list[int]:
        """What the downstream encoder reads of an input, cut at its end."""
        return self.tokens.input_ids(text)

    def target_ids(self, text: str) -> list[int]:
        """What the downstream decoder must say; UserError if it is too long."""
        return self.tokens.target_ids(text, f"the target {text[:40]!r}")

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer: ids up to EOS, padding dropped."""
        return self.tokens.text(ids)

    def check(self, phi: TaskPhi, what: str = "this φ") -> None:
        """Refuses φ of another T5: UserError with both sizes or fingerprints."""
        sites = self.system.downstream.sites
        files.check_made_for(phi.header, sites, self.base_model, what)

    def _header(self, plan: Contexts, given: int) -> PhiHeader:
        """What the φ of one task says of itself."""
        spec = self.system.variant.spec
        assert spec is not None
        origin = (
            f"adapted by {self.name or 'a model'} from {plan.count} of {given} examples; "
            f"contexts: {len(plan.ids)}"
        )
        sites = self.system.downstream.sites
        return PhiHeader(spec, sites, self.base_model, origin)

    def _questions(
        self, inputs: Sequence[str], phi: Phis
    ) -> tuple[list[Question], types.Phi]:
        texts.require_texts(inputs, "inputs")
        places, arrays = self._phi_of(phi, len(inputs))
        questions = [
            Question(self.input_ids(text), context=place)
            for text, place in zip(inputs, places, strict=True)
        ]
        return questions, arrays

    def _phi_of(self, phi: Phis, count: int) -> tuple[list[int], types.Phi]:
        """(which φ of the batch each of `count` inputs has, that batch)."""
        if phi is None and self.system.variant.source == "learned":
            learned = self._make_phi(self.params, np.zeros((1, 0), np.int32))
            return [0] * count, learned
        if phi is None:
            return [0] * count, types.Phi()
        if isinstance(phi, TaskPhi):
            self.check(phi)
            return [0] * count, phi.phi
        several = task_phis(phi)
        if len(several) != count:
            raise UserError(
                f"{len(several)} φ for {count} inputs; expected one for all, or one each"
            )
        for number, one in enumerate(several):
            self.check(one, f"φ {number + 1}")
        return side_by_side(several)

    def _answerer(self, settings: Decoding, batch_size: int) -> Answerer:
        key = settings, batch_size
        if key not in self._answerers:
            self._answerers[key] = Answerer(
                self.system,
                self.params,
                batch_size=batch_size,
                hyper_length=self.row.hyper_length,
                input_length=self.row.input_length,
                target_length=self.row.target_length,
                settings=settings,
            )
        return self._answerers[key]


load = Model.load
