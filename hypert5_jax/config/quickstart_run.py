"""The settings of `python -m hypert5_jax.quickstart`, as frozen dataclasses."""

import dataclasses
from collections.abc import Mapping

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.hyper.variants import HeadConfig
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.settings import TrainConfig


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
      steps: updates.
      batch_size: target examples per step.
      learning_rate: the peak, after a linear warm-up.
      warmup_steps: of it.
      schedule: of it, as ScheduleConfig.name.
      lengths: tokens of hyper_inputs, inputs, targets.
      targets_per_context: target examples that share one φ.
      max_shots: examples in a context, where the data set has no context of its own.
      min_shots: if set, each context has a random number of them, from this up.
      empty_context_rate: share of contexts left empty.
    """

    steps: int
    batch_size: int
    learning_rate: float
    lengths: Mapping[str, int]
    warmup_steps: int = 50
    schedule: str = "linear"
    targets_per_context: int = 1
    max_shots: int = 0
    min_shots: int | None = None
    empty_context_rate: float = 0.0

    def row_format(self, context: str) -> RowFormat:
        """What a row of this stage holds; `context` as in RowFormat."""
        return RowFormat(
            lengths=self.lengths,
            max_shots=self.max_shots,
            min_shots=self.min_shots,
            context=context,
            targets_per_context=self.targets_per_context,
            empty_context_rate=self.empty_context_rate,
            task_cap=1,  # all tasks alike
        )

    def train_config(self, seed: int) -> TrainConfig:
        """How this stage trains; a toy computes in float32, also what is frozen."""
        return TrainConfig(
            steps=self.steps,
            seed=seed,
            frozen_dtype="float32",
            log_every=max(1, self.steps // 20),
            optimiser=OptimiserConfig(),
            schedule=ScheduleConfig(
                name=self.schedule,
                learning_rate=self.learning_rate,
                warmup_steps=self.warmup_steps,
            ),
            checkpoints=CheckpointConfig(every=max(100, self.steps // 4), keep=1),
        )


@dataclasses.dataclass(frozen=True)
class QuickstartRun:
    """Everything about the quickstart that is not its text.

    Attributes:
      output_dir: data, checkpoints, tables and figure go there.
      model: sizes of both T5s; vocab_size holds the vocabulary and the markers.
      prefix: φ.
      head: of the hypermodel.
      first, pretrain, hyperpretrain, tune, learn: the stages; `first` is pretraining
        on the easiest text, `learn` the ceiling's, its batch_size counts the examples
        of each task.
      neighbour_bias: of the base's start, see t5/head_start.py.
      evaluation_draws: contexts per held-out task.
      evaluation_examples: judged examples per context.
      seeds: one whole run of training for each.
    """

    output_dir: str
    model: T5Config
    prefix: PrefixSpec
    head: HeadConfig
    first: Stage
    pretrain: Stage
    hyperpretrain: Stage
    tune: Stage
    learn: Stage
    neighbour_bias: float = 4.0
    evaluation_draws: int = 2
    evaluation_examples: int = 16
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(self.seeds))
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(
                f"seeds are {self.seeds}; expected one or more different numbers"
            )
