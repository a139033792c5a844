"""Complete rows from `seqio.get_dataset`, for programs that stay with plain seqio.

    name = register_rows("sni_train")
    seqio.get_dataset(
        name,
        {"hyper_inputs": 1024, "inputs": 384, "targets": 128},
        feature_converter=EncDecRowConverter(),
        shuffle=True,
    )

The rows have the format of data/rows.py; see docs/seqio.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation import seqio_tasks, windows
from hypert5_jax.preparation.features import FeatureReader
from hypert5_jax.preparation.modules import find_provider
from hypert5_jax.preparation.sources import IDS, TEXT, TEXTS
from hypert5_jax.preparation.writer import Item

_SIGNATURE = {"hyper_inputs": IDS, "inputs": IDS, "targets": IDS}
_ABOUT = {"references": TEXTS, "task": TEXT, "group": TEXT}


@dataclass(frozen=True)
class FewShot:
    """A preprocessor, the last one of a task: examples become rows.

    It reads the features of docs/data.md, text or ids, and gives `hyper_inputs` (only
    for row.context="hypermodel"), `inputs`, `targets` and, for metrics, `references`,
    `task` and `group`. The lengths are those that `seqio.get_dataset` is asked for, and
    row.lengths where it is asked for none.

    Attributes:
      row: the format. With context="downstream", the length of `inputs` holds context,
        input and two markers, and row.lengths says how much of it is the context's.
      window: examples of a logical task that lend each other shots.
      seed: of all draws.
      task: the name of the seqio task, for examples that name no logical task.
      output_features, sequence_length: seqio fills in what the task and the call say.

    Raises:
      UserError: settings that seqio's streams cannot serve.
    """

    row: RowFormat = field(default_factory=RowFormat)
    window: int = 64
    seed: int = 0
    task: str = "task"
    output_features: Mapping[str, seqio.Feature] | None = None
    sequence_length: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        windows.check(self.row, self.window)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The rows of a data set of examples."""
        row = fitted(self.row, self.sequence_length)
        assert self.output_features is not None, "a step of a seqio task"
        targets = self.output_features["targets"]

        def generate() -> Iterator[dict[str, Any]]:
            vocabulary = _vocabulary(targets.vocabulary)
            encode, eos = targets.vocabulary.encode, bool(targets.add_eos)
            read = FeatureReader(self.task, vocabulary, encode, eos)
            make = windows.FewShotRows(row, vocabulary, self.window, self.seed)
            items = (_item(read, x) for x in dataset.as_numpy_iterator())
            for one in make(items, self.task):
                features = {
                    "hyper_inputs": np.array(one.hyper_inputs, np.int32),
                    "inputs": np.array(one.inputs, np.int32),
                    "targets": np.array(one.targets, np.int32),
                    "references": np.array(one.example.references, object),
                    "task": one.task,
                    "group": one.group,
                }
                yield {name: features[name] for name in signature}

        signature = _SIGNATURE | _ABOUT
        if row.context != "hypermodel":
            del signature["hyper_inputs"]
        return tf.data.Dataset.from_generator(generate, output_signature=signature)


def fitted(row: RowFormat, lengths: Mapping[str, int] | None) -> RowFormat:
    """The format with the lengths that a data set is asked for.

    Raises:
      UserError: no room is left for the input beside its context.
    """
    if not lengths:
        return row
    given = {name: n for name, n in lengths.items() if name in row.lengths}
    chosen = dict(row.lengths) | given
    if row.context == "downstream":
        context = int(row.lengths["hyper_inputs"])
        chosen["hyper_inputs"] = context
        if "inputs" in given:
            chosen["inputs"] = given["inputs"] - context - 2
        if chosen["inputs"] < 1:
            raise UserError(
                f"inputs has {given['inputs']} tokens, {context} of them for the context "
                "and 2 for markers, which leaves none for the input; ask for more, or "
                "give RowFormat.lengths fewer hyper_inputs"
            )
    return replace(row, lengths=chosen)


def _vocabulary(vocabulary: seqio.Vocabulary) -> Vocabulary:
    described, model = seqio_tasks.describe(vocabulary)
    path = vocabulary.sentencepiece_model_file if model is not None else None
    # Only to look sentinels up in models that hold them as pieces.
    return replace(described, model_path=path if path and Path(path).exists() else None)


def _item(read: FeatureReader, features: Mapping[str, Any]) -> Item:
    """Reads an example; the references are its targets' text where it gives no others.

    Where label words are drawn anew, no text stands in the source: the references stay
    empty, and metrics take the decoded targets.
    """
    item = read(features)
    text = features.get("targets")
    if item.label_pool:
        return replace(item, example=replace(item.example, references=()))
    if item.example.references or not isinstance(text, bytes):
        return item
    references = (text.decode("utf-8"),)
    return replace(item, example=replace(item.example, references=references))


def row_features(
    vocabulary: seqio.Vocabulary, row: RowFormat | None = None, targets_eos: bool = True
) -> dict[str, seqio.Feature]:
    """`output_features` of a task that ends with FewShot."""
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=False),
        "targets": seqio.Feature(vocabulary, add_eos=targets_eos),
    }
    if row is None or row.context == "hypermodel":
        features["hyper_inputs"] = seqio.Feature(vocabulary, add_eos=False)
    return features


class RowsTask(seqio.Task):
    """A task of rows; what seqio's caching made of the task of examples is its own."""

    def __init__(self, origin: seqio.Task, few_shot: FewShot, **kwargs: Any):
        super().__init__(**kwargs)
        self.origin = origin
        self.few_shot = few_shot

    @property
    def cache_dir(self) -> str | None:
        """Where the examples' cache is."""
        return self.origin.cache_dir


def register_rows(
    name: str,
    row: RowFormat | None = None,
    window: int = 64,
    seed: int = 0,
    suffix: str = "rows",
    modules: Sequence[str] = (),
) -> str:
    """Registers a task or mixture of rows beside one of examples.

    Sources, steps, caches, metrics and mixing rates are those of the original. Calling
    it again with the same arguments changes nothing.

    Args:
      name: of a seqio task or mixture whose examples have the features of docs/data.md.
      row: the format; `RowFormat()` has the paper's.
      window: examples of a logical task that lend each other shots.
      seed: of all draws.
      suffix: the new names are `{name}_{suffix}`, also of the mixture's tasks.
      modules: what to import so that the name is registered.

    Returns:
      The new name.

    Raises:
      UserError: an unknown name, or one registered with other settings.
    """
    provider = find_provider(name, modules)
    row = row or RowFormat()
    settings = FewShot(row, window, seed)
    if isinstance(provider, seqio.Task):
        return _register_task(provider, settings, suffix)
    rated = [
        # A rate may want the cache or the source: asked for when the mixture is.
        (_register_task(task, settings, suffix), _rate(provider, task))
        for task in provider.tasks
    ]
    new = f"{name}_{suffix}"
    if new not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(new, rated)
    return new


def _rate(mixture: seqio.Mixture, task: seqio.Task) -> Any:
    return lambda unused_task: mixture.get_rate(task)


def _register_task(task: seqio.Task, settings: FewShot, suffix: str) -> str:
    name = f"{task.name}_{suffix}"
    few_shot = replace(settings, task=task.name)
    if name in seqio.TaskRegistry.names():
        if getattr(seqio.TaskRegistry.get(name), "few_shot", None) != few_shot:
            raise UserError(
                f"{name!r} is registered already, with other settings; give another "
                "suffix"
            )
        return name
    feature = task.output_features.get("targets") or task.output_features["inputs"]
    seqio.TaskRegistry.add(
        name,
        task.source,
        row_features(feature.vocabulary, settings.row, bool(feature.add_eos)),
        [*task.preprocessors, few_shot],
        postprocess_fn=task.postprocessor,
        metric_fns=task.metric_fns,
        task_cls=RowsTask,
        origin=task,
        few_shot=few_shot,
    )
    return name


_IDS = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
_TASK_FEATURES = {"hyper_inputs": _IDS, "inputs": _IDS, "targets": _IDS}
_WEIGHTS = {"weights": seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)}
_BATCH_FEATURES = _TASK_FEATURES | _WEIGHTS
_ENC_DEC_FEATURES = dict(seqio.EncDecFeatureConverter.MODEL_FEATURES)


def _refuse_packing(pack: bool) -> None:
    if pack:
        raise UserError(
            "pack=True would put the contexts of several rows into one, but each has a "
            "φ of its own; rows are not packed"
        )


class RowConverter(seqio.FeatureConverter):
    """Rows with the names of core/batch.py's Batch: `Batch(**row)`.

    hyper_inputs, inputs, targets: int32, padded to their lengths; weights: float32, 1 on
    target tokens.
    """

    TASK_FEATURES = _TASK_FEATURES
    MODEL_FEATURES = _BATCH_FEATURES
    PACKING_FEATURE_DTYPES: Mapping[str, tf.dtypes.DType] = {}

    def __init__(self, pack: bool = False, **kwargs: Any):
        _refuse_packing(pack)
        super().__init__(pack=False, **kwargs)

    def _convert_features(
        self, ds: tf.data.Dataset, task_feature_lengths: Mapping[str, int]
    ) -> tf.data.Dataset:
        def with_weights(row: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            # The length, not the padding id: see data/rows.py:to_arrays.
            ones = tf.ones_like(row["targets"], tf.float32)
            names = [*self.TASK_FEATURES, *self._passthrough_features]
            return {name: row[name] for name in names} | {"weights": ones}

        lengths = dict(task_feature_lengths)
        return self._pack_or_pad(
            ds.map(with_weights), lengths | {"weights": lengths["targets"]}
        )

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        """The lengths of the row's arrays."""
        lengths = dict(task_feature_lengths)
        return lengths | {"weights": lengths["targets"]}


class EncDecRowConverter(seqio.EncDecFeatureConverter):
    """Rows with the names of seqio's and T5X's encoder-decoders, and `hyper_inputs`.

    Beside it, int32 like it: encoder_input_tokens, decoder_target_tokens,
    decoder_input_tokens (targets moved on by one, after bos_id), decoder_loss_weights.
    """

    TASK_FEATURES = _TASK_FEATURES
    MODEL_FEATURES = _ENC_DEC_FEATURES | {"hyper_inputs": _IDS}

    def __init__(self, pack: bool = False, **kwargs: Any):
        _refuse_packing(pack)
        super().__init__(pack=False, **kwargs)

    def _convert_example(
        self, features: Mapping[str, tf.Tensor]
    ) -> Mapping[str, tf.Tensor]:
        row = dict(super()._convert_example(features))
        return row | {"hyper_inputs": features["hyper_inputs"]}

    def get_model_feature_lengths(
        self, task_feature_lengths: Mapping[str, int]
    ) -> Mapping[str, int]:
        """The lengths of the row's arrays."""
        lengths = dict(super().get_model_feature_lengths(task_feature_lengths))
        return lengths | {"hyper_inputs": task_feature_lengths["hyper_inputs"]}
