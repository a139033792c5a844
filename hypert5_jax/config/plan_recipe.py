"""What a plan needs to know of a recipe, as planning's plain values."""

from hypert5_jax.config import gin_files
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.sweep_cells import is_sweep
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation import protocols
from hypert5_jax.planning.model_flops import Rows
from hypert5_jax.planning.steps import Judging, Run

# Of a question whose options are ranked: what P3's tasks have, at most.
_OPTIONS = 4


def run_of(arguments: gin_files.GinArguments) -> Run:
    """The run that the gin files describe.

    Raises:
      UserError: they describe no training run, or a sweep of several.
    """
    settings = gin_files.settings(arguments)
    if any(name.startswith("TuneRun.") for name in settings):
        raise UserError(
            f"{', '.join(arguments.files)} is a recipe of tune; plan knows training runs"
        )
    if is_sweep(arguments):
        raise UserError(
            f"{', '.join(arguments.files)} is a sweep; plan one of its recipes"
        )
    run, _ = gin_files.build(TrainRun, arguments)
    data, row = run.data, run.data.row_format
    rows = Rows(
        rows=data.batch_size,
        inputs=row.input_length,
        targets=row.target_length,
        contexts=data.contexts,
        context=row.hyper_length,
    )
    judging = None if run.evaluation is None else _judging(run.evaluation)
    return Run(run.system, run.train, rows, judging)


def _judging(run: EvaluateRun) -> Judging:
    row, protocol = run.data.row_format, protocols.find(run.protocol)
    generates = protocol.answer == protocols.GENERATE
    size, targets = run.batch_size, row.target_length
    return Judging(
        batch_size=size,
        inputs=row.input_length,
        targets=run.answers.max_tokens if generates else targets,
        context=row.hyper_length,
        options=0 if generates else _OPTIONS,
        decoding=run.answers,
        mesh=run.mesh,
    )
