"""Writes prepared files; knows examples and folders, nothing of seqio.

A mixture is written in units (a task, or a shard of a large one). A unit is finished
when its .json is there, the mixture when manifest.json is; each file is written under
another name and renamed, so a killed run leaves whole units to go on from, and the
finished folder is byte-identical however often it was interrupted.
"""

import hashlib
import json
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import FORMAT_VERSION, MANIFEST_FILE, PreparedTask
from hypert5_jax.data.records import INDEX_FILE, INDEX_ROW, SHOTS_SLOT, Example
from hypert5_jax.data.vocabulary import MODEL_FILE, Vocabulary
from hypert5_jax.preparation.bad_lines import REASON as BAD_LINE
from hypert5_jax.preparation.bad_lines import check_bound

_UNIT_ROW = np.dtype([*INDEX_ROW.descr, ("task", "<i4")])
# Its int32 columns, in the order in which a unit's examples are counted.
_COUNTED = ("inputs", "targets", "shot_targets", "context", "task")
_SHOWN_BAD_LINES = 20
_NO_CONTEXT, _CONSTANT, _PER_EXAMPLE = "none", "constant", "per_example"


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


@dataclass(frozen=True)
class Source:
    """What the manifest says of one seqio task, and the units it was written in.

    `about` is what its data source says of itself, such as the release.
    """

    name: str
    rate: float
    metrics: tuple[str, ...]
    units: tuple[str, ...]
    about: Mapping[str, str] = field(default_factory=dict)


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
                raise UserError(_differs(name, column))
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


def _differs(task: str, column: str) -> str:
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


def _json(fields: Any) -> bytes:
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
    replace_file(directory / f"{unit}.json", _json(summary))


def unit_is_done(directory: Path, unit: str, settings: str) -> bool:
    """Whether an earlier run finished this unit with the same settings."""
    summary = directory / f"{unit}.json"
    if not summary.exists():
        return False
    fields = json.loads(summary.read_text())
    shard = fields["shard"]
    file = directory / shard["file"]
    return bool(
        fields["settings"] == settings
        and (directory / f"{unit}.index.npy").exists()
        and file.exists()
        and file.stat().st_size == shard["bytes"]
    )


def write_manifest(
    directory: Path,
    mixture: str,
    split: str,
    sources: Sequence[Source],
    vocabulary: Vocabulary,
    vocabulary_model: bytes | None = None,
    settings: Mapping[str, Any] | None = None,
    most_bad_lines: int = 0,
) -> None:
    """Joins finished units: index.npy, the vocabulary and, last, the manifest.

    Raises:
      UserError: no examples at all, tasks whose units disagree, or more bad lines than
        `most_bad_lines` over all units.
    """
    units = [
        (source, unit, json.loads((directory / f"{unit}.json").read_text()))
        for source in sources
        for unit in source.units
    ]
    check_bound(_bad_lines(units), most_bad_lines)
    tasks = _merge_tasks(units)
    if not tasks:
        raise UserError(
            f"split {split!r} of {mixture!r} has no examples; check the split's name "
            "and that the task's preprocessors keep something"
        )
    tasks = _write_index(directory, units, tasks)
    if vocabulary_model is not None:
        replace_file(directory / MODEL_FILE, vocabulary_model)
    index = directory / INDEX_FILE
    manifest = {
        "format_version": FORMAT_VERSION,
        "mixture": mixture,
        "split": split,
        "examples": sum(task.count for task in tasks.values()),
        "vocabulary": vocabulary.to_json(),
        "rates": {source.name: source.rate for source in sources},
        "metrics": {source.name: list(source.metrics) for source in sources},
        "about": {source.name: dict(source.about) for source in sources},
        "settings": dict(settings or {}),
        "versions": _versions(),
        "tasks": [asdict(task) for task in tasks.values()],
        "tokens": _token_report(index),
        "skipped": _skipped(units),
        "bad_lines": _bad_lines(units)[:_SHOWN_BAD_LINES],
        "shards": [summary["shard"] for _, _, summary in units],
        "index": {
            "file": INDEX_FILE,
            "bytes": index.stat().st_size,
            "sha256": sha256_of(index),
        },
    }
    replace_file(directory / MANIFEST_FILE, _json(manifest))
    remove_unit_files(directory)


def remove_unit_files(directory: Path) -> None:
    """Removes what only a preparation in progress needs."""
    for pattern in ("*-of-*.json", "*.index.npy"):
        for path in directory.glob(pattern):
            path.unlink()


_Units = list[tuple[Source, str, dict[str, Any]]]
_TaskKey = tuple[str, str]


def _merge_tasks(units: _Units) -> dict[_TaskKey, PreparedTask]:
    """Logical tasks by (seqio task, name), in order, with their places in the index."""
    merged: dict[_TaskKey, dict[str, Any]] = {}
    for source, _, summary in units:
        for name in summary["order"]:
            new = summary["tasks"][name]
            old = merged.setdefault((source.name, name), new | {"count": 0})
            for column in ("label_pool", "group"):
                if old[column] != new[column]:
                    raise UserError(_differs(name, column))
            old["count"] += new["count"]
            old["contexts"] = sorted({*old["contexts"], *new["contexts"]})
            old["wants_shots"] |= new["wants_shots"]
    rates = {source.name: source.rate for source, _, _ in units}
    names = [name for _, name in merged]
    none = hashlib.sha256(b"none").hexdigest()
    first, tasks = 0, {}
    for (seqio_task, name), fields in merged.items():
        context = _CONSTANT if len(fields["contexts"]) == 1 else _PER_EXAMPLE
        if fields["contexts"] == [none]:
            context = _NO_CONTEXT
        unique = name if names.count(name) == 1 else f"{seqio_task}:{name}"
        tasks[seqio_task, name] = PreparedTask(
            name=unique,
            seqio_task=seqio_task,
            first=first,
            count=fields["count"],
            distinct=0,
            rate=rates[seqio_task],
            context=context,
            wants_shots=fields["wants_shots"],
            label_pool=tuple(map(tuple, fields["label_pool"])),
            group=fields["group"],
        )
        first += fields["count"]
    return tasks


def _write_index(
    directory: Path, units: _Units, tasks: dict[_TaskKey, PreparedTask]
) -> dict[_TaskKey, PreparedTask]:
    """Writes index.npy, task by task; returns the tasks with `distinct` filled in."""
    path = directory / INDEX_FILE
    total = sum(task.count for task in tasks.values())
    index = np.lib.format.open_memmap(
        temporary_name(path), mode="w+", dtype=INDEX_ROW, shape=(total,)
    )
    filled = {key: task.first for key, task in tasks.items()}
    start = 0
    for source, unit, summary in units:
        rows = np.load(directory / f"{unit}.index.npy")
        order = np.argsort(rows["task"], kind="stable")
        ends = np.cumsum(np.bincount(rows["task"], minlength=len(summary["order"])))
        for name, mine in zip(summary["order"], np.split(order, ends[:-1])):
            key = (source.name, name)
            place = slice(filled[key], filled[key] + len(mine))
            for column in INDEX_ROW.names or ():
                index[column][place] = rows[column][mine]
            index["record"][place] += start
            filled[key] += len(mine)
        start += len(rows)
    index.flush()
    counted = {}
    for key, task in tasks.items():
        keys = index["key"][task.first : task.first + task.count]
        counted[key] = PreparedTask(
            **(asdict(task) | {"distinct": len(np.unique(keys))})
        )
    del index
    os.replace(temporary_name(path), path)
    return counted


def _token_report(index: Path) -> dict[str, dict[str, float]]:
    """Mean and greatest number of tokens of each feature."""
    rows = np.load(index, mmap_mode="r")
    return {
        name: {
            "mean": round(float(rows[name].mean()), 2),
            "max": int(rows[name].max()),
        }
        for name in ("inputs", "targets", "context")
    }


def _skipped(units: _Units) -> dict[str, dict[str, int]]:
    """How many examples each seqio task left out, by reason."""
    found: dict[str, Counter[str]] = {}
    for source, _, summary in units:
        found.setdefault(source.name, Counter()).update(summary["skipped"])
    return {name: dict(counts) for name, counts in found.items() if counts}


def _bad_lines(units: _Units) -> list[str]:
    return [line for _, _, summary in units for line in summary["bad_lines"]]


def _versions() -> dict[str, str]:
    found = {}
    for name in ("hypert5_jax", "seqio", "sentencepiece", "array_record"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
