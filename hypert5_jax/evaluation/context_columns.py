"""The columns of a table: a frozen T5's scores on tasks, by where its φ comes from."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.inference.scoring import Scorer, TargetScores
from hypert5_jax.phi.types import Phi

Ids = Sequence[int]


@dataclass(frozen=True)
class Case:
    """One context and the target examples judged under the φ made from it.

    Attributes:
      task: its name.
      context: ids, what the hypermodel reads.
      inputs: N id lists.
      targets: N id lists.
      options: N tuples of id lists formed like targets; empty without options.
    """

    task: str
    context: Ids
    inputs: Sequence[Ids]
    targets: Sequence[Ids]
    options: Sequence[Sequence[Ids]]


@dataclass(frozen=True)
class Tally:
    """Sums over judged examples; tallies add.

    Attributes:
      loss, tokens: summed cross-entropy of the targets and their number of tokens.
      examples, exact: judged examples, and those that greedy decoding gets right.
      asked, chosen: examples with options, and those whose target is the likeliest.
    """

    loss: float = 0.0
    tokens: float = 0.0
    examples: int = 0
    exact: int = 0
    asked: int = 0
    chosen: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        mine, theirs = vars(self), vars(other)
        return Tally(**{name: mine[name] + theirs[name] for name in mine})

    def scores(self) -> dict[str, float]:
        """Loss per token, and the two accuracies where there is something to count."""
        found = {
            "loss": self.loss / max(self.tokens, 1.0),
            "exact_match": self.exact / max(self.examples, 1),
        }
        if self.asked:
            found["option_accuracy"] = self.chosen / self.asked
        return found


@dataclass(frozen=True)
class Shape:
    """Static sizes of one compiled evaluation step.

    Attributes:
      cases: contexts per step.
      examples: target examples per context.
      options: options per example.
      hyper_inputs, inputs, targets: tokens.
    """

    cases: int
    examples: int
    options: int
    hyper_inputs: int
    inputs: int
    targets: int

    @property
    def rows(self) -> int:
        """Rows per context: every example's target, then its options."""
        return self.examples * (1 + self.options)


# For the cases start … stop - 1 of a list: their φ, padded to the step's number of cases.
PhiOf = Callable[[np.ndarray, int], Phi | None]


def judge(
    scorer: Scorer, cases: Sequence[Case], shape: Shape, phi_of: PhiOf | None
) -> list[Tally]:
    """Tallies of every case, in order.

    Args:
      scorer: of the system.
      cases: what to judge.
      shape: no case may have more.
      phi_of: (hyper_inputs int32 [cases, k], number of the first case) -> φ of batch
        `shape.cases`; None judges the T5 without φ.
    """
    tallies = []
    for start in range(0, len(cases), shape.cases):
        part = cases[start : start + shape.cases]
        batch = _batch(part, shape)
        phi = None if phi_of is None else phi_of(np.asarray(batch.hyper_inputs), start)
        scores = jax.device_get(scorer(batch, phi))
        tallies += list(_tallies(part, shape, scores))
    return tallies


def slice_phi(phi: Phi, start: int, count: int) -> Phi:
    """The φ of cases start … start + count - 1 out of a batch, the last one repeated."""

    def cut(leaf: Any) -> np.ndarray:
        leaf = np.asarray(leaf)
        chosen = np.minimum(np.arange(start, start + count), leaf.shape[1] - 1)
        return leaf[:, chosen]

    return jax.tree.map(cut, phi)


def _batch(cases: Sequence[Case], shape: Shape) -> Batch:
    """All targets and options of the cases as rows, what is missing with weight 0."""
    contexts = np.zeros((shape.cases, shape.hyper_inputs), np.int32)
    inputs = np.zeros((shape.cases, shape.rows, shape.inputs), np.int32)
    targets = np.zeros((shape.cases, shape.rows, shape.targets), np.int32)
    weights = np.zeros(targets.shape, np.float32)
    for c, case in enumerate(cases):
        contexts[c, : len(case.context)] = case.context
        for n, (source, target) in enumerate(
            zip(case.inputs, case.targets, strict=True)
        ):
            options = case.options[n] if case.options else ()
            for o, answer in enumerate([target, *options]):
                row = n * (1 + shape.options) + o
                inputs[c, row, : len(source)] = source
                targets[c, row, : len(answer)] = answer
                weights[c, row, : len(answer)] = 1.0
    flat = [a.reshape(-1, a.shape[-1]) for a in (inputs, targets, weights)]
    return Batch(contexts, *flat)


def _tallies(
    cases: Sequence[Case], shape: Shape, scores: TargetScores
) -> Iterator[Tally]:
    size = (shape.cases, shape.examples, 1 + shape.options)
    log_prob, tokens, exact = (
        np.asarray(a).reshape(size)
        for a in (scores.log_prob, scores.tokens, scores.exact)
    )
    for c, case in enumerate(cases):
        count = len(case.targets)
        asked = chosen = 0
        for n, options in enumerate(case.options):
            if options:
                best = int(np.argmax(log_prob[c, n, 1 : 1 + len(options)]))
                asked += 1
                chosen += int(list(options[best]) == list(case.targets[n]))
        yield Tally(
            loss=-float(log_prob[c, :count, 0].sum()),
            tokens=float(tokens[c, :count, 0].sum()),
            examples=count,
            exact=int(exact[c, :count, 0].sum()),
            asked=asked,
            chosen=chosen,
        )
