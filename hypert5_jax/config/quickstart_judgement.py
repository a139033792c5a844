"""The quickstart's two judgements: of documents, and of tasks under each context."""

from dataclasses import replace
from typing import Any

from hypert5_jax.config.quickstart_cases import Data, cases_of, list_cases
from hypert5_jax.config.quickstart_run import QuickstartRun
from hypert5_jax.data.contexts import KINDS, evaluation_rows
from hypert5_jax.evaluation.context_columns import Shape, Tally, judge, slice_phi
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference.scoring import Scorer
from hypert5_jax.phi.types import Phi
from hypert5_jax.preparation.quickstart.tasks import all_tasks


def judge_documents(
    run: QuickstartRun, system: System, params: dict[str, Any], data: Data
) -> dict[str, dict[str, float]]:
    """C's scores with the right A and D, another document's, none, and without φ."""
    row = run.hyperpretrain.row_format("hypermodel")
    shape = Shape(cases=96, examples=1, options=0, **row.lengths)
    scorer = Scorer(system, params)
    plain = Scorer(without_phi(system), {"downstream": params["downstream"]})
    columns = {}
    for kind in ("right", "other", "empty"):
        rows = evaluation_rows(
            data["caclm", "test"], "quickstart_caclm", row, seed=0, kind=kind
        )
        cases = cases_of(rows)
        found = judge(scorer, cases, shape, lambda ids, _: scorer.phi(ids))
        columns[kind] = sum(found, Tally()).scores()
    found = judge(plain, cases, shape, None)
    return {**columns, "none": sum(found, Tally()).scores()}


def without_phi(system: System) -> System:
    """The downstream T5 of a system by itself."""
    return replace(
        system, variant=Variant("none", "none", trainable=(), context="none")
    )


def judge_tasks(
    run: QuickstartRun,
    system: System,
    params: dict[str, Any],
    data: Data,
    learned: Phi,
) -> dict[str, dict[str, dict[str, float]]]:
    """{group: {column: scores}} of training tasks, held-out tasks, held-out family.

    `learned` holds a φ for each case, the ceiling.
    """
    row = replace(run.tune.row_format("hypermodel"), min_shots=None)
    listed = list_cases(run, data, row)
    cases = {kind: [case for _, case in found] for kind, found in listed.items()}
    groups = [group for group, _ in listed["right"]]
    options = max(len(o) for case in cases["right"] for o in case.options)
    shape = Shape(24, run.evaluation_examples, options, **row.lengths)
    scorer = Scorer(system, params)
    plain = Scorer(without_phi(system), {"downstream": params["downstream"]})
    tallies = {
        kind: judge(scorer, cases[kind], shape, lambda ids, _: scorer.phi(ids))
        for kind in KINDS
    }
    tallies["none"] = judge(plain, cases["right"], shape, None)
    tallies["learned"] = judge(
        scorer,
        cases["right"],
        shape,
        lambda _, start: slice_phi(learned, start, shape.cases),
    )
    needs_pairs = {task.name for task in all_tasks() if task.needs_pairs}
    heldout = _of_group(groups, "heldout")
    chosen = {
        "train": _of_group(groups, "train"),
        "heldout": heldout,
        "heldout_pairs": [i for i in heldout if cases["right"][i].task in needs_pairs],
        "family": _of_group(groups, "family"),
    }
    return {
        group: {
            column: sum((found[i] for i in here), Tally()).scores()
            for column, found in tallies.items()
        }
        for group, here in chosen.items()
    }


def _of_group(groups: list[str], group: str) -> list[int]:
    """Where `group` stands in `groups`."""
    return [i for i, other in enumerate(groups) if other == group]
