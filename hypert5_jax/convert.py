"""python -m hypert5_jax.convert --input=PATH --to=FORMAT --output=PATH

Weights of a T5, and φ, between the formats of T5X, Hugging Face, peft and this project;
see docs/convert.md. Lists what became of every array. Everything is written or nothing.
"""

from collections.abc import Sequence

from hypert5_jax.config import cli
from hypert5_jax.config.convert_arguments import PHI_FORMATS, parse


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    conversion = parse(argv, __doc__ or "")
    if conversion.to in PHI_FORMATS:
        from hypert5_jax.config.convert_phi import convert_phi

        convert_phi(conversion)
    else:
        from hypert5_jax.config.convert_t5 import convert_t5

        convert_t5(conversion)


if __name__ == "__main__":
    cli.run(main)
