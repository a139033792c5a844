"""Where the φ of a sweep's runs come from: chance, a shared φ (of a run, or a φ file), or
a hypermodel.

The runs that `Starts` names are checked before anything is trained: what they trained,
its sizes, and the T5 beside them. What they score by themselves is judged as
`python -m hypert5_jax.evaluate` judges it, to be compared with step 0 of the tuned model.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from hypert5_jax.checkpoints import manifest, store
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.config import gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.config.tune_data import TuneTask
from hypert5_jax.config.tune_run import METHODS, RAND, STARTS_AT, TuneRun
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.evaluation import protocols
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference.answering import Answerer
from hypert5_jax.parallel.mesh import batch_ways
from hypert5_jax.phi.files import load_phi
from hypert5_jax.training.initial import Beside, held_as, load_adaptation
from hypert5_jax.training.state import InitialParams

Tree = Any
# Field of Starts -> what its run trained (adaptation, source, parametrisation), and the
# recipe that does it.
_WANTED: Mapping[str, tuple[tuple[str, str, str], str]] = {
    "shared_prefix": (("prefix", "learned", "mlp"), "p3_large/t5_mtf_prefix"),
    "shared_lora": (("lora", "learned", "direct"), "p3_large/t5_mtf_lora"),
    "hyper_prefix": (("prefix", "generated", "direct"), "p3_large/hypert5_prefix"),
    "hyper_prefix_mlp": (
        ("prefix", "generated", "mlp"),
        "p3_large/hypert5_prefix_mlp",
    ),
    "hyper_lora": (("lora", "generated", "direct"), "p3_large/hypert5_lora"),
}
# Examples that a source is judged on at a time.
_JUDGED_ROWS = 32
# Settings of a T5 that change how it is computed, not what.
_MANNERS = ("dropout_rate", "dtype", "scan_layers", "remat", "attention")


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained run whose φ others start from.

    Attributes:
      name: its field of Starts.
      path: the run, as it was given.
      system: what it trained, computed in the manner of the sweep's T5.
      mark: sha256 of its newest checkpoint's manifest, which holds checksums.
      beside: the T5 it was trained beside; None where it trained that, too.
    """

    name: str
    path: str
    system: System
    mark: str
    beside: Beside | None


@dataclasses.dataclass(frozen=True)
class Start:
    """Where one run begins.

    Attributes:
      params: the "phi" group of `TuneRun.system`, NumPy arrays.
      scores: float64 [questions, o], what the source by itself ranks the options by, -inf
        where there is none; None for Rand, which has no source.
      source: path of the source; "" for Rand.
    """

    params: Tree
    scores: np.ndarray | None
    source: str


def open_sources(run: TuneRun, vocabulary: str) -> dict[str, Source]:
    """The runs a sweep starts from, by field of Starts, their arrays not yet read.

    Raises:
      UserError: one is not given or not there, trained something else, φ of other
        sizes, or another vocabulary.
    """
    return {name: _open(run, name, vocabulary) for name in run.needed}


def _open(run: TuneRun, name: str, vocabulary: str) -> Source:
    path = getattr(run.trained, name)
    # Recipes train into runs/<their name>.
    recipe = path[5:] if path and path.startswith("runs/") else _WANTED[name][1]
    advice = (
        f"train one with python -m hypert5_jax.train --gin_file=gin/recipes/{recipe}.gin"
        f" and set Starts.{name} to its folder"
    )
    if path is None:
        users = [f"{m} ({s})" for (m, s), n in STARTS_AT.items() if n == name]
        raise UserError(
            f"Starts.{name} is not set, but {' and '.join(users)} start from it; "
            f"{advice}, or leave that out of TuneRun.starts"
        )
    if absolute(path).is_file():
        return _open_phi_file(run, name, path)
    try:
        place = store.newest(path)
    except UserError as error:
        raise UserError(f"Starts.{name}: {error}; {advice}") from error
    about = store.about(place)
    system = _trained_system(about["config"], name, path, advice)
    trained = about.get("vocabulary", "")
    if vocabulary and trained and trained != vocabulary:
        raise UserError(
            f"Starts.{name}: {path} was trained with vocabulary {trained[:12]}, the "
            f"data were prepared with {vocabulary[:12]}"
        )
    _check_sizes(run, name, path, system)
    in_our_manner = {field: getattr(run.downstream, field) for field in _MANNERS}
    hypermodel = system.hypermodel
    if hypermodel is not None:
        hypermodel = dataclasses.replace(hypermodel, **in_our_manner)
    system = dataclasses.replace(
        system, downstream=run.downstream, hypermodel=hypermodel
    )
    mark = hashlib.sha256((place / manifest.NAME).read_bytes()).hexdigest()
    beside = Beside.of_frozen(path, str(place), about)
    return Source(name, path, system, mark, beside)


def _open_phi_file(run: TuneRun, name: str, path: str) -> Source:
    """A φ file in place of the run that learned it; peft adapters are made one by
    `python -m hypert5_jax.convert --to=phi`."""
    (adaptation, source, _), _ = _WANTED[name]
    if source != "learned":
        raise UserError(
            f"Starts.{name}: {path} is a file; expected a run that trained a "
            "hypermodel, which writes a φ for each task"
        )
    _, header = load_phi(path, run.downstream.sites)
    wanted = run.prefix if adaptation == "prefix" else run.lora
    if header.spec != wanted:
        raise UserError(
            f"Starts.{name}: φ in {path} is {header.spec}, this sweep has {wanted}: give "
            "both the same"
        )
    variant = Variant(
        adaptation=adaptation,
        source=source,
        trainable=("phi",),
        context="none",
        prefix=run.prefix,
        lora=run.lora,
    )
    mark = hashlib.sha256(absolute(path).read_bytes()).hexdigest()
    system = System(run.downstream, variant)
    # Which T5 it was made for is compared when it is loaded.
    return Source(name, path, system, mark, None)


def _trained_system(config: str, name: str, path: str, advice: str) -> System:
    """What a run trained, from the configuration its checkpoint holds."""
    if not config:
        raise UserError(
            f"Starts.{name}: the checkpoint in {path} does not hold the configuration "
            f"it was trained with; {advice}"
        )
    system = gin_files.rebuild(TrainRun, config).system
    kind, _ = _WANTED[name]
    found = system.variant
    if (found.adaptation, found.source, found.parametrisation) != kind:
        raise UserError(
            f"Starts.{name}: {path} trained adaptation={found.adaptation!r}, source="
            f"{found.source!r}, parametrisation={found.parametrisation!r}; expected "
            f"{', '.join(map(repr, kind))}: {advice}"
        )
    return system


def _check_sizes(run: TuneRun, name: str, path: str, system: System) -> None:
    """Refuses a φ of other sizes, or for a T5 of other sizes, before it is read."""
    spec = system.variant.spec
    wanted = run.prefix if system.variant.adaptation == "prefix" else run.lora
    pairs: list[tuple[Any, Any]] = [
        (spec, wanted),
        (system.downstream, run.downstream),
    ]
    for theirs, ours in pairs:
        title = type(ours).__name__
        for field in dataclasses.fields(ours):
            then, now = getattr(theirs, field.name), getattr(ours, field.name)
            if then != now and field.name not in _MANNERS:
                raise UserError(
                    f"Starts.{name}: {path} was trained with {title}.{field.name} = "
                    f"{then!r}, this sweep has {now!r}: its φ has another shape or "
                    "another meaning; give both the same"
                )


class StartMaker:
    """Makes the starts of runs, and judges their sources by themselves.

    Args:
      run: the sweep.
      begin: the T5 as it was read, which sources are compared with.
      frozen: the same, as it is held and laid out over the mesh.
      sources: of `open_sources`.
      mesh: the sweep's.

    Raises:
      UserError: a source was trained beside another T5.
    """

    def __init__(
        self,
        run: TuneRun,
        begin: InitialParams,
        frozen: Tree,
        sources: Mapping[str, Source],
        mesh: Mesh,
    ):
        self._run, self._frozen = run, frozen
        self._sources, self._mesh = sources, mesh
        self._origin = begin.origins["downstream"]
        self._held_as = held_as(begin) if sources else []
        for source in sources.values():
            if source.beside is not None:
                source.beside.require(self._origin, self._held_as)
        self._judged: dict[tuple[str, str, int], np.ndarray] = {}

    def system(self, method: str, start: str) -> System:
        """What the runs of a (method, start) train."""
        if start == RAND:
            return self._run.system(method)
        source = self._sources[STARTS_AT[method, start]]
        return self._run.system(method, source.system.variant.head)

    def make(
        self, method: str, start: str, wanted: Sequence[tuple[TuneTask, int]]
    ) -> dict[tuple[str, int], Start]:
        """{(task's name, seed): its start} of the (task, seed) wanted.

        Raises:
          UserError: the source holds parameters of another model, or was trained jointly
            with another T5.
        """
        if start == RAND:
            seeds = {seed: self._random(method, seed) for _, seed in wanted}
            return {(task.name, seed): seeds[seed] for task, seed in wanted}
        source = self._sources[STARTS_AT[method, start]]
        answerer, group = self._answerer(source)
        found: dict[tuple[str, int], Start] = {}
        params: Tree = None
        for task, seed in wanted:
            generated = source.system.variant.source == "generated"
            context = task.context(seed) if generated else []
            if generated or params is None:
                params = self._params(method, source.system, group, answerer, context)
            scores = self._scores(source, answerer, task, seed, context)
            found[task.name, seed] = Start(params, scores, source.path)
        return found

    def _answerer(self, source: Source) -> tuple[Answerer, Tree]:
        """The source's system, loaded, and its group beside the T5, on the host."""
        run, row = self._run, self._run.data.row_format
        name, group, beside = load_adaptation(source.system, source.path)
        beside.require(self._origin, self._held_as)
        group = trees.cast(group, "float32")
        ways = batch_ways(self._mesh)
        answerer = Answerer(
            source.system,
            {name: group, "downstream": self._frozen},
            batch_size=-(-min(run.evaluation_rows, _JUDGED_ROWS) // ways) * ways,
            hyper_length=row.hyper_length,
            input_length=int(row.lengths["inputs"]),
            target_length=row.target_length,
            mesh=self._mesh,
        )
        return answerer, group

    def _random(self, method: str, seed: int) -> Start:
        system = self._run.system(method)
        # Under jit: unboxed arrays are laid out over the mesh.
        new = jax.jit(
            lambda key: nn.unbox(learned.init(key, system.downstream, system.variant))
        )
        return Start(jax.device_get(new(jax.random.key(seed))), None, "")

    def _params(
        self,
        method: str,
        system: System,
        group: Tree,
        answerer: Answerer,
        context: Sequence[int],
    ) -> Tree:
        """The "phi" group that stands for the source's φ."""
        _, parametrisation = METHODS[method]
        if system.variant.parametrisation == parametrisation == "mlp":
            if system.variant.source == "learned":
                return group
            written = jax.device_get(answerer.embeddings([context]))
            embeddings = written.astype(np.float32)
            return {learned.EMBEDDINGS: embeddings, "heads": group["heads"]}
        phi = answerer.make_phi([context])
        assert phi is not None
        tuned = self._run.system(method)
        return jax.device_get(learned.from_phi(phi, tuned.downstream, tuned.variant))

    def _scores(
        self,
        source: Source,
        answerer: Answerer,
        task: TuneTask,
        seed: int,
        context: Sequence[int],
    ) -> np.ndarray:
        # A φ for all seeds is judged once, where they ask in the same words.
        alike = source.system.variant.source == "learned" and task.same_words
        key = (source.name, task.name, 0 if alike else seed)
        if key not in self._judged:
            questions = task.questions(seed)
            rule = protocols.find(self._run.protocol).answer
            most = max(len(question.options) for question in questions)
            found = np.full((len(questions), most), -np.inf)
            for place, choice in answerer.rank(questions, [context], rule):
                found[place, : len(choice.scores)] = choice.scores
            self._judged[key] = found
        return self._judged[key]
