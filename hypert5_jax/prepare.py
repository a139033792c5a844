"""python -m hypert5_jax.prepare --mixture=NAME: tokenises a mixture once, to files.

Any seqio task or mixture will do, also one of yours: name the module that registers it
with --module. Interrupted, it goes on where it was; see docs/data.md.
"""

import argparse
from collections.abc import Sequence

from hypert5_jax.config import cli
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.preparation.mixture import prepare_mixture


def lengths_of(text: str) -> dict[str, int]:
    """Reads `inputs=512,targets=128`.

    Raises:
      argparse.ArgumentTypeError: the text has another form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",") if part]
        return {name.strip(): int(number) for name, number in pairs}
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form inputs=512,targets=128"
        ) from error


def add_mixture_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say which prepared data is meant."""
    parser.add_argument("--mixture", required=True, help="seqio task or mixture")
    parser.add_argument("--split", default="train")
    parser.add_argument(
        "--module",
        action="append",
        default=[],
        help="module or .py file to import, which registers the mixture; repeatable",
    )
    parser.add_argument(
        "--output_dir", default="prepared", help="folder above all prepared mixtures"
    )
    parser.add_argument("--num_workers", type=int, default=1, help="processes")
    parser.add_argument(
        "--sequence_length",
        type=lengths_of,
        help="for preprocessors that ask for it: inputs=512,targets=128",
    )


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    parser = argparse.ArgumentParser(prog="hypert5_jax.prepare", description=__doc__)
    add_mixture_arguments(parser)
    parser.add_argument("--overwrite", action="store_true", help="start afresh")
    parser.add_argument(
        "--cache_dir",
        help="read tasks that seqio_cache_tasks (Beam) cached there; docs/seqio.md",
    )
    args = parser.parse_args(argv)
    home = prepare_mixture(
        args.mixture,
        args.split,
        args.output_dir,
        modules=args.module,
        num_workers=args.num_workers,
        lengths=args.sequence_length,
        overwrite=args.overwrite,
        cache_dir=args.cache_dir,
    )
    mixture = open_mixture(home, args.split)
    counts = [task.count for task in mixture.tasks]
    print(
        f"{mixture.directory}: {sum(counts):,} examples of {len(counts)} tasks "
        f"(smallest {min(counts):,}, largest {max(counts):,})"
    )
    for name, reasons in mixture.manifest["skipped"].items():
        for reason, count in reasons.items():
            print(f"  {name}: {count:,} left out ({reason})")


if __name__ == "__main__":
    cli.run(main)
