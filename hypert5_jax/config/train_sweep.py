"""Many training runs done one after another, as one frozen dataclass."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.core.field_types import as_tuple


@dataclasses.dataclass(frozen=True)
class TrainSweep:
    """Which runs, and where they go.

    Attributes:
      output_dir: above the folders of all cells.
      recipes: gin files, each of them one TrainRun whose model_dir is %MODEL_DIR.
      over: {macro or setting: values}; a cell for every combination of them.
      bindings: {macro or setting: value}, the same in all cells.
      files: gin files that every cell reads after its recipe.
    """

    output_dir: str
    recipes: tuple[str, ...]
    over: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("recipes", "files"):
            object.__setattr__(self, name, as_tuple(getattr(self, name)))
        if not self.recipes:
            raise UserError("TrainSweep.recipes names no gin file; a sweep needs one")
        for name, values in self.over.items():
            if not isinstance(values, tuple | list) or not values:
                raise UserError(
                    f"TrainSweep.over has {name}: {values!r}; expected a tuple of values"
                )
