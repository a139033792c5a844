"""python -m hypert5_jax.prepare --mixture=NAME: tokenises a mixture once, to files.

Any seqio task or mixture will do, also one of yours: name the module that registers it
with --module. Interrupted, it goes on where it was; see docs/data.md.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hypert5_jax.config import cli
from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.preparation.mixture import prepare_mixture

_CUT = ("hyper_inputs", "inputs", "targets")  # what rows cut


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
        "--skip_bad_lines",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N lines of the split that cannot be read, and count them",
    )
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
        skip_bad_lines=args.skip_bad_lines,
        cache_dir=args.cache_dir,
    )
    mixture = open_mixture(home, args.split)
    print("\n".join(_report(mixture, args.sequence_length or {})))


def _report(mixture: PreparedMixture, lengths: Mapping[str, int]) -> list[str]:
    """What was prepared, what was left out, and what is remarkable about the rest."""
    counts = [task.count for task in mixture.tasks]
    first = (
        f"{mixture.directory}: {sum(counts):,} examples of {len(counts)} tasks "
        f"(smallest {min(counts):,}, largest {max(counts):,})"
    )
    lines = [first]
    told: dict[str, list[str]] = defaultdict(list)
    for name, facts in mixture.about.items():
        for fact, text in facts.items():
            told[f"{fact}: {text}"].append(name)
    lines += [f"  {_whose(names)}: {fact}" for fact, names in told.items()]
    left_out: dict[str, dict[str, int]] = defaultdict(dict)
    for name, reasons in mixture.manifest["skipped"].items():
        for reason, count in reasons.items():
            left_out[reason][name] = count
    for reason, counted in left_out.items():
        total = sum(counted.values())
        lines.append(f"  {_whose(list(counted))}: {total:,} left out ({reason})")
    lines += [f"    {line}" for line in mixture.manifest.get("bad_lines", ())]
    repeated = sum(task.count - task.distinct for task in mixture.tasks)
    if repeated:
        lines.append(f"  {repeated:,} examples repeat an input of their task")
    known = {k: v for k, v in lengths.items() if k in _CUT}
    return lines + [f"  {line}" for line in mixture.cut_report(known)]


def _whose(names: Sequence[str]) -> str:
    """Names, while they fit a line: P3 has hundreds."""
    return names[0] if len(names) == 1 else f"{len(names)} tasks, as {names[0]}"


if __name__ == "__main__":
    cli.run(main)
