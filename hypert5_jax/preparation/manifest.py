"""Joins finished units into a prepared folder: index.npy, the vocabulary, the manifest."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import FORMAT_VERSION, MANIFEST_FILE, PreparedTask
from hypert5_jax.data.records import INDEX_FILE, INDEX_ROW
from hypert5_jax.data.vocabulary import MODEL_FILE, Vocabulary
from hypert5_jax.preparation.bad_lines import check_bound
from hypert5_jax.preparation.writer import (
    differs,
    json_bytes,
    replace_file,
    sha256_of,
    temporary_name,
)

_SHOWN_BAD_LINES = 20
_NO_CONTEXT, _CONSTANT, _PER_EXAMPLE = "none", "constant", "per_example"


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
    replace_file(directory / MANIFEST_FILE, json_bytes(manifest))
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
                    raise UserError(differs(name, column))
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
