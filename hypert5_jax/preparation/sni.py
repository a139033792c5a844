"""Reading a checkout of the Super-NaturalInstructions repository, of any release.

`tasks/*.json` holds a task per file, `splits/{lists}/{split}_tasks.txt` the names of a
split's tasks. What is read here follows Tk-Instruct (paper §5.3; inventory A24).
"""

import hashlib
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.json_files import read_json
from hypert5_jax.preparation.locations import data_folder

CONTEXTS = ("shots", "def", "def_2pos", "def_shots")
INSTANCES = 100
POSITIVES = 2
PARTIAL = "available"
_SHOWN = 5


@dataclass(frozen=True)
class Repository:
    """Where the tasks are, and how whole they are expected to be.

    Attributes:
      folder: of the checkout; `$HYPERT5_DATA/sni` by default, looked up when used.
      lists: folder below `splits/` with the lists of the splits.
      missing: how many tasks that a list names may have no file. A part of a release
        says which tasks it has by lists of its own in `splits/available/`; tasks that
        are not in those are left out without being missing.
      release: name of the release, recorded with the data; None asks git, and where the
        folder is no clone, the files' checksum stands for it.
      english: whether only tasks with English input and output are taken.
    """

    folder: Path | None = None
    lists: str = "default"
    missing: int = 0
    release: str | None = None
    english: bool = True

    @property
    def home(self) -> Path:
        """The folder."""
        return self.folder or data_folder() / "sni"

    def listed(self, split: str) -> list[str]:
        """The names in the list of a split.

        Raises:
          UserError: there is no such list.
        """
        path = self.home / "splits" / self.lists / f"{split}_tasks.txt"
        if not path.exists():
            raise UserError(
                f"{path} is missing; set HYPERT5_DATA to the folder above `sni`, a copy "
                "of the natural-instructions repository"
            )
        return path.read_text(encoding="utf-8").split()

    def files(self, split: str) -> list[Path]:
        """The files of a split's tasks, in the order of its list.

        Raises:
          UserError: no list; more tasks without a file than `missing`; or none with one.
        """
        listed = self.listed(split)
        paths = {name: self.home / "tasks" / f"{name}.json" for name in listed}
        found = [path for path in paths.values() if path.exists()]
        absent = [name for name, path in paths.items() if not path.exists()]
        part = self.home / "splits" / PARTIAL / f"{split}_tasks.txt"
        if part.exists():
            promised = set(part.read_text(encoding="utf-8").split())
            absent = [name for name in absent if name in promised]
        if not found or len(absent) > self.missing:
            raise UserError(self._unknown(split, len(listed), len(found), absent))
        return found

    def _unknown(self, split: str, listed: int, found: int, absent: list[str]) -> str:
        names = ", ".join(absent[:_SHOWN]) + (", …" if len(absent) > _SHOWN else "")
        return (
            f"{len(absent)} of the {listed} tasks in {self.lists}/{split}_tasks.txt have "
            f"no file in {self.home / 'tasks'} ({names}), {found} have one; update the "
            f"checkout, allow it (register(…, missing={len(absent)}) of tasks/sni.py), or "
            f"list what is there in splits/{PARTIAL}/{split}_tasks.txt"
        )

    def about(self, split: str) -> dict[str, str]:
        """What a result should say of the data: release, checksum, tasks there."""
        listed, files = self.listed(split), self.files(split)
        digest = hashlib.sha256("\n".join(listed).encode())
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        checksum = digest.hexdigest()
        release = self.release or _described(self.home) or f"sha256:{checksum[:16]}"
        return {
            "release": release,
            "sha256": checksum,
            "tasks": f"{len(files)} of {len(listed)} in splits/{self.lists}",
        }


def _described(folder: Path) -> str | None:
    """What git calls the checkout, such as v2.6; None if it is no clone."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--tags", "--always", "--dirty"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def read_task(
    split: str,
    path: Path,
    context: str = "shots",
    instances: int = INSTANCES,
    seed: int = 0,
    english: bool = True,
) -> Iterator[dict[str, Any]]:
    """Yields a task's examples as text; what is left out yields the reason.

    Training draws `instances` of a task and one of an instance's outputs; evaluation
    takes the first, and the first output beside all of them as references.

    Raises:
      UserError: malformed JSON (file and line), a missing field, or no instances.
    """
    task = _Task(path, read_json(path))
    nothing = dict.fromkeys(("inputs", "targets", "task", "group"), "")
    nothing |= {} if context == "shots" else {"context": ""}
    if english and task.languages != {"English"}:
        reason = "the whole task: not from English to English"
        yield nothing | {"references": [], "skipped": reason}
        return
    chosen = list(task.field("Instances"))
    if not chosen:
        raise UserError(f"{path}: `Instances` is empty; fetch the file again")
    # A task's own generator: its draw does not depend on the tasks before it.
    draw = random.Random(f"{seed}:{path.stem}")
    if split == "train" and len(chosen) > instances:
        chosen = draw.sample(chosen, instances)
    common = {"task": path.stem, "group": task.category}
    if context != "shots":
        common["context"] = task.context(context)
    shown = [p["input"] for p in task.positives] if context == "def_2pos" else []
    for number, instance in enumerate(chosen[:instances]):
        inputs, outputs = task.instance(number, instance)
        if split == "train" and inputs in shown:
            # A target is never among its own fixed examples.
            reason = "an instance that the context shows"
            yield nothing | {"references": [], "skipped": reason}
            continue
        target = draw.choice(outputs) if split == "train" else outputs[0]
        example = {"inputs": inputs, "targets": target, "references": outputs}
        yield example | {"skipped": ""} | common


@dataclass(frozen=True)
class _Task:
    """One task's file, its fields checked when they are asked for."""

    path: Path
    fields: dict[str, Any]

    def field(self, name: str) -> list[Any]:
        value = self.fields.get(name)
        if isinstance(value, str):  # releases before 2.0 have a bare text
            return [value]
        if not isinstance(value, list):
            raise UserError(
                f"{self.path}: not a Super-NaturalInstructions task: no list `{name}`; "
                "expected Definition, Input_language, Output_language, "
                "Positive Examples and Instances"
            )
        return value

    @property
    def languages(self) -> set[str]:
        return {*self.field("Input_language"), *self.field("Output_language")}

    @property
    def category(self) -> str:
        """The first of its categories, as Tk-Instruct reports; some tasks have none."""
        categories = self.field("Categories") if "Categories" in self.fields else []
        return str(categories[0]) if categories else ""

    @property
    def positives(self) -> list[dict[str, str]]:
        examples = self.field("Positive Examples")[:POSITIVES]
        for number, example in enumerate(examples):
            self._require(example, ("input", "output"), f"Positive Examples[{number}]")
        return examples

    def context(self, kind: str) -> str:
        # The definition comes first, so that cutting never loses it (protocols §3).
        definition = self.field("Definition")
        if not definition:
            raise UserError(f"{self.path}: `Definition` is empty; expected one text")
        text = f"<x> {str(definition[0]).strip()}"
        if kind == "def_2pos":
            for positive in self.positives:
                text += f" <x> {positive['input']} <y> {positive['output']}"
        return text + (" <shots>" if kind == "def_shots" else "")

    def instance(self, number: int, instance: Any) -> tuple[str, list[str]]:
        where = f"Instances[{number}]"
        self._require(instance, ("input", "output"), where)
        outputs = instance["output"]
        outputs = [outputs] if isinstance(outputs, str) else outputs
        if not isinstance(outputs, list) or not outputs:
            raise UserError(f"{self.path}: {where} has no output; mend or remove it")
        return str(instance["input"]), [str(output) for output in outputs]

    def _require(self, value: Any, names: tuple[str, ...], where: str) -> None:
        lacks = [n for n in names if not isinstance(value, dict) or n not in value]
        if lacks:
            raise UserError(
                f"{self.path}: {where} has no `{'`, `'.join(lacks)}`; mend the file or "
                "fetch it again"
            )
