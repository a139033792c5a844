"""Where documents come from: JSON lines, plain text, or a prepared TFDS directory.

Every source has files, which are the units of preparation, and reads one at a time.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.json_files import read_json_lines, read_lines
from hypert5_jax.preparation.locations import DATA_VARIABLE, data_folder

SPLITS = ("train", "validation")
HELD_OUT = 50  # one document in so many is `validation` where no file is
_OF = re.compile(r"-of-(\d+)")


class Documents(Protocol):
    """Documents with numbers, file by file."""

    def files(self, split: str) -> list[Path]:
        """The files of a split, in order; UserError if there are none."""

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[tuple[int, str]]:
        """Yields (number in the file, text); `bad` is told of what it leaves out."""

    def about(self) -> dict[str, str]:
        """What a result should say of the data."""


@dataclass(frozen=True)
class JsonLines:
    """Files of JSON lines with a field `text`, gzipped if they end in .gz.

    Attributes:
      train: glob of the files; `$HYPERT5_DATA` in it is replaced when it is used.
      validation: glob of the other split's files; None keeps one document in fifty of
        the training files for it.
    """

    train: str
    validation: str | None = None

    def files(self, split: str) -> list[Path]:
        """The files that match, sorted by name."""
        return _matching(_pattern(self.train, self.validation, split))

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[tuple[int, str]]:
        """Yields the documents of a file, numbered by line."""
        for number, fields in read_json_lines(path, bad):
            if self.validation is None and _elsewhere(number, split):
                continue
            if isinstance(fields.get("text"), str):
                yield number, fields["text"]
            else:
                bad(f"{path}:{number}: no field `text` that is a string")

    def about(self) -> dict[str, str]:
        """The files, counted."""
        return {"source": "JSON lines"} | _counted(self)


@dataclass(frozen=True)
class PlainText:
    """Files of plain text, gzipped if they end in .gz.

    Attributes:
      train: glob of the files, as in JsonLines.
      validation: as in JsonLines; where a file is a document, one file in fifty.
      separator: the line that parts documents; None makes each file a document.
    """

    train: str
    validation: str | None = None
    separator: str | None = None

    def files(self, split: str) -> list[Path]:
        """The files that match, sorted by name."""
        found = _matching(_pattern(self.train, self.validation, split))
        if self.validation is not None or self.separator is not None:
            return found
        return [f for i, f in enumerate(found, start=1) if not _elsewhere(i, split)]

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[tuple[int, str]]:
        """Yields the documents of a file, numbered by their first lines."""
        divided = self.validation is None and self.separator is not None
        for count, (number, text) in enumerate(self._parted(path, bad), start=1):
            if not (divided and _elsewhere(count, split)):
                yield number, text

    def _parted(self, path: Path, bad: Bad) -> Iterator[tuple[int, str]]:
        start, lines = 1, list[str]()
        for number, line in read_lines(path, bad):
            if self.separator is not None and line.strip() == self.separator.strip():
                if lines:
                    yield start, "".join(lines)
                start, lines = number + 1, []
            else:
                lines.append(line)
        if lines:
            yield start, "".join(lines)

    def about(self) -> dict[str, str]:
        """The files, counted."""
        return {"source": "plain text"} | _counted(self)


@dataclass(frozen=True)
class Tfds:
    """A data set that TFDS prepared, with a feature `text`; read as it lies there.

    Attributes:
      directory: of one version, such as `…/c4/en/3.0.1`; `$HYPERT5_DATA` in it is
        replaced when it is used.
    """

    directory: str

    def files(self, split: str) -> list[Path]:
        """The shards of the split."""
        splits = self._info().splits
        if split not in splits:
            raise UserError(
                f"{_expanded(self.directory)} has no split {split!r}; it has "
                f"{', '.join(splits)}"
            )
        return [Path(path) for path in splits[split].filepaths]

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[tuple[int, str]]:
        """Yields the documents of a shard, numbered by record."""
        import tensorflow as tf
        from tensorflow_datasets.core import file_adapters

        adapter = file_adapters.ADAPTER_FOR_FORMAT[self._info().file_format]
        number = 0
        try:
            records = adapter.make_tf_data(str(path)).as_numpy_iterator()
            for number, record in enumerate(records, start=1):
                features = tf.train.Example.FromString(record).features.feature
                values = features["text"].bytes_list.value
                try:
                    yield number, values[0].decode("utf-8")
                except (IndexError, UnicodeDecodeError) as error:
                    bad(f"{path}, record {number}: no `text` in UTF-8 ({error})")
        except tf.errors.OpError as error:
            raise UserError(
                f"{path} is damaged or missing after record {number} "
                f"({type(error).__name__}); fetch or prepare it again"
            ) from error

    def about(self) -> dict[str, str]:
        """Name and version of the data set, and its files, counted."""
        return {"source": f"TFDS {self._info().full_name}"} | _counted(self)

    def _info(self):  # type: ignore[no-untyped-def]
        import tensorflow_datasets as tfds

        directory = _expanded(self.directory)
        if not (Path(directory) / "dataset_info.json").exists():
            raise UserError(
                f"{directory} holds no data set prepared by TFDS (no "
                "dataset_info.json); name the folder of one version, such as c4/en/3.0.1"
            )
        return tfds.builder_from_directory(directory).info


@dataclass(frozen=True)
class FirstThere:
    """The first of several sources that has files.

    Attributes:
      sources: in the order they are looked for.
      missing: what to tell where none has any.
    """

    sources: tuple[Documents, ...]
    missing: str

    def chosen(self) -> Documents:
        """That source.

        Raises:
          UserError: none has files to train on.
        """
        for source in self.sources:
            try:
                source.files("train")
            except UserError:
                continue
            return source
        raise UserError(self.missing.replace(f"${DATA_VARIABLE}", str(data_folder())))

    def files(self, split: str) -> list[Path]:
        """The files of that source."""
        return self.chosen().files(split)

    def read(
        self, split: str, path: Path, bad: Bad = refuse
    ) -> Iterator[tuple[int, str]]:
        """The documents of one of its files."""
        return self.chosen().read(split, path, bad)

    def about(self) -> dict[str, str]:
        """What that source says."""
        return self.chosen().about()


def _expanded(text: str) -> str:
    return text.replace(f"${DATA_VARIABLE}", str(data_folder()))


def _pattern(train: str, validation: str | None, split: str) -> str:
    return _expanded(train if validation is None or split == "train" else validation)


def _matching(pattern: str) -> list[Path]:
    glob = Path(pattern)
    found = sorted(Path(glob.anchor or ".").glob(str(glob.relative_to(glob.anchor))))
    if not found:
        raise UserError(
            f"no file matches {pattern}; set {DATA_VARIABLE} to the folder above the "
            "data sets, or register your own pattern (tasks/text.py, tasks/c4.py)"
        )
    return found


def _elsewhere(number: int, split: str) -> bool:
    """Whether the number-th document belongs to the other split."""
    return (number % HELD_OUT == 0) != (split == "validation")


def _counted(documents: Documents) -> dict[str, str]:
    counts = {}
    for split in SPLITS:
        try:
            files: Sequence[Path] = documents.files(split)
        except UserError:
            continue
        total = {m.group(1) for f in files if (m := _OF.search(f.name))}
        of = f" of {int(total.pop()):,}" if len(total) == 1 else ""
        there = [f.stat().st_size for f in files if f.exists()]
        counts[split] = f"{len(there):,}{of} files, {sum(there):,} bytes"
    return counts
