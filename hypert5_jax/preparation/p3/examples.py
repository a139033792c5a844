"""From the rows of a prompt's files to examples; what is left out says why."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.p3.catalogue import Prompt
from hypert5_jax.preparation.p3.files import WHOLE, Part, read_rows
from hypert5_jax.preparation.p3.layouts import SCORED, Found
from hypert5_jax.preparation.p3.promptsource import Template, read_templates

NO_PROMPT = "the template leaves the row out"
NO_INPUT = "no input"
NO_LABEL = "no label"
NO_SUCH_OPTION = "the options lack the target"
REPEATED = "repeated example"
_T0_NO_LABEL = "<NO LABEL>"  # what t-zero writes where the answer renders to nothing


@dataclass(frozen=True)
class Reading:
    """How rows become examples.

    Attributes:
      seed: of what templates draw at random; each row has its own generator.
      truncate: whether rendering cuts each variable to 2,048 characters, as in P3.
      skip_repeated: whether a second example of equal input and target is left out.
    """

    seed: int = 0
    truncate: bool = True
    skip_repeated: bool = False


@dataclass(frozen=True)
class _Row:
    """A row's texts, where it stands, and why it is left out, if it is."""

    where: str
    inputs: str
    targets: str
    options: tuple[str, ...] = ()
    skipped: str = ""


def read_examples(
    prompt: Prompt,
    split: str,
    found: Found,
    files: Iterable[Path],
    part: Part = WHOLE,
    reading: Reading = Reading(),
    bad: Bad = refuse,
) -> Iterator[dict[str, Any]]:
    """Yields the features of each row's example: see docs/data.md.

    A row that is no example has its reason in `skipped`; no row vanishes.

    Args:
      prompt: which prompt.
      split: its split.
      found: where its files are.
      files: which of them to read.
      part: (i, n) reads every n-th row of each file, from the i-th (of 0) on; of scored
        rows, which lie in any order, every n-th example of all files.
      reading: how.
      bad: told of lines that are no JSON and are left out; scored rows, of which
        several are an example, may have none.

    Raises:
      UserError: a damaged file, a row without a field, a template that fails.
    """
    if found.scored:
        rows = _folded(prompt, files, part)
    elif found.layout == "raw":
        rows = _rendered(prompt, split, found, files, part, reading, bad)
    else:
        rows = _published(prompt, files, part, bad)
    seen: set[bytes] = set()
    for row in rows:
        _check_unicode(row)
        reason = row.skipped or _reason(prompt, row)
        if reading.skip_repeated and not reason:
            text = f"{row.inputs}\0{row.targets}".encode()
            key = hashlib.blake2b(text, digest_size=16).digest()
            reason = REPEATED if key in seen else ""
            seen.add(key)
        example: dict[str, Any] = {
            "inputs": "" if reason else row.inputs,
            "targets": "" if reason else row.targets,
            "task": prompt.name,
            "group": prompt.group,
            "skipped": reason,
        }
        if prompt.held_out:
            example["options"] = [] if reason else list(row.options)
        yield example


def _check_unicode(row: _Row) -> None:
    r"""Refuses half of a character, which JSON can hold as `\ud83d`."""
    try:
        "".join((row.inputs, row.targets, *row.options)).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{row.where}: not Unicode text ({error.reason}: "
            f"{error.object[error.start : error.end]!r}); mend or remove the row"
        ) from error


def _reason(prompt: Prompt, row: _Row) -> str:
    if not row.inputs.strip():
        return NO_INPUT
    if row.targets in ("", _T0_NO_LABEL):
        return NO_LABEL
    if not prompt.held_out:
        return ""
    if len(row.options) != prompt.options:
        raise UserError(
            f"{row.where}: {prompt.name} has {prompt.options} options to choose from, "
            f"this row {len(row.options)}; expected a field `answer_choices`, or the "
            f"configuration {prompt.name}{SCORED}"
        )
    return "" if row.targets in row.options else NO_SUCH_OPTION


def _published(
    prompt: Prompt, files: Iterable[Path], part: Part, bad: Bad
) -> Iterator[_Row]:
    for file in files:
        for number, fields in read_rows(file, part, bad):
            where = f"{file}:{number}"
            yield _Row(
                where,
                _text(fields, "inputs", where),
                _text(fields, "targets", where).strip(),
                _options(fields, where) if prompt.held_out else (),
            )


def _rendered(
    prompt: Prompt,
    split: str,
    found: Found,
    files: Iterable[Path],
    part: Part,
    reading: Reading,
    bad: Bad,
) -> Iterator[_Row]:
    template = _template(prompt, found, reading.truncate)
    for file in files:
        for number, fields in read_rows(file, part, bad):
            where = f"{file}:{number}"
            # Not the path: the same data elsewhere give the same draw.
            draw = Random(f"{reading.seed}:{prompt.name}:{split}:{file.name}:{number}")
            made = template.render(fields, draw, where)
            skipped = "" if made.inputs else NO_PROMPT
            yield _Row(where, made.inputs, made.targets, made.options, skipped)


def _template(prompt: Prompt, found: Found, truncate: bool) -> Template:
    assert found.templates is not None
    templates = read_templates(found.templates, truncate)
    if prompt.template not in templates:
        raise UserError(
            f"{found.templates} has no template {prompt.template!r}; it has "
            f"{', '.join(sorted(templates))}"
        )
    return templates[prompt.template]


def _folded(prompt: Prompt, files: Iterable[Path], part: Part) -> Iterator[_Row]:
    """Examples of rows that hold one option each, in whatever order they lie."""
    index, count = part
    unfinished: dict[int, dict[int, tuple[str, str, bool]]] = {}
    done = 0
    where = "no row"
    for file in files:
        for number, fields in read_rows(file):
            where = f"{file}:{number}"
            example, option = _pair(fields, where)
            rows = unfinished.setdefault(example, {})
            if option in rows or option not in range(prompt.options):
                raise UserError(
                    f"{where}: option {option} of example {example} comes twice or is "
                    f"beyond the {prompt.options} of {prompt.name}; do the files belong "
                    "to one copy of the data?"
                )
            text = _text(fields, "targets", where).strip()
            correct = bool(_first(fields, "is_correct", where))
            rows[option] = (_text(fields, "inputs", where), text, correct)
            if len(rows) == prompt.options:
                if done % count == index:
                    yield _joined(where, unfinished[example])
                del unfinished[example]
                done += 1
    if unfinished:
        example, rows = next(iter(unfinished.items()))
        raise UserError(
            f"{where}: the rows end, but example {example} of {prompt.name} has only "
            f"options {sorted(rows)} of {prompt.options}; is a file missing or cut?"
        )


def _joined(where: str, rows: Mapping[int, tuple[str, str, bool]]) -> _Row:
    options = tuple(rows[option][1] for option in sorted(rows))
    right = [rows[option][1] for option in sorted(rows) if rows[option][2]]
    if not right:
        return _Row(where, rows[0][0], "", options, NO_SUCH_OPTION)
    return _Row(where, rows[0][0], right[0], options)


def _pair(fields: Mapping[str, Any], where: str) -> tuple[int, int]:
    value = fields.get("idx")
    try:
        example, option = (int(i) for i in value)  # type: ignore[union-attr]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{where}: `idx` is {value!r}; scored rows need [example, option]"
        ) from error
    return example, option


def _first(fields: Mapping[str, Any], name: str, where: str) -> Any:
    """A field's value, out of the list that a TFRecord keeps it in."""
    if name not in fields:
        raise UserError(
            f"{where}: no field `{name}`; the row has {', '.join(sorted(fields))}"
        )
    value = fields[name]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    """The text of a feature; published rows keep it beside its ids."""
    pretokenized = f"{name}_pretokenized"
    value = _first(fields, pretokenized if pretokenized in fields else name, where)
    if not isinstance(value, (str, bytes)):
        raise UserError(
            f"{where}: `{name}` is no text but {type(value).__name__}; expected text, or "
            f"`{pretokenized}` beside the ids"
        )
    return _decoded(value, where)


def _options(fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    values = fields.get("answer_choices") or ()
    if isinstance(values, (str, bytes)) or not all(
        isinstance(value, (str, bytes)) for value in values
    ):
        raise UserError(f"{where}: `answer_choices` is {values!r}; expected texts")
    return tuple(_decoded(value, where).strip() for value in values)


def _decoded(value: str | bytes, where: str) -> str:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason})") from error
