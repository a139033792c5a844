"""A prepared mixture on disk: its manifest, its index and its records.

{output_dir}/{mixture}/{split}/manifest.json      written last: there or not there
                               index.npy          a row per example, by task
                               *.arrayrecord      the examples
                               vocabulary.model   to turn ids into text
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.records import INDEX_FILE, INDEX_ROW, Example, RecordReader
from hypert5_jax.data.vocabulary import Vocabulary

MANIFEST_FILE = "manifest.json"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class PreparedTask:
    """One logical task: what shots may be drawn together.

    Attributes:
      name: unique within the mixture.
      seqio_task: the registered task it came from.
      first: row of its first example in the index.
      count: its number of examples.
      distinct: its number of different inputs.
      rate: mixing rate of the seqio task it came from, of any scale.
      context: "none", "constant" (one for the whole task) or "per_example".
      wants_shots: whether shots are drawn: no own context, or one with `<shots>`.
      label_pool: words (ids) that fill `<label_k>` anew in each context; often empty.
      group: what its scores are averaged with first, such as a data set or a category;
        empty where the task declares none.
    """

    name: str
    seqio_task: str
    first: int
    count: int
    distinct: int
    rate: float
    context: str
    wants_shots: bool
    label_pool: tuple[tuple[int, ...], ...] = ()
    group: str = ""


@dataclass(frozen=True)
class PreparedMixture:
    """An opened mixture; cheap to open, safe to pickle and to share by threads.

    Attributes:
      directory: where the manifest lies.
      name: name of the seqio mixture or task.
      split: its split.
      tasks: logical tasks, in the order of the index.
      vocabulary: what the ids mean.
      manifest: the whole manifest, for whatever is not named here.
      index: INDEX_ROW [examples], memory-mapped.
      reader: of the records.
    """

    directory: Path
    name: str
    split: str
    tasks: tuple[PreparedTask, ...]
    vocabulary: Vocabulary
    manifest: dict[str, Any]
    index: np.ndarray
    reader: RecordReader

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.directory,)

    @property
    def metrics(self) -> dict[str, list[str]]:
        """Names of the metric functions of each seqio task."""
        return dict(self.manifest["metrics"])

    @property
    def digest(self) -> str:
        """What identifies the data: sha256 over the checksums in the manifest."""
        parts = [self.manifest["index"]["sha256"], self.vocabulary.fingerprint]
        parts += [shard["sha256"] for shard in self.manifest["shards"]]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def about(self) -> dict[str, dict[str, str]]:
        """What each seqio task's source says of its data, such as the release."""
        return dict(self.manifest.get("about", {}))

    def task(self, name: str) -> PreparedTask:
        """The logical task of that name.

        Raises:
          UserError: there is none; near names are listed.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        near = get_close_matches(name, names, n=5, cutoff=0.3) or names[:5]
        raise UserError(
            f"mixture {self.name!r} has no task {name!r}; near names: {', '.join(near)}"
        )

    def require_vocabulary(
        self, fingerprint: str | None = None, rows: int | None = None
    ) -> None:
        """Checks the ids against a model's vocabulary.

        Args:
          fingerprint: of the vocabulary the model was trained with, if known.
          rows: of the model's embedding table.

        Raises:
          UserError: the ids were made with another vocabulary, or do not fit.
        """
        if fingerprint is not None and fingerprint != self.vocabulary.fingerprint:
            raise UserError(
                f"{self.directory} was prepared with vocabulary "
                f"{self.vocabulary.fingerprint[:12]}, but {fingerprint[:12]} was "
                "expected; prepare the mixture with the model's vocabulary"
            )
        if rows is not None and rows < self.vocabulary.rows:
            raise UserError(
                f"{self.directory} holds ids up to {self.vocabulary.rows - 1} (the "
                f"markers <x> and <y> included), but the model has {rows} embedding "
                f"rows; use a vocab_size of at least {self.vocabulary.rows}"
            )

    def longer_than(self, lengths: Mapping[str, int]) -> dict[str, int]:
        """How many examples have longer inputs, targets or contexts of their own.

        Args:
          lengths: tokens of `inputs`, `targets`, `hyper_inputs`, as in a RowFormat; a
            row cuts what is longer.
        """
        columns = {"hyper_inputs": "context", "inputs": "inputs", "targets": "targets"}
        return {
            name: int(np.count_nonzero(self.index[columns[name]] > length))
            for name, length in lengths.items()
        }

    def cut_report(
        self, lengths: Mapping[str, int], shot_length: int | None = None
    ) -> list[str]:
        """A line for each feature that rows of these lengths would cut.

        Args:
          lengths: as for longer_than.
          shot_length: of a RowFormat; a shot's target counts without its EOS.
        """
        counts = {
            f"{name} longer than {lengths[name]} tokens": count
            for name, count in self.longer_than(lengths).items()
        }
        if shot_length is not None:
            # <x> and <y> come, the EOS of the target goes.
            shots = self.index["inputs"] + self.index["shot_targets"] + 1
            name = f"as a shot longer than {shot_length} tokens"
            counts[name] = int(np.count_nonzero(shots > shot_length))
        return [
            f"{count:,} of {len(self.index):,} examples are cut: {name}"
            for name, count in counts.items()
            if count
        ]

    def examples(
        self, task: PreparedTask, indices: np.ndarray | None = None
    ) -> list[Example]:
        """Examples of a task, all or those at indices (int64 [n], in [0, count))."""
        if indices is None:
            indices = np.arange(task.count)
        records = self.index["record"][task.first + np.asarray(indices, np.int64)]
        found = self.reader.read(records)
        return [found[int(record)] for record in records]


def open_mixture(directory: str | Path, split: str) -> PreparedMixture:
    """Opens `{directory}/{split}`; directory is `{output_dir}/{mixture}`.

    Raises:
      UserError: nothing was prepared there, or the files are not what the manifest says.
    """
    path = Path(directory) / split
    if not (path / MANIFEST_FILE).exists():
        home = Path(directory).parent
        there = sorted(
            str(m.parent.relative_to(home)) for m in home.glob(f"*/*/{MANIFEST_FILE}")
        )
        wanted = f"{Path(directory).name}/{split}"
        near = get_close_matches(wanted, there, n=5, cutoff=0.3) or there[:5]
        raise UserError(
            f"no prepared data at {path}; prepared there: {', '.join(near) or 'nothing'}"
            f". Run: python -m hypert5_jax.prepare --mixture={Path(directory).name} "
            f"--split={split} --output_dir={home}"
        )
    return _open(path)


def _open(path: Path) -> PreparedMixture:
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path / MANIFEST_FILE}:{error.lineno} is not JSON ({error.msg}); delete "
            "the folder and prepare the mixture again"
        ) from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has format version {manifest.get('format_version')}, this release "
            f"reads {FORMAT_VERSION}; prepare the mixture again, with --overwrite"
        )
    shards = manifest["shards"]
    for shard in [*shards, manifest["index"]]:
        file = path / shard["file"]
        size = file.stat().st_size if file.exists() else None
        if size != shard["bytes"]:
            found = "missing" if size is None else f"{size} bytes"
            raise UserError(
                f"{file} is {found}, the manifest says {shard['bytes']} bytes; delete "
                f"{path} and prepare the mixture again"
            )
    index = np.load(path / INDEX_FILE, mmap_mode="r")
    assert index.dtype == INDEX_ROW
    tasks = tuple(
        PreparedTask(
            **(fields | {"label_pool": tuple(map(tuple, fields["label_pool"]))})
        )
        for fields in manifest["tasks"]
    )
    return PreparedMixture(
        directory=path,
        name=manifest["mixture"],
        split=manifest["split"],
        tasks=tasks,
        vocabulary=Vocabulary.from_json(manifest["vocabulary"], path),
        manifest=manifest,
        index=index,
        reader=RecordReader(
            [path / s["file"] for s in shards], [s["records"] for s in shards]
        ),
    )
