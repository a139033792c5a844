"""python -m hypert5_jax.tune --gin_file=… : single-task tuning of φ, a whole sweep.

{Prefix-Flat, Prefix-MLP, LoRA} × {Rand, Shared, Hyper} × tasks × learning rates × seeds,
all in one process around one frozen T5. Started again with the same OUTPUT_DIR, a sweep
continues with the runs that are not yet in its cells.jsonl.
"""

from collections.abc import Sequence

import jax
from etils import epath

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.opening import open_data
from hypert5_jax.config.tune_data import TuneTask, chosen_tasks
from hypert5_jax.config.tune_report import settings, sizes_text, table_text
from hypert5_jax.config.tune_run import TuneRun
from hypert5_jax.config.tune_sources import StartMaker, open_sources
from hypert5_jax.config.tune_sweep import Sweep, cells_of
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.evaluation.results import ResultsFolder
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.parallel import hosts, rules
from hypert5_jax.parallel.mesh import batch_ways, make_mesh
from hypert5_jax.training.initial import initial_params
from hypert5_jax.training.state import fingerprints

_FROZEN = Variant("none", "none", trainable=(), context="none")


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    # 1. configuration, data, and the runs whose φ others start from
    arguments = gin_files.read_arguments("hypert5_jax.tune", __doc__, argv)
    run, config_text = gin_files.build(TuneRun, arguments)
    hosts.require_alone(arguments.hosts, "tuning")
    folder = _local(run.output_dir)
    mesh = make_mesh(run.mesh)
    _check_rows(run, batch_ways(mesh))
    if arguments.dry_run:
        print(config_text)
        print(sizes_text(run), flush=True)
    tasks = _tasks(run)
    vocabulary = tasks[0].judged.vocabulary.fingerprint
    sources = open_sources(run, vocabulary)
    cells = cells_of(run, tasks)
    count = sum(len(cell.runs) for cell in cells)
    if arguments.dry_run:
        print(f"{count} runs: {len(cells)} cells of {len(cells[0].runs)}")
        return 0

    # 2. the frozen T5, loaded once and laid out over the devices
    system = System(run.downstream, _FROZEN)
    begin = initial_params(system, run.initial, seed=0, vocabulary=vocabulary)
    held = {"downstream": trees.cast(begin.params["downstream"], run.frozen_dtype)}
    axes = system.logical_axes()
    frozen = jax.device_put(held, rules.param_shardings(mesh, held, axes))

    starts = StartMaker(run, begin, frozen["downstream"], sources, mesh)

    # 3. the folder: what is in it was made with the same settings
    mark = fingerprints(begin.params)["downstream"]
    ResultsFolder(folder).claim(settings(run, tasks, sources, mark), config_text)

    # 4. the runs, cell by cell
    with AppendedLines(folder / "cells.jsonl") as lines:
        sweep = Sweep(run, frozen["downstream"], starts, lines, mesh)
        with jax.set_mesh(mesh), rules.activate():
            finished = sweep.train(cells)

    # 5. where it stands
    if not finished:
        print(
            f"stopped at {len(lines.lines)} of {count} runs; the same command continues "
            "from there"
        )
        return 0
    print(table_text(run, tasks, lines.lines))
    print(f"done: {count} runs in {len(cells)} cells, results in {lines.path}")
    return 0


def _local(output_dir: str) -> epath.Path:
    if "://" in output_dir:
        raise UserError(
            f"OUTPUT_DIR is {output_dir}; a sweep appends to a file as it goes, which "
            "needs a local folder"
        )
    return epath.Path(output_dir)


def _check_rows(run: TuneRun, ways: int) -> None:
    if (run.batch_size // run.microbatches) % ways:
        raise UserError(
            f"{run.microbatches} microbatches of a batch of {run.batch_size} do not "
            f"divide over {ways} devices (slice x data x fsdp); make batch_size a "
            f"multiple of {ways * run.microbatches}"
        )


def _tasks(run: TuneRun) -> list[TuneTask]:
    """The tasks, their data prepared on first use."""
    data, rows = run.data, run.downstream.vocab_size
    judged = open_data(data, data.mixture, data.split, rows)
    training = open_data(data, *data.support(seed=0), rows)
    training.require_vocabulary(judged.vocabulary.fingerprint)
    for mixture in (judged, training):
        row = data.row_format
        for line in mixture.cut_report(row.lengths, row.shot_length):
            print(line, flush=True)
    return chosen_tasks(run, judged, training)


if __name__ == "__main__":
    cli.run(main)
