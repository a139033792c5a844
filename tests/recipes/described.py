"""What each recipe of gin/recipes holds and costs, by abstract evaluation.

python -m tests.recipes.described rewrites tests/goldens/recipes.json, the lines "Memory:"
and "Time:" of the recipes' headers and the table of docs/recipes.md; a test compares.
Sizes are exact. Times are FLOPs counted from shapes over an assumed share of the peak.
"""

import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Before jax: the 8 devices of the slice that the recipes are meant for.
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax

from hypert5_jax.config import gin_files
from hypert5_jax.config.sweep_cells import Cell, build_sweep, is_sweep
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.core import trees
from hypert5_jax.parallel.mesh import make_mesh
from hypert5_jax.planning import model_flops
from hypert5_jax.planning.kept import kept_bytes
from hypert5_jax.planning.model_flops import Rows
from hypert5_jax.training import state as states
from hypert5_jax.training.state import TrainState

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "gin" / "recipes"
GOLDEN = ROOT / "tests" / "goldens" / "recipes.json"
DOCS = ROOT / "docs" / "recipes.md"
# The table of DOCS stands between these.
HEADINGS = ("## The list", "## Running a row")
DEVICES = 8
# bfloat16 peak of one TPU v6e chip (Google's documentation), and what we assume is used.
PEAK_FLOPS = 918e12
USED = 0.3


@functools.cache
def _all_names() -> tuple[str, ...]:
    """Every recipe's path below gin/recipes, without .gin; parts begin with `_`."""
    found = (path.relative_to(FOLDER) for path in FOLDER.rglob("*.gin"))
    return tuple(
        sorted(str(p.with_suffix("")) for p in found if not p.name.startswith("_"))
    )


@functools.cache
def tune_names() -> tuple[str, ...]:
    """The recipes of `tune`."""
    return tuple(
        name
        for name in _all_names()
        if any(n.startswith("TuneRun.") for n in gin_files.settings(arguments(name)))
    )


@functools.cache
def names() -> tuple[str, ...]:
    """The recipes of `train`: all others."""
    return tuple(name for name in _all_names() if name not in tune_names())


def arguments(name: str, *bindings: str) -> gin_files.GinArguments:
    """The command line of a recipe."""
    return gin_files.GinArguments((f"gin/recipes/{name}.gin",), bindings)


@functools.cache
def sweeps() -> tuple[str, ...]:
    """The recipes that are sweeps of others."""
    return tuple(name for name in names() if is_sweep(arguments(name)))


@functools.cache
def run_of(name: str) -> TrainRun:
    """A recipe as it is started."""
    return gin_files.build(TrainRun, arguments(name))[0]


def cells_of(name: str) -> list[Cell]:
    """The runs of a sweep."""
    return build_sweep(arguments(name))[1]


def structure(run: TrainRun) -> str:
    """Runs of one structure have the same shapes, step and layout."""
    return repr((run.system, run.train, run.data.batch_shapes()))


@functools.cache
def _state(name: str) -> TrainState:
    return check_abstractly(run_of(name))


@functools.cache
def _first_of(structure_text: str) -> str:
    runs = (name for name in names() if name not in sweeps())
    return next(n for n in runs if structure(run_of(n)) == structure_text)


def state_of(name: str) -> TrainState:
    """The state of a recipe's full-size run as ShapeDtypeStructs; its step is traced."""
    return _state(_first_of(structure(run_of(name))))


def parameters_of(run: TrainRun) -> dict[str, int]:
    """{group: number of parameters}."""
    shapes = run.system.abstract_params()
    return {group: trees.count(tree) for group, tree in shapes.items()}


def kept_of(name: str) -> int:
    """Bytes a device keeps of one forward pass for its backward pass."""
    return _kept(_first_of(structure(run_of(name))))


@functools.cache
def _kept(name: str) -> int:
    run, state = run_of(name), state_of(name)
    return kept_bytes(
        run.system,
        state.trainable,
        state.frozen,
        run.data.batch_shapes(),
        DEVICES * run.train.microbatches,
    )


def described(name: str) -> dict[str, Any]:
    """Parameters by group, bytes by use, bytes a device holds, FLOPs of the run."""
    run, state = run_of(name), state_of(name)
    return {
        "parameters": parameters_of(run),
        "trained": sorted(state.trainable),
        "bytes": {
            "trained": trees.nbytes(state.trainable),
            "optimiser": trees.nbytes(state.opt_state),
            "frozen": trees.nbytes(state.frozen),
        },
        **_device_bytes(run, state),
        "flops": run.train.steps * step_flops(run),
    }


def _device_bytes(run: TrainRun, state: TrainState) -> dict[str, int]:
    """What a device holds of the state, and of the gradient, in float32."""
    shardings = states.state_shardings(
        make_mesh(run.train.mesh), state, run.system.logical_axes()
    )

    def held(tree: Any, layout: Any) -> int:
        each = jax.tree.map(
            lambda leaf, at: math.prod(at.shard_shape(leaf.shape)), tree, layout
        )
        sizes = jax.tree.map(lambda n, leaf: n * leaf.dtype.itemsize, each, tree)
        return sum(jax.tree.leaves(sizes))

    trained = held(state.trainable, shardings.trainable)
    rest = held(state.frozen, shardings.frozen)
    rest += held(state.opt_state, shardings.opt_state)
    return {"device_bytes": trained + rest, "gradient_bytes": trained}


def step_flops(run: TrainRun) -> int:
    """FLOPs of one update, the forward pass once more where layers are recomputed."""
    row = run.data.row_format
    rows = Rows(
        rows=run.data.batch_size,
        inputs=row.input_length,
        targets=row.target_length,
        contexts=run.data.contexts,
        context=row.hyper_length,
    )
    found = model_flops.step_flops(run.system, rows)
    recomputed = run.system.downstream.remat in ("full", "blocks")
    return found.total + (found.forward if recomputed else 0)


def hours(flops: float) -> float:
    """Expected hours of training on the slice."""
    return flops / (DEVICES * PEAK_FLOPS * USED) / 3600


def device_total(facts: dict[str, Any]) -> int:
    """Bytes of a device: state, gradient and what is kept for the backward pass."""
    return facts["device_bytes"] + facts["gradient_bytes"] + facts["kept_bytes"]


def header_lines(name: str, facts: dict[str, Any]) -> dict[str, str]:
    """The lines of a recipe's header that are computed, by how they begin.

    Args:
      name: of the recipe.
      facts: of all runs, as stored.
    """
    if name in sweeps():
        cells = cells_of(name)
        recipes = [cell.run.recipe.name for cell in cells if cell.run.recipe]
        total = sum(hours(facts[recipe]["flops"]) for recipe in recipes)
        return {
            "# Time:": (
                f"# Time: {total:.0f} h on a TPU v6e-8 for {len(cells)} cells, estimated "
                "(docs/recipes.md)."
            )
        }
    own = facts[name]
    giga = {use: f"{n / 1e9:.2f}" for use, n in own["bytes"].items()}
    each, whole = own["device_bytes"] / 1e9, device_total(own) / 1e9
    return {
        "# Memory:": (
            f"# Memory: trained {giga['trained']} GB, optimiser {giga['optimiser']} GB, "
            f"frozen {giga['frozen']} GB;\n#   {each:.2f} GB on each of 8 chips, "
            f"{whole:.1f} GB with gradients and activations."
        ),
        "# Time:": (
            f"# Time: {hours(own['flops']):.1f} h on a TPU v6e-8, estimated "
            "(docs/recipes.md); judging not counted."
        ),
    }


def table(facts: dict[str, Any]) -> str:
    """All recipes but those of small/, as docs/recipes.md lists them."""
    lines = [
        "| recipe | row | parameters trained | state, GB | all, GB | hours | starts |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for name in names():
        if name.startswith("small/"):
            continue
        if name in sweeps():
            time = header_lines(name, facts)["# Time:"].split()[2]
            lines.append(f"| `{name}` | all points | | | | {time} | |")
            continue
        recipe, own = run_of(name).recipe, facts[name]
        assert recipe is not None
        row = recipe.table.replace("_", " ")
        row = ", ".join(filter(None, (row, recipe.system, recipe.column)))
        trained = sum(own["parameters"][group] for group in own["trained"])
        start = f"`{recipe.adaptation_recipe}`" if recipe.adaptation_recipe else "T5"
        lines.append(
            f"| `{name}` | {row} | {trained:,} | {own['device_bytes'] / 1e9:.2f} "
            f"| {device_total(own) / 1e9:.1f} | {hours(own['flops']):.1f} | {start} |"
        )
    return "\n".join(lines)


def with_table(text: str, facts: dict[str, Any]) -> str:
    """The documentation with the table between its two headings."""
    begin, end = (text.index(heading) for heading in HEADINGS)
    return f"{text[:begin]}{HEADINGS[0]}\n\n{table(facts)}\n\n{text[end:]}"


def with_header(text: str, lines: dict[str, str]) -> str:
    """A recipe's text with those lines in its header."""
    for begin, line in lines.items():
        text = re.sub(
            rf"^{begin}.*(\n#   [\d.]+ GB .*)?$",
            line,
            text,
            count=1,
            flags=re.MULTILINE,
        )
    return text


def stored() -> dict[str, Any]:
    """The goldens."""
    return json.loads(GOLDEN.read_text())


def main() -> None:
    """Rewrites goldens, headers and the table of the documentation."""
    runs = [name for name in names() if name not in sweeps()]
    found = {n: described(n) | {"kept_bytes": kept_of(n)} for n in runs}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    for name in names():
        path = FOLDER / f"{name}.gin"
        path.write_text(with_header(path.read_text(), header_lines(name, found)))
    DOCS.write_text(with_table(DOCS.read_text(), found))


if __name__ == "__main__":
    main()
