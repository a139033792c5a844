"""The parameters of a described system, from a run or from a folder to carry."""

import dataclasses
import re
from typing import Any

from etils import epath

from hypert5_jax.adapting import description as descriptions
from hypert5_jax.adapting import weights
from hypert5_jax.adapting.description import Description
from hypert5_jax.checkpoints import store, t5x
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.core.errors import UserError
from hypert5_jax.training.state import fingerprints
from hypert5_jax.training.trained import hold, trained_params


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A described system with its parameters.

    Attributes:
      description: what model.json says.
      params: every group, layers stacked; frozen groups in the dtype asked for.
      base_model: fingerprint of the downstream T5, as its origin has it.
      step: updates of the checkpoint; None of a folder to carry.
    """

    description: Description
    params: dict[str, Any]
    base_model: str
    step: int | None


def load(path: str, base: str | None, frozen_dtype: str | None) -> Loaded:
    """Reads what `path` holds; see `Model.load`."""
    place = absolute(path)
    folder = _described_folder(place)
    if folder is None:
        raise UserError(_why_not(place))
    description = descriptions.read(folder)
    dtype = frozen_dtype or description.frozen_dtype
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"frozen_dtype is {dtype!r}; expected float32 or bfloat16")
    if description.stored:
        return _carried(folder, description, base, dtype)
    return _trained(place, description, base, dtype)


def _described_folder(place: epath.Path) -> epath.Path | None:
    """The folder with model.json: that of the run, also for one of its steps."""
    above = [place]
    if place.name.isdigit():
        above.append(above[-1].parent)
    if above[-1].name == "checkpoints":
        above.append(above[-1].parent)
    return next((f for f in above if (f / descriptions.FILE).exists()), None)


def _why_not(place: epath.Path) -> str:
    if not place.exists():
        return f"there is no {place}; expected a run, or a folder of Model.save"
    if (place / "hypermodel.safetensors").exists() or (
        place / "downstream.safetensors"
    ).exists():
        return (
            f"{place} has parameters but no {descriptions.FILE}: saving or copying it "
            "was never finished; save or copy it again"
        )
    if store.holds_steps(place):
        return (
            f"{place} has checkpoints but no {descriptions.FILE}, which says what they "
            "are (runs before that file have none). The command that trained it writes "
            "it, and trains nothing if the run is done: python -m hypert5_jax.train "
            f"--gin_file={place / 'config.gin'}"
        )
    if t5x.is_t5x(str(place)):
        return (
            f"{place} is a T5 alone; adapting needs a run that trained a hypermodel "
            "beside it"
        )
    return (
        f"{place} has no {descriptions.FILE}; expected a run of hypert5_jax.train, or a "
        "folder of Model.save"
    )


def _trained(
    place: epath.Path, description: Description, base: str | None, dtype: str
) -> Loaded:
    system = description.system
    newest = store.newest(place)
    about = store.about(newest)
    _require_base(place, about, base)
    begin = trained_params(
        system, str(place), base, vocabulary=description.vocabulary.fingerprint
    )
    digest = fingerprints({"downstream": begin.params["downstream"]})["downstream"]
    params = hold(system, begin.params, dtype)
    return Loaded(description, params, digest, about["data"]["start_step"])


def _require_base(place: epath.Path, about: Any, base: str | None) -> None:
    """Refuses a run whose frozen T5 is not on this machine."""
    frozen = about["frozen"].get("downstream")
    if frozen is None or base is not None:
        return
    origin = frozen["origin"]
    if re.match(r"random, seed \d+$", origin):
        return
    there = "://" in origin or absolute(origin).exists()
    if not there:
        raise UserError(
            f"{place} was trained beside the T5 at {origin}, which is not here; say "
            "where it is (base=… of load, --base=… of the commands)"
        )


def _carried(
    folder: epath.Path, description: Description, base: str | None, dtype: str
) -> Loaded:
    if base is not None:
        raise UserError(
            f"{folder} has its T5 inside; leave base={base} out, or load the run it was "
            "saved from"
        )
    system = description.system
    shapes = system.abstract_params()
    params = {}
    for group in system.groups:
        file = folder / f"{group}.safetensors"
        params[group] = weights.read_group(file, shapes[group])
        digest = fingerprints({group: params[group]})[group]
        if digest != description.stored.get(group):
            raise UserError(
                f"{file} is not the one that {descriptions.FILE} was written beside; "
                "copy the whole folder again"
            )
    return Loaded(
        description, hold(system, params, dtype), description.base_model, None
    )
