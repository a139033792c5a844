"""Where a new run's parameters come from: checkpoints, or chance if that is asked for."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hypert5_jax.checkpoints import any_t5, store
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.checkpoints.public_t5 import resolve
from hypert5_jax.checkpoints.t5_arrays import require_same_sizes
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System, check_same_shapes
from hypert5_jax.phi.files import load_phi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.head_start import head_start
from hypert5_jax.t5.stacking import stack_layers
from hypert5_jax.training.state import InitialParams, fingerprints, random_params

Tree = Any
# What a run may hold its frozen groups in; a fingerprint is of what it held.
_FROZEN_DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class InitialConfig:
    """Checkpoints a run starts from.

    Attributes:
      checkpoint_path: a run (or one of its checkpoints) that trained the downstream T5;
        a T5X checkpoint of it (directory or single file, local or gs://, or the name of
        a public one); or a Hugging Face folder. A hypermodel starts as the same T5,
        except for what is new in it.
      adaptation_path: a run that trained a hypermodel or a φ for that downstream T5, to
        start from with a fresh optimiser (multi-task tuning after hyperpretraining); or
        a φ file, which a directly learned φ starts as.
      adaptation_step: which of that run's checkpoints, by its number of steps; the
        newest by default. 0 is the hypermodel or φ before its first step: a new one.
      allow_random: without a checkpoint_path, start the downstream T5 at random instead
        of refusing to.
      neighbour_bias: start a random downstream T5 with the habits of t5/head_start.py,
        of this strength; None starts it as T5 does.
    """

    checkpoint_path: str | None = None
    adaptation_path: str | None = None
    adaptation_step: int | None = None
    allow_random: bool = False
    neighbour_bias: float | None = None

    def __post_init__(self) -> None:
        if self.adaptation_step is not None and self.adaptation_step < 0:
            raise UserError(
                f"adaptation_step is {self.adaptation_step}; expected 0 or more, or None"
            )
        if self.adaptation_step and self.adaptation_path is None:
            raise UserError(
                f"adaptation_step is {self.adaptation_step}, but adaptation_path is "
                "None; name the run it is a step of"
            )
        if self.neighbour_bias is not None and self.checkpoint_path is not None:
            raise UserError(
                f"neighbour_bias is {self.neighbour_bias}, the start of a random T5, "
                f"but checkpoint_path is {self.checkpoint_path}; leave one of them None"
            )

    @property
    def adaptation(self) -> str | None:
        """What is loaded of `adaptation_path`: the run, one of its steps, or nothing."""
        if self.adaptation_path is None or self.adaptation_step == 0:
            return None
        if self.adaptation_step is None:
            return self.adaptation_path
        run = self.adaptation_path.rstrip("/")
        return f"{run}/checkpoints/{self.adaptation_step}"


def initial_params(
    system: System, config: InitialConfig, seed: int, vocabulary: str = ""
) -> InitialParams:
    """Every group's parameters, each loaded, or initialised on purpose and said so.

    Args:
      system: decides which groups there are and their shapes.
      config: where from.
      seed: of all that is new.
      vocabulary: fingerprint of the data's vocabulary; "" compares nothing.

    Raises:
      UserError: no checkpoint and chance not allowed; a checkpoint without the group
        that is asked of it, of another model, or trained with another vocabulary.
    """
    require_chosen(config)
    if config.checkpoint_path is None:
        begin = _at_random(system, seed, config.neighbour_bias)
    else:
        begin = _around_t5(system, config.checkpoint_path, seed, vocabulary)
    if config.adaptation is not None:
        begin = _with_adaptation(system, config.adaptation, begin, vocabulary)
    return begin


def require_chosen(config: InitialConfig) -> None:
    """Refuses a start that nobody chose.

    Raises:
      UserError: no checkpoint, and chance not allowed.
    """
    if config.checkpoint_path is None and not config.allow_random:
        raise UserError(
            "no initial checkpoint: set INITIAL_CHECKPOINT_PATH to a run that trained "
            "the downstream T5, or InitialConfig.allow_random = True to start it at "
            "random"
        )


def check_t5(system: System, path: str) -> None:
    """Refuses a T5 that `initial_params` would refuse for its sizes; reads headers only.

    Args:
      system: as there.
      path: a `checkpoint_path` where something lies.

    Raises:
      UserError: as there.
    """
    opened = any_t5.open_any_t5(path)
    if any_t5.is_t5(path):
        require_same_sizes(opened.config, system.downstream, path)
    shapes = trees.unflatten(
        {
            name: jax.ShapeDtypeStruct(array.shape, np.float32)
            for name, array in opened.arrays.items()
        }
    )

    def begin(t5: Tree) -> Tree:
        t5 = _in_memory(t5, system.downstream)
        return system.init_from_t5(jax.random.key(0), t5)

    jax.eval_shape(begin, shapes)


def _at_random(
    system: System, seed: int, neighbour_bias: float | None
) -> InitialParams:
    begin = random_params(system, seed)
    if neighbour_bias is None:
        return begin
    t5 = head_start(begin.params["downstream"], system.downstream, neighbour_bias)
    said = f"{begin.origins['downstream']}, neighbour_bias {neighbour_bias}"
    return InitialParams(
        {**begin.params, "downstream": t5}, {**begin.origins, "downstream": said}
    )


def _around_t5(system: System, path: str, seed: int, vocabulary: str) -> InitialParams:
    if any_t5.is_t5(path):
        # These say nothing of the vocabulary they were trained with.
        t5, _ = any_t5.load_any_t5(path, system.downstream)
        t5, place = jax.tree.map(_as_float32, t5), resolve(path)
    else:
        saved, about = _load(path, vocabulary)
        t5, place = _group(saved, "downstream", path, "checkpoint_path"), about["place"]
    t5 = _in_memory(t5, system.downstream)
    params = jax.jit(system.init_from_t5)(jax.random.key(seed), t5)
    origins = {g: f"{path}; new parts random, seed {seed}" for g in params}
    origins["downstream"] = place
    if "phi" in origins:
        origins["phi"] = f"random, seed {seed}"
    return InitialParams(dict(params), origins)


def _with_adaptation(
    system: System, path: str, begin: InitialParams, vocabulary: str
) -> InitialParams:
    if all(group == "downstream" for group in system.groups):
        raise UserError(
            f"adaptation_path is {path}, but this variant has neither a hypermodel nor "
            "a φ to load; leave it None"
        )
    name, group, beside = load_adaptation(system, path, vocabulary)
    beside.require(begin.origins["downstream"], held_as(begin))
    return InitialParams(
        {**begin.params, name: group}, {**begin.origins, name: beside.place}
    )


@dataclasses.dataclass(frozen=True)
class Beside:
    """Which T5 an adaptation was trained beside; it is worth something there only.

    Attributes:
      path: of the adaptation, as it was given.
      place: of the checkpoint that was read.
      origin: where that T5 came from.
      digest: its fingerprint.
    """

    path: str
    place: str
    origin: str
    digest: str

    @classmethod
    def of_frozen(
        cls, path: str, place: str, about: Mapping[str, Any]
    ) -> "Beside | None":
        """The frozen T5 a checkpoint's manifest names; None if it was trained jointly."""
        then = about["frozen"].get("downstream")
        return then and cls(path, place, then["origin"], then["sha256"])

    def require(self, origin: str, fingerprints_held: Sequence[str]) -> None:
        """Refuses another T5, which came from `origin` and is held in these ways.

        Raises:
          UserError: naming both.
        """
        if self.digest not in fingerprints_held:
            raise UserError(
                f"{self.path} was trained beside another downstream T5: {self.origin} "
                f"(fingerprint {self.digest[:12]}), not {origin}; set "
                f"INITIAL_CHECKPOINT_PATH (base, --base) to {self.origin}"
            )


def held_as(begin: InitialParams) -> list[str]:
    """Fingerprints of the downstream T5 in each dtype that a run may hold it in."""
    here = begin.params["downstream"]
    return [fingerprints({"d": trees.cast(here, t)})["d"] for t in _FROZEN_DTYPES]


def load_adaptation(
    system: System, path: str, vocabulary: str = ""
) -> tuple[str, Tree, Beside]:
    """The hypermodel or φ of a run: its group's name, the group, and the T5 beside it.

    Args:
      system: that the run trained.
      path: the run, one of its checkpoints, or a φ file.
      vocabulary: as for `initial_params`.

    Raises:
      UserError: as there.
    """
    (name,) = (group for group in system.groups if group != "downstream")
    if absolute(path).is_file():
        return name, *_from_phi_file(system, path)
    saved, about = _load(path, vocabulary)
    group = _in_memory(
        _group(saved, name, path, "adaptation_path"),
        system.hypermodel or system.downstream,
    )
    check_same_shapes(system.abstract_params()[name], group, f"the {name} in {path}")
    return name, group, _beside(path, saved, about)


def _from_phi_file(system: System, path: str) -> tuple[Tree, Beside]:
    """The parameters that stand for the φ in a file, and the T5 it was made for."""
    phi, header = load_phi(path, system.downstream.sites)
    if system.variant.source != "learned":
        raise UserError(
            f"{path} is a φ file, and this variant has source="
            f"{system.variant.source!r}: only a learned φ can start as one. Start a "
            "hypermodel from a run that trained it"
        )
    group = learned.from_phi(phi, system.downstream, system.variant)
    made_for = "the T5 that this φ was made for"
    return group, Beside(path, path, made_for, header.base_model)


def _beside(path: str, saved: dict[str, Tree], about: dict) -> Beside:
    if "downstream" in saved:  # trained jointly
        digest = fingerprints({"downstream": saved["downstream"]})["downstream"]
        return Beside(path, about["place"], path, digest)
    beside = Beside.of_frozen(path, about["place"], about)
    assert beside is not None, about
    return beside


def _load(path: str, vocabulary: str) -> tuple[dict[str, Tree], dict]:
    params, place = store.load_params(path)
    about = dict(store.about(place))
    trained_with = about.get("vocabulary", "")
    if vocabulary and trained_with and vocabulary != trained_with:
        raise UserError(
            f"{path} was trained with vocabulary {trained_with[:12]}, the data were "
            f"prepared with {vocabulary[:12]}; prepare them with the model's vocabulary"
        )
    return params, {**about, "place": str(place)}


def _group(saved: dict[str, Tree], name: str, path: str, setting: str) -> Tree:
    if name not in saved:
        raise UserError(
            f"{setting} is {path}, which holds the trained groups "
            f"({', '.join(saved)}) but no {name}"
        )
    return saved[name]


def _as_float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32, copy=False)


def _in_memory(tree: Tree, config: T5Config) -> Tree:
    """`tree`, its layers in one subtree each, the way the model holds them."""
    return stack_layers(tree) if config.scan_layers else tree
