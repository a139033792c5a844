"""The examples of an evaluation's draws, kept in files and read again.

    {draws_dir}/{mixture}-{split}/{task}/{seed}.json

Two evaluations that share the folder judge the same examples under the same shots,
whatever a later release would draw. A file names the prepared data by digest and is
refused beside others.
"""

import dataclasses
import json
from typing import Any

from etils import epath

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.contexts import ContextDraw, draw_examples
from hypert5_jax.data.prepared import PreparedMixture, PreparedTask
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.evaluation.results import file_name, read_object, write_whole


@dataclasses.dataclass(frozen=True)
class Draws:
    """Draws of one mixture, from files where they are there.

    Attributes:
      directory: of all draws.
      mixture: whose examples are judged.
      row: the format; the number of shots counts.
      limit: most examples of a task.
      other: whether a task that lends its context is needed.
    """

    directory: epath.Path
    mixture: PreparedMixture
    row: RowFormat
    limit: int | None
    other: bool

    def of(
        self, task: PreparedTask, seed: int, support: PreparedMixture
    ) -> ContextDraw:
        """The draw of a task and seed, read or made and written.

        Raises:
          UserError: the file is of other data or settings, or damaged.
        """
        mixture = self.mixture
        folder = self.directory / f"{mixture.name}-{mixture.split}"
        file = folder / file_name(task.name) / f"{seed}.json"
        identity = self._identity(task, support)
        kept = self._read(file, identity) if file.exists() else None
        lend = self.other and task.context != "per_example"
        if kept is not None and (kept.lender is not None or not lend):
            return kept
        drawn = draw_examples(
            mixture, task.name, self.row, seed, self.limit, support, other=lend
        )
        if kept is not None:
            drawn = dataclasses.replace(drawn, targets=kept.targets, shots=kept.shots)
        record = {**identity, "seed": seed, "draw": dataclasses.asdict(drawn)}
        write_whole(file, json.dumps(record) + "\n")
        return drawn

    def _identity(self, task: PreparedTask, support: PreparedMixture) -> dict[str, Any]:
        wants = task.wants_shots and self.row.context != "none"
        return {
            "task": task.name,
            "data": self.mixture.digest,
            "support": f"{support.name}/{support.split} {support.digest}",
            "max_shots": self.row.max_shots if wants else 0,
            "limit": self.limit,
        }

    def _read(self, file: epath.Path, identity: dict[str, Any]) -> ContextDraw:
        record = read_object(file, "delete it, and it is drawn again")
        differing = {
            name: (record.get(name), value)
            for name, value in identity.items()
            if record.get(name) != value
        }
        if self.row.context == "none":
            differing.pop("max_shots", None)  # reads no shots, whoever drew them
        if differing:
            name, (then, now) = next(iter(differing.items()))
            raise UserError(
                f"{file} is a draw of another evaluation: its {name} is {then!r}, here "
                f"it is {now!r}; use another draws_dir"
            )
        draw = record["draw"]
        return ContextDraw(
            targets=tuple(draw["targets"]),
            shots=tuple(draw["shots"]),
            lender=draw["lender"],
            lender_shots=tuple(draw["lender_shots"]),
        )
