"""Reads what `evaluate` and `tune` leave, and refuses what is something else."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting.paper.tables import SWEEPS, TABLES

Json = Mapping[str, Any]
RESULTS, CELLS, SETTINGS = "results.json", "cells.jsonl", "settings.json"


@dataclass(frozen=True)
class Result:
    """One evaluation.

    Attributes:
      file: its results.json.
      recipe: which experiment it is.
      contexts: {kind of context: its tables, as evaluate writes them}.
      settings: what decides its scores.
      checkpoint: what was judged.
      config: the gin text the judged run was trained with, if its checkpoint had it;
        else what evaluate was given.
      data_about: {source of data: {fact: text}}, what the data say of themselves.
      parameters: {group: how many}.
    """

    file: epath.Path
    recipe: Json
    contexts: Json
    settings: Json
    checkpoint: str | None
    config: str
    data_about: Json
    parameters: Json

    @property
    def table(self) -> str:
        """The table it belongs to; "" for none."""
        return self.recipe.get("table") or ""


@dataclass(frozen=True)
class Run:
    """One run of a sweep: one φ tuned on one task.

    Attributes:
      method, start: "Prefix-MLP", "Hyper".
      task, column: the task, and what its column is called.
      learning_rate, seed: of this run.
      metric: what its scores are.
      steps: training steps after which it was judged.
      scores: percent at each of them.
      source_score: percent of what its φ was taken from; None for a random one.
      seconds: it took.
      place: file and line.
    """

    method: str
    start: str
    task: str
    column: str
    learning_rate: float
    seed: int
    metric: str
    steps: tuple[int, ...]
    scores: tuple[float, ...]
    source_score: float | None
    seconds: float
    place: str


@dataclass(frozen=True)
class Sweep:
    """One sweep of `tune`, or as much as there is of it.

    Attributes:
      file: its cells.jsonl.
      recipe: which experiment it is.
      settings: what decides its scores, and which runs it is to have.
      runs: those that are finished.
    """

    file: epath.Path
    recipe: Json
    settings: Json
    runs: tuple[Run, ...]

    @property
    def table(self) -> str:
        """The table it belongs to; "" for none."""
        return self.recipe.get("table") or ""


def read(folders: Sequence[str]) -> tuple[list[Result], list[Sweep]]:
    """Everything in the folders and below them, each file once.

    Raises:
      UserError: no such folder, or a file that is not what its name says.
    """
    files: dict[str, epath.Path] = {}
    for folder in map(epath.Path, folders):
        if not folder.is_dir():
            raise UserError(
                f"--results names {folder}, which is no folder; expected folders that "
                "evaluate or tune wrote to, or folders above them"
            )
        try:
            _find(folder, files, set())
        except OSError as error:
            raise UserError(f"cannot read below {folder}: {error}") from error
    found = files.values()
    return (
        [read_result(file) for file in found if file.name == RESULTS],
        [read_sweep(file) for file in found if file.name == CELLS],
    )


def _find(folder: epath.Path, files: dict[str, epath.Path], seen: set[str]) -> None:
    """Adds results and sweeps below a folder, in the order of their paths.

    Not below checkpoints, which hold thousands of files; links in a circle end.
    """
    # Not epath's own resolve, which leaves links as they are.
    place = os.path.realpath(folder)
    if place in seen:
        return
    seen.add(place)
    for path in sorted(folder.iterdir()):
        if path.name in (RESULTS, CELLS):
            files.setdefault(os.path.realpath(path), path)
        elif path.name != "checkpoints" and path.is_dir():
            _find(path, files, seen)


def read_result(file: epath.Path) -> Result:
    """One results.json.

    Raises:
      UserError: it is none of evaluate's, or its table is unknown.
    """
    found = _json(file, _text(file))
    about = found.get("about")
    about = about if isinstance(about, Mapping) else {}
    contexts, settings = found.get("contexts"), about.get("settings")
    if not (_objects(contexts) and isinstance(settings, Mapping)):
        raise UserError(
            f"{file} is not a table of `python -m hypert5_jax.evaluate`: it has no "
            "contexts or no about.settings; move it elsewhere, or evaluate anew"
        )
    recipe = _known(file, found.get("recipe") or {})
    return Result(
        file,
        recipe,
        contexts or {},
        settings,
        about.get("checkpoint"),
        about.get("trained_with") or about.get("config") or "",
        about.get("data_about") or {},
        about.get("parameters") or {},
    )


def read_sweep(file: epath.Path) -> Sweep:
    """One cells.jsonl with the settings.json beside it; a torn last line is dropped.

    Raises:
      UserError: a file is missing or malformed, or a run lacks something.
    """
    beside = file.parent / SETTINGS
    if not beside.exists():
        raise UserError(
            f"{file} has no {SETTINGS} beside it, which says what its runs share; "
            "expected the folder as `python -m hypert5_jax.tune` left it"
        )
    settings = _json(beside, _text(beside))
    lists = ("methods", "starts", "tasks", "learning_rates", "seeds")
    missing = [name for name in lists if not isinstance(settings.get(name), list)]
    if missing:
        raise UserError(
            f"{beside} is not of `python -m hypert5_jax.tune`: it lists no "
            f"{', '.join(missing)}"
        )
    # A whole line ends in a newline: what follows the last one was cut by a kill.
    *lines, _ = _text(file).split("\n")
    runs = [_run(f"{file}, line {n}", line) for n, line in enumerate(lines, start=1)]
    recipe = _known(file, settings.get("recipe") or {})
    return Sweep(file, recipe, settings, tuple(runs))


def _run(place: str, line: str) -> Run:
    found = _json(place, line)
    try:
        source = found["source_score"]
        run = Run(
            method=str(found["method"]),
            start=str(found["start"]),
            task=str(found["task"]),
            column=str(found["column"]),
            learning_rate=float(found["learning_rate"]),
            seed=int(found["seed"]),
            metric=str(found["metric"]),
            steps=tuple(map(int, found["steps"])),
            scores=tuple(map(float, found["scores"])),
            source_score=None if source is None else float(source),
            seconds=float(found["seconds"]),
            place=place,
        )
    except KeyError as error:
        task = found.get("task", "unknown")
        raise UserError(
            f"{place}: the run of task {task} has no {error.args[0]}; expected a line "
            "of `python -m hypert5_jax.tune`; delete the line and run tune again"
        ) from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}: a value of the wrong kind: {error}") from error
    numbers = all(map(math.isfinite, run.scores))
    if not run.scores or len(run.steps) != len(run.scores) or not numbers:
        raise UserError(
            f"{place}: the run of task {run.task} has {len(run.steps)} steps and the "
            f"scores {found['scores']}; expected one finite {run.metric} for each step"
        )
    return run


def _text(file: epath.Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {error}") from error


def _json(place: object, text: str) -> Json:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(
            f"{place} is no JSON ({error}); is it a results file at all?"
        ) from error
    if not isinstance(found, Mapping):
        raise UserError(f"{place} holds {type(found).__name__}, expected an object")
    return found


def _objects(value: object) -> bool:
    """Whether it is {name: {…}}."""
    return isinstance(value, Mapping) and all(
        isinstance(inner, Mapping) for inner in value.values()
    )


def _known(file: epath.Path, recipe: object) -> Json:
    if not isinstance(recipe, Mapping):
        raise UserError(f"{file}: recipe is {recipe!r}; expected an object or null")
    table = recipe.get("table") or ""
    sweep = file.name == CELLS
    fitting = [name for name in TABLES if (name in SWEEPS) == sweep]
    if table and table not in fitting:
        raise UserError(
            f"{file}: its recipe names the table {table!r}; expected one of "
            f"{', '.join(fitting)} (Recipe.table)"
        )
    if table and not sweep and not recipe.get("system"):
        raise UserError(f"{file}: its recipe names {table} but no system (the row)")
    for name in ("name", "system", "column"):
        if not isinstance(recipe.get(name) or "", str):
            raise UserError(
                f"{file}: its recipe's {name} is {recipe[name]!r}; expected text"
            )
    return recipe
