"""Examples and inputs from files people have: JSONL, CSV, TSV, S-NI tasks, lines of text.

    {"input": "a fine film", "target": "good"}      .jsonl, or .json with a list of them
    input,target                                    .csv and .tsv, names in the first line
    {"Definition": …, "Positive Examples": …}       .json of Super-NaturalInstructions

`inputs`, and `targets` or `output`, are other names of the same two fields. Every mistake
is refused with its place.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError

INPUT_NAMES = ("input", "inputs")
TARGET_NAMES = ("target", "targets", "output")
# Positive examples of a task file that are shown, as Tk-Instruct does.
POSITIVES = 2
_KINDS = ".jsonl, .json, .csv, .tsv"


@dataclasses.dataclass(frozen=True)
class TextExample:
    """One example in words.

    Attributes:
      input: what is asked; may be empty.
      target: the answer.
      where: its place, for messages: "few.jsonl:3".
    """

    input: str
    target: str
    where: str = ""


@dataclasses.dataclass(frozen=True)
class TaskFile:
    """What a file of examples holds.

    Attributes:
      examples: in the file's order; empty for a task file without positive examples.
      instruction: a task file's definition, else "".
    """

    examples: tuple[TextExample, ...]
    instruction: str = ""


@dataclasses.dataclass(frozen=True)
class TextInput:
    """One input to be answered, with the answers to choose from, if it names any."""

    input: str
    options: tuple[str, ...] = ()


def read_examples(path: str) -> TaskFile:
    """Reads examples of one task.

    Raises:
      UserError: no such file, a kind nobody knows, no examples, or a line that is none.
    """
    file = Path(path)
    if file.suffix == ".json":
        return _json_file(file)
    examples = tuple(_example(fields, where) for fields, where in _rows(file))
    if not examples:
        raise UserError(f"{path} holds no examples; expected one a line")
    return TaskFile(examples)


def read_inputs(path: str) -> list[TextInput]:
    """Reads inputs: those of a .jsonl, .csv or .tsv, else the lines of a text.

    JSONL may hold `options`, a list of texts, beside the input.

    Raises:
      UserError: no such file, no inputs, or a line that is none.
    """
    file = Path(path)
    if file.suffix in (".jsonl", ".csv", ".tsv"):
        found = [_input(fields, where) for fields, where in _rows(file)]
    else:
        lines = _text(file).split("\n")
        if not lines[-1]:
            del lines[-1]
        found = [TextInput(line.removesuffix("\r")) for line in lines]
    if not found:
        raise UserError(f"{path} holds no inputs; expected one a line")
    return found


def as_example(value: Any, number: int) -> TextExample:
    """What a caller of the library gives for one example: a pair, a dict or that.

    Args:
      value: (input, target) or {"input": …, "target": …}.
      number: its place in the list, from 0.

    Raises:
      UserError: it is neither.
    """
    where = f"example {number + 1}"
    if isinstance(value, TextExample):
        return value
    if isinstance(value, Mapping):
        return _example(value, where)
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return _example(dict(zip(("input", "target"), value, strict=True)), where)
    raise UserError(
        f"{where} is {_short(value)}; expected a pair (input, target) or a dict with "
        "`input` and `target`"
    )


def is_example(value: Any) -> bool:
    """Whether a value is one example, and not a list of them."""
    if isinstance(value, (TextExample, Mapping)):
        return True
    return (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(isinstance(part, str) for part in value)
    )


def _example(fields: Mapping[str, Any], where: str) -> TextExample:
    source = _field(fields, INPUT_NAMES, where)
    target = _field(fields, TARGET_NAMES, where)
    if not target.strip():
        raise UserError(f"{where}: the target is empty; say what the answer is")
    return TextExample(source, target, where)


def _input(fields: Mapping[str, Any], where: str) -> TextInput:
    options = fields.get("options") or ()
    if not isinstance(options, list | tuple) or not all(
        isinstance(option, str) and option for option in options
    ):
        raise UserError(
            f"{where}: `options` is {_short(options)}; expected a list of texts"
        )
    return TextInput(_field(fields, INPUT_NAMES, where), tuple(options))


def _field(fields: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    given = [name for name in names if fields.get(name) is not None]
    if not given:
        there = ", ".join(f"`{name}`" for name in fields if name) or "nothing"
        others = " or ".join(f"`{name}`" for name in names[1:])
        raise UserError(
            f"{where} has no field `{names[0]}` (nor {others}); it has {there}"
        )
    if len(given) > 1:
        raise UserError(f"{where} has both `{given[0]}` and `{given[1]}`; keep one")
    value = fields[given[0]]
    if not isinstance(value, str):
        raise UserError(
            f"{where}: `{given[0]}` is {_short(value)}, which is no text; write it in "
            "quotes"
        )
    return value


def _rows(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(fields, place) of every line that is not blank."""
    if file.suffix == ".jsonl":
        return _json_lines(file)
    if file.suffix in (".csv", ".tsv"):
        return _table(file)
    raise UserError(
        f"{file} is of no known kind; expected a name that ends in one of {_KINDS}"
    )


def _json_lines(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    # Not splitlines(): JSON strings may hold U+2028 and its like unescaped.
    for number, line in enumerate(_text(file).split("\n"), start=1):
        if line.strip():
            where = f"{file}:{number}"
            yield _object(_json(line, where), where), where


def _table(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    delimiter = "," if file.suffix == ".csv" else "\t"
    lines = csv.DictReader(
        io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True
    )
    try:
        names = lines.fieldnames or []
        if names and not set(names) & set(INPUT_NAMES):
            raise UserError(
                f"{file}:1 names the columns {', '.join(map(repr, names))}; the first "
                f"line must name `{INPUT_NAMES[0]}`, and for examples "
                f"`{TARGET_NAMES[0]}`"
            )
        for fields in lines:
            where = f"{file}:{lines.line_num}"
            if None in fields:
                raise UserError(
                    f"{where} has more columns than the first line names; put what "
                    "holds the separator in double quotes"
                )
            yield fields, where
    except csv.Error as error:
        row = lines.line_num + 1  # the one it could not finish
        raise UserError(f"{file}:{row} is no table row: {error}") from error


def _json_file(file: Path) -> TaskFile:
    content = _json(_text(file), str(file))
    if isinstance(content, list):
        places = [f"{file}: entry {number + 1}" for number in range(len(content))]
        examples = tuple(
            _example(_object(entry, where), where)
            for entry, where in zip(content, places, strict=True)
        )
        if not examples:
            raise UserError(f"{file} holds no examples; expected a list of objects")
        return TaskFile(examples)
    if not isinstance(content, Mapping) or "Definition" not in content:
        raise UserError(
            f"{file} is neither a list of examples nor a Super-NaturalInstructions task "
            "(which has a `Definition`); one object a line is a .jsonl file"
        )
    return _task(content, file)


def _task(content: Mapping[str, Any], file: Path) -> TaskFile:
    definition = content["Definition"]
    if isinstance(definition, list) and definition:
        definition = definition[0]
    if not isinstance(definition, str) or not definition.strip():
        raise UserError(f"{file}: `Definition` is empty; expected one text")
    positives = content.get("Positive Examples", [])
    if not isinstance(positives, list):
        raise UserError(f"{file}: `Positive Examples` is no list; mend the file")
    examples = []
    for number, entry in enumerate(positives[:POSITIVES]):
        where = f"{file}: Positive Examples[{number}]"
        examples.append(_example(_object(entry, where), where))
    return TaskFile(tuple(examples), definition.strip())


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = (
            where if where.rpartition(":")[2].isdigit() else f"{where}:{error.lineno}"
        )
        raise UserError(
            f"{place} is not JSON: {error.msg} at column {error.colno}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where} is not JSON of examples: nested too deep") from error


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise UserError(
        f"{where} is {_short(value)}; expected an object with `input` and `target`"
    )


def _text(file: Path) -> str:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line} is not UTF-8 (byte {raw[error.start]:#04x}); save the file "
            "as UTF-8"
        ) from error


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
