"""python -m hypert5_jax.plan --gin_file=… --topology=v5p:4x4x4 : before renting a slice.

Compiles the recipe's real steps for the slice, on this machine, and says what they hold,
compute, send and take, and what the whole run comes to. No TPU is needed; the TPU's
compiler is (pip install -e '.[tpu]'), and without it the host's stands in. What was
compiled once is kept in --cache. See docs/plans.md.
"""

from collections.abc import Sequence

from hypert5_jax.config import cli
from hypert5_jax.config.plan_arguments import parse
from hypert5_jax.config.plan_run import plan, search


def main(argv: Sequence[str]) -> None:
    """Runs the front door.

    Raises:
      UserError: a mistake of the user's.
    """
    arguments = parse(argv, __doc__ or "")
    if arguments.search:
        search(arguments)
    else:
        plan(arguments)


if __name__ == "__main__":
    cli.run(main)
