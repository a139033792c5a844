"""What an evaluation reports: tables by context, and all it takes to repeat them."""

import dataclasses
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import hypert5_jax
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.evaluation_data import same_for_all_draws
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.evaluation import averages, protocols
from hypert5_jax.evaluation.averages import TaskScores
from hypert5_jax.evaluation.results import Json

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "rouge-score", "nltk")


def settings(
    run: EvaluateRun, mixture: PreparedMixture, marks: Mapping[str, str]
) -> Json:
    """What decides the scores of a unit; results of other settings are not mixed.

    Seeds and kinds of context are not among them: more of them may be judged later.
    Batch size and mesh are not, since they change rounding only.

    Args:
      run: the evaluation.
      mixture: what is judged.
      marks: {group: sha256 of the parameters}.
    """
    return {
        "protocol": dataclasses.asdict(protocols.find(run.protocol)),
        "parameters": dict(marks),
        "frozen_dtype": run.frozen_dtype,
        "dtype": run.system.downstream.dtype,
        "variant": dataclasses.asdict(run.system.variant),
        "data": {
            "mixture": mixture.name,
            "split": mixture.split,
            "digest": mixture.digest,
            "support": "/".join(
                (
                    run.data.support_mixture or mixture.name,
                    run.data.support_split or mixture.split,
                )
            ),
        },
        "tasks": list(run.data.tasks),
        "limit": run.data.limit,
        "rows": dataclasses.asdict(run.data.row_format),
        "decoding": run.answers.described(),
        "predictions": run.predictions,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what a score may depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    own = {"hypert5_jax": hypert5_jax.__version__, "python": platform.python_version()}
    return own | found


def report(
    run: EvaluateRun,
    tasks: Sequence[PreparedTask],
    judged: Mapping[tuple[str, str, int], Json],
) -> Json:
    """The protocol's table for every kind of context, mean and deviation over draws."""
    protocol = protocols.find(run.protocol)
    found: Json = {"protocol": protocol.name, "contexts": {}}
    for context in run.contexts:
        draws = [
            [
                _scores_of(
                    judged[task.name, context, _seed_of(run, task, context, seed)]
                )
                for task in tasks
            ]
            for seed in run.seeds
        ]
        if all(same_for_all_draws(run, task, context) for task in tasks):
            draws = draws[:1]
        tables = [averages.table(protocol, scores) for scores in draws]
        found["contexts"][context] = {
            **averages.over_draws(tables),
            "worst_draws": averages.worst_draws(protocol, draws),
            "tables": tables,
        }
    real = _headline(found, "real")
    if real is not None:
        found["change_from_real"] = {
            context: value - real
            for context in run.contexts
            if context != "real" and (value := _headline(found, context)) is not None
        }
    return found


def _seed_of(run: EvaluateRun, task: PreparedTask, context: str, seed: int) -> int:
    return run.seeds[0] if same_for_all_draws(run, task, context) else seed


def _scores_of(unit: Mapping[str, Any]) -> TaskScores:
    return TaskScores(
        unit["task"], unit["group"], unit["examples"], unit["scores"], unit["sums"]
    )


def _headline(results: Json, context: str) -> float | None:
    table = results["contexts"].get(context, {})
    return table["headline"]["mean"] if "headline" in table else None


def table_text(results: Json) -> str:
    """A line per kind of context: the headline, or what there is of the columns, or a
    line per group."""
    lines = [f"{'context':18s} {'mean':>8s} {'sd':>8s} {'draws':>6s}"]
    for context, table in results["contexts"].items():
        rows = {context: table["headline"]} if "headline" in table else {}
        if not rows:
            # Not all of a protocol's columns are there: those that are; of data that
            # are none of its columns, what they were grouped by.
            parts = table.get("mean") or table.get("groups", {})
            rows = {f"{context} {name}".strip(): v for name, v in parts.items()}
        for name, row in rows.items():
            sd = "" if row["sd"] is None else f"{row['sd']:.2f}"
            lines.append(
                f"{name:18s} {row['mean']:8.2f} {sd:>8s} {len(row['draws']):6d}"
            )
    return "\n".join(lines)
