"""seqio tasks as users write them: text or ids, with and without a context."""

import os
import time
from functools import partial
from pathlib import Path

import seqio
import tensorflow as tf

from hypert5_jax.evaluation import metrics
from hypert5_jax.preparation.bad_lines import refuse
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.json_files import read_json_lines
from hypert5_jax.preparation.sources import IDS, TEXT, TEXTS, FilesSource

VOCABULARY = seqio.ByteVocabulary(extra_ids=10)
FEATURES = {
    "inputs": seqio.Feature(VOCABULARY, add_eos=False),
    "targets": seqio.Feature(VOCABULARY, add_eos=True),
}
COUNT = 24
# Set by the test that kills: the folder with the files, and seconds per example.
FOLDER, DELAY = "TOY_TASKS_FOLDER", "TOY_TASKS_DELAY"


def _rows(split, shuffle_files=False, seed=None, extra=None, signature=None):
    def rows():
        for i in range(COUNT):
            row = {"inputs": f"question {i}", "targets": f"answer {i % 3}"}
            yield row | (extra(i) if extra else {})

    kinds = {"inputs": TEXT, "targets": TEXT} | (signature or {})
    return tf.data.Dataset.from_generator(rows, output_signature=kinds)


def _add(name, extra=None, signature=None, preprocessors=(), features=FEATURES):
    seqio.TaskRegistry.add(
        name,
        seqio.FunctionDataSource(
            partial(_rows, extra=extra, signature=signature),
            splits=["train"],
            num_input_examples={"train": COUNT},
        ),
        output_features=features,
        preprocessors=list(preprocessors),
        metric_fns=[exact_match],
    )


def exact_match(targets, predictions):
    """A metric, for its name."""
    return {"exact_match": float(targets == predictions)}


def toy_files(split):
    """The files of the task `toy_files`."""
    return sorted(Path(os.environ[FOLDER]).glob("*.jsonl"))


def toy_lines(split, path, bad=refuse):
    """The examples of one of them."""
    for _, fields in read_json_lines(path, bad):
        time.sleep(float(os.environ.get(DELAY, "0")))
        yield {"inputs": fields["inputs"], "targets": fields["targets"]}


_add("toy_text")
_add(
    "toy_tokenised",
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
)
_add(
    "toy_context",
    lambda i: {"context": "<x> be brief <shots> <extra_id_0> end"},
    {"context": TEXT},
)
_add("toy_ids", lambda i: {"context": [7, 8, i + 9]}, {"context": IDS})
_add(
    "toy_labels",
    lambda i: {
        "targets": f"is <label_{i % 2}>",
        "shot_targets": f"<label_{i % 2}>",
        "options": ["is <label_0>", "is <label_1>"],
        "label_pool": ["zop", "mib", "tak"],
    },
    {"shot_targets": TEXT, "options": TEXTS, "label_pool": TEXTS},
)


_add(
    "toy_references",
    lambda i: {"references": [f"Answer  {i % 3}", "né"], "group": "sums"},
    {"references": TEXTS, "group": TEXT},
)


def _many():
    """Three logical tasks in turns, 26 examples each; `b` has 9 different inputs."""
    for i in range(26):
        for task in "abc":
            number = i % 9 if task == "b" else i
            yield {
                "inputs": f"{task} asks {number}" + "?" * (i % 7),
                "targets": f"{task}{i}" + "!" * (i % 5),
                "task": task,
            } | ({"inputs": f"b asks {number}"} if task == "b" else {})


def _many_rows(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_generator(
        _many, output_signature={"inputs": TEXT, "targets": TEXT, "task": TEXT}
    )


add_task(
    "toy_many",
    seqio.FunctionDataSource(_many_rows, ["train"], {"train": 78}),
    VOCABULARY,
    metrics=[metrics.exact_match, metrics.accuracy],
)
_GROUPS = (
    lambda i: {"task": "even" if i % 2 == 0 else "odd", "options": ["yes", "no"]},
    {"task": TEXT, "options": TEXTS},
)
_add("toy_groups", *_GROUPS)
_add("toy_cached", *_GROUPS, preprocessors=[seqio.CacheDatasetPlaceholder()])
_add(
    "toy_cached_ids",
    lambda i: {"context": [7, 8, i + 9], "skipped": "odd one" if i == 5 else ""},
    {"context": IDS, "skipped": TEXT},
    [seqio.CacheDatasetPlaceholder()],
)


def first_ids(data, sequence_length):
    """A preprocessor that cannot do without lengths, as language modelling has."""
    count = sequence_length["inputs"]
    return data.map(lambda row: row | {"inputs": row["inputs"][:count]})


_add("toy_lengths", preprocessors=[seqio.preprocessors.tokenize, first_ids])
_add("toy_nothing", preprocessors=[lambda data: data.take(0)])
_OTHER = seqio.ByteVocabulary(extra_ids=20)
_add("toy_other_vocabulary", features={"targets": seqio.Feature(_OTHER)})
# The second passes through TensorFlow, the first need not.
for _name, _steps in (
    ("toy_files", []),
    ("toy_files_tokenised", [seqio.preprocessors.tokenize]),
):
    seqio.TaskRegistry.add(
        _name,
        FilesSource(
            toy_files,
            toy_lines,
            {"inputs": TEXT, "targets": TEXT},
            ["train"],
            about=lambda: {"release": "7"},
        ),
        output_features=FEATURES,
        preprocessors=_steps,
    )
seqio.MixtureRegistry.add(
    "toy_mixture",
    [("toy_text", 3.0), ("toy_groups", seqio.mixing_rate_num_examples)],
)
for _mark in ":#":
    _add(f"toy_pair{_mark}x", lambda i, mark=_mark: {"targets": mark})
seqio.MixtureRegistry.add("toy_pairs", ["toy_pair:x", "toy_pair#x"], 1.0)
seqio.MixtureRegistry.add("toy_rated", [("toy_many", 3.0), ("toy_text", 1.0)])
