"""The cells of a sweep: built from gin files, checked together, done one by one.

Cells are the sweep's recipes times the values it goes over, each with a folder of its own:

    {output_dir}/{recipe}/{setting}_{value}/…
"""

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import gin.config as gin_config

from hypert5_jax.config import gin_files
from hypert5_jax.config.resumption import require_same_training
from hypert5_jax.config.starting_point import check_start, require_start
from hypert5_jax.config.train_and_judge import is_done, train_and_judge
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.config.train_sweep import TrainSweep
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts
from hypert5_jax.training.interruption import Interruption

_ROOT = "recipes"
_SWEEP = "TrainSweep."


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      name: its folder below the sweep's output_dir.
      recipe: its gin file.
      run: the run.
      config_text: its resolved configuration.
    """

    name: str
    recipe: str
    run: TrainRun
    config_text: str


def is_sweep(arguments: gin_files.GinArguments) -> bool:
    """Whether the gin files describe a TrainSweep."""
    return any(n.startswith(_SWEEP) for n in gin_files.settings(arguments))


def build_sweep(arguments: gin_files.GinArguments) -> tuple[TrainSweep, list[Cell]]:
    """The sweep and all its cells.

    What the command line overrides is the sweep's where the sweep's own file sets or
    uses that name, and every cell's otherwise.

    Raises:
      UserError: the sweep's file binds what a cell should; see cells_of.
    """
    own = gin_files.settings(dataclasses.replace(arguments, bindings=()))
    for name in own:
        if "." in name and not name.startswith(_SWEEP):
            raise UserError(
                f"{name} is set beside a sweep, where no cell reads it; put it in "
                "TrainSweep.bindings, its gin file in TrainSweep.files, or give it as "
                f"--gin.{name}=…"
            )
    mine: list[str] = []
    cells: list[str] = []
    for binding in arguments.bindings:
        name = binding.split(" = ", 1)[0]
        there = mine if name.startswith(_SWEEP) or name in own else cells
        there.append(binding)
    given = dataclasses.replace(arguments, bindings=tuple(mine))
    sweep, _ = gin_files.build(TrainSweep, given)
    given = dataclasses.replace(arguments, bindings=tuple(cells))
    return sweep, cells_of(sweep, given)


def cells_of(sweep: TrainSweep, arguments: gin_files.GinArguments) -> list[Cell]:
    """Builds every cell.

    Args:
      sweep: the sweep.
      arguments: of the command line: `bindings` that every cell takes last, and where
        files are looked for.

    Raises:
      UserError: a cell that is no run, or two that share a folder, both named.
    """
    cells: list[Cell] = []
    for recipe in sweep.recipes:
        for values in itertools.product(*sweep.over.values()):
            cells.append(_cell(sweep, arguments, recipe, dict(zip(sweep.over, values))))
    owners: dict[str, Cell] = {}
    for cell in cells:
        folder = cell.run.model_dir
        other = owners.setdefault(folder, cell)
        if other is not cell:
            raise UserError(
                f"two cells of the sweep share the folder {folder}: {other.name} of "
                f"{other.recipe} and {cell.name} of {cell.recipe}; give the recipes "
                "different names, and each setting different values"
            )
    return cells


def _cell(
    sweep: TrainSweep,
    arguments: gin_files.GinArguments,
    recipe: str,
    values: Mapping[str, Any],
) -> Cell:
    name = "/".join([_recipe_name(recipe), *map(_folder, values, values.values())])
    own = {**sweep.bindings, **values, "MODEL_DIR": f"{sweep.output_dir}/{name}"}
    try:
        bindings = tuple(f"{k} = {_as_gin(k, v)}" for k, v in own.items())
        given = dataclasses.replace(
            arguments,
            files=(recipe, *sweep.files),
            bindings=(*bindings, *arguments.bindings),
        )
        run, config_text = gin_files.build(TrainRun, given)
    except UserError as error:
        raise UserError(f"cell {name} of the sweep: {error}") from error
    return Cell(name, recipe, run, config_text)


def _recipe_name(file: str) -> str:
    """A recipe's path below gin/recipes, elsewhere the file's name, without .gin."""
    parts = PurePath(file).with_suffix("").parts
    below = parts[parts.index(_ROOT) + 1 :] if _ROOT in parts else parts[-1:]
    return "/".join(below)


def _folder(setting: str, value: Any) -> str:
    words = re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
    return f"{setting.split('.')[-1].lower()}_{words}"


def _as_gin(name: str, value: Any) -> str:
    text = repr(value)
    try:
        same = gin_config.parse_value(text) == value
    except (ValueError, SyntaxError):
        same = False
    if not same:
        raise UserError(
            f"{name} is {text}; a sweep's values are numbers, texts, True, False, None, "
            "and tuples, lists or dicts of them"
        )
    return text


def check_cells(cells: Sequence[Cell]) -> None:
    """Checks every cell without memory, those of one structure once.

    Raises:
      UserError: naming the first cell that does not fit.
    """
    seen: set[str] = set()
    for cell in cells:
        run = cell.run
        structure = repr((run.system, run.train, run.data, run.held_out))
        if structure not in seen:
            with _naming(cell):
                check_abstractly(run)
            seen.add(structure)


def require_starts(cells: Sequence[Cell]) -> None:
    """Checks that each cell has what it starts from, or an earlier cell makes it, and
    that none was trained to its end with other settings.

    Raises:
      UserError: naming the first cell that does not.
    """
    for cell, made in _in_order(cells):
        with _naming(cell):
            require_same_training(cell.run)
            require_start(cell.run, made)


def check_starts(cells: Sequence[Cell]) -> list[str]:
    """The same where nothing is to be trained yet; see `check_start`."""
    notes: list[str] = []
    for cell, made in _in_order(cells):
        with _naming(cell):
            require_same_training(cell.run)
            notes += check_start(cell.run, made)
    return list(dict.fromkeys(notes))


def _in_order(cells: Sequence[Cell]) -> Iterator[tuple[Cell, list[str]]]:
    """Cells that are not done, each with the folders of all before it."""
    for number, cell in enumerate(cells):
        if not is_done(cell.run, cell.config_text):
            yield cell, [other.run.model_dir for other in cells[:number]]


@contextlib.contextmanager
def _naming(cell: Cell) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"cell {cell.name} of the sweep: {error}") from error


def run_cells(cells: Sequence[Cell]) -> bool:
    """Trains and judges the cells in order; what is done is passed over.

    Returns:
      Whether all are done; False if SIGTERM stopped one of them.
    """
    with Interruption() as interruption:
        for number, cell in enumerate(cells, start=1):
            if interruption.asked():
                return False
            hosts.say(f"\n== {number}/{len(cells)} {cell.name}")
            if not train_and_judge(cell.run, cell.config_text):
                return False
    return True
