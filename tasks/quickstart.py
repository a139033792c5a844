"""The quickstart's generated world as seqio tasks: declarations over a pure generator.

    quickstart_first       text, then its continuation: two or three facts, said plainly
    quickstart_pretrain    text, then its continuation: skills by name, whole documents
    quickstart_caclm       documents: the hypermodel reads A and D, the T5 gets B, C is asked
    quickstart_caclm_many  more of them
    quickstart_train       the training tasks, one logical task each
    quickstart_heldout     compositions never trained on, label words never trained on
    quickstart_family      a family never trained on, label words never trained on
    quickstart_judged      the two held-out ones, in groups of a family

Splits `train` and `test`; a test input never occurs in `train`. The SentencePiece model is
that of `$QUICKSTART_VOCABULARY` (`runs/quickstart/vocabulary.model` without it), trained
when it is first needed.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import seqio

from hypert5_jax.evaluation.metrics import exact_match
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.quickstart import corpus
from hypert5_jax.preparation.quickstart.vocabulary import VARIABLE, train_vocabulary
from hypert5_jax.preparation.sources import TEXT, TEXTS, FilesSource
from hypert5_jax.preparation.trained_vocabulary import TrainedVocabulary

MODEL = Path(os.environ.get(VARIABLE, "runs/quickstart/vocabulary.model")).absolute()
VOCABULARY = TrainedVocabulary(MODEL, train_vocabulary, extra_ids=2)
PLAIN = {"inputs": TEXT, "targets": TEXT}
TASK = PLAIN | {
    "shot_targets": TEXT,
    "task": TEXT,
    "options": TEXTS,
    "label_pool": TEXTS,
}


def read(
    rows: Callable[[str], Iterator[Mapping[str, Any]]], split: str, _: Path
) -> Iterator[Mapping[str, Any]]:
    """The rows of a split; there is no file to read."""
    return rows(split)


def grouped(group: str, split: str) -> Iterator[Mapping[str, Any]]:
    """Rows of tasks, in groups of a family."""
    for row in corpus.task_rows(group, split):
        yield {**row, "group": str(row["task"]).partition("_")[0]}


def register(
    name: str,
    rows: Callable[[str], Iterator[Mapping[str, Any]]],
    signature: Mapping[str, Any],
) -> None:
    """Registers a task whose rows a function of the split generates."""
    add_task(
        name,
        FilesSource(
            lambda split: [Path("generated")],
            partial(read, rows),
            signature,
            splits=["train", "test"],
        ),
        VOCABULARY,
        metrics=[exact_match],
    )


register("quickstart_first", corpus.first_rows, PLAIN)
register("quickstart_pretrain", corpus.pretraining_rows, PLAIN)
register("quickstart_caclm", corpus.document_rows, PLAIN | {"context": TEXT})
register(
    "quickstart_caclm_many",
    partial(corpus.document_rows, count=corpus.MANY_DOCUMENT_ROWS),
    PLAIN | {"context": TEXT},
)
register("quickstart_train", partial(corpus.task_rows, "train"), TASK)
for _group in ("heldout", "family"):
    register(f"quickstart_{_group}", partial(corpus.task_rows, _group), TASK)
    register(
        f"quickstart_judged_{_group}", partial(grouped, _group), TASK | {"group": TEXT}
    )
seqio.MixtureRegistry.add(
    "quickstart_judged",
    ["quickstart_judged_heldout", "quickstart_judged_family"],
    default_rate=1,
)
