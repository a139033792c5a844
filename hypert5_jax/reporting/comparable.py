"""Whether results may stand in one table, and whether two are one cell's seeds."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from hypert5_jax.core.errors import UserError
from hypert5_jax.reporting.result_files import Json, Result

# Of about.settings: the same for all systems of a table's column …
_DATA = ("data.mixture", "data.split", "data.digest", "tasks", "limit")
_ROWS = ("rows.lengths.inputs", "rows.lengths.targets", "rows.inputs_eos")
_ALL = ("protocol", "decoding", *_DATA, *_ROWS, "rows.targets_eos")
# … and for those of them that read a context, wherever it goes.
_CONTEXT = (
    "data.support",
    "rows.lengths.hyper_inputs",
    "rows.max_shots",
    "rows.shot_length",
)
# What may differ and is told: rounding, and what a library changed.
TOLD = ("versions", "frozen_dtype", "dtype")
_TRAINING = re.compile(r"^TrainRun\.", re.MULTILINE)
# Between the training configurations of two seeds of one recipe.
_MAY_DIFFER = re.compile(
    r"(.*\.)?(model|output|prepared|draws)_dir|(EvaluateRun\.)?checkpoint_path"
    r"|(.*[._])?seed",
    re.IGNORECASE,
)


def differences(one: Result, other: Result) -> list[str]:
    """What was measured otherwise: "limit is None and 4", none if nothing was."""
    # Of two protocols nearly everything differs: their names say it.
    values = [_at(result.settings, "protocol.name") for result in (one, other)]
    if found := value_differences("protocol.name", *values):
        return found
    names = list(_ALL)
    if all(_at(r.settings, "rows.context") != "none" for r in (one, other)):
        names += _CONTEXT
    for name in names:
        values = [_at(result.settings, name) for result in (one, other)]
        found += _differences(name, *values)
    return found


def value_differences(name: str, one: Any, other: Any) -> list[str]:
    """What differs between two JSON values, each difference by its path."""
    return list(_differences(name, one, other))


def _differences(name: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted({*one, *other}):
            yield from _differences(f"{name}.{key}", one.get(key), other.get(key))
    elif one != other:
        yield f"{name} is {_short(one)} and {_short(other)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _at(settings: Json, name: str) -> Any:
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def measured(result: Result) -> str:
    """What a result was measured on: protocol, data, how much of it."""
    settings = result.settings
    data = f"{_at(settings, 'data.mixture')}/{_at(settings, 'data.split')}"
    words = [f"protocol {_at(settings, 'protocol.name')} on {data}"]
    if (count := result.parameters.get("downstream")) is not None:
        words.append(f"a downstream T5 of {count / 1e6:,.1f} million parameters")
    # How much of a benchmark its folder holds, and of which release.
    words += dict.fromkeys(
        f"{fact} {facts[fact]}"
        for facts in result.data_about.values()
        for fact in ("tasks", "release")
        if fact in facts
    )
    if tasks := settings.get("tasks"):
        words.append(f"only {len(tasks)} chosen tasks")
    if (limit := settings.get("limit")) is not None:
        words.append(f"only the first {limit} examples of each task")
    return ", ".join(words)


def require_one_measure(results: Sequence[Result]) -> None:
    """That results of one table, column by column, were measured alike.

    Columns with runs of their own (MetaICL's splits) have data of their own, but one
    protocol.

    Raises:
      UserError: two were not; both files and the settings are named.
    """
    for i, result in enumerate(results):
        for first in results[:i]:
            same_column = first.recipe.get("column") == result.recipe.get("column")
            differing = differences(first, result)
            if not same_column:
                differing = [d for d in differing if d.startswith("protocol")]
            if differing:
                raise UserError(
                    f"{first.file} and {result.file} are both for {result.table} but "
                    f"were measured differently: {'; '.join(differing[:5])}. Evaluate "
                    "one of them again, or report on them apart"
                )


def told(results: Sequence[Result]) -> list[str]:
    """What differs between results and was not refused: versions and dtypes."""
    found: list[str] = []
    for result in results[1:]:
        for name in TOLD:
            values = (_at(r.settings, name) for r in (results[0], result))
            found += _differences(name, *values)
    return list(dict.fromkeys(found))


def require_seeds(results: Sequence[Result]) -> None:
    """That several results for one cell are training seeds of one recipe.

    They are if the recipe is the same, different parameters were judged, and the
    configurations of the training runs (with the scores, in the folder
    above them, or in the run that was judged) differ in seeds and folders alone.

    Raises:
      UserError: they are not, or it cannot be known; both files are named.
    """
    for i, result in enumerate(results):
        for first in results[:i]:
            reason = _not_seeds(first, result)
            if reason:
                raise UserError(
                    f"{first.file} and {result.file} are both for "
                    f"{result.table}, {_cell(result)}, and are no two training seeds "
                    f"of one recipe: {reason}. Report on one of them"
                )


def _cell(result: Result) -> str:
    parts = (
        result.recipe.get(name) for name in ("system", "column", "hyperpretrained")
    )
    return ", ".join(str(part) for part in parts if part not in (None, ""))


def _not_seeds(one: Result, other: Result) -> str:
    """Why not; empty if they are."""
    recipes = list(_differences("recipe", one.recipe, other.recipe))
    if recipes:
        return "; ".join(recipes)
    if one.settings.get("parameters") == other.settings.get("parameters"):
        return "the same parameters were judged twice"
    configs = [training_config(result) for result in (one, other)]
    for result, config in zip((one, other), configs):
        if config is None:
            return (
                f"there is no config.gin of a training run in {result.file.parent.parent}"
                f" nor beside the checkpoint {result.checkpoint}, so seeds cannot be told"
            )
    left, right = (_settings_of(config or "") for config in configs)
    differing = [n for n in sorted({*left, *right}) if left.get(n) != right.get(n)]
    wrong = [n for n in differing if not _MAY_DIFFER.fullmatch(n)]
    if wrong:
        name = wrong[0]
        return f"{name} was {left.get(name)} and {right.get(name)} in training"
    if not any(name.lower().endswith("seed") for name in differing):
        return "their training runs name the same seeds"
    return ""


def training_config(result: Result) -> str | None:
    """The configuration of the run that was judged, if it is still there."""
    if _TRAINING.search(result.config):
        return result.config
    places = [result.file.parent.parent]
    if result.checkpoint:
        checkpoint = epath.Path(result.checkpoint)
        places += [checkpoint, *list(checkpoint.parents)[:2]]
    for place in places:
        file = place / "config.gin"
        if file.exists() and _TRAINING.search(text := file.read_text()):
            return text
    return None


def _settings_of(text: str) -> dict[str, str]:
    """{name: value} of a gin file as gin writes it; long values go on indented lines."""
    text = re.sub(r"\\?\n\s+", " ", text)
    pairs = (line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    return {name: value for name, value in pairs if not name.startswith("#")}
