"""python -m hypert5_jax.train --gin_file=… : every training stage, by configuration.

Started again with the same MODEL_DIR, a run continues from its newest whole checkpoint;
one that is done is passed over, and refused with other settings than it was trained with.
A gin file that binds a TrainSweep is a list of runs, done one after another. SIGTERM saves
at the next step and ends with code 0.

Started once on every host, it is one run over all of them (docs/tpu.md).
"""

from collections.abc import Sequence

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.resumption import require_same_training
from hypert5_jax.config.starting_point import check_start
from hypert5_jax.config.sweep_cells import (
    build_sweep,
    check_cells,
    check_starts,
    is_sweep,
    require_starts,
    run_cells,
)
from hypert5_jax.config.train_and_judge import (
    check_prepared,
    is_done,
    train_and_judge,
)
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.agreement import require_same_settings
from hypert5_jax.training.table import parameter_table

STOPPED = "stopped; the same command continues from there"


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    arguments = gin_files.read_arguments("hypert5_jax.train", __doc__, argv)
    if is_sweep(arguments):
        return _sweep(arguments)

    # 1. configuration: gin files -> one frozen dataclass, checked without memory
    run, config_text = gin_files.build(TrainRun, arguments)
    hosts.start(arguments.hosts)
    require_same_settings(config_text)
    shapes = check_abstractly(run)
    if arguments.dry_run:
        hosts.say(config_text)
        hosts.say(parameter_table(shapes))
        hosts.say(check_prepared(run))
        if not hosts.told(lambda: is_done(run, config_text)):
            hosts.told(lambda: require_same_training(run))
            for note in check_start(run):
                hosts.say(note)
        return 0

    # 2. training, and the judgement at its end
    if not train_and_judge(run, config_text):
        print(STOPPED)
    return 0


def _sweep(arguments: gin_files.GinArguments) -> int:
    # 1. all cells, checked before the first of them trains
    sweep, cells = build_sweep(arguments)
    hosts.start(arguments.hosts)
    require_same_settings(*(cell.config_text for cell in cells))
    check_cells(cells)
    if arguments.dry_run:
        for cell in cells:
            hosts.say(f"{cell.run.model_dir}  ({cell.recipe})")
        for note in check_starts(cells):
            hosts.say(note)
        hosts.say(f"{len(cells)} cells in {sweep.output_dir}")
        return 0

    # 2. one after another
    require_starts(cells)
    if not run_cells(cells):
        print(STOPPED)
        return 0
    hosts.say(f"done: {len(cells)} cells in {sweep.output_dir}")
    return 0


if __name__ == "__main__":
    cli.run(main)
