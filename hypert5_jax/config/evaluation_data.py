"""What an evaluation judges: prepared data opened and checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping, Sequence

from jax.sharding import Mesh

from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.opening import open_data
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.evaluation import protocols
from hypert5_jax.parallel.mesh import make_mesh


@dataclasses.dataclass(frozen=True)
class Unit:
    """One task under one kind of context (as users call it) of one draw."""

    task: PreparedTask
    context: str
    seed: int


def _opened(run: EvaluateRun, mixture: str, split: str) -> PreparedMixture:
    rows = min(model.vocab_size for model in run.models)
    return open_data(run.data, mixture, split, rows)


def chosen_tasks(run: EvaluateRun, mixture: PreparedMixture) -> list[PreparedTask]:
    """The tasks to judge, in the mixture's order.

    Raises:
      UserError: an unknown task, or one without what the protocol needs.
    """
    for name in run.data.tasks:
        mixture.task(name)
    tasks = [t for t in mixture.tasks if not run.data.tasks or t.name in run.data.tasks]
    protocol = protocols.find(run.protocol)
    if protocol.average == protocols.TASKS:
        for task in tasks:
            if not task.group:
                raise UserError(
                    f"task {task.name!r} of {mixture.name!r} declares no `group`, but "
                    f"protocol {protocol.name} chooses its metric by it: "
                    "'classification', or another word; add the feature to the task"
                )
    return tasks


def units_of(run: EvaluateRun, tasks: Sequence[PreparedTask]) -> list[Unit]:
    """All units, the contexts of a task beside each other.

    Where nothing of a unit is drawn (no shots, no label words) one draw stands for all.
    """
    found = []
    for task in tasks:
        for context in run.contexts:
            seeds = run.seeds
            if same_for_all_draws(run, task, context):
                seeds = seeds[:1]
            found += [Unit(task, context, seed) for seed in seeds]
    return found


def same_for_all_draws(run: EvaluateRun, task: PreparedTask, context: str) -> bool:
    """Whether draws of this task's context do not differ."""
    shots = task.wants_shots and run.data.row_format.context != "none"
    return not shots and not task.label_pool and context in ("real", "empty")


@dataclasses.dataclass(frozen=True)
class OpenedEvaluation:
    """An evaluation with its data.

    Attributes:
      run: the evaluation.
      mesh: rows of a batch lie over it.
      mixture: what is judged.
      supports: {(mixture, split): where shots come from}, for every draw.
      tasks: of the mixture, those that are judged.
      units: all of them, in order.
    """

    run: EvaluateRun
    mesh: Mesh
    mixture: PreparedMixture
    supports: Mapping[tuple[str, str], PreparedMixture]
    tasks: Sequence[PreparedTask]
    units: Sequence[Unit]

    def support(self, seed: int) -> PreparedMixture:
        """Where the shots of a draw come from."""
        return self.supports[self.run.data.support(seed)]

    @property
    def cut(self) -> list[str]:
        """Lines that say which examples the lengths cut."""
        row = self.run.data.row_format
        return self.mixture.cut_report(row.lengths, row.shot_length)

    def digests(self) -> dict[str, str]:
        """{mixture/split: digest} of all prepared data."""
        own = {f"{self.mixture.name}/{self.mixture.split}": self.mixture.digest}
        return own | {f"{n}/{s}": m.digest for (n, s), m in self.supports.items()}


def open_evaluation(run: EvaluateRun) -> OpenedEvaluation:
    """Opens all data of an evaluation, preparing what is small and absent.

    Raises:
      UserError: a mesh that does not fit, data that are not there or
        were prepared with different vocabularies, tasks without what the protocol needs.
    """
    mesh = make_mesh(run.mesh)
    mixture = _opened(run, run.data.mixture, run.data.split)
    supports = {(mixture.name, mixture.split): mixture}
    for name, split in map(run.data.support, run.seeds):
        if (name, split) not in supports:
            supports[name, split] = _opened(run, name, split)
            supports[name, split].require_vocabulary(mixture.vocabulary.fingerprint)
    tasks = chosen_tasks(run, mixture)
    return OpenedEvaluation(run, mesh, mixture, supports, tasks, units_of(run, tasks))
