"""The command line of `plan`: its own flags, and those of a recipe."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from hypert5_jax.config import cli, gin_files
from hypert5_jax.core.errors import UserError
from hypert5_jax.planning import topologies
from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.steps import PROGRAMS
from hypert5_jax.planning.topologies import Topology


@dataclasses.dataclass(frozen=True)
class PlanArguments:
    """What is to be planned.

    Attributes:
      recipe: gin files and overrides.
      slices: topologies; the first is --topology's.
      programs: of steps.PROGRAMS.
      search: every mesh of every topology, in a table.
      largest_batch: look for it.
      quick: without the compiler's search for tiles.
      trace: name the most expensive operations.
      json: file that the plan is written to, or None.
      cache: folder of what was compiled.
      prices: {chip: US dollars an hour} in place of list prices.
    """

    recipe: gin_files.GinArguments
    slices: tuple[Topology, ...]
    programs: tuple[str, ...]
    search: bool
    largest_batch: bool
    trace: bool
    quick: bool
    json: str | None
    cache: str
    prices: Mapping[str, float]


def parse(argv: Sequence[str], description: str) -> PlanArguments:
    """Reads the arguments.

    Raises:
      UserError: a topology, a program or a price that is none, or no recipe.
    """
    parser = cli.command_line("plan", description)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME[,NAME]",
        help="slices such as v5p:4x4x4; several for --search",
    )
    parser.add_argument(
        "--programs",
        default=",".join(PROGRAMS),
        metavar="NAME,NAME",
        help="which steps (default: %(default)s; --search compiles train alone)",
    )
    parser.add_argument(
        "--search", action="store_true", help="a table over meshes and topologies"
    )
    parser.add_argument(
        "--largest_batch", action="store_true", help="the largest batch that fits"
    )
    parser.add_argument(
        "--trace", action="store_true", help="the most expensive operations"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="memory and FLOPs in a fifth of the time; nothing of the compiler's cycles",
    )
    parser.add_argument("--json", metavar="FILE", help="write all of it there")
    parser.add_argument(
        "--cache", default="runs/plans", metavar="DIR", help="default: %(default)s"
    )
    parser.add_argument(
        "--prices",
        default="",
        metavar="CHIP=DOLLARS,…",
        help="an hour of one chip, in place of list prices",
    )
    own, rest = parser.parse_known_args(list(argv))
    recipe = gin_files.read_arguments("hypert5_jax.plan", description, rest)
    if not recipe.files:
        raise UserError("nothing to plan: give a recipe with --gin_file=…")
    programs = tuple(name for name in own.programs.split(",") if name)
    if not programs:
        raise UserError(f"--programs={own.programs}: expected of {', '.join(PROGRAMS)}")
    for name in programs:
        if name not in PROGRAMS:
            raise UserError(
                f"--programs={own.programs}: {name!r} is none of {', '.join(PROGRAMS)}"
            )
    names = [name for name in own.topology.split(",") if name]
    if len(names) != 1 and not own.search:
        raise UserError(f"--topology={own.topology}: give one, or several to --search")
    return PlanArguments(
        recipe=recipe,
        slices=tuple(topologies.read(name) for name in names),
        programs=programs,
        search=own.search,
        largest_batch=own.largest_batch,
        trace=own.trace,
        quick=own.quick,
        json=own.json,
        cache=own.cache,
        prices=_prices(own.prices),
    )


def _prices(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, text.split(",")):
        chip, _, price = part.partition("=")
        try:
            found[chip] = float(price)
        except ValueError:
            chip = ""
        if chip not in CHIPS or not 0 <= found[chip] < math.inf:
            raise UserError(
                f"--prices={text}: expected such as v5p=4.20, of {', '.join(CHIPS)}"
            )
    return found
