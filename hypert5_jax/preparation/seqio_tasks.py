"""What preparation needs to know of seqio: tasks, rates, vocabularies, examples."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.vocabulary import Vocabulary, fingerprint
from hypert5_jax.preparation.bad_lines import Bad, unheard
from hypert5_jax.preparation.features import FeatureReader
from hypert5_jax.preparation.writer import Item

_EXAMPLES_PER_UNIT = 100_000
_MOST_UNITS = 256
_USER_ERROR = re.compile(r"UserError: (.*)")


def tasks_of(provider: Any, split: str) -> dict[str, tuple[Any, float]]:
    """The tasks of a Task or Mixture that have the split, with their mixing rates.

    Raises:
      UserError: no task has it, or a rate cannot be computed.
    """
    import seqio

    if isinstance(provider, seqio.Task):
        rated = [(provider, 1.0)]
    else:
        rated = [(task, _rate(provider, task)) for task in provider.tasks]
    found = {task.name: (task, rate) for task, rate in rated if split in task.splits}
    if not found:
        splits = sorted({s for task, _ in rated for s in task.splits})
        raise UserError(
            f"{provider.name!r} has no split {split!r}; it has {', '.join(splits)}"
        )
    return found


def _rate(mixture: Any, task: Any) -> float:
    try:
        return float(mixture.get_rate(task))
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError) as error:
        raise UserError(
            f"the mixing rate of task {task.name!r} in {mixture.name!r} cannot be "
            f"computed ({error}); give its source num_input_examples, or a number as "
            "its rate"
        ) from error


def vocabulary_of(tasks: Mapping[str, Any]) -> tuple[Vocabulary, bytes | None]:
    """The one vocabulary of all tasks' inputs and targets, and its model's bytes.

    Raises:
      UserError: tasks or features differ in it, or its model cannot be read.
    """
    described: dict[str, tuple[str, Vocabulary, bytes | None]] = {}
    known: dict[int, tuple[Vocabulary, bytes | None]] = {}
    for name, task in tasks.items():
        for feature in ("inputs", "targets"):
            if feature not in task.output_features:
                continue
            seqio_vocabulary = task.output_features[feature].vocabulary
            if id(seqio_vocabulary) not in known:
                known[id(seqio_vocabulary)] = describe(seqio_vocabulary)
            vocabulary, model = known[id(seqio_vocabulary)]
            found = (f"{name}.{feature}", vocabulary, model)
            described.setdefault(vocabulary.fingerprint, found)
    if not described:
        raise UserError(
            f"tasks {', '.join(tasks)} declare neither `inputs` nor `targets` among "
            "their output_features, so their vocabulary is unknown; add a seqio.Feature"
        )
    if len(described) > 1:
        places = ", ".join(place for place, _, _ in described.values())
        raise UserError(
            f"different vocabularies in one mixture: {places}; downstream model and "
            "hypermodel read the same ids, so use one vocabulary for all"
        )
    ((_, vocabulary, model),) = described.values()
    return vocabulary, model


def describe(vocabulary: Any) -> tuple[Vocabulary, bytes | None]:
    """A seqio vocabulary as prepared data describe it, and its model's bytes.

    Raises:
      UserError: its model cannot be read.
    """
    import seqio

    kind, model = "opaque", None
    extra_ids = int(vocabulary.extra_ids or 0)
    if isinstance(vocabulary, seqio.SentencePieceVocabulary):
        kind, model = "sentencepiece", _model_bytes(vocabulary)
    elif isinstance(vocabulary, seqio.ByteVocabulary):
        kind = "bytes"
    size = int(vocabulary.vocab_size)
    origin = model or f"{type(vocabulary).__name__}:{size}".encode()
    eos = vocabulary.eos_id
    described = Vocabulary(
        kind=kind,
        size=size,
        extra_ids=extra_ids,
        fingerprint=fingerprint(kind, origin, extra_ids),
        pad_id=0,
        eos_id=1 if eos is None else int(eos),
    )
    return described, model


def _model_bytes(vocabulary: Any) -> bytes:
    import tensorflow as tf

    path = vocabulary.sentencepiece_model_file
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            return bytes(file.read())
    except tf.errors.OpError as error:
        raise UserError(
            f"the SentencePiece model {path} cannot be read "
            f"({type(error).__name__}); name another one (the tasks that come with the "
            "project read HYPERT5_VOCABULARY)"
        ) from error


def with_model(vocabulary: Vocabulary, directory: Path) -> Vocabulary:
    """The vocabulary, able to look up pieces in the model copied to `directory`."""
    return Vocabulary.from_json(vocabulary.to_json(), directory)


def metric_names(task: Any) -> tuple[str, ...]:
    """Names of the metric functions a task declares."""
    functions = task.metric_fns or ()
    return tuple(getattr(fn, "__name__", type(fn).__name__) for fn in functions)


def about(task: Any) -> dict[str, str]:
    """What a task's source says of its data: FilesSource(about=…), else nothing."""
    return dict(getattr(task.source, "about", {}))


def takes_lengths(task: Any) -> bool:
    """Whether what a task makes may depend on `sequence_length`.

    seqio gives it to preprocessors that name it.
    """
    import seqio

    if type(task).get_dataset is not seqio.Task.get_dataset:
        return True
    names: set[str] = set()
    for step in task.preprocessors:
        if dataclasses.is_dataclass(step):
            names.update(field.name for field in dataclasses.fields(step))
        elif not isinstance(step, seqio.CacheDatasetPlaceholder):
            names.update(inspect.signature(step).parameters)
    return "sequence_length" in names


def source_of(task: Any, split: str, cache_dir: str | None = None) -> Any:
    """Where a task's examples come from: its source, or what seqio's caching made of it.

    Args:
      task: the seqio task.
      split: the split to read.
      cache_dir: `--output_cache_dir` of seqio_cache_tasks; None reads the source itself,
        unless the task insists on a cache in one of seqio's global folders.

    Raises:
      UserError: there is no cache of the task.
    """
    import seqio
    from seqio.dataset_providers import _CachedDataSource

    if cache_dir is None and not task.requires_caching:
        return task.source
    if cache_dir is None:
        folder = task.cache_dir
    else:
        folder = f"{cache_dir.rstrip('/')}/{seqio.get_task_dir_from_name(task.name)}"
    return _CachedDataSource(_completed(folder, task), split)


def _completed(folder: str | None, task: Any) -> str:
    """The cache's folder, if it is complete."""
    import tensorflow as tf

    if folder and tf.io.gfile.exists(f"{folder}/COMPLETED"):
        return folder
    why = "" if task.supports_caching else "; it has no CacheDatasetPlaceholder, either"
    raise UserError(
        f"task {task.name!r} has no complete cache in {folder or 'any cache folder'}"
        f"{why}; make it with seqio_cache_tasks --tasks={task.name} (docs/seqio.md), or "
        "leave out --cache_dir"
    )


def unit_count(task: Any, split: str, cache_dir: str | None = None) -> int:
    """Into how many units a task's split is divided; the same on every machine."""
    source = source_of(task, split, cache_dir)
    shards = len(source.list_shards(split))
    if shards > 1:
        return min(shards, _MOST_UNITS)
    try:
        examples = source.num_input_examples(split) or 0
    except (TypeError, ValueError, KeyError, NotImplementedError):
        examples = 0  # unknown
    return min(max(1, -(-examples // _EXAMPLES_PER_UNIT)), _MOST_UNITS)


def read_items(
    task: Any,
    split: str,
    vocabulary: Vocabulary,
    shard: tuple[int, int],
    lengths: Mapping[str, int] | None = None,
    seed: int = 0,
    bad_lines: Bad | None = None,
    cache_dir: str | None = None,
) -> Iterator[Item]:
    """Yields the items of one shard (number, of how many) of a task's split.

    `bad_lines` is told of the shard's lines that cannot be read, if its source can tell;
    `cache_dir` is where seqio_cache_tasks wrote, to read what it made.

    Raises:
      UserError: the task's data or preprocessors fail on the user's input.
    """
    import tensorflow as tf

    features = task.output_features
    feature = features.get("targets") or features["inputs"]
    read = FeatureReader(
        task.name, vocabulary, feature.vocabulary.encode, bool(feature.add_eos)
    )
    if cache_dir is None and _is_plain(task):
        # What Python read need not pass through TensorFlow to reach Python.
        heard = _listener(task.source, bad_lines)
        yield from map(read, task.source.python_examples(split, shard, **heard))
        return
    try:
        dataset = _dataset(task, split, shard, lengths, seed, bad_lines, cache_dir)
        for example in dataset.as_numpy_iterator():
            yield read(example)
    except tf.errors.OpError as error:
        # What Python code inside a TensorFlow data set raised comes out as text.
        found = _USER_ERROR.search(str(error))
        told = found.group(1) if found else str(error).strip().splitlines()[0]
        raise UserError(f"task {task.name!r}: {told}") from error


def _is_plain(task: Any) -> bool:
    """Whether a task only passes on what a source read in Python."""
    import seqio

    steps = [
        step
        for step in task.preprocessors
        if not isinstance(step, seqio.CacheDatasetPlaceholder)
    ]
    return (
        not steps
        and not task.requires_caching
        and hasattr(task.source, "python_examples")
    )


def _listener(source: Any, bad_lines: Bad | None) -> dict[str, Any]:
    """The argument that hears of bad lines, for sources that tell of them."""
    tells = bad_lines is not None and getattr(source, "takes_bad_lines", False)
    return {"bad_lines": bad_lines} if tells else {}


def _dataset(
    task: Any,
    split: str,
    shard: tuple[int, int],
    lengths: Mapping[str, int] | None,
    seed: int,
    bad_lines: Bad | None,
    cache_dir: str | None,
) -> Any:
    """The task's examples in source order, whatever their types.

    Task.get_dataset insists on tokenised features; a plain declaration of text need
    not tokenise, so its steps are taken one by one here.
    """
    import seqio

    info = seqio.ShardInfo(*shard) if shard[1] > 1 else None
    if type(task).get_dataset is not seqio.Task.get_dataset:
        return task.get_dataset(
            sequence_length=lengths,
            split=split,
            use_cached=task.requires_caching,
            shuffle=False,
            seed=seed,
            shard_info=info,
        )
    source = source_of(task, split, cache_dir)
    whole = info is None or (
        source.supports_arbitrary_sharding or len(source.list_shards(split)) >= shard[1]
    )
    if whole:
        told = _listener(source, bad_lines)
        data = source.get_dataset(
            split, shuffle=False, seed=seed, shard_info=info, **told
        )
    else:
        # Each unit reads everything; the first one's bad lines are those that count.
        told = _listener(source, bad_lines if shard[0] == 0 else unheard)
        data = source.get_dataset(split, shuffle=False, seed=seed, **told)
        data = data.shard(shard[1], shard[0])
    if source is task.source:
        data = task.preprocess_precache(data, seed=seed)
    try:
        return task.preprocess_postcache(data, sequence_length=lengths, seed=seed)
    except (TypeError, KeyError) as error:
        given = dict(lengths) if lengths else None
        raise UserError(
            f"task {task.name!r}: a preprocessor fails with sequence_length={given} "
            f"({type(error).__name__}: {error}); if it wants lengths, give them: "
            "--sequence_length=inputs=512,targets=128"
        ) from error


def start_tensorflow() -> None:
    """Keeps TensorFlow, which only reads text here, away from the accelerators."""
    import tensorflow as tf

    try:
        tf.config.set_visible_devices([], "GPU")
        tf.config.set_visible_devices([], "TPU")
    except (RuntimeError, ValueError):  # already running, or no such devices
        pass
