"""One evaluation as one frozen dataclass, and the checks that need all of it."""

import dataclasses
from collections.abc import Mapping, Sequence

from hypert5_jax.config.data import check_context
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.field_types import as_tuple
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.evaluation import protocols
from hypert5_jax.hyper.system import System
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.parallel.mesh import MeshConfig
from hypert5_jax.t5.config import T5Config

# What users call the kinds of data/contexts.py.
CONTEXTS: Mapping[str, str] = {
    "real": "right",
    "empty": "empty",
    "other_task": "other",
    "shuffled_targets": "shuffled_targets",
    "random": "random",
}
SEED = "{seed}"


@dataclasses.dataclass(frozen=True)
class EvaluationData:
    """Which prepared examples are judged, and where their shots come from.

    Attributes:
      mixture: name of a seqio task or mixture.
      row_format: what a row holds and how long it may be; max_shots shots are drawn.
      split: of the mixture.
      support_mixture: where shots are drawn from; the mixture itself by default.
      support_split: its split, the mixture's by default; `{seed}` in it stands for the
        draw's seed ("train_{seed}": MetaICL's own draws).
      tasks: names of the logical tasks to judge; all by default.
      limit: most examples of a task, the first in prepared order.
      prepared_dir: folder of prepared data; what is missing there is prepared first.
      modules: Python modules that register the mixtures; only imported if something
        has to be prepared.
    """

    mixture: str
    row_format: RowFormat
    split: str = "test"
    support_mixture: str | None = None
    support_split: str | None = None
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    prepared_dir: str = "prepared"
    modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tasks", "modules"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        if self.limit is not None and self.limit < 1:
            raise UserError(
                f"EvaluationData.limit is {self.limit}; expected at least 1, or None"
            )

    def support(self, seed: int) -> tuple[str, str]:
        """(mixture, split) that shots of this draw come from."""
        split = self.support_split or self.split
        return self.support_mixture or self.mixture, split.replace(SEED, str(seed))


def require_whole_seeds(seeds: Sequence[int]) -> None:
    """Checks what a file gives as seeds: 1.5 would draw what 1 draws.

    Raises:
      UserError: one is no whole number of 63 bits.
    """
    for seed in seeds:
        if type(seed) is not int or not -(2**63) <= seed < 2**63:
            raise UserError(
                f"seeds has {seed!r}; expected whole numbers from -2**63 to 2**63 - 1"
            )


@dataclasses.dataclass(frozen=True)
class EvaluateRun:
    """Everything `python -m hypert5_jax.evaluate` needs to know.

    Attributes:
      system: the models and the variant.
      data: what is judged.
      protocol: a name of evaluation/protocols.py.
      output_dir: where results go; the same command continues there. Must be set,
        except after a training run, whose folder gives it.
      checkpoint_path: the run (or one of its checkpoints) to judge; where the variant
        is a T5 alone, also a T5X checkpoint or a Hugging Face folder.
      initial_checkpoint_path: of the frozen downstream T5; by default where the run
        says it had it from.
      contexts: kinds of context, each judged on the same examples; see CONTEXTS.
      seeds: one draw of shots each.
      batch_size: examples that go through the model together.
      decoding: of generated answers; None is greedy, as long as the protocol says.
      frozen_dtype: what frozen groups are held in, "bfloat16" or "float32".
      mesh: rows of a batch lie over its slice, data and fsdp axes.
      predictions: whether every prediction is written.
      draws_dir: where draws are kept, to be shared by several evaluations;
        `output_dir`/draws by default.
      allow_random: judge an untrained system where there is no checkpoint.
      recipe: which experiment this is, kept with the results.
    """

    system: System
    data: EvaluationData
    protocol: str
    output_dir: str | None = None
    checkpoint_path: str | None = None
    initial_checkpoint_path: str | None = None
    contexts: tuple[str, ...] = ("real",)
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 32
    decoding: Decoding | None = None
    frozen_dtype: str = "bfloat16"
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    predictions: bool = True
    draws_dir: str | None = None
    allow_random: bool = False
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "contexts", as_tuple(self.contexts))
        object.__setattr__(self, "seeds", tuple(self.seeds))
        protocols.find(self.protocol)
        check_context(self.system.variant, self.data.row_format)
        unknown = [kind for kind in self.contexts if kind not in CONTEXTS]
        if unknown or not self.contexts or len(set(self.contexts)) < len(self.contexts):
            raise UserError(
                f"contexts is {', '.join(self.contexts) or 'empty'}; expected different "
                f"ones of {', '.join(CONTEXTS)}"
            )
        if self.system.variant.context == "none" and self.contexts != ("real",):
            raise UserError(
                "the variant reads no context, so contexts has nothing to vary; leave "
                "it at real"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(
                f"seeds is {self.seeds}; expected one or more, all different"
            )
        require_whole_seeds(self.seeds)
        if self.frozen_dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"frozen_dtype is {self.frozen_dtype!r}; expected bfloat16 or float32"
            )
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; expected 1 or more")

    @property
    def models(self) -> list[T5Config]:
        """Sizes of the system's models."""
        both = (self.system.downstream, self.system.hypermodel)
        return [model for model in both if model is not None]

    @property
    def answers(self) -> Decoding:
        """How text is generated."""
        most = protocols.find(self.protocol).max_new_tokens
        return self.decoding or Decoding(max_tokens=most)

    def after(self, model_dir: str, recipe: Recipe | None) -> "EvaluateRun":
        """This evaluation of a run that was trained in `model_dir`: what is not set is
        the run's, and results go to its folder `scores`."""
        return dataclasses.replace(
            self,
            output_dir=self.output_dir or f"{model_dir.rstrip('/')}/scores",
            checkpoint_path=self.checkpoint_path or model_dir,
            recipe=self.recipe or recipe,
        )
