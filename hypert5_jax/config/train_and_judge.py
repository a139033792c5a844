"""A training run from its configuration to its scores, passed over if it is done."""

from collections.abc import Iterator

from etils import epath

from hypert5_jax.adapting import description
from hypert5_jax.adapting.description import Description
from hypert5_jax.checkpoints import store
from hypert5_jax.checkpoints.run_lock import only_run
from hypert5_jax.checkpoints.shared_folder import require_shared
from hypert5_jax.config.data import DataConfig, batches_from, name_batch
from hypert5_jax.config.evaluate_run import EvaluationData
from hypert5_jax.config.evaluation_data import open_evaluation
from hypert5_jax.config.judging import judge, results_of
from hypert5_jax.config.opening import open_data
from hypert5_jax.config.resumption import require_same_training
from hypert5_jax.config.starting_point import require_start
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.batch import Batch
from hypert5_jax.data.prepared import MANIFEST_FILE, PreparedMixture, open_mixture
from hypert5_jax.evaluation.results import write_whole
from hypert5_jax.parallel import feed, global_arrays, hosts
from hypert5_jax.parallel.global_arrays import Share
from hypert5_jax.parallel.mesh import make_mesh
from hypert5_jax.preparation.modules import require_modules
from hypert5_jax.reporting.writers import default_writers
from hypert5_jax.training.held_out import held_out_loss
from hypert5_jax.training.initial import initial_params
from hypert5_jax.training.interruption import Interruption
from hypert5_jax.training.loop import Evaluate, train
from hypert5_jax.training.state import TrainState
from hypert5_jax.training.table import parameter_table


def train_and_judge(run: TrainRun, config_text: str) -> bool:
    """Trains the run, or goes on with it, and judges it where it says how.

    Args:
      run: the run.
      config_text: its resolved configuration, kept beside checkpoints and results.

    Returns:
      Whether it came to its end; False if SIGTERM stopped it. Called again, it goes on.

    Raises:
      UserError: as train and judge; what does not fit the evaluation is said before
        the first step; so is what require_same_training says. Or another process
        trains in the run's folder.
    """
    if hosts.told(lambda: is_done(run, config_text)):
        _describe_once(run)
        steps = f"{run.train.steps} of {run.train.steps} steps"
        hosts.say(f"{run.model_dir} is done: {steps}")
        return True
    hosts.told(lambda: require_same_training(run))
    require_start(run)
    opened = None if run.evaluation is None else open_evaluation(run.evaluation)
    with Interruption() as interruption:
        # A sweep may have been told to stop while the data were opened.
        if interruption.asked() or not _train(run, config_text):
            return False
        if opened is None:
            return True
        # Or the run while its last checkpoint was written: that asks no more.
        if interruption.asked():
            return False
        return judge(opened, config_text)


def is_done(run: TrainRun, config_text: str) -> bool:
    """Whether this very configuration was trained to its end, and judged if it says how.

    A last checkpoint that is damaged is made anew by training from the one before it.
    """
    place = epath.Path(run.model_dir) / "checkpoints" / str(run.train.steps)
    saved = store.whole(place, checksums=False)
    if saved is None or saved.about["config"] != config_text:
        return False
    if run.evaluation is not None:
        results = results_of(run.evaluation)
        if results is None or results["about"]["config"] != config_text:
            return False
    # Last, since it reads every byte.
    return store.whole(place, run.train.checkpoints.checksums) is not None


def _describe(run: TrainRun, mixture: PreparedMixture) -> None:
    """Writes what adapt and generate need to know of the run into its folder."""
    said = Description(
        run.system, run.data.row_format, mixture.vocabulary, run.train.frozen_dtype
    )
    description.write(epath.Path(run.model_dir), said)


def _describe_once(run: TrainRun) -> None:
    """The same for a run that was done before there was such a description."""
    here = epath.Path(run.model_dir) / description.FILE
    if not hosts.told(here.exists):
        data = run.data
        mixture = open_data(data, data.mixture, data.split, _vocabulary_rows(run))
        if hosts.is_writer():
            _describe(run, mixture)


def check_prepared(run: TrainRun) -> str:
    """Checks the prepared data if they are there; prepares nothing.

    Raises:
      UserError: they do not fit the run; or data are to be prepared by a module that is
        not there.
    """
    judged = None if run.evaluation is None else run.evaluation.data
    for data in (run.data, run.held_out, judged):
        if data is not None and not _is_prepared(data):
            require_modules(data.modules)
    if not _is_prepared(run.data):
        return (
            f"data: {_home(run.data) / run.data.split} is not prepared yet; its rows are "
            f"not checked, nor that {run.data.mixture!r} is the name of a task"
        )
    mixture: PreparedMixture = open_mixture(str(_home(run.data)), run.data.split)
    mixture.require_vocabulary(rows=_vocabulary_rows(run))
    next(batches_from(mixture, run.data, run.train.seed, 0))
    return f"data: {mixture.directory} has {len(mixture.tasks)} tasks and fits"


def _is_prepared(data: DataConfig | EvaluationData) -> bool:
    return (_home(data) / data.split / MANIFEST_FILE).exists()


def _home(data: DataConfig | EvaluationData) -> epath.Path:
    return epath.Path(data.prepared_dir) / data.mixture


def _train(run: TrainRun, config_text: str) -> bool:
    # 1. data: prepared files, made on first use
    mixture = _prepared(run, run.data)
    evaluate = None if run.held_out is None else _held_out(run, run.held_out)
    vocabulary = mixture.vocabulary.fingerprint

    # 2. training: from the initial parameters or the newest checkpoint to the end
    model_dir = epath.Path(run.model_dir)
    require_shared(model_dir)
    share = _share(run)

    def on_start(state: TrainState, step: int) -> None:
        # Not before: a run that is refused leaves the folder's configuration alone.
        if hosts.is_writer():
            write_whole(model_dir / "config.gin", config_text)
            _describe(run, mixture)
        hosts.say(parameter_table(state))

    with only_run(model_dir):
        one_writes = hosts.is_writer()
        writers = default_writers(model_dir, run.tensorboard) if one_writes else []
        result = train(
            run.system,
            run.train,
            lambda step: batches_from(mixture, run.data, run.train.seed, step, share),
            lambda: initial_params(run.system, run.initial, run.train.seed, vocabulary),
            directory=model_dir,
            writers=writers,
            evaluate=evaluate,
            config_text=config_text,
            vocabulary=vocabulary,
            stream=run.data.stream_identity(mixture),
            label=run.data.mixture,
            on_start=on_start,
            name_batch=lambda step: name_batch(mixture, run.data, run.train.seed, step),
        )

    # 3. where it stands
    steps = f"{result.step} of {run.train.steps} steps"
    if not result.stopped:
        hosts.say(f"done: {steps}, checkpoints in {model_dir / 'checkpoints'}")
    else:
        hosts.say(f"stopped at {steps}")
    return not result.stopped


def _prepared(run: TrainRun, data: DataConfig) -> PreparedMixture:
    mixture = open_data(data, data.mixture, data.split, _vocabulary_rows(run))
    row = data.row_format
    for line in mixture.cut_report(row.lengths, row.shot_length):
        hosts.say(line)
    return mixture


def _share(run: TrainRun) -> Share:
    """Which rows of each batch this process reads."""
    return global_arrays.share(feed.batch_sharding(make_mesh(run.train.mesh)))


def _held_out(run: TrainRun, data: DataConfig) -> Evaluate:
    mixture, share = _prepared(run, data), _share(run)

    def batches() -> Iterator[Batch]:
        return batches_from(mixture, data, seed=0, start_step=0, share=share)

    next(batches())  # what does not fit is said before the first step
    return held_out_loss(run.system, batches, run.held_out_batches)


def _vocabulary_rows(run: TrainRun) -> int:
    """Rows of the smallest embedding table of the run's models."""
    models = (run.system.downstream, run.system.hypermodel)
    return min(model.vocab_size for model in models if model is not None)
