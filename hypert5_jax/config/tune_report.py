"""What a sweep says: its sizes, what its folder holds, and the table it ends with."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from hypert5_jax.config.evaluation_report import versions
from hypert5_jax.config.tune_data import TuneTask
from hypert5_jax.config.tune_run import TuneRun
from hypert5_jax.config.tune_sources import Source
from hypert5_jax.config.tune_sweep import functions
from hypert5_jax.core import trees
from hypert5_jax.core.batch import Batch
from hypert5_jax.evaluation.results import Json
from hypert5_jax.parallel import rules
from hypert5_jax.parallel.mesh import make_mesh
from hypert5_jax.training import side_by_side


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
        "recipe": None if run.recipe is None else dataclasses.asdict(run.recipe),
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


def sizes_text(run: TuneRun) -> str:
    """A line per method: its runs side by side and their step, built without memory.

    Raises:
      UserError: the mesh, the microbatches or the schedule do not fit.
    """
    mesh = make_mesh(run.mesh)
    count = min(run.side_by_side, len(run.learning_rates) * len(run.seeds))
    row = run.data.row_format
    batch = jax.eval_shape(
        lambda: Batch(
            jnp.zeros((count * run.batch_size, 0), jnp.int32),
            jnp.zeros((count * run.batch_size, row.lengths["inputs"]), jnp.int32),
            jnp.zeros((count * run.batch_size, row.target_length), jnp.int32),
            jnp.zeros((count * run.batch_size, row.target_length), jnp.float32),
        )
    )
    lines = []
    for method in run.methods:
        system = run.system(method)
        begin, step, axes = functions(run, system)
        abstract = system.abstract_params()
        phi = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype),
            abstract["phi"],
        )
        runs = jax.eval_shape(begin, phi)
        side_by_side.runs_shardings(mesh, runs, axes)
        frozen = {
            "downstream": jax.eval_shape(
                lambda tree: trees.cast(tree, run.frozen_dtype), abstract["downstream"]
            )
        }
        rates = jax.ShapeDtypeStruct((count,), jnp.float32)
        with jax.set_mesh(mesh), rules.activate():
            jax.eval_shape(step, runs, frozen, batch, rates)
        lines.append(
            f"{method:12s} {trees.count(abstract['phi']):>12,} parameters a run, "
            f"{count} runs and their optimiser {trees.nbytes(runs):,} bytes"
        )
    return "\n".join(lines)


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
