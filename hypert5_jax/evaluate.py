"""python -m hypert5_jax.evaluate --gin_file=… : suites of held-out tasks to scores.

Started again with the same OUTPUT_DIR, an evaluation continues with the tasks that are
not yet judged. --contexts=real,empty,other_task,shuffled_targets,random says under which
contexts, and --seeds=0,1,2 with which draws of shots; both may be added to later.
"""

import re
from collections.abc import Sequence

import jax
from etils import epath

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.evaluation import (
    Evaluation,
    chosen_tasks,
    open_data,
    units_of,
)
from hypert5_jax.config.evaluation_report import report, settings, table_text
from hypert5_jax.config.trained import hold, trained_params
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation.results import ResultsFolder, write_whole
from hypert5_jax.inference.answering import Answerer
from hypert5_jax.parallel.mesh import make_mesh
from hypert5_jax.training.state import fingerprints

_LISTS = re.compile(r"--(contexts|seeds)=(.*)")


def main(argv: Sequence[str]) -> int:
    """Runs the front door; raises what config.cli turns into messages."""
    # 1. configuration and data
    arguments = gin_files.read_arguments(
        "hypert5_jax.evaluate", __doc__, [_as_gin(argument) for argument in argv]
    )
    run, config_text = gin_files.build(EvaluateRun, arguments)
    if jax.process_count() > 1:
        raise UserError(
            f"evaluation was started on {jax.process_count()} hosts; it runs in one "
            "process, on all devices of one host"
        )
    mesh = make_mesh(run.mesh)
    mixture = open_data(run, run.data.split, run.data.mixture)
    tasks = chosen_tasks(run, mixture)
    units = units_of(run, tasks)
    row = run.data.row_format
    cut = mixture.cut_report(row.lengths, row.shot_length)
    for line in cut:
        print(line)
    if arguments.dry_run:
        print(config_text)
        print(f"{len(units)} units: {len(tasks)} tasks under {', '.join(run.contexts)}")
        return 0

    # 2. the system, its parameters laid over the devices
    begin = trained_params(
        run.system,
        run.checkpoint_path,
        run.initial_checkpoint_path,
        mixture.vocabulary.fingerprint,
        run.allow_random,
    )
    answerer = Answerer(
        run.system,
        hold(run.system, begin.params, run.frozen_dtype),
        batch_size=run.batch_size,
        hyper_length=row.hyper_length,
        input_length=row.input_length,
        target_length=row.target_length,
        settings=run.answers,
        mesh=mesh,
    )

    # 3. the folder: what is done there was done with the same settings
    folder = ResultsFolder(run.output_dir)
    decides = settings(run, mixture, fingerprints(begin.params))
    folder.claim(decides)
    write_whole(epath.Path(run.output_dir) / "config.gin", config_text)

    # 4. judging, unit by unit
    evaluation = Evaluation(run, mixture, answerer, folder)
    judged = evaluation.judge_all(units)

    # 5. the table
    results = report(run, tasks, judged)
    results["about"] = {
        "checkpoint": run.checkpoint_path,
        "origins": dict(begin.origins),
        "parameters": {group: trees.count(t) for group, t in begin.params.items()},
        "settings": decides,
        "seeds": list(run.seeds),
        "devices": mesh.size,
        "data": evaluation.digests(),
        "data_about": mixture.about,
        "cut": cut,
        "config": config_text,
    }
    place = folder.write_results(results)
    print(table_text(results))
    print(f"done: {len(units)} units of {len(tasks)} tasks, results in {place}")
    return 0


def _as_gin(argument: str) -> str:
    """--contexts=a,b and --seeds=0,1 as the gin macros they set."""
    found = _LISTS.fullmatch(argument)
    if not found:
        return argument
    words = [word for word in found[2].split(",") if word]
    if found[1] == "seeds":
        values = ", ".join(words)
    else:
        values = ", ".join(repr(word) for word in words)
    return f"--gin.{found[1].upper()}=({values},)"


if __name__ == "__main__":
    cli.run(main)
