"""Which experiment of the paper a run is."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Which experiment a run is.

    Attributes:
      name: path below gin/recipes without .gin: "p3_large/hypert5_prefix".
      table: id of a table of reporting, "table_1"; "" for a mere step of the way there.
      system: the row, as the paper names it: "HyperT5-Prefix".
      column: where one run fills one cell: "HR→LR"; "" is the protocol's columns.
      hyperpretrained: steps of hyperpretraining it starts from, where that is the
        question (Figure 4).
      checkpoint_recipe: name of the recipe that trains InitialConfig.checkpoint_path;
        "" where that is a public checkpoint.
      adaptation_recipe: name of the recipe that trains InitialConfig.adaptation_path.
    """

    name: str
    table: str = ""
    system: str = ""
    column: str = ""
    hyperpretrained: int | None = None
    checkpoint_recipe: str = ""
    adaptation_recipe: str = ""
