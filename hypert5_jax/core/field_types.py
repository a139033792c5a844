"""What a file put into dataclasses against what their fields are declared to hold."""

import dataclasses
import types
import typing
from typing import Any

from hypert5_jax.core.errors import UserError

_SIMPLE = (int, float, str, bool, types.NoneType)


def check(instance: Any) -> None:
    """Compares every number, text and nested dataclass with its field's type.

    Raises:
      UserError: naming the field, its value and the type expected.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        value, hint = getattr(instance, field.name), hints[field.name]
        allowed = _allowed(hint)
        if allowed and not _fits(value, allowed):
            names = " or ".join(t.__name__.replace("NoneType", "None") for t in allowed)
            raise UserError(
                f"{type(instance).__name__}.{field.name} is {value!r}; expected {names}"
            )
        if dataclasses.is_dataclass(value):
            check(value)


def as_tuple(value: Any) -> tuple:
    """The values of a setting that holds several; one text, which would fall apart into
    its letters, is one value."""
    return (value,) if isinstance(value, str) else tuple(value)


def _allowed(hint: Any) -> tuple[type, ...]:
    """The classes a hint lists; empty where it says more than a list of classes."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    classes = all(p in _SIMPLE or dataclasses.is_dataclass(p) for p in parts)
    return tuple(parts) if classes else ()


def _fits(value: Any, allowed: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in allowed
    return isinstance(value, allowed) or (isinstance(value, int) and float in allowed)
