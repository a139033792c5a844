"""What a hypermodel makes of more examples than it reads at once: docs/adapt.md's table.

    python -m benchmarks.more_examples [--home runs/quickstart] [--draws 4]

The quickstart's hypermodel, trained with contexts of at most 6 examples in 48 tokens, is
given 16, 64 and 256 examples of each held-out task:

    none         as many of them as 48 tokens hold, in one context
    mean         all of them in several contexts; the mean of the contexts' φ
    concatenate  the same contexts; their prefixes one after another

A second table is of one context of more examples and tokens than in training.

Every way is judged on the same test examples, under the same label words. A task has 16 to
64 different training examples: more than that are drawn again.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hypert5_jax.adapting.contexts import Contexts, contexts_of
from hypert5_jax.adapting.model import Model
from hypert5_jax.config.quickstart_cases import cases_of
from hypert5_jax.data import rows
from hypert5_jax.data.contexts import evaluation_rows
from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.task_draw import TaskDraw
from hypert5_jax.evaluation.context_columns import Case, Shape, Tally, judge, slice_phi
from hypert5_jax.inference.scoring import Scorer
from hypert5_jax.phi import combine, types
from hypert5_jax.preparation.quickstart.tasks import all_tasks

COUNTS = (6, 16, 64, 256)
WAYS = ("none", "mean", "concatenate")
# Examples of one context, however long.
LONGER = (6, 9, 12, 18, 36)
# Contexts judged together, and test examples of each.
CASES, EXAMPLES = 10, 12
NEEDS_PAIRS = {task.name for task in all_tasks() if task.needs_pairs}


@dataclasses.dataclass(frozen=True)
class Given:
    """One task under one draw: what is judged, and examples to adapt to."""

    case: Case
    examples: Sequence[Example]


def given_tasks(data: Path, group: str, row: rows.RowFormat, draws: int) -> list[Given]:
    """Held-out tasks that only the pairing of inputs and targets tells apart."""
    test, train = (
        open_mixture(data / f"quickstart_{group}", s) for s in ("test", "train")
    )
    return [
        _given(test, train, task.name, row, seed)
        for seed in range(draws)
        for task in test.tasks
        if task.name in NEEDS_PAIRS
    ]


def _given(
    test: PreparedMixture,
    train: PreparedMixture,
    name: str,
    row: rows.RowFormat,
    seed: int,
) -> Given:
    judged = evaluation_rows(test, name, row, seed, limit=EXAMPLES, support=train)
    words = TaskDraw(test, train, test.task(name), row, seed).words(0)
    source = train.task(name)
    rng = np.random.default_rng([seed, source.first])
    # All different ones before any comes again.
    order = [
        rng.permutation(source.count) for _ in range(-(-COUNTS[-1] // source.count))
    ]
    drawn = train.examples(source, np.concatenate(order)[: COUNTS[-1]])
    inputs = {tuple(example.inputs) for example in drawn}
    assert not inputs & {tuple(ids) for ids in judged.inputs}, name
    return Given(cases_of(judged)[0], [rows.relabel(one, words) for one in drawn])


def contexts(model: Model, given: Given, count: int, way: str) -> Contexts:
    """What is read of the first `count` examples."""
    words = model.vocabulary
    return contexts_of(given.examples[:count], [], model.row, words, way)


def phi_of(model: Model, tasks: Sequence[Given], count: int, way: str) -> types.Phi:
    """φ of all tasks, one after another in a batch."""
    plans = [contexts(model, given, count, way).ids for given in tasks]
    made = model.make_phi([ids for plan in plans for ids in plan])
    found, start = [], 0
    for plan in plans:
        own = [combine.take(made, [start + i]) for i in range(len(plan))]
        join = combine.concatenate if way == "concatenate" else combine.mean
        found.append(own[0] if len(own) == 1 else join(own))
        start += len(plan)
    return combine.stack(found)


def scores(model: Model, tasks: Sequence[Given], phi: types.Phi) -> dict[str, float]:
    """Of all tasks' test examples."""
    cases = [given.case for given in tasks]
    options = max(len(o) for case in cases for o in case.options)
    shape = Shape(CASES, EXAMPLES, options, **model.row.lengths)
    scorer = Scorer(model.system, model.params)
    found = judge(scorer, cases, shape, lambda _, start: slice_phi(phi, start, CASES))
    return sum(found, Tally()).scores()


def with_room(model: Model, tokens: int) -> Model:
    """The model, reading longer contexts than it was trained with."""
    row = dataclasses.replace(
        model.row, lengths={**model.row.lengths, "hyper_inputs": tokens}
    )
    parts = (model.system, model.params, model.vocabulary, row, model.base_model)
    return Model(*parts)


def line(model: Model, tasks: Sequence[Given], count: int, way: str) -> str:
    """Cells of a table's row."""
    many = len(contexts(model, tasks[0], count, way).ids)
    found = scores(model, tasks, phi_of(model, tasks, count, way))
    names = ("option_accuracy", "exact_match", "loss")
    return " | ".join([way, str(many), *(f"{found[name]:.2f}" for name in names)])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", default="runs/quickstart")
    parser.add_argument("--draws", type=int, default=4)
    args = parser.parse_args()
    home = Path(args.home)
    model = Model.load(str(home / "seed_0" / "tune"))
    (data,) = home.glob("data-*")
    print("group | examples | way | contexts | option accuracy | exact match | loss")
    for group in ("heldout", "family"):
        tasks = given_tasks(data, group, model.row, args.draws)
        name = f"{group} ({len(tasks)})"
        for count in COUNTS:
            for way in WAYS if count > COUNTS[0] else WAYS[:1]:
                print(
                    f"{name} | {count} | {line(model, tasks, count, way)}", flush=True
                )
        for count in LONGER:
            longer = with_room(model, 8 * count)  # `<x>`, two or three words, `<y>`, …
            print(
                f"{name} | {count} | {line(longer, tasks, count, 'none')}", flush=True
            )
    for count in COUNTS:
        plan = contexts(model, tasks[0], count, "mean").ids
        model.make_phi(plan)  # compiles
        begun = time.monotonic()
        model.make_phi(plan)
        seconds = time.monotonic() - begun
        print(f"φ of {count} examples: {len(plan)} contexts, {1000 * seconds:.1f} ms")


if __name__ == "__main__":
    main()
