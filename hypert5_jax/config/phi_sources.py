"""φ from wherever it lies: a φ file, a peft adapter, a run that learned it."""

import dataclasses
from pathlib import Path

from hypert5_jax.checkpoints import merged, peft_adapter, store
from hypert5_jax.checkpoints.any_t5 import is_t5
from hypert5_jax.checkpoints.near_misses import first_bytes
from hypert5_jax.checkpoints.opened import OpenT5
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.config import gin_files
from hypert5_jax.config.pytorch_files import read_pytorch
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.phi import types
from hypert5_jax.phi.files import PhiHeader, load_phi
from hypert5_jax.training.state import fingerprints
from hypert5_jax.training.trained import trained_params


@dataclasses.dataclass(frozen=True)
class FoundPhi:
    """φ and where it was found.

    Attributes:
      phi: arrays of batch 1, or of as many tasks as a φ file holds.
      header: what it says of itself.
      kind: what was recognised, for people.
    """

    phi: types.Phi
    header: PhiHeader
    kind: str


def find_phi(path: str, base: OpenT5 | None) -> FoundPhi:
    """Reads φ, and compares it with the T5 it is for, if that is given.

    Args:
      path: a φ file, a folder of peft's, or a run that learned φ.
      base: the T5 it belongs to; an adapter does not say what it is for and needs it.

    Raises:
      UserError: no φ there, damaged, of a kind that φ cannot hold, or of another T5.
    """
    if peft_adapter.is_adapter(path):
        return _from_adapter(path, base)
    if absolute(path).is_dir() and store.holds_steps(path):
        return _from_run(path, base)
    _refuse_what_is_none(path)
    sites = None if base is None else base.config.sites
    # The sizes first: they are cheap, and say more.
    phi, header = load_phi(path, sites)
    if base is not None:
        _require_base(path, header.base_model, base)
    return FoundPhi(phi, header, f"φ file ({header.adaptation})")


def _from_adapter(path: str, base: OpenT5 | None) -> FoundPhi:
    if base is None:
        raise UserError(
            f"{path} is a peft adapter, which does not say for what weights it was "
            "trained; name that T5 with --base"
        )
    sites = base.config.sites
    phi, spec = peft_adapter.load_adapter(path, sites, read_pytorch)
    digest = merged.fingerprint(base.arrays)
    header = PhiHeader(spec, sites, digest, f"peft adapter {Path(path).name}")
    return FoundPhi(phi, header, "peft adapter (lora)")


def _from_run(path: str, base: OpenT5 | None) -> FoundPhi:
    place = store.newest(path)
    config = store.about(place)["config"]
    if not config:
        raise UserError(
            f"{path} does not hold the configuration it was trained with, which says "
            "what its φ is"
        )
    system: System = gin_files.rebuild(TrainRun, config).system
    variant = system.variant
    if variant.source == "generated":
        raise UserError(
            f"{path} trained a hypermodel, which writes φ from examples: python -m "
            f"hypert5_jax.adapt --checkpoint={path} --examples=… --output=phi.safetensors"
        )
    if variant.source == "none" or variant.spec is None:
        raise UserError(f"{path} trained a T5 and no φ; --to=t5x or huggingface fit it")
    begin = trained_params(system, path, None if base is None else base.place)
    digest = fingerprints({"downstream": begin.params["downstream"]})["downstream"]
    if base is not None:
        _require_base(path, digest, base)
    phi = learned.phi_of(begin.params["phi"], system.downstream, variant)
    sites = system.downstream.sites
    header = PhiHeader(variant.spec, sites, digest, f"learned, step {place.name}")
    return FoundPhi(phi, header, f"run that learned φ ({variant.adaptation})")


def _require_base(path: str, made_for: str, base: OpenT5) -> None:
    here = merged.fingerprint(base.arrays)
    if made_for != here:
        raise UserError(
            f"φ in {path} was made for the T5 with fingerprint {made_for[:16]}…; "
            f"{base.place} has {here[:16]}…: same sizes, other weights. Name the T5 that "
            "φ was made for with --base"
        )


def _refuse_what_is_none(path: str) -> None:
    """Near misses by name; a φ file is left to `load_phi`."""
    place = Path(path)
    if is_t5(path):
        raise UserError(
            f"{path} is a whole T5 (or, in T5X's format, perhaps a soft prompt beside "
            "one), and no φ; expected a φ file, a folder that peft saved, or a run that "
            "learned φ"
        )
    if (place / "model.json").is_file():
        raise UserError(
            f"{path} is a saved model, which writes φ from examples: python -m "
            f"hypert5_jax.adapt --checkpoint={path} --examples=… --output=phi.safetensors"
        )
    if place.is_dir():
        raise UserError(
            f"{path} is a folder that holds neither a peft adapter (adapter_config.json) "
            "nor the checkpoints of a run that learned φ"
        )
    if not place.is_file():
        raise UserError(
            f"nothing at {path}; expected a φ file, a folder that peft saved, or a run "
            "that learned φ"
        )
    with place.open("rb") as file:
        start = file.read(16)
    kind = first_bytes(start, place.stat().st_size)
    what = _soft_prompt(start, kind)
    if what:
        raise UserError(
            f"{path} is {what}: prompt-tuning puts its vectors before the input's "
            "embeddings, once, and that is no site of φ, which is keys and values or "
            "low-rank factors in every layer's attention. Neither can be made of the "
            "other; train a prefix for the task, or adapt with a hypermodel"
        )
    if kind in ("zip", "pickle"):
        raise UserError(
            f"{path} is a pickle or a zip archive, which is never opened here; expected "
            "a φ file (.safetensors), a folder that peft saved, or a run"
        )


def _soft_prompt(start: bytes, kind: str) -> str:
    if kind:
        named = {"numpy": "one NumPy array", "msgpack": "one msgpack array"}
        return f"{named[kind]}, a soft prompt" if kind in named else ""
    return "a soft prompt in msgpack" if b"prompt" in start else ""
