"""A sweep of single-task tuning as one frozen dataclass, and the checks of its values."""

import dataclasses
from collections.abc import Mapping, Sequence

from hypert5_jax.config.evaluate_run import EvaluationData, require_whole_seeds
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.field_types import as_tuple
from hypert5_jax.evaluation import protocols
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.parallel.mesh import MeshConfig
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training.initial import InitialConfig
from hypert5_jax.training.optimisers import OptimiserConfig
from hypert5_jax.training.schedules import ScheduleConfig

RAND, SHARED, HYPER = STARTS = ("Rand", "Shared", "Hyper")
# What φ is, and how it is learned (paper, Appendix D).
METHODS: Mapping[str, tuple[str, str]] = {
    "Prefix-Flat": ("prefix", "direct"),
    "Prefix-MLP": ("prefix", "mlp"),
    "LoRA": ("lora", "direct"),
}


@dataclasses.dataclass(frozen=True)
class Starts:
    """Trained runs whose φ a sweep starts from; only those it needs must be given.

    Attributes:
      shared_prefix: a T5-MTF (Prefix): its embeddings and MLP, or the prefix they make;
        or, for Prefix-Flat, a φ file.
      shared_lora: a T5-MTF (LoRA), or a φ file.
      hyper_prefix: a HyperT5-Prefix, which writes the start of Prefix-Flat.
      hyper_prefix_mlp: a HyperT5-Prefix-MLP, whose decoder writes the embeddings and
        whose heads are the MLP.
      hyper_lora: a HyperT5-LoRA.
    """

    shared_prefix: str | None = None
    shared_lora: str | None = None
    hyper_prefix: str | None = None
    hyper_prefix_mlp: str | None = None
    hyper_lora: str | None = None


# Which of them a (method, start) begins at.
STARTS_AT: Mapping[tuple[str, str], str] = {
    ("Prefix-Flat", SHARED): "shared_prefix",
    ("Prefix-Flat", HYPER): "hyper_prefix",
    ("Prefix-MLP", SHARED): "shared_prefix",
    ("Prefix-MLP", HYPER): "hyper_prefix_mlp",
    ("LoRA", SHARED): "shared_lora",
    ("LoRA", HYPER): "hyper_lora",
}


@dataclasses.dataclass(frozen=True)
class TuneRun:
    """Everything `python -m hypert5_jax.tune` needs to know.

    Attributes:
      output_dir: where results go, a local folder; the same command continues there.
      downstream: the frozen T5.
      data: what is judged, and under `support` what is trained on; a Hyper start reads
        `row_format.max_shots` training examples.
      trained: the runs that Shared and Hyper start from.
      methods, starts: which of METHODS and STARTS.
      learning_rates, seeds: a run for each pair of them.
      steps: updates of a run.
      batch_size: target examples of a run's batch.
      eval_every: steps between two scores; the last step has one always.
      protocol: a name of evaluation/protocols.py that ranks options.
      initial: where the frozen T5 comes from; it has no adaptation_path.
      prefix, lora: sizes of φ, those of the runs it starts from.
      head: of Prefix-MLP from Rand; other starts have their run's.
      init_std: of prefixes and embeddings from Rand.
      optimiser, schedule: of each run; the schedule's peak is each run's learning rate,
        its own learning_rate is not read.
      side_by_side: most runs trained as one batch.
      microbatches: parts of a step's rows computed one after the other.
      evaluation_rows: most rows judged at a time, over all runs side by side.
      frozen_dtype: what the frozen T5 is held in, "bfloat16" or "float32".
      mesh: rows lie over its slice, data and fsdp axes.
      recipe: which experiment this is.
    """

    output_dir: str
    downstream: T5Config
    data: EvaluationData
    trained: Starts = dataclasses.field(default_factory=Starts)
    methods: tuple[str, ...] = tuple(METHODS)
    starts: tuple[str, ...] = STARTS
    learning_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-5)
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1000
    batch_size: int = 256
    eval_every: int = 100
    protocol: str = "p3"
    initial: InitialConfig = dataclasses.field(default_factory=InitialConfig)
    prefix: PrefixSpec = PrefixSpec()
    lora: LoRASpec = LoRASpec()
    head: HeadConfig = dataclasses.field(default_factory=HeadConfig)
    init_std: float = 0.02
    optimiser: OptimiserConfig = dataclasses.field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    side_by_side: int = 9
    microbatches: int = 1
    evaluation_rows: int = 256
    frozen_dtype: str = "bfloat16"
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        lists = ("methods", "starts", "learning_rates", "seeds")
        for name in lists:
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
            _require_different(name, getattr(self, name))
        require_whole_seeds(self.seeds)
        _require_different("EvaluationData.tasks", self.data.tasks, some=False)
        _require_known("methods", self.methods, tuple(METHODS))
        _require_known("starts", self.starts, STARTS)
        if any(rate <= 0 for rate in self.learning_rates):
            raise UserError(
                f"learning_rates is {self.learning_rates}; all must be positive"
            )
        counts = ("steps", "batch_size", "eval_every", "side_by_side", "microbatches")
        for name in (*counts, "evaluation_rows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.batch_size % self.microbatches:
            raise UserError(
                f"a batch of {self.batch_size} does not divide into "
                f"{self.microbatches} microbatches"
            )
        if self.frozen_dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"frozen_dtype is {self.frozen_dtype!r}; expected bfloat16 or float32"
            )
        protocol = protocols.find(self.protocol)
        if protocol.answer == protocols.GENERATE:
            ranking = [p.name for p in protocols.PROTOCOLS.values()]
            ranking = [
                n for n in ranking if protocols.find(n).answer != protocols.GENERATE
            ]
            raise UserError(
                f"protocol is {self.protocol!r}, which generates text; a sweep ranks "
                f"options: choose {' or '.join(ranking)}"
            )
        if self.data.row_format.context != "hypermodel":
            raise UserError(
                f"RowFormat.context is {self.data.row_format.context!r}; a sweep draws "
                "the examples a hypermodel reads: set it to 'hypermodel'"
            )
        if "{" in (self.data.support_split or ""):
            raise UserError(
                f"support_split is {self.data.support_split!r}; a sweep trains on one "
                "split, whatever the seed: name it without {seed}"
            )
        if self.data.support(seed=0) == (self.data.mixture, self.data.split):
            raise UserError(
                f"a sweep would train on {self.data.mixture}/{self.data.split}, which it "
                "scores on; set SUPPORT_SPLIT to the split of the training examples"
            )
        if self.initial.adaptation_path is not None:
            raise UserError(
                f"InitialConfig.adaptation_path is {self.initial.adaptation_path}; a "
                "sweep starts from the runs that Starts names"
            )

    @property
    def eval_steps(self) -> list[int]:
        """The steps that have a score: 0, every eval_every, and the last."""
        return [*range(0, self.steps, self.eval_every), self.steps]

    @property
    def needed(self) -> list[str]:
        """Which fields of Starts this sweep reads."""
        pairs = [(m, s) for m in self.methods for s in self.starts if s != RAND]
        return list(dict.fromkeys(STARTS_AT[pair] for pair in pairs))

    def system(self, method: str, head: HeadConfig | None = None) -> System:
        """What a run of a method trains.

        Args:
          method: one of METHODS.
          head: of the run it starts from; this sweep's own by default.
        """
        adaptation, parametrisation = METHODS[method]
        variant = Variant(
            adaptation=adaptation,
            source="learned",
            parametrisation=parametrisation,
            trainable=("phi",),
            context="none",
            prefix=self.prefix,
            lora=self.lora,
            # How a hypermodel's heads start beside a T5 says nothing of learned ones.
            head=dataclasses.replace(head or self.head, output_init="normal"),
            learned_init_std=self.init_std,
        )
        return System(self.downstream, variant)


def _require_different(name: str, values: Sequence, some: bool = True) -> None:
    twice = [value for i, value in enumerate(values) if value in values[:i]]
    if twice or (some and not values):
        given = ", ".join(map(str, values)) or "empty"
        why = f"; {twice[0]} is there twice" if twice else ""
        raise UserError(
            f"{name} is {given}{why}: expected one or more, all different, since each "
            "names runs of its own in the results"
        )


def _require_known(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    unknown = [value for value in values if value not in known]
    if unknown:
        raise UserError(f"{name} has {unknown[0]!r}; expected some of {known}")
