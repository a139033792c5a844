"""Examples and inputs from files people have: JSONL, CSV, TSV, S-NI tasks, lines of text.

    {"input": "a fine film", "target": "good"}      .jsonl, or .json with a list of them
    input,target                                    .csv and .tsv, names in the first line
    {"Definition": …, "Positive Examples": …}       .json of Super-NaturalInstructions

`inputs`, and `targets` or `output`, are other names of the same two fields. `.ndjson` is
another name of `.jsonl`, and capitals in a file's ending do not count. Every mistake is
refused with its place.
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
_JSON_LINES, _TABLES = (".jsonl", ".ndjson"), (".csv", ".tsv")
_OPTIONS, _DEFINITION, _POSITIVES = "options", "Definition", "Positive Examples"
# What is read of an object or a table; of what else is there nothing is expected.
_READ = {*INPUT_NAMES, *TARGET_NAMES, _OPTIONS, _DEFINITION, _POSITIVES}


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
    if _kind(file) == ".json":
        return _json_file(file)
    examples = tuple(_example(fields, where) for fields, where in _rows(file))
    if not examples:
        raise UserError(f"{path} holds no examples; expected one a line")
    return TaskFile(examples)


def read_inputs(path: str) -> list[TextInput]:
    """Reads inputs: those of a .jsonl, .json, .csv or .tsv, else the lines of a text.

    JSON may hold `options`, a list of texts, beside the input.

    Raises:
      UserError: no such file, no inputs, or a line that is none.
    """
    file = Path(path)
    if _kind(file) == ".json":
        content = _json(_text(file), str(file))
        if not isinstance(content, list):
            raise UserError(
                f'{file} is no list of inputs; expected [{{"input": …}}, …], or one '
                "object a line in a .jsonl file"
            )
        found = [_input(fields, where) for fields, where in _entries(content, file)]
    elif _kind(file) in (*_JSON_LINES, *_TABLES):
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


def require_texts(values: Any, what: str) -> None:
    """Refuses anything but several texts; one text alone would be read as its letters.

    Args:
      values: what a caller of the library gives for `what`.
      what: names it in the message.

    Raises:
      UserError: it is one text, or holds something else.
    """
    if isinstance(values, str):
        raise UserError(f"{what} is the text {_short(values)}; put it in a list")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise UserError(
                f"{what}: entry {number} is {_short(value)}, which is no text"
            )


def options_of_each(options: Any, count: int) -> list[Sequence[str]]:
    """The options of each of `count` inputs.

    Args:
      options: what a caller of the library gives: a list for all inputs, or one for each.

    Raises:
      UserError: they are no lists of texts, or some inputs have none.
    """
    if isinstance(options, str):
        raise UserError(f"options is the text {_short(options)}; put it in a list")
    own: list[Any] = list(options)
    if all(isinstance(option, str) for option in own):
        own = [own] * count
    if len(own) != count or not all(own):
        raise UserError(
            f"options for {sum(map(bool, own))} of {count} inputs; expected one list for "
            "all, or a list for each"
        )
    for number, one in enumerate(own, start=1):
        require_texts(one, f"the options of input {number}")
    return own


def _example(fields: Mapping[str, Any], where: str) -> TextExample:
    source = _field(fields, INPUT_NAMES, where)
    target = _field(fields, TARGET_NAMES, where)
    if not target.strip():
        raise UserError(f"{where}: the target is empty; say what the answer is")
    return TextExample(source, target, where)


def _input(fields: Mapping[str, Any], where: str) -> TextInput:
    options = fields.get(_OPTIONS) or ()
    if not isinstance(options, list | tuple) or not all(
        isinstance(option, str) and option for option in options
    ):
        raise UserError(
            f"{where}: `{_OPTIONS}` is {_short(options)}; expected a list of texts"
        )
    for option in options:
        _require_whole(option, _OPTIONS, where)
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
    _require_whole(value, given[0], where)
    return value


def is_whole(text: str) -> bool:
    """Whether a text can be written as UTF-8; JSON can spell what cannot, half a
    character: "\\ud800"."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _require_whole(text: str, name: str, where: str) -> None:
    if not is_whole(text):
        raise UserError(
            f"{where}: `{name}` is {_short(text)}, which holds half a character (a lone "
            "surrogate); mend the text"
        )


def _kind(file: Path) -> str:
    return file.suffix.lower()


def _rows(file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(fields, place) of every line that is not blank."""
    if _kind(file) in _JSON_LINES:
        return _json_lines(file)
    if _kind(file) in _TABLES:
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
    delimiter = "," if _kind(file) == ".csv" else "\t"
    lines = csv.DictReader(
        io.StringIO(_text(file), newline=""), delimiter=delimiter, strict=True
    )
    try:
        names = lines.fieldnames or []
        _require_once(names, f"{file}:1")
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
        examples = tuple(
            _example(fields, where) for fields, where in _entries(content, file)
        )
        if not examples:
            raise UserError(f"{file} holds no examples; expected a list of objects")
        return TaskFile(examples)
    if not isinstance(content, Mapping) or _DEFINITION not in content:
        raise UserError(
            f"{file} is neither a list of examples nor a Super-NaturalInstructions task "
            f"(which has a `{_DEFINITION}`); one object a line is a .jsonl file"
        )
    return _task(content, file)


def _entries(content: list, file: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(fields, place) of a JSON list."""
    for number, entry in enumerate(content, start=1):
        where = f"{file}: entry {number}"
        yield _object(entry, where), where


def _task(content: Mapping[str, Any], file: Path) -> TaskFile:
    definition = content[_DEFINITION]
    if isinstance(definition, list) and definition:
        definition = definition[0]
    if not isinstance(definition, str) or not definition.strip():
        raise UserError(f"{file}: `{_DEFINITION}` is empty; expected one text")
    _require_whole(definition, _DEFINITION, str(file))
    positives = content.get(_POSITIVES, [])
    if not isinstance(positives, list):
        raise UserError(f"{file}: `{_POSITIVES}` is no list; mend the file")
    examples = []
    for number, entry in enumerate(positives[:POSITIVES]):
        where = f"{file}: {_POSITIVES}[{number}]"
        examples.append(_example(_object(entry, where), where))
    return TaskFile(tuple(examples), definition.strip())


def _json(text: str, where: str) -> Any:
    def once(fields: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_once([name for name, _ in fields], where)
        return dict(fields)

    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        place = (
            where if where.rpartition(":")[2].isdigit() else f"{where}:{error.lineno}"
        )
        raise UserError(
            f"{place} is not JSON: {error.msg} at column {error.colno}"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where} is not JSON of examples: nested too deep") from error
    except ValueError as error:  # a number of more digits than Python reads
        raise UserError(f"{where} is not JSON of examples: {error}") from error


def _require_once(names: Sequence[str], where: str) -> None:
    """Refuses two values for one thing that is read."""
    twice = sorted(name for name in _READ if names.count(name) > 1)
    if twice:
        raise UserError(f"{where} has `{twice[0]}` twice; keep one")


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
