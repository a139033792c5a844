"""MetaICL's files: `{task}/{task}_{k}_{seed}_{split}.jsonl`, a row per line.

A row has `input`, `output` and `options`, which are empty where answers are free.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.json_files import read_json_lines
from hypert5_jax.preparation.locations import data_folder
from hypert5_jax.preparation.metaicl.lists import kind_of

SEEDS = (100, 13, 21, 42, 87)
TRAIN_K, TEST_K = 16384, 16


@dataclass(frozen=True)
class Files:
    """Which files make up the splits of a list of tasks.

    Attributes:
      tasks: names of the tasks, as their folders are called.
      folder: above the tasks' folders; `$HYPERT5_DATA/metaicl` by default.
      k: the number in the files' names: 16384 of tasks to train on, 16 of tasks to be
        judged on.
      seeds: of the draws; the split `train` and the test rows are those of the first.
      available: leaves out tasks without files instead of refusing; they are recorded.
      kinds: kind of tasks that MetaICL does not list; else told from their options.
    """

    tasks: tuple[str, ...]
    folder: Path | None = None
    k: int = TEST_K
    seeds: tuple[int, ...] = SEEDS
    available: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The folder above the tasks' folders."""
        return self.folder or data_folder() / "metaicl"

    def support_splits(self) -> list[str]:
        """Names of the splits that hold the shots of each draw."""
        return [f"train_{seed}" for seed in self.seeds]

    def files(self, split: str) -> list[Path]:
        """The files of a split, in the order of the tasks.

        Args:
          split: "train", of the first seed; "train_{seed}"; or "test".

        Raises:
          UserError: tasks have no file; all of them are named.
        """
        paths = {task: self._path(task, split) for task in self.tasks}
        absent = [task for task, path in paths.items() if not path.exists()]
        if len(absent) == len(paths) or (absent and not self.available):
            pattern = self._path("{task}", split).relative_to(self.home)
            raise UserError(
                f"{len(absent)} of {len(paths)} tasks have no file {pattern} below "
                f"{self.home}: {', '.join(absent)}. Make them with MetaICL's scripts "
                "and set HYPERT5_DATA to the folder above `metaicl`, or register those "
                "you have: register(…, available=True) of tasks/metaicl.py"
            )
        return [path for path in paths.values() if path.exists()]

    def _path(self, task: str, split: str) -> Path:
        kind, _, seed = split.partition("_")
        name = f"{task}_{self.k}_{seed or self.seeds[0]}_{kind}.jsonl"
        return self.home / task / name

    def about(self, splits: Sequence[str]) -> dict[str, str]:
        """What a result should say of the data: tasks there and not, a checksum.

        Args:
          splits: the first says which tasks are there; the checksum is that of the
            files of all.
        """
        paths = [self._path(task, split) for split in splits for task in self.tasks]
        digest = hashlib.sha256()
        for path in paths:
            if path.exists():
                with open(path, "rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
        files = self.files(splits[0])
        there = {path.parent.name for path in files}
        absent = [task for task in self.tasks if task not in there]
        facts = {
            "sha256": digest.hexdigest(),
            "tasks": f"{len(files)} of {len(self.tasks)}",
        }
        return facts | ({"absent": ", ".join(absent)} if absent else {})

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[dict[str, Any]]:
        """Yields a file's rows, with the kind of their task as `group`.

        Raises:
          UserError: a damaged or empty file; a bad line, unless `bad` takes it.
        """
        rows = [
            fields
            for number, fields in read_json_lines(path, bad)
            if _is_row(path, number, fields, bad)
        ]
        if not rows:
            raise UserError(
                f"{path} has no rows; make the file again, or leave its task out"
            )
        task = path.parent.name
        kind = self.kinds.get(task) or kind_of(task) or _kind(rows)
        for row in rows:
            yield {
                "inputs": row["input"],
                "targets": row["output"],
                "options": row["options"],
                "references": [row["output"]],
                "task": task,
                "group": kind,
            }


def _is_row(path: Path, number: int, fields: dict[str, Any], bad: Bad) -> bool:
    wrong = [n for n in ("input", "output") if not isinstance(fields.get(n), str)]
    options = fields.get("options")
    if not isinstance(options, list) or not all(isinstance(o, str) for o in options):
        wrong.append("options")
    if wrong:
        bad(
            f"{path}:{number}: no `{'`, `'.join(wrong)}` as MetaICL has; expected texts "
            "`input` and `output` and a list of texts `options`"
        )
        return False
    assert isinstance(options, list)
    if options and fields["output"] not in options:
        bad(
            f"{path}:{number}: the output {fields['output']!r} is not among the options"
        )
        return False
    return True


def _kind(rows: list[dict[str, Any]]) -> str:
    """As MetaICL's own lists: one set of options for all rows is a classification."""
    sets = {tuple(sorted(row["options"])) for row in rows}
    if sets == {()}:
        return "free-form"
    return "classification" if len(sets) == 1 else "multi-choice"
