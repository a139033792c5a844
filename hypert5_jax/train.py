"""python -m hypert5_jax.train --gin_file=… : every training stage, by configuration.

Started again with the same MODEL_DIR, a run continues from its newest whole checkpoint.
SIGTERM saves at the next step and ends with code 0.
"""

from collections.abc import Iterator, Sequence

from etils import epath

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.data import DataConfig, batches_from
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import MANIFEST_FILE, PreparedMixture, open_mixture
from hypert5_jax.preparation.first_use import ensure_prepared
from hypert5_jax.reporting.writers import default_writers
from hypert5_jax.training.held_out import held_out_loss
from hypert5_jax.training.initial import initial_params
from hypert5_jax.training.loop import Evaluate, train
from hypert5_jax.training.state import TrainState
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
        print(_check_prepared(run))
        return 0

    # 2. data: prepared files, made on first use
    mixture = _prepared(run, run.data)
    evaluate = None if run.held_out is None else _held_out(run, run.held_out)
    vocabulary = mixture.vocabulary.fingerprint

    # 3. training: from the initial parameters or the newest checkpoint to the end
    model_dir = epath.Path(run.model_dir)

    def on_start(state: TrainState, step: int) -> None:
        # Not before: a run that is refused leaves the folder's configuration alone.
        _write_config(model_dir, config_text)
        print(parameter_table(state), flush=True)

    result = train(
        run.system,
        run.train,
        lambda step: batches_from(mixture, run.data, run.train.seed, step),
        lambda: initial_params(run.system, run.initial, run.train.seed, vocabulary),
        directory=model_dir,
        writers=default_writers(model_dir, run.tensorboard),
        evaluate=evaluate,
        config_text=config_text,
        vocabulary=vocabulary,
        stream=run.data.stream_identity(mixture),
        label=run.data.mixture,
        on_start=on_start,
    )

    # 4. where it stands
    steps = f"{result.step} of {run.train.steps} steps"
    if result.stopped:
        print(f"stopped at {steps}; the same command continues from there")
    else:
        print(f"done: {steps}, checkpoints in {model_dir / 'checkpoints'}")
    return 0


def _prepared(run: TrainRun, data: DataConfig) -> PreparedMixture:
    mixture = ensure_prepared(
        data.mixture,
        data.split,
        data.prepared_dir,
        modules=data.modules,
        lengths=data.row_format.lengths,
    )
    mixture.require_vocabulary(rows=_vocabulary_rows(run))
    row = data.row_format
    for line in mixture.cut_report(row.lengths, row.shot_length):
        print(line, flush=True)
    return mixture


def _held_out(run: TrainRun, data: DataConfig) -> Evaluate:
    mixture = _prepared(run, data)

    def batches() -> Iterator[Batch]:
        return batches_from(mixture, data, seed=0, start_step=0)

    next(batches())  # what does not fit is said before the first step
    return held_out_loss(run.system, batches, run.held_out_batches)


def _vocabulary_rows(run: TrainRun) -> int:
    """Rows of the smallest embedding table of the run's models."""
    models = (run.system.downstream, run.system.hypermodel)
    return min(model.vocab_size for model in models if model is not None)


def _check_prepared(run: TrainRun) -> str:
    """Checks the prepared data if they are there; a dry run prepares nothing."""
    home = epath.Path(run.data.prepared_dir) / run.data.mixture
    if not (home / run.data.split / MANIFEST_FILE).exists():
        return f"data: {home / run.data.split} is not prepared yet; nothing checked"
    mixture: PreparedMixture = open_mixture(str(home), run.data.split)
    mixture.require_vocabulary(rows=_vocabulary_rows(run))
    next(batches_from(mixture, run.data, run.train.seed, 0))
    return f"data: {mixture.directory} has {len(mixture.tasks)} tasks and fits"


def _write_config(model_dir: epath.Path, text: str) -> None:
    try:
        model_dir.mkdir(parents=True, exist_ok=True)
        unfinished = model_dir / "config.gin.unfinished"
        unfinished.write_text(text)
        unfinished.replace(model_dir / "config.gin")
    except OSError as error:
        raise UserError(
            f"cannot write to MODEL_DIR {model_dir}: {error.strerror or error}"
        ) from error


if __name__ == "__main__":
    cli.run(main)
