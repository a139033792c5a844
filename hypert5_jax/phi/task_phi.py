"""φ of one task with what it says of itself: what is saved, loaded and handed around."""

import dataclasses
from collections.abc import Mapping

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import files, types
from hypert5_jax.phi.files import PhiHeader
from hypert5_jax.phi.spec import Site


@dataclasses.dataclass(frozen=True)
class TaskPhi:
    """φ of one task.

    Attributes:
      phi: arrays of batch 1.
      header: adaptation, sizes, the T5 it is for, where it came from.
    """

    phi: types.Phi
    header: PhiHeader

    def save(self, path: str) -> None:
        """Writes a φ file, whole or not at all.

        Raises:
          UserError: a value is not finite, or the file cannot be written.
        """
        files.save_phi(str(path), self.phi, self.header)

    @classmethod
    def load(
        cls,
        path: str,
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
