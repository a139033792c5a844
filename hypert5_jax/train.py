"""python -m hypert5_jax.train --gin_file=… : every training stage, by configuration.

Started again with the same MODEL_DIR, a run continues from its newest whole checkpoint;
one that is done is passed over. SIGTERM saves at the next step and ends with code 0.
"""

from collections.abc import Sequence

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.train_and_judge import check_prepared, train_and_judge
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.training.table import parameter_table


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    # 1. configuration: gin files -> one frozen dataclass, checked without memory
    arguments = gin_files.read_arguments("hypert5_jax.train", __doc__, argv)
    run, config_text = gin_files.build(TrainRun, arguments)
    shapes = check_abstractly(run)
    if arguments.dry_run:
        print(config_text)
        print(parameter_table(shapes))
        print(check_prepared(run))
        return 0

    # 2. training, and the judgement at its end
    if not train_and_judge(run, config_text):
        print("stopped; the same command continues from there")
    return 0


if __name__ == "__main__":
    cli.run(main)
