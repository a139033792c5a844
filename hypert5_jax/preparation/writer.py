"""Writes prepared units; knows examples and folders, nothing of seqio.

A mixture is written in units (a task, or a shard of a large one), which manifest.py
joins. A unit is finished when its .json is there, the mixture when manifest.json is;
each file is written under another name and renamed, so a killed run leaves whole units
to go on from, and the finished folder is byte-identical however often it was
interrupted.
"""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.records import INDEX_ROW, SHOTS_SLOT, Example
from hypert5_jax.preparation.bad_lines import REASON as BAD_LINE

_UNIT_ROW = np.dtype([*INDEX_ROW.descr, ("task", "<i4")])
# Its int32 columns, in the order in which a unit's examples are counted.
_COUNTED = ("inputs", "targets", "shot_targets", "context", "task")


@dataclass(frozen=True)
class Item:
    """An example on its way to disk.

    Attributes:
      task: its logical task; None where the seqio task is one.
      example: its ids.
      label_pool: the words (ids) of its task's label slots.
      skipped: why it is not written but only counted; empty for an example.
      group: of its task; see PreparedTask.
    """

    task: str | None
    example: Example
    label_pool: tuple[tuple[int, ...], ...] = ()
    skipped: str = ""
    group: str = ""


class _TaskSummary:
    """What is known of a logical task while its examples pass by."""

    def __init__(self, item: Item, number: int):
        self.number = number
        self.pool = item.label_pool
        self.group = item.group
        self.without_context = item.example.context is None
        self.count = 0
        self.contexts: set[str] = set()
        self.wants_shots = False

    def add(self, item: Item, name: str) -> None:
        context = item.example.context
        for column, mine in (("label_pool", self.pool), ("group", self.group)):
            if getattr(item, column) != mine:
                raise UserError(differs(name, column))
        if (context is None) != self.without_context:
            raise UserError(
                f"task {name!r}: some examples have a `context` and some have none; "
                "give all or none of them one"
            )
        self.count += 1
        self.wants_shots |= context is None or SHOTS_SLOT in context
        if len(self.contexts) < 2:  # one or several is all that matters
            ids = b"none" if context is None else np.asarray(context, "<i4").tobytes()
            self.contexts.add(hashlib.sha256(ids).hexdigest())

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "contexts": sorted(self.contexts),
            "wants_shots": self.wants_shots,
            "label_pool": self.pool,
            "group": self.group,
        }


def differs(task: str, column: str) -> str:
    """What is said of a task whose examples disagree in a column."""
    return (
        f"task {task!r}: {column} differs between its examples; it must be the same "
        "for the whole task"
    )


def replace_file(path: Path, content: bytes) -> None:
    """Writes a whole file or none."""
    temporary = temporary_name(path)
    temporary.write_bytes(content)
    os.replace(temporary, path)


def temporary_name(path: Path) -> Path:
    """Where a file lies until it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def json_bytes(fields: Any) -> bytes:
    """The same bytes for the same fields."""
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_unit(
    directory: Path,
    unit: str,
    items: Iterable[Item],
    default_task: str,
    settings: str = "",
    bad_lines: Sequence[str] = (),
) -> None:
    """Writes one unit's records, index and summary.

    Args:
      directory: of the mixture's split.
      unit: its name, unique in the directory.
      items: the examples, in their final order.
      default_task: the logical task of items that name none.
      settings: whatever the result depends on; see `unit_is_done`.
      bad_lines: of the unit, complete when `items` ends.
    """
    path = directory / f"{unit}.arrayrecord"
    temporary = temporary_name(path)
    # One record per chunk: a random read then decompresses nothing else.
    records = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
    tasks: dict[str, _TaskSummary] = {}
    skipped: Counter[str] = Counter()
    keys, lengths = array("Q"), array("i")
    try:
        for item in items:
            if item.skipped:
                skipped[item.skipped] += 1
                continue
            name = default_task if item.task is None else item.task
            task = tasks.setdefault(name, _TaskSummary(item, len(tasks)))
            task.add(item, name)
            example = item.example
            records.write(example.to_bytes())
            keys.append(example.key())
            texts = (example.inputs, example.targets, example.shown_targets)
            lengths.extend(map(len, (*texts, example.context or ())))
            lengths.append(task.number)
    except BaseException:
        records.close()
        temporary.unlink()
        raise
    records.close()
    os.replace(temporary, path)
    if bad_lines:
        skipped[BAD_LINE] += len(bad_lines)

    rows = np.zeros(len(keys), _UNIT_ROW)
    table = np.frombuffer(lengths, np.int32).reshape(-1, len(_COUNTED))
    rows["record"] = np.arange(len(keys))
    rows["key"] = np.frombuffer(keys, np.uint64)
    for column, name in enumerate(_COUNTED):
        rows[name] = table[:, column]
    index = directory / f"{unit}.index.npy"
    with open(temporary_name(index), "wb") as file:
        np.save(file, rows)
    os.replace(temporary_name(index), index)
    summary = {
        "task": default_task,
        "settings": settings,
        "shard": {
            "file": path.name,
            "records": len(keys),
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        },
        "tasks": {name: tasks[name].to_json() for name in tasks},
        "order": list(tasks),
        "skipped": dict(skipped),
        "bad_lines": list(bad_lines),
    }
    replace_file(directory / f"{unit}.json", json_bytes(summary))


def unit_is_done(directory: Path, unit: str, task: str, settings: str) -> bool:
    """Whether an earlier run finished this unit of this task with the same settings."""
    summary = directory / f"{unit}.json"
    if not summary.exists():
        return False
    fields = json.loads(summary.read_text())
    shard = fields["shard"]
    file = directory / shard["file"]
    return bool(
        fields.get("task") == task
        and fields["settings"] == settings
        and (directory / f"{unit}.index.npy").exists()
        and file.exists()
        and file.stat().st_size == shard["bytes"]
    )
