"""A loaded system answers questions: options ranked, or text generated.

φ of one context is made once and serves all questions that share it. Questions are
batched by length into a few static shapes, each compiled once, and batches are laid over
the mesh's devices by rows.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.inference import decoding, sampling
from hypert5_jax.inference import options as option_scores
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.parallel import feed, global_arrays, rules
from hypert5_jax.parallel.mesh import batch_ways
from hypert5_jax.phi import combine, types
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.stacks import DecoderCache

Ids = Sequence[int]
# Logits of at most this many tokens are held at a time on one device: 1 GiB at T5's
# vocabulary in float32.
_LOGIT_TOKENS = 8192


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
      inputs: ids for the downstream encoder.
      options: id lists to choose from; empty where text is to be generated.
      context: number of its context, or of its φ.
    """

    inputs: Ids
    options: Sequence[Ids] = ()
    context: int = 0


@dataclass(frozen=True)
class Choice:
    """The option chosen, and what all of them were ranked by, in order."""

    option: int
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Group:
    """Questions that go through the models together.

    Attributes:
      places: which questions, at most as many as a batch has rows.
      length: tokens their inputs are padded to.
    """

    places: tuple[int, ...]
    length: int


def bucket(length: int, most: int, least: int) -> int:
    """The power of two from `least` that holds `length` tokens, at most `most`."""
    size = least
    while size < length:
        size *= 2
    return min(size, most)


def grouped(lengths: Sequence[int], rows: int, most: int) -> list[Group]:
    """Groups of `rows` questions (the last of fewer) of about equal length.

    What does not fill a batch joins the next longer bucket, so that one batch at most
    is not full.

    Args:
      lengths: tokens of each question's inputs, none above `most`.
      rows: of a batch.
      most: tokens of the longest shape.
    """
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    found: list[Group] = []
    waiting: list[int] = []
    for i, place in enumerate(order):
        waiting.append(place)
        size = bucket(lengths[place], most, least=32)
        last = i + 1 == len(order)
        if len(waiting) == rows or last:
            found.append(Group(tuple(waiting), size))
            waiting = []
    return found


def options_at_a_time(options: int, tokens: int, ways: int = 1) -> int:
    """How many of each row's options are scored at a time, for the logits' memory.

    Args:
      options: of a row, at most.
      tokens: of one option of every row.
      ways: devices that share the rows.
    """
    return min(options, max(_LOGIT_TOKENS * ways // tokens, 1))


# Of all answerers: those of one downstream T5 compile each shape once between them.
_read = jax.jit(option_scores.read_inputs, static_argnums=(0, 3))
_score = jax.jit(option_scores.score_options, static_argnums=0)


class Answerer:
    """Compiles what answering needs; for one system and one set of parameters.

    Args:
      system: whose variant says where φ comes from.
      params: its groups.
      batch_size: questions that go through together.
      hyper_length, input_length, target_length: most tokens of contexts, inputs and
        options.
      settings: of generation.
      mesh: rows lie over its slice, data and fsdp axes; None is one device.

    Raises:
      UserError: the batch is empty, or does not divide by the mesh.
    """

    def __init__(
        self,
        system: System,
        params: dict[str, Any],
        *,
        batch_size: int,
        hyper_length: int,
        input_length: int,
        target_length: int,
        settings: Decoding | None = None,
        mesh: Mesh | None = None,
    ):
        self.system = system
        self.batch_size = batch_size
        self.phis_made = 0
        self._lengths = (hyper_length, input_length, target_length)
        self._settings = settings or Decoding()
        self._mesh = mesh
        self._ways = 1 if mesh is None else batch_ways(mesh)
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; expected 1 or more")
        if batch_size % self._ways:
            raise UserError(
                f"a batch of {batch_size} does not divide over {self._ways} devices "
                f"(slice x data x fsdp); make it a multiple of {self._ways}"
            )
        if mesh is not None:
            axes = system.logical_axes()
            shardings = rules.param_shardings(mesh, params, axes)
            params = jax.tree.map(global_arrays.from_whole, params, shardings)
        self._params = jax.tree.map(jnp.asarray, params)
        self._phi = jax.jit(system.make_phi)
        self._embeddings = jax.jit(system.embeddings)
        self._say = jax.jit(self._generate)

    def rank(
        self,
        questions: Sequence[Question],
        contexts: Sequence[Ids] | Phi,
        rule: str,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, Choice]]:
        """Yields (question's number, choice), batch by batch.

        Args:
          questions: with options.
          contexts: one, whose φ serves all questions; or as many as questions name; or
            φ that is there already, of a batch likewise (empty: no φ at all).
          rule: see options.RANKINGS.
          done: numbers of questions that need no answer; batches of nothing else are
            passed over, so that the others stay as they were.
        """
        most = max(len(q.options) for q in questions)
        longest = max((len(o) for q in questions for o in q.options), default=1)
        length = bucket(longest, self._lengths[2], least=4)
        chunk = self._chunk(most, length)
        for group, phi, inputs, _ in self._batches(questions, contexts, done):
            with self._on_mesh():
                cache = _read(
                    self.system.downstream,
                    self._params["downstream"],
                    inputs,
                    length,
                    phi,
                )
                parts = [
                    self._score_chunk(
                        questions, group, cache, phi, start, chunk, length
                    )
                    for start in range(0, most, chunk)
                ]
            scores = option_scores.OptionScores(
                np.concatenate([p.log_prob for p in parts], 1),
                np.concatenate([p.tokens for p in parts], 1),
            )
            ranks = option_scores.ranking(scores, rule)
            best = option_scores.choose(scores, rule)
            for row, place in enumerate(group.places):
                count = len(questions[place].options)
                kept = tuple(float(x) for x in ranks[row, :count])
                yield place, Choice(int(best[row]), kept)

    def generate(
        self,
        questions: Sequence[Question],
        contexts: Sequence[Ids] | Phi,
        done: Collection[int] = (),
    ) -> Iterator[tuple[int, list[int]]]:
        """Yields (question's number, ids of the answer up to its EOS, EOS left out).

        Args:
          questions, contexts, done: as `rank`; options are not read.
        """
        for group, phi, inputs, active in self._batches(questions, contexts, done):
            numbers = np.zeros(self.batch_size, np.int32)
            numbers[: len(group.places)] = group.places
            with self._on_mesh():
                said = self._say(
                    self._params, inputs, active, self._placed(numbers), phi
                )
            for row, place in zip(global_arrays.to_host(said), group.places):
                ids = row.tolist()
                end = ids.index(decoding.EOS) if decoding.EOS in ids else len(ids)
                yield place, ids[:end]

    def make_phi(self, contexts: Sequence[Ids]) -> Phi | None:
        """φ of contexts: made by one forward pass, learned, or none."""
        if self.system.variant.source == "none":
            return None
        read = self.system.variant.source == "generated"
        ids = padded(contexts, self._lengths[0] if read else 0, len(contexts))
        self.phis_made += 1
        with self._on_mesh():
            return self._phi(self._params, self._placed(ids))

    def embeddings(self, contexts: Sequence[Ids]) -> Any:
        """What the hypermodel's heads read: [contexts, slots, d]."""
        ids = padded(contexts, self._lengths[0], len(contexts))
        with self._on_mesh():
            return self._embeddings(self._params, self._placed(ids))

    def _batches(
        self,
        questions: Sequence[Question],
        contexts: Sequence[Ids] | Phi,
        done: Collection[int],
    ) -> Iterator[tuple[Group, Phi | None, Any, Any]]:
        """(group, φ, inputs [b, k], active [b]) of every batch."""
        phi: Phi | None
        if isinstance(contexts, Phi):
            shared = not jax.tree.leaves(contexts) or types.batch_size(contexts) == 1
            phi = contexts
        else:
            shared = len(contexts) == 1 or self.system.variant.source != "generated"
            phi = self.make_phi(contexts[:1]) if shared else None
        lengths = [len(question.inputs) for question in questions]
        for group in grouped(lengths, self.batch_size, self._lengths[1]):
            if all(place in done for place in group.places):
                continue
            chosen = [questions[place] for place in group.places]
            inputs = padded([q.inputs for q in chosen], group.length, self.batch_size)
            active = np.arange(self.batch_size) < len(chosen)
            if not shared:
                phi = self._own_phi(chosen, contexts)
            yield group, phi, self._placed(inputs), self._placed(active)

    def _own_phi(
        self, chosen: Sequence[Question], contexts: Sequence[Ids] | Phi
    ) -> Phi | None:
        """A φ for every row of a batch; rows that only fill it up have any."""
        missing = self.batch_size - len(chosen)
        if isinstance(contexts, Phi):
            rows = [q.context for q in chosen] + [0] * missing
            own = combine.take(contexts, rows)
            if self._mesh is None:
                return own
            return jax.device_put(own, rules.replicated(self._mesh))
        return self.make_phi([contexts[q.context] for q in chosen] + [[]] * missing)

    def _score_chunk(
        self,
        questions: Sequence[Question],
        group: Group,
        cache: DecoderCache,
        phi: Phi | None,
        start: int,
        chunk: int,
        length: int,
    ) -> option_scores.OptionScores:
        ids = np.zeros((self.batch_size, chunk, length), np.int32)
        for row, place in enumerate(group.places):
            here = questions[place].options[start : start + chunk]
            ids[row, : len(here)] = padded(here, length, len(here))
        config, params = self.system.downstream, self._params["downstream"]
        scores = _score(config, params, cache, self._placed(ids), phi)
        return jax.tree.map(global_arrays.to_host, scores)

    def _chunk(self, options: int, length: int) -> int:
        """How many options of each question are scored at a time."""
        return options_at_a_time(options, self.batch_size * length, self._ways)

    def _generate(
        self, params: Any, inputs: Any, active: Any, numbers: Any, phi: Phi | None
    ) -> Any:
        """Answers; what is drawn for a question depends on its number, not its batch."""
        config, settings = self.system.downstream, self._settings
        keys = sampling.row_keys(settings.seed, numbers)
        return decoding.decode(
            config, params["downstream"], inputs, settings, phi, active, keys
        )

    def _placed(self, rows: np.ndarray) -> Any:
        """Rows over the mesh; a single row everywhere."""
        if self._mesh is None:
            return rows
        if len(rows) % self._ways:
            return global_arrays.from_whole(rows, rules.replicated(self._mesh))
        return global_arrays.from_whole(rows, feed.batch_sharding(self._mesh))

    @contextlib.contextmanager
    def _on_mesh(self) -> Iterator[None]:
        if self._mesh is None:
            yield
            return
        with jax.set_mesh(self._mesh), rules.activate():
            yield


def padded(rows: Sequence[Ids], length: int, count: int) -> np.ndarray:
    """int32 [count, length], padded with 0; what is longer is cut."""
    out = np.zeros((count, length), np.int32)
    for number, ids in enumerate(rows):
        out[number, : len(ids)] = ids[:length]
    return out
