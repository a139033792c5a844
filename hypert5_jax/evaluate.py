"""python -m hypert5_jax.evaluate --gin_file=… : suites of held-out tasks to scores.

Started again with the same OUTPUT_DIR, an evaluation continues with the tasks that are
not yet judged. A recipe that trains and judges is judged again.
--contexts=real,empty,other_task,shuffled_targets,random says under which contexts, and
--seeds=0,1,2 with which draws of shots; both may be added to later.
"""

import re
from collections.abc import Sequence

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.evaluation_data import open_evaluation
from hypert5_jax.config.judging import judge
from hypert5_jax.config.sweep_cells import is_sweep
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.agreement import require_same_settings

_LISTS = re.compile(r"--(contexts|seeds)=(.*)")


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    # 1. configuration and data
    arguments = gin_files.read_arguments(
        "hypert5_jax.evaluate", __doc__, [_as_gin(argument) for argument in argv]
    )
    run, config_text = _configured(arguments)
    hosts.start(arguments.hosts)
    require_same_settings(config_text)
    opened = open_evaluation(run)
    for line in opened.cut:
        hosts.say(line)
    if arguments.dry_run:
        hosts.say(config_text)
        tasks = f"{len(opened.tasks)} tasks under {', '.join(run.contexts)}"
        hosts.say(f"{len(opened.units)} units: {tasks}")
        return 0

    # 2. judging
    if not judge(opened, config_text):
        print("stopped; the same command continues from there")
    return 0


def _configured(arguments: gin_files.GinArguments) -> tuple[EvaluateRun, str]:
    """The evaluation the gin files describe, be it that of a training run."""
    if is_sweep(arguments):
        raise UserError(
            "these gin files describe a sweep, which python -m hypert5_jax.train trains "
            "and judges cell by cell; to judge one cell again, give the config.gin in "
            "its folder"
        )
    if gin_files.settings(arguments).get("TrainRun.evaluation") is None:
        return gin_files.build(EvaluateRun, arguments)
    run, config_text = gin_files.build(TrainRun, arguments)
    assert run.evaluation is not None
    return run.evaluation, config_text


def _as_gin(argument: str) -> str:
    """--contexts=a,b and --seeds=0,1 as the gin macros they set."""
    found = _LISTS.fullmatch(argument)
    if not found:
        return argument
    words = [word for word in found[2].split(",") if word]
    if not words:
        raise UserError(
            f"--{found[1]} is empty; expected one or more, with commas between"
        )
    if found[1] == "seeds":
        values = ", ".join(words)
    else:
        values = ", ".join(repr(word) for word in words)
    return f"--gin.{found[1].upper()}=({values},)"


if __name__ == "__main__":
    cli.run(main)
