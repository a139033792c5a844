"""promptsource's templates: its YAML read safely, its Jinja rendered in a sandbox.

What is rendered is what promptsource 0.1 and t-zero, which made P3, render: each `{{ }}`
is cut to 2,048 characters at a word, prompt and answer are divided by `|||` and
stripped, `answer_choices` is divided likewise and can be named in the template. `choice`
draws, here with a generator of the row's own instead of a global one.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import jinja2
import yaml
from jinja2.sandbox import SandboxedEnvironment

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.p3.catalogue import clean_name

SEPARATOR = "|||"
LONGEST_VARIABLE = 2048  # characters; promptsource's TEXT_VAR_LENGTH
# Stands for a separator in the data while prompt and answer are divided.
_PROTECTED = "\ue000pipes\ue001"
_DRAW = "generator of the row"  # no template can name a variable with spaces


class _Loader(yaml.SafeLoader):
    """Plain values and promptsource's two tags, nothing that makes Python objects."""


def _mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


class _Undefined(jinja2.Undefined):
    """Complains where a field that the row lacks is used.

    A missing key or index of a field is nothing, as in promptsource: a template for rows
    without a label relies on it.
    """

    def _told(self, empty: Any) -> Any:
        if self._undefined_obj is jinja2.utils.missing:
            self._fail_with_undefined_error()
        return empty

    def __str__(self) -> str:
        return str(self._told(""))

    def __iter__(self) -> Any:
        return iter(self._told(()))

    def __bool__(self) -> bool:
        return bool(self._told(False))

    def __len__(self) -> int:
        return int(self._told(0))

    def __eq__(self, other: object) -> bool:
        return bool(self._told(isinstance(other, jinja2.Undefined)))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = jinja2.Undefined.__hash__


@jinja2.pass_context
def _choice(context: jinja2.runtime.Context, items: Any) -> Any:
    return context[_DRAW].choice(items)


def _most_frequent(items: Iterable[Any]) -> list[Any] | None:
    counts = Counter(items).most_common()
    return [item for item, n in counts if n == counts[0][1]] if counts else None


def _environment() -> SandboxedEnvironment:
    environment = SandboxedEnvironment(undefined=_Undefined)
    environment.globals["zip"] = zip
    environment.filters["choice"] = _choice
    environment.filters["most_frequent"] = _most_frequent
    environment.filters["highlight"] = lambda text: (
        f"<span style='color: #F08080'>{text}</span>"
    )
    return environment


@dataclass(frozen=True)
class Rendered:
    """A row through a template; empty inputs where the template leaves the row out."""

    inputs: str
    targets: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """A template of one data set.

    Attributes:
      file: where it was read.
      title: its name in the file.
      jinja: prompt, `|||`, answer.
      answer_choices: what renders to the options, divided by `|||`; "" without options.
      truncate: whether each `{{ }}` is cut as in the published P3.
    """

    file: Path
    title: str
    jinja: str
    answer_choices: str
    truncate: bool = True

    @cached_property
    def _compiled(self) -> tuple[jinja2.Template, jinja2.Template | None]:
        environment, text = _environment(), self.jinja
        if self.truncate:
            cut = f" | string | truncate({LONGEST_VARIABLE}) }}}}"
            text = text.replace("}}", cut)
        choices = self.answer_choices
        try:
            template = environment.from_string(text)
            return template, environment.from_string(choices) if choices else None
        except jinja2.TemplateError as error:
            raise UserError(
                f"{self.file}: template {self.title!r} is no Jinja ({_one_line(error)})"
            ) from error

    def render(self, row: Mapping[str, Any], draw: Random, where: str) -> Rendered:
        """Renders one row.

        Args:
          row: the data set's fields, as Hugging Face names them.
          draw: for `choice`.
          where: file and number of the row, for messages.

        Raises:
          UserError: the template fails on the row, or names a field it lacks.
        """
        # Jinja reads a hyphen as minus; t-zero renames such fields.
        fields = {key.replace("-", "_"): _protect(value) for key, value in row.items()}
        if "answer_choices" in fields:
            raise UserError(
                f"{where}: a raw row must not have a field `answer_choices`, which the "
                "templates set; are these rows rendered already?"
            )
        fields[_DRAW] = draw
        template, choices = self._compiled
        try:
            options = _parts(choices.render(fields)) if choices else []
            fields["answer_choices"] = options if choices else None
            parts = _parts(template.render(fields))
        # A template is a program: whatever it raises is the row's or the template's.
        except Exception as error:
            raise UserError(
                f"{self.file}: template {self.title!r} fails on {where} "
                f"({type(error).__name__}: {_one_line(error)}); the row has the fields "
                f"{', '.join(sorted(row))}"
            ) from error
        if len(parts) != 2:  # nothing rendered, or divided more than once
            return Rendered("", "", tuple(options))
        return Rendered(parts[0], parts[1], tuple(options))


def read_templates(file: Path, truncate: bool = True) -> dict[str, Template]:
    """The templates of a `templates.yaml`, by title as P3's names have it.

    Raises:
      UserError: it cannot be read, is no YAML of promptsource's, or has a tag that would
        make an object.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
        entries = list(content["templates"].values())
        templates = [
            Template(
                file=file,
                title=str(entry["name"]),
                jinja=str(entry["jinja"]),
                answer_choices=str(entry.get("answer_choices") or ""),
                truncate=truncate,
            )
            for entry in entries
        ]
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not promptsource's: {_one_line(error)}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not promptsource's ({type(error).__name__}: {error}); expected "
            "`templates`, each with `name` and `jinja`"
        ) from error
    return {clean_name(template.title): template for template in templates}


def _protect(value: Any) -> Any:
    return value.replace(SEPARATOR, _PROTECTED) if isinstance(value, str) else value


def _parts(rendered: str) -> list[str]:
    parts = rendered.split(SEPARATOR)
    return [part.replace(_PROTECTED, SEPARATOR).strip() for part in parts]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
