"""φ in other projects' formats."""

from hypert5_jax.config.convert_arguments import Conversion
from hypert5_jax.core.errors import UserError


def convert_phi(conversion: Conversion) -> None:
    """Converts a φ.

    Raises:
      UserError: always, so far.
    """
    raise UserError(f"--to={conversion.to} is not here yet")
