"""One prepared example, its record on disk, and reading many records at once.

Beside the ArrayRecord files lies one index: a NumPy table with a row per example, the
examples of a logical task together. It is memory-mapped, so a mixture of any size costs
the rows that are touched.
"""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from hypert5_jax.core.errors import UserError

INDEX_FILE = "index.npy"
# record: number over all shards; key: equal for equal inputs; the rest: tokens, of
# shot_targets those that a shot shows, whichever feature they come from.
INDEX_ROW = np.dtype(
    [
        ("record", "<i8"),
        ("key", "<u8"),
        ("inputs", "<i4"),
        ("targets", "<i4"),
        ("shot_targets", "<i4"),
        ("context", "<i4"),
    ]
)

# Ids below zero never reach a model: they are places that a row fills in.
SHOTS_SLOT = -(10**6)  # `<shots>` in a context: the drawn shots go here


def label_slot(number: int) -> int:
    """The id that stands for `<label_{number}>` until a context draws its words."""
    return -1 - number


@dataclass(frozen=True)
class Example:
    """Ids of one example, as prepared: nothing cut, nothing padded.

    Attributes:
      inputs: ids without EOS.
      targets: ids, with EOS where the task declares one.
      context: the task's own context, or None where shots are to be drawn.
      options: the answers to choose from, formed like targets; empty without options.
      shot_targets: ids that a shot of this example shows in place of its targets, formed
        like them; None where it shows the targets.
      references: the answers a metric compares with, as the text they were written in;
        empty where the text of targets is the only one.
    """

    inputs: list[int]
    targets: list[int]
    context: list[int] | None = None
    options: tuple[list[int], ...] = ()
    shot_targets: list[int] | None = None
    references: tuple[str, ...] = ()

    @property
    def shown_targets(self) -> list[int]:
        """What a shot of this example shows as its answer."""
        return self.targets if self.shot_targets is None else self.shot_targets

    def to_bytes(self) -> bytes:
        """The record: a msgpack map of id lists and texts, absent fields left out."""
        fields: dict[str, Any] = {"inputs": self.inputs, "targets": self.targets}
        if self.context is not None:
            fields["context"] = self.context
        if self.options:
            fields["options"] = list(self.options)
        if self.shot_targets is not None:
            fields["shot_targets"] = self.shot_targets
        if self.references:
            fields["references"] = list(self.references)
        return bytes(msgpack.packb(fields))

    @classmethod
    def from_bytes(cls, record: bytes) -> "Example":
        """Reads what `to_bytes` wrote."""
        fields = msgpack.unpackb(record)
        options = tuple(fields.pop("options", ()))
        references = tuple(fields.pop("references", ()))
        return cls(options=options, references=references, **fields)

    def key(self) -> int:
        """A 64-bit hash of the input: equal keys are never target and shot together.

        An empty input says nothing, so there the target takes its part.
        """
        ids = self.inputs or [-1, *self.targets]
        digest = hashlib.blake2b(np.asarray(ids, "<i4").tobytes(), digest_size=8)
        return int.from_bytes(digest.digest(), "little")


# One record of a small file costs 3 microseconds where it is asked for alone and 15 in a
# list of 17; lists of a hundred are cheaper than as many calls in large files only.
_FEW = 64


def _read(reader: Any, numbers: list[int]) -> list[bytes]:
    """The records of one file by their numbers."""
    if len(numbers) > _FEW:
        return list(reader.read(numbers))
    return [record for number in numbers for record in reader.read([number])]


class RecordReader:
    """Reads records of a list of ArrayRecord files by their number over all files.

    Safe to use from several threads; opens a file when it is first needed.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int]):
        self._paths = list(paths)
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_starts": self._starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _readers={}, _lock=threading.Lock())

    def _reader(self, shard: int) -> Any:
        with self._lock:
            if shard not in self._readers:
                # One batched read serves a whole training batch; reading ahead and
                # threads of its own would only cost memory.
                self._readers[shard] = array_record_module.ArrayRecordReader(
                    str(self._paths[shard]),
                    "readahead_buffer_size:0,max_parallelism:0",
                )
            return self._readers[shard]

    @staticmethod
    def _trouble(path: Path, error: Exception) -> str:
        if not path.exists():
            return (
                f"{path} is gone, which was there when the mixture was opened; put it "
                "back or prepare the mixture again, and run the same command again"
            )
        return (
            f"{path} cannot be read ({error}); it is damaged: delete its folder and "
            "prepare the mixture again"
        )

    def read(self, records: np.ndarray) -> dict[int, Example]:
        """Reads examples by record number (int64 [n], repeats allowed).

        Raises:
          UserError: a file cannot be read.
        """
        wanted = np.unique(records)
        shards = np.searchsorted(self._starts, wanted, side="right") - 1
        found: dict[int, Example] = {}
        groups: dict[int, list[int]] = defaultdict(list)
        for shard, number in zip(shards.tolist(), wanted.tolist()):
            groups[shard].append(number)
        for shard, numbers in groups.items():
            start = int(self._starts[shard])
            try:
                rows = _read(self._reader(shard), [n - start for n in numbers])
            except (RuntimeError, ValueError, IndexError) as error:
                raise UserError(self._trouble(self._paths[shard], error)) from error
            for number, row in zip(numbers, rows):
                found[number] = Example.from_bytes(row)
        return found
