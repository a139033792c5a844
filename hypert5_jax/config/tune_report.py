"""What a sweep's folder says of itself, and the table it ends with."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

from hypert5_jax.config.evaluation_report import versions
from hypert5_jax.config.tune_data import TuneTask
from hypert5_jax.config.tune_run import TuneRun
from hypert5_jax.config.tune_sources import Source
from hypert5_jax.evaluation.results import Json


def settings(
    run: TuneRun,
    tasks: Sequence[TuneTask],
    sources: Mapping[str, Source],
    downstream: str,
) -> Json:
    """What decides the numbers of a sweep; results of other settings are not mixed.

    How many runs go side by side, rows at a time and the mesh are not among it: they
    change rounding only.

    Args:
      run: the sweep.
      tasks: all of them.
      sources: the runs it starts from.
      downstream: sha256 of the frozen T5.
    """
    judged, training = tasks[0].judged, tasks[0].training
    schedule = dataclasses.asdict(run.schedule)
    del schedule["learning_rate"]
    return {
        "protocol": run.protocol,
        "methods": list(run.methods),
        "starts": list(run.starts),
        "tasks": [task.name for task in tasks],
        "learning_rates": list(run.learning_rates),
        "seeds": list(run.seeds),
        "steps": run.steps,
        "batch_size": run.batch_size,
        "eval_every": run.eval_every,
        "optimiser": dataclasses.asdict(run.optimiser),
        "schedule": schedule,
        "prefix": dataclasses.asdict(run.prefix),
        "lora": dataclasses.asdict(run.lora),
        "head": dataclasses.asdict(run.head),
        "init_std": run.init_std,
        "data": {
            "judged": f"{judged.name}/{judged.split} {judged.digest}",
            "training": f"{training.name}/{training.split} {training.digest}",
        },
        "limit": run.data.limit,
        "rows": dataclasses.asdict(run.data.row_format),
        "parameters": {
            "downstream": downstream,
            **{name: source.mark for name, source in sources.items()},
        },
        "frozen_dtype": run.frozen_dtype,
        "dtype": run.downstream.dtype,
        "versions": versions(),
    }


def table_text(run: TuneRun, tasks: Sequence[TuneTask], lines: Sequence[Json]) -> str:
    """A line per method and start: each column's score, and their mean.

    A score is the mean over seeds after the last step, of the learning rate whose mean
    is best (paper, section 6).
    """
    columns = list(dict.fromkeys(task.column for task in tasks))
    rows = [["", *columns, "AVG"]]
    for method in run.methods:
        for start in run.starts:
            cells = [_best(lines, method, start, column) for column in columns]
            known = [cell for cell in cells if cell is not None]
            mean = statistics.fmean(known) if len(known) == len(cells) else None
            texts = ["" if x is None else f"{x:.1f}" for x in (*cells, mean)]
            rows.append([f"{method} ({start})", *texts])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        " ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
        for row in rows
    )


def _best(lines: Sequence[Json], method: str, start: str, column: str) -> float | None:
    """Mean over tasks of the best learning rate's mean over seeds."""
    here = [
        line
        for line in lines
        if (line["method"], line["start"], line["column"]) == (method, start, column)
    ]
    found: dict[str, dict[float, list[float]]] = {}
    for line in here:
        rates = found.setdefault(line["task"], {})
        rates.setdefault(line["learning_rate"], []).append(line["scores"][-1])
    best = [max(map(statistics.fmean, rates.values())) for rates in found.values()]
    return statistics.fmean(best) if best else None
