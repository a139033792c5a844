"""φ of one task with what it says of itself: what is saved, loaded and handed around."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import combine, files, types
from hypert5_jax.phi.files import PhiHeader
from hypert5_jax.phi.spec import PrefixSpec, Site


@dataclasses.dataclass(frozen=True)
class TaskPhi:
    """φ of one task.

    Attributes:
      phi: arrays of batch 1.
      header: adaptation, sizes, the T5 it is for, where it came from.
    """

    phi: types.Phi
    header: PhiHeader

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a φ file, whole or not at all.

        Raises:
          UserError: a value is not finite, a file is there that holds no φ, or the file
            cannot be written.
        """
        files.save_phi(str(path), self.phi, self.header)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        sites: Mapping[str, Site] | None = None,
        base_model: str | None = None,
    ) -> "TaskPhi":
        """Reads a φ file; arguments and errors as `files.load_phi`.

        Raises:
          UserError: also for a file that holds φ of several tasks.
        """
        phi, header = files.load_phi(str(path), sites, base_model)
        count = types.batch_size(phi)
        if count != 1:
            raise UserError(f"{path} holds {count} φ; expected that of one task")
        return cls(phi, header)


def combined(phis: Sequence[types.Phi], header: PhiHeader, how: str) -> TaskPhi:
    """The φ of one task's contexts as one.

    Args:
      phis: each of batch 1 and of the header's sizes.
      header: of the result, but for the sizes that combining changes.
      how: "mean" or "concatenate", see phi/combine.py; one φ stays as it is.
    """
    count, spec = len(phis), header.spec
    if count == 1:
        return TaskPhi(phis[0], header)
    join = {"mean": combine.mean, "concatenate": combine.concatenate}[how]
    if not isinstance(spec, PrefixSpec):
        # Both join ranks; the scale, alpha / rank, is in the arrays and stays.
        alpha = None if spec.alpha is None else count * spec.alpha
        header = dataclasses.replace(
            header,
            spec=dataclasses.replace(spec, rank=count * spec.rank, alpha=alpha),
        )
    elif how == "concatenate":
        header = dataclasses.replace(
            header, spec=dataclasses.replace(spec, length=count * spec.length)
        )
    return TaskPhi(join(phis), header)


def task_phis(values: Any) -> list[TaskPhi]:
    """What a caller of the library gives for several φ, as a list.

    Raises:
      UserError: it is none, or something among them is no TaskPhi.
    """
    several = isinstance(values, Iterable) and not isinstance(values, str)
    found = list(values) if several else [values]
    for one in found:
        if not isinstance(one, TaskPhi):
            text = repr(one) if isinstance(one, str | None) else type(one).__name__
            raise UserError(
                f"φ is {text}; expected what `adapt` or `hypert5_jax.Phi.load(path)` "
                "gives, for all inputs or one for each"
            )
    return found


def side_by_side(phis: Sequence[TaskPhi]) -> tuple[list[int], types.Phi]:
    """The different ones of several φ as one batch, and the place there of each; of
    none, no φ.

    Raises:
      UserError: shapes differ.
    """
    if not phis:
        return [], types.Phi()
    different = list({id(one): one for one in phis}.values())
    place_of = {id(one): place for place, one in enumerate(different)}
    batch = combine.stack([one.phi for one in different])
    return [place_of[id(one)] for one in phis], batch
