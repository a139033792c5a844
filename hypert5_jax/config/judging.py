"""One evaluation from its opened data to results.json, for every front door that judges."""

import dataclasses
from collections.abc import Callable

from etils import epath

from hypert5_jax.checkpoints.run_lock import only_run
from hypert5_jax.checkpoints.shared_folder import require_shared
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.evaluation import Evaluation
from hypert5_jax.config.evaluation_data import OpenedEvaluation
from hypert5_jax.config.evaluation_report import report, settings, table_text
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation.results import Json, ResultsFolder, read_object
from hypert5_jax.inference.answering import Answerer
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.agreement import require_same_parameters
from hypert5_jax.training.interruption import Interruption
from hypert5_jax.training.state import InitialParams, fingerprints
from hypert5_jax.training.trained import hold, trained_params


def judge(opened: OpenedEvaluation, config_text: str) -> bool:
    """Loads the trained system, judges what is not yet judged and writes the table.

    Over several processes all of them judge, each the rows on its devices, and process 0
    reads and writes the folder.

    Args:
      opened: the evaluation and its data.
      config_text: kept with the results.

    Returns:
      Whether it came to its end; False if SIGTERM stopped it. Called again, it goes on.

    Raises:
      UserError: no folder for results, or one with results of other settings or the
        configuration of something else, or another process that judges there; no
        checkpoint, or one of another system, or not the same on all hosts.
    """
    run = opened.run
    if run.output_dir is None:
        raise UserError(
            "nothing says where the results go; set OUTPUT_DIR (EvaluateRun.output_dir)"
        )
    with Interruption() as interruption:
        begin = trained_params(
            run.system,
            run.checkpoint_path,
            run.initial_checkpoint_path,
            opened.mixture.vocabulary.fingerprint,
            run.allow_random,
        )
        require_shared(run.output_dir)
        with only_run(run.output_dir, "judging", "OUTPUT_DIR"):
            return _judge(opened, config_text, begin, interruption.asked)


def _judge(
    opened: OpenedEvaluation,
    config_text: str,
    begin: InitialParams,
    stop: Callable[[], bool],
) -> bool:
    """The same with the system loaded, in a folder that is this process's alone."""
    # 1. the system, its parameters laid over the devices
    run = opened.run
    answerer = _answerer(opened, begin)

    # 2. the folder: what is done there was done with the same settings
    folder = ResultsFolder(run.output_dir or "")
    marks = fingerprints(begin.params)
    require_same_parameters(marks)
    decides = settings(run, opened.mixture, marks)
    if hosts.is_writer():
        folder.claim(decides, config_text)

    # 3. judging, unit by unit
    judged = Evaluation(opened, answerer, folder, stop).judge_all()
    if judged is None:
        return False
    if not hosts.is_writer():
        return True

    # 4. the table
    results = report(run, opened.tasks, judged)
    results["recipe"] = None if run.recipe is None else dataclasses.asdict(run.recipe)
    results["about"] = {
        "checkpoint": run.checkpoint_path,
        "origins": dict(begin.origins),
        "parameters": {group: trees.count(t) for group, t in begin.params.items()},
        "settings": decides,
        "seeds": list(run.seeds),
        "devices": opened.mesh.size,
        "data": opened.digests(),
        "data_about": opened.mixture.about,
        "cut": opened.cut,
        "config": config_text,
        "trained_with": begin.trained_with,
    }
    place = folder.write_results(results)
    print(table_text(results))
    count = f"{len(opened.units)} units of {len(opened.tasks)} tasks"
    print(f"done: {count}, results in {place}", flush=True)
    return True


def results_of(run: EvaluateRun) -> Json | None:
    """The results this evaluation wrote before, if any.

    Raises:
      UserError, StorageError: they cannot be read.
    """
    file = epath.Path(run.output_dir or "") / "results.json"
    if run.output_dir is None or not file.exists():
        return None
    return read_object(file, "delete it, and it is written again")


def _answerer(opened: OpenedEvaluation, begin: InitialParams) -> Answerer:
    run = opened.run
    row = run.data.row_format
    return Answerer(
        run.system,
        hold(run.system, begin.params, run.frozen_dtype),
        batch_size=run.batch_size,
        hyper_length=row.hyper_length,
        input_length=row.input_length,
        target_length=row.target_length,
        settings=run.answers,
        mesh=opened.mesh,
    )
