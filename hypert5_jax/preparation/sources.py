"""A seqio source made of files and a Python function that reads one."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from hypert5_jax.preparation.bad_lines import Bad, unheard
from hypert5_jax.preparation.locations import vocabulary_model


class PythonSource(seqio.DataSource):
    """A source read in Python; a subclass says its examples and their signature."""

    def signature(self, split: str) -> Mapping[str, tf.TensorSpec]:
        """The TensorSpec of each feature; raises what missing data has to tell."""
        raise NotImplementedError

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
          bad_lines: told of each line that cannot be read and is left out; without it
            such a line is refused.
        """
        raise NotImplementedError

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        bad_lines: Bad | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """`python_examples` of the split, or of a part of it, as a data set."""
        shard = (0, 1)
        if shard_info is not None:
            shard = (shard_info.index, shard_info.num_shards)
        # Asked for now: in the data set's own thread an error is only text.
        signature = dict(self.signature(split))
        data = tf.data.Dataset.from_generator(
            lambda: self.python_examples(split, shard, bad_lines),
            output_signature=signature,
        )
        return data.shuffle(1000, seed=seed) if shuffle else data


class FilesSource(PythonSource):
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

    def signature(self, split: str) -> Mapping[str, tf.TensorSpec]:
        """The same for every split."""
        self._files(split)
        return self._signature

    def python_examples(
        self,
        split: str,
        shard: tuple[int, int] = (0, 1),
        bad_lines: Bad | None = None,
    ) -> Iterator[Mapping[str, Any]]:
        """As PythonSource; where each shard reads all files, only the first tells."""
        files, (index, count) = list(self._files(split)), shard
        if 1 < count <= len(files):
            files, (index, count) = files[index::count], (0, 1)
        told = bad_lines if index == 0 or bad_lines is None else unheard
        yield from islice(self._rows(split, files, told), index, None, count)

    def _rows(
        self, split: str, files: Sequence[Path], bad_lines: Bad | None
    ) -> Iterator[Mapping[str, Any]]:
        read: Callable[..., Iterator[Mapping[str, Any]]] = self._read
        if bad_lines is not None and self.takes_bad_lines:
            read = partial(read, bad=bad_lines)
        for path in files:
            yield from read(split, path)


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
