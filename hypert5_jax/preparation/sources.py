"""A seqio source made of files and a Python function that reads one."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from hypert5_jax.preparation.bad_lines import Bad
from hypert5_jax.preparation.locations import vocabulary_model


class FilesSource(seqio.DataSource):
    """Examples read from files by Python, one shard per file.

    Args:
      files: gives the files of a split, in order; called when they are needed, so that
        a task can be registered where its data is absent.
      read: yields the examples of one file of a split. If it has a parameter `bad`, it
        gets a function there to tell of a line it leaves out; see bad_lines.py.
      signature: the TensorSpec of each feature.
      splits: the splits there are.
      num_input_examples: number of examples of each split, where known.
      about: tells of the data what a result should record, such as its release; called
        when a manifest is written.
    """

    def __init__(
        self,
        files: Callable[[str], Sequence[Path]],
        read: Callable[[str, Path], Iterator[Mapping[str, Any]]],
        signature: Mapping[str, tf.TensorSpec],
        splits: Sequence[str],
        num_input_examples: Mapping[str, int] | None = None,
        about: Callable[[], Mapping[str, str]] | None = None,
    ):
        super().__init__(splits, num_input_examples)
        self._files = files
        self._read = read
        self._signature = dict(signature)
        self._about = about
        self.takes_bad_lines = "bad" in inspect.signature(read).parameters

    @property
    def about(self) -> dict[str, str]:
        """What is to be recorded of the data."""
        return {} if self._about is None else dict(self._about())

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """One file is the smallest shard."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """The files of the split."""
        return [str(path) for path in self._files(split)]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        bad_lines: Bad | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """The examples of the split, or of every n-th file of it.

        `bad_lines`, if given, is told of each line that cannot be read and is left out.
        """
        files = list(self._files(split))
        if shard_info is not None:
            files = files[shard_info.index :: shard_info.num_shards]
        data = tf.data.Dataset.from_generator(
            lambda: self._rows(split, files, bad_lines),
            output_signature=self._signature,
        )
        return data.shuffle(1000, seed=seed) if shuffle else data

    def python_examples(
        self,
        split: str,
        shard: tuple[int, int] = (0, 1),
        bad_lines: Bad | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """The examples of every n-th file, or of every n-th row if files are too few.

        Args:
          split: one of the source's.
          shard: (i, n), i from 0.
          bad_lines: as in get_dataset; where each shard reads all of the files, only
            the first tells.
        """
        files, (index, count) = list(self._files(split)), shard
        if 1 < count <= len(files):
            files, (index, count) = files[index::count], (0, 1)
        told = bad_lines if index == 0 or bad_lines is None else _unheard
        yield from islice(self._rows(split, files, told), index, None, count)

    def _rows(
        self, split: str, files: Sequence[Path], bad_lines: Bad | None
    ) -> Iterator[Mapping[str, Any]]:
        read: Callable[..., Iterator[Mapping[str, Any]]] = self._read
        if bad_lines is not None and self.takes_bad_lines:
            read = partial(read, bad=bad_lines)
        for path in files:
            yield from read(split, path)


def _unheard(message: str) -> None:
    """Leaves out a bad line that another shard tells of."""


def output_features(
    vocabulary: seqio.Vocabulary | None = None, targets_eos: bool = True
) -> dict[str, seqio.Feature]:
    """`inputs` without EOS and `targets`, T5's vocabulary by default.

    The vocabulary's file is opened when it is first used, not here.
    """
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(
        vocabulary_model(), extra_ids=100
    )
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=False),
        "targets": seqio.Feature(vocabulary, add_eos=targets_eos),
    }


TEXT = tf.TensorSpec([], tf.string)
TEXTS = tf.TensorSpec([None], tf.string)
IDS = tf.TensorSpec([None], tf.int32)
