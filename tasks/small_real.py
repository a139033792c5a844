"""Real tasks with short answers for models of trial size: declarations.

    small_real_read      text and how it goes on, pairs of the training tasks
    small_real_caclm     CACLM over the same text: A 24, B 6, C 10, D 24
    small_real_train     the training tasks, one logical task each
    small_real_heldout   the held-out tasks

Files: `$HYPERT5_DATA/{instruction_induction,function_vectors,sni,text}`. The lists of
tasks and how they are read: hypert5_jax/preparation/small_real.py. The SentencePiece model
is that of `$SMALL_REAL_VOCABULARY` (`runs/small/real_vocabulary.model` without it),
trained on the training tasks and the text when it is first needed.
"""

import itertools
import os
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from hypert5_jax.evaluation.metrics import exact_match
from hypert5_jax.preparation import caclm, small_real
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.documents import JsonLines
from hypert5_jax.preparation.locations import data_folder
from hypert5_jax.preparation.sources import TEXT, TEXTS, FilesSource
from hypert5_jax.preparation.trained_vocabulary import TrainedVocabulary, train_bpe

VARIABLE = "SMALL_REAL_VOCABULARY"
PIECES = 2000
READ_ROWS = {"train": 40_000, "test": 600}
DOCUMENTS = JsonLines("$HYPERT5_DATA/text/[bcw]*.jsonl.gz")
# Fewer: a run of minutes sees no more of them.
CACLM_DOCUMENTS = JsonLines("$HYPERT5_DATA/text/[cw]*.jsonl.gz")
# Texts of the vocabulary and of reading: enough for minutes of training.
MOST_DOCUMENTS = 1500


@cache
def documents() -> tuple[str, ...]:
    """The first training documents of every file."""
    files = DOCUMENTS.files("train")
    texts = (text for file in files for _, text in DOCUMENTS.read("train", file))
    return tuple(itertools.islice(texts, MOST_DOCUMENTS))


def train_vocabulary(path: Path) -> Path:
    """Writes a BPE model of PIECES pieces to `path`."""
    pairs = [
        " ".join(pair)
        for task in small_real.load(data_folder(), False)
        for pair in task.split("train")
    ]
    texts = [text[:2000] for text in documents()]
    return train_bpe(path, [*(pairs * 5), *texts], PIECES)


def read_tasks(held_out: bool, split: str, _: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a split; the lists say which files."""
    return small_real.task_rows(data_folder(), held_out, split)


def read_text(split: str, _: Path) -> Iterator[Mapping[str, Any]]:
    """What the base reads."""
    return small_real.reading_rows(data_folder(), split, documents(), READ_ROWS[split])


def register() -> None:
    """Registers all four tasks over one vocabulary."""
    path = Path(os.environ.get(VARIABLE, "runs/small/real_vocabulary.model")).absolute()
    vocabulary = TrainedVocabulary(path, train_vocabulary, extra_ids=2)
    plain = {"inputs": TEXT, "targets": TEXT}
    task = plain | {"task": TEXT, "options": TEXTS, "group": TEXT}

    def add(name: str, read: Any, signature: Mapping[str, Any]) -> None:
        source = FilesSource(
            lambda split: [data_folder()], read, signature, splits=["train", "test"]
        )
        add_task(name, source, vocabulary, metrics=[exact_match])

    add("small_real_read", read_text, plain)
    add("small_real_train", partial(read_tasks, False), task)
    add("small_real_heldout", partial(read_tasks, True), task)
    segments = caclm.Segments(24, 6, 10, 24)
    caclm.register("small_real_caclm", CACLM_DOCUMENTS, segments, vocabulary)


register()
