"""Reading the rows of a file, TFRecord, Parquet or JSON lines, as plain dicts.

Only every n-th row from the i-th on is read if a part (i, n) is asked for: so one large
file is shared by several processes.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.json_files import read_json_lines

Part = tuple[int, int]
WHOLE: Part = (0, 1)
_BATCH = 1024  # rows


def read_rows(
    path: Path, part: Part = WHOLE, bad: Bad = refuse
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number of the row from 1, its fields).

    Args:
      path: of the file.
      part: which rows.
      bad: told of lines that are no JSON object; other files have no lines.

    Raises:
      UserError: the file is damaged, with its name and the place.
    """
    name = path.name
    if name.endswith((".jsonl", ".jsonl.gz")):
        return read_json_lines(path, bad, part=part)
    return _parquet(path, part) if name.endswith(".parquet") else _tfrecord(path, part)


def _parquet(path: Path, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    import pyarrow.parquet

    index, count = part
    number = 0
    try:
        # Opened by us: pyarrow's own memory map outlives an error.
        with open(path, "rb") as file:
            table = pyarrow.parquet.ParquetFile(file)
            columns = _wanted(table.schema_arrow.names)
            for batch in table.iter_batches(_BATCH, columns=columns):
                mine = range((index - number) % count, len(batch), count)
                if mine:
                    rows = batch.take(pyarrow.array(mine)).to_pylist()
                    yield from zip((number + i + 1 for i in mine), rows)
                number += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        told = " ".join(str(error).split())
        raise UserError(
            f"{path} is damaged after row {number} ({told}); fetch it again"
        ) from error


def _tfrecord(path: Path, part: Part) -> Iterator[tuple[int, dict[str, Any]]]:
    """tf.train.Examples; every feature is a list, as it is stored."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    index, count = part
    number = 0
    try:
        records = tf.data.TFRecordDataset(str(path), buffer_size=1 << 20)
        batches = records.shard(count, index).batch(_BATCH).as_numpy_iterator()
        found = (record for batch in batches for record in batch)
        for i, record in enumerate(found):
            number = index + i * count + 1
            features = tf.train.Example.FromString(record).features.feature
            yield number, {name: _values(features[name]) for name in _wanted(features)}
    except (tf.errors.OpError, ValueError) as error:
        told = str(error).strip().splitlines()[0]
        raise UserError(
            f"{path} is damaged after record {number} ({told}); fetch it again"
        ) from error
    except DecodeError as error:
        raise UserError(
            f"{path}: record {number} is no tf.train.Example; expected a seqio cache"
        ) from error


def _values(feature: Any) -> list[Any]:
    kind = feature.WhichOneof("kind")
    return list(getattr(feature, kind).value) if kind else []


def _wanted(names: Iterable[str]) -> list[str]:
    """All but ids whose text is there, too."""
    known = set(names)
    return [name for name in names if f"{name}_pretokenized" not in known]
