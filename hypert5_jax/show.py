"""python -m hypert5_jax.show --mixture=NAME -n 3: rows of a mixture, as text and ids.

What is printed is what training would read with these lengths and this seed. A small
mixture is prepared on first use.
"""

import argparse
from collections.abc import Sequence

import numpy as np

from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import CONTEXTS, RowFormat
from hypert5_jax.data.sampler import Sampler
from hypert5_jax.preparation.first_use import ensure_prepared
from hypert5_jax.prepare import add_mixture_arguments


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    parser = argparse.ArgumentParser(prog="hypert5_jax.show", description=__doc__)
    add_mixture_arguments(parser)
    parser.add_argument("-n", type=int, default=3, help="number of contexts to show")
    parser.add_argument("--start_step", type=int, default=0, help="first context")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--context", default="hypermodel", help="|".join(CONTEXTS))
    parser.add_argument("--max_shots", type=int, default=16)
    parser.add_argument("--targets_per_context", type=int, default=1)
    parser.add_argument("--hyper_length", type=int, default=1024)
    parser.add_argument("--input_length", type=int, default=384)
    parser.add_argument("--target_length", type=int, default=128)
    args = parser.parse_args(argv)
    if args.n < 1:
        raise UserError(f"-n is {args.n}; expected 1 or more contexts to show")
    if not 0 <= args.start_step < 2**63 - args.n:
        raise UserError(
            f"--start_step is {args.start_step}; contexts are numbered from 0, up to "
            "2**63 - 1"
        )
    if not -(2**63) <= args.seed < 2**63:
        raise UserError(
            f"--seed is {args.seed}; expected a number from -2**63 to 2**63 - 1"
        )
    row = RowFormat(
        lengths={
            "hyper_inputs": args.hyper_length,
            "inputs": args.input_length,
            "targets": args.target_length,
        },
        max_shots=args.max_shots,
        context=args.context,
        targets_per_context=args.targets_per_context,
        too_few="fewer",
    )
    mixture = ensure_prepared(
        args.mixture,
        args.split,
        args.output_dir,
        modules=args.module,
        num_workers=args.num_workers,
        lengths=args.sequence_length,
    )
    for name, count in mixture.longer_than(row.lengths).items():
        print(f"{name}: {count:,} of {len(mixture.index):,} examples are cut")
    sampler = Sampler(mixture, row, args.seed)
    for number in range(args.start_step, args.start_step + args.n):
        print("\n".join(describe(sampler, number)))


def describe(sampler: Sampler, number: int) -> list[str]:
    """The lines that show context `number` and the target examples that share it."""
    numbers = np.array([number], np.int64)
    task = sampler.tasks[int(sampler.draw(numbers).tasks[0])]
    hyper, inputs, targets, weights = sampler.arrays(numbers)
    decode = sampler.mixture.vocabulary.decode
    lines = [f"--- {number}: {task.name} ({task.count:,} examples)"]
    parts = [("hyper_inputs", hyper[0])] if hyper.shape[1] else []
    for one_input, one_target in zip(inputs, targets):
        parts += [("inputs", one_input), ("targets", one_target)]
    for name, ids in parts:
        used = int(np.max(np.flatnonzero(ids), initial=-1)) + 1
        lines.append(f"{name} [{used}/{len(ids)}]: {decode(ids[:used])}")
        lines.append(f"  ids: {' '.join(map(str, ids[:used].tolist()))}")
    lines.append(f"  loss on {int(weights.sum())} target tokens")
    return lines


if __name__ == "__main__":
    cli.run(main, only_prints=True)
