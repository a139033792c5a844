"""The table of docs/plans.md: every step of the paper's recipes on slices of every chip.

    python -m benchmarks.plans                       # compiles what the table lacks
    python -m benchmarks.plans --only=p3_large       # rows whose name has it
    python -m benchmarks.plans --again               # compiles all anew, by the code as it is
    python -m benchmarks.plans --quick               # in a fifth of the time, without cycles

Recipes whose training steps are the same are one row, and listed below the table. A row
takes minutes; it is written into docs/plans.json and docs/plans.md when it is there, so
that an interrupted command goes on, and a program that was compiled before is found in
--cache. Needs libtpu.
"""

import argparse
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.config import gin_files
from hypert5_jax.config.plan_arguments import PlanArguments
from hypert5_jax.config.plan_recipe import run_of
from hypert5_jax.config.plan_run import Compiler
from hypert5_jax.core.errors import UserError
from hypert5_jax.planning import report, topologies
from hypert5_jax.planning.estimates import estimate

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "gin" / "recipes"
FACTS, DOCS = ROOT / "docs" / "plans.json", ROOT / "docs" / "plans.md"
READING = ROOT / "docs" / "performance.md"
# The tables of DOCS and READING stand between these.
HEADINGS = ("## The table", "## What limits the step")
READING_HEADINGS = ("### What recipes ask for", "### What a worker reads")

# The most asked for first. XXL is XL's recipe with the model's sizes.
_LARGE = (
    "hyperpretraining/prefix_large",
    "p3_large/hypert5_prefix",
    "hyperpretraining/lora_large",
    "p3_large/hypert5_lora",
)
_XL = (
    "p3_xl/hypert5_prefix",
    "hyperpretraining/prefix_xl",
    "p3_xl/hypert5_lora",
    "hyperpretraining/lora_xl",
)
_BASELINES_LARGE = (
    "p3_large/t5_mtf",
    "p3_large/t5_mtf_fewshot",
    "p3_large/t5_mtf_prefix",
    "p3_large/t5_mtf_lora",
    "hyperpretraining/prefix_mlp_large",
    "p3_large/hypert5_prefix_mlp",
    "p3_large/hypert5_prefix_plus",
    "p3_large/hypert5_lora_plus",
)
_BASELINES_XL = (
    "p3_xl/t5_mtf",
    "p3_xl/t5_mtf_fewshot",
    "p3_xl/t5_mtf_prefix",
    "p3_xl/t5_mtf_lora",
)
_SLICES = {
    "large": ("v5p:2x2x2", "v5e:4x4", "v4:2x2x2", "v6e:2x4"),
    "xl": ("v5p:2x2x4", "v6e:4x4", "v4:2x4x4", "v5e:8x8"),
    "xxl": ("v5p:4x4x4", "v6e:8x8", "v4:4x4x8", "v5e:16x16"),
}
_FSDP = {"large": 8, "xl": 16, "xxl": 64}
_COLUMNS = (
    *("step", "size", "slice", "mesh", "peak, GiB", "fits", "ms", "MFU", "by cycles"),
    *("FLOPs", "tokens/s/chip", "rows/s/host", "hours", "chip-hours"),
)
_NAMES = {"large": "Large", "xl": "XL", "xxl": "XXL"}
_XXL = "gin/models/t5_1_1_xxl.gin"


@dataclasses.dataclass(frozen=True)
class Row:
    """One step on one slice."""

    recipe: str
    size: str
    topology: str

    @property
    def name(self) -> str:
        """Its key in FACTS."""
        return f"{self.recipe} {self.size} {self.topology}"

    @property
    def flags(self) -> list[str]:
        """Of `plan`, the topology left out."""
        more = [f"--gin_file={_XXL}"] if self.size == "xxl" else []
        fsdp = f"--gin.MeshConfig.fsdp={_FSDP[self.size]}"
        return [f"--gin_file=gin/recipes/{self.recipe}.gin", *more, fsdp]


def rows() -> Iterator[Row]:
    """All rows, the most asked for first."""
    for size, recipes in (("large", _LARGE), ("xl", _XL), ("xxl", _XL)):
        for topology in _SLICES[size]:
            for recipe in recipes:
                yield Row(recipe, size, topology)
    for size, recipes in (("large", _BASELINES_LARGE), ("xl", _BASELINES_XL)):
        for topology in _SLICES[size]:
            for recipe in recipes:
                yield Row(recipe, size, topology)


def facts(row: Row, cache: str, quick: bool) -> dict[str, Any]:
    """The measures of a row's training step, without its single operations."""
    recipe = gin_files.read_arguments("plans", "", row.flags)
    topology = topologies.read(row.topology)
    arguments = PlanArguments(
        recipe=recipe,
        slices=(topology,),
        programs=("train",),
        search=False,
        largest_batch=False,
        trace=False,
        quick=quick,
        json=None,
        cache=cache,
        prices={},
    )
    try:
        found = Compiler(arguments)(topology, "train")
    except UserError as error:
        return {"error": str(error)}
    if found["costs"] is not None:
        found["costs"]["operations"] = []
    return found | {"steps": run_of(recipe).train.steps}


@functools.cache
def alike() -> dict[str, list[str]]:
    """{recipe of a row: the paper's other recipes whose training step is the same}.

    Raises:
      KeyError: a recipe has a step that no row has.
    """
    planned = {_step(row.recipe): row.recipe for row in rows()}
    found: dict[str, list[str]] = {}
    for name in paper_recipes():
        same = planned[_step(name)]
        if same != name:
            found.setdefault(same, []).append(name)
    return found


def paper_recipes() -> list[str]:
    """The paper's training recipes at its own sizes, by path below gin/recipes."""
    paths = (path.relative_to(RECIPES) for path in RECIPES.rglob("*.gin"))
    names = sorted(str(p.with_suffix("")) for p in paths if not p.name.startswith("_"))
    others = ("small/", "peft/", "figure_4/sweep")
    return [name for name in names if not name.startswith(others)]


@functools.cache
def _step(recipe: str) -> str:
    """What decides a recipe's training step and how often it runs."""
    arguments = gin_files.GinArguments((f"gin/recipes/{recipe}.gin",), ())
    run = run_of(arguments)
    # Where checkpoints go and when changes nothing.
    train = dataclasses.replace(run.train, checkpoints=CheckpointConfig())
    return repr((run.system, run.rows, train))


def table(stored: dict[str, Any]) -> str:
    """The rows that are there, how many are not, and what they stand for."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for row in rows():
        found = stored.get(row.name)
        if found is not None:
            lines.append(_line(row, found))
    missing = list(_missing(stored))
    lines += ["", f"{len(stored)} of {len(list(rows()))} rows."]
    if missing:
        lines += ["Not compiled yet:", "", *missing]
    lines += ["", "Recipes whose training step is that of a row:", ""]
    for recipe, others in alike().items():
        lines.append(f"* `{recipe}`: {', '.join(f'`{name}`' for name in others)}")
    return "\n".join([*lines, ""])


def _missing(stored: dict[str, Any]) -> Iterator[str]:
    """A line for every slice that lacks rows."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for row in rows():
        if row.name not in stored:
            lacking.setdefault((row.size, row.topology), []).append(f"`{row.recipe}`")
    for (size, topology), recipes in lacking.items():
        yield f"* {_NAMES[size]} on {topology}: {', '.join(recipes)}"


def _line(row: Row, found: dict[str, Any]) -> str:
    begin = f"| `{row.recipe}` | {_NAMES[row.size]} | {row.topology} |"
    if "error" in found:
        return f"{begin} | | {found['error']}{' |' * (len(_COLUMNS) - 5)}"
    numbers = estimate(found, found["steps"], {})
    _, mesh, _, peak, fits, *_ = report.table_row(found, numbers)
    begin = f"{begin} {mesh} | {peak} | {fits} |"
    if numbers is None:
        return begin + " |" * (len(_COLUMNS) - 6)
    slow = "" if numbers.slow_mfu is None else f"{numbers.slow_mfu:.0%}"
    return (
        f"{begin} {numbers.seconds * 1e3:,.0f} | {numbers.mfu:.0%} "
        f"| {slow} | × {numbers.flops_ratio:.2f} "
        f"| {numbers.tokens_per_second:,.0f} | {numbers.rows_per_second:,.0f} "
        f"| {numbers.hours:,.1f} | {numbers.chip_hours:,.0f} |"
    )


def reading(stored: dict[str, Any]) -> str:
    """For each recipe and size the slice whose hosts have to read most."""
    most: dict[tuple[str, str], tuple[float, str, int]] = {}
    for row in rows():
        found = stored.get(row.name, {"costs": None})
        if found["costs"] is None:
            continue
        rate = estimate(found, found["steps"], {})
        assert rate is not None
        chips = topologies.read(row.topology).chips_per_host
        asked = rate.rows_per_second, row.topology, chips
        key = row.recipe, _NAMES[row.size]
        most[key] = max(most.get(key, asked), asked)
    lines = ["| recipe | size | slice | chips of a host | rows/s of a host |"]
    lines.append("|---|---|---|---:|---:|")
    for (recipe, size), (rate, slice_, chips) in most.items():
        lines.append(f"| `{recipe}` | {size} | {slice_} | {chips} | {rate:,.0f} |")
    return "\n".join([*lines, ""])


def write(stored: dict[str, Any]) -> None:
    """FACTS, and the tables in DOCS and READING."""
    FACTS.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
    _replace(DOCS, HEADINGS, table(stored))
    _replace(READING, READING_HEADINGS, reading(stored))


def _replace(file: Path, headings: tuple[str, str], middle: str) -> None:
    text = file.read_text()
    begin, end = (text.index(heading) for heading in headings)
    file.write_text(f"{text[:begin]}{headings[0]}\n\n{middle}\n{text[end:]}")


def main() -> None:
    """Fills the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="rows whose name has this text")
    parser.add_argument("--again", action="store_true", help="also rows that are there")
    parser.add_argument("--cache", default="runs/plans")
    parser.add_argument("--quick", action="store_true", help="see plan --quick")
    parser.add_argument("--table", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if not args.table and not topologies.has_compiler():
        sys.exit("libtpu is not installed: pip install -e '.[tpu]'")
    stored = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    wanted = [] if args.table else [row for row in rows() if args.only in row.name]
    for row in wanted:
        if row.name in stored and not args.again:
            continue
        stored[row.name] = facts(row, args.cache, args.quick)
        write(stored)
        print(_line(row, stored[row.name]), flush=True)
    write(stored)


if __name__ == "__main__":
    main()
