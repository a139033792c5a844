"""From the scores of tasks to the numbers of a table: pure functions of scores.

All scores are percentages. A table is {"headline": number or None, and more beside it};
tables of several context draws become mean and standard deviation by `over_draws`.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypert5_jax.evaluation import protocols
from hypert5_jax.evaluation.protocols import Column, Protocol

Table = dict[str, Any]
_SPREAD: Mapping[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class TaskScores:
    """What was measured on one task under one context.

    Attributes:
      task: its name.
      group: the data set, category or type it is averaged with first.
      examples: how many were judged.
      scores: {metric: percent}, as the metric's function gives it.
      sums: {metric: sum over examples of 0 … 100}, unrounded, of metrics that are means
        over examples.
    """

    task: str
    group: str
    examples: int
    scores: Mapping[str, float]
    sums: Mapping[str, float]


def table(protocol: Protocol, tasks: Sequence[TaskScores]) -> Table:
    """The protocol's table of one context draw."""
    return {
        protocols.COLUMNS: _columns,
        protocols.TASKS: _over_tasks,
        protocols.INSTANCES: _over_instances,
    }[protocol.average](protocol, tasks)


def _columns(protocol: Protocol, tasks: Sequence[TaskScores]) -> Table:
    """Over a group's prompts the mean, median, least and most; groups into columns.

    AVG, the headline, is the plain mean of the columns, once all of them are there.
    """
    groups: dict[str, list[float]] = {}
    for task in tasks:
        key = protocols.group_key(task.group)
        groups.setdefault(key, []).append(task.scores[protocol.metric(task.group)])
    wanted = protocol.columns or tuple(Column(g, (g,)) for g in sorted(groups))
    found: Table = {"headline": None}
    for name, spread in _SPREAD.items():
        columns = {
            column.name: statistics.fmean(spread(groups[g]) for g in column.groups)
            for column in wanted
            if all(g in groups for g in column.groups)
        }
        if len(columns) == len(wanted):
            columns["AVG"] = statistics.fmean(columns.values())
        found[name] = columns
    found["headline"] = found["mean"].get("AVG")
    found["groups"] = {g: statistics.fmean(v) for g, v in sorted(groups.items())}
    needed = {g for column in wanted for g in column.groups}
    found["missing_groups"] = sorted(needed - set(groups))
    return found


def _over_tasks(protocol: Protocol, tasks: Sequence[TaskScores]) -> Table:
    """The plain mean over tasks, each by its own metric; also by kind of task."""
    counted: dict[str, float] = {}
    kinds: dict[str, list[float]] = {}
    for task in tasks:
        metric = protocol.metric(task.group)
        counted[task.task] = task.scores[metric]
        kinds.setdefault(metric, []).append(counted[task.task])
    return {
        "headline": statistics.fmean(counted.values()),
        "by_metric": {m: statistics.fmean(v) for m, v in sorted(kinds.items())},
        "tasks": counted,
    }


def _over_instances(protocol: Protocol, tasks: Sequence[TaskScores]) -> Table:
    """Means over all instances, rounded to 4 decimals; all metrics, and by category."""
    groups: dict[str, list[TaskScores]] = {}
    for task in tasks:
        groups.setdefault(protocols.group_key(task.group), []).append(task)
    overall = _pooled(protocol, tasks)
    return {
        "headline": overall[protocol.metric_of[""]],
        "instances": sum(task.examples for task in tasks),
        "all": overall,
        "categories": {
            group: {
                **_pooled(protocol, members),
                "reported": _pooled(protocol, members)[protocol.metric(group)],
            }
            for group, members in sorted(groups.items())
        },
    }


def _pooled(protocol: Protocol, tasks: Sequence[TaskScores]) -> dict[str, float]:
    count = sum(task.examples for task in tasks)
    return {
        metric: round(sum(task.sums[metric] for task in tasks) / count, 4)
        for metric in protocol.metrics
    }


def over_draws(tables: Sequence[Table]) -> Table:
    """Number by number {"mean", "sd", "draws"}; sd is the sample's, None for one draw.

    A number that not every draw has, and what is no number, is left out.
    """
    flat = [dict(_numbers(table)) for table in tables]
    found: Table = {}
    for path in flat[0]:
        values = [draw[path] for draw in flat if path in draw]
        if len(values) < len(tables):
            continue
        node = found
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "draws": values,
        }
    return found


def worst_draws(protocol: Protocol, draws: Sequence[Sequence[TaskScores]]) -> float:
    """MetaICL's second number: each task's worst draw, averaged over tasks."""
    worst: dict[str, float] = {}
    for tasks in draws:
        for task in tasks:
            score = task.scores[protocol.metric(task.group)]
            worst[task.task] = min(score, worst.get(task.task, score))
    return statistics.fmean(worst.values())


def _numbers(table: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            for path, number in _numbers(value):
                yield (name, *path), number
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (name,), value
