"""What `convert` is asked to do: its arguments as data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import SIZES

# Formats of a whole T5 and of a φ.
T5_FORMATS = ("t5x", "t5x-file", "huggingface")
PHI_FORMATS = ("peft", "phi", "hf-runtime", "merged-t5x", "merged-huggingface")
DTYPES = ("same", "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """One call of `convert`.

    Attributes:
      input: a checkpoint, a folder, a file, or the name of a public T5.
      to: one of T5_FORMATS or PHI_FORMATS.
      output: a folder or a file that does not exist yet.
      base: the T5 that a φ belongs to, anything that is read as a T5; "" if none.
      size: one of SIZES, which the T5 must have; "" takes the one that is there.
      overwrite: replace an earlier output of the same kind.
      dtype: of the weights written, one of DTYPES.
      keep_optimiser: T5X to T5X, take the optimiser's state along.
      shard_bytes: Hugging Face: the largest file of weights.
    """

    input: str
    to: str
    output: str
    base: str = ""
    size: str = ""
    overwrite: bool = False
    dtype: str = "same"
    keep_optimiser: bool = False
    shard_bytes: int = 5 * 10**9

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            if not getattr(self, name):
                raise UserError(f"--{name} is empty; expected a path")
        for name, value, choices in (
            ("to", self.to, T5_FORMATS + PHI_FORMATS),
            ("size", self.size, ("", *SIZES)),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in choices:
                listed = ", ".join(choice for choice in choices if choice)
                raise UserError(f"--{name} is {value!r}; expected one of {listed}")
        if self.shard_bytes < 1:
            raise UserError(f"--shard_bytes is {self.shard_bytes}; expected 1 or more")
        if self.keep_optimiser and self.to not in ("t5x", "t5x-file"):
            raise UserError(
                f"--keep_optimiser with --to={self.to}: only T5X's formats have a place "
                "for T5X's optimiser state"
            )

    def require_apart(self) -> None:
        """Refuses an output that would replace what is read.

        Raises:
          UserError: naming both.
        """
        target = Path(self.output).resolve()
        for name in ("input", "base"):
            given = getattr(self, name)
            source = Path(given).resolve()
            if given and target in (source, *source.parents):
                raise UserError(
                    f"--output={self.output} would replace --{name}={given}; choose "
                    "another --output"
                )


def parse(argv: Sequence[str], description: str) -> Conversion:
    """The conversion that the command line asks for.

    Raises:
      UserError: a value that no conversion has.
    """
    parser = cli.command_line("convert", description)
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="a checkpoint, folder, run or file, or the name of a public T5",
    )
    parser.add_argument(
        "--to", required=True, metavar="FORMAT", help="|".join(T5_FORMATS + PHI_FORMATS)
    )
    parser.add_argument(
        "--output", required=True, metavar="PATH", help="a folder or file to be made"
    )
    parser.add_argument(
        "--base", default="", metavar="PATH", help="the T5 that a φ belongs to"
    )
    parser.add_argument(
        "--size", default="", help=f"refuse a T5 that is not {'|'.join(SIZES)}"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an earlier output"
    )
    parser.add_argument("--dtype", default="same", help="|".join(DTYPES))
    parser.add_argument(
        "--keep_optimiser",
        action="store_true",
        help="T5X to T5X: take the optimiser's state along",
    )
    parser.add_argument(
        "--shard_bytes",
        type=int,
        default=Conversion.shard_bytes,
        metavar="N",
        help="Hugging Face: the largest file of weights (%(default)s)",
    )
    return Conversion(**vars(parser.parse_args(argv)))
