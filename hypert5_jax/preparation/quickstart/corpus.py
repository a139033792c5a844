"""The rows of the quickstart's data sets, as pure functions of their split.

Each row is generated from (data set, split, number) alone, so any two machines, and any
two runs, make the same files.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hypert5_jax.preparation.quickstart.documents import document, reading, skill_text
from hypert5_jax.preparation.quickstart.tasks import (
    Example,
    ToyTask,
    all_tasks,
    example,
)
from hypert5_jax.preparation.quickstart.world import (
    made_up_words,
    split_label_words,
)

Row = dict[str, str | list[str]]

PRETRAINING_ROWS = {"train": 30_000, "test": 1_000}
DOCUMENT_ROWS = {"train": 12_000, "test": 384}
# For a hypermodel that would rather learn the fewer ones by heart than read them.
MANY_DOCUMENT_ROWS = {"train": 96_000, "test": 384}
# At most: a task of two things in twelve frames has 24 different inputs in all.
TASK_ROWS = {"train": 64, "test": 32}
TEST_SHARE = 3
SKILL_RATE = 0.25
GROUPS = ("train", "heldout", "family")


def fingerprint() -> str:
    """Names what is generated: another one means other data."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:8]


def rng_of(*parts: str | int) -> np.random.Generator:
    """A generator that depends on `parts` only, on every machine alike."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, parts)).encode()))


def first_rows(split: str) -> Iterator[Row]:
    """The easiest text, for the base's first steps: two or three facts, said plainly."""
    rng = rng_of("first", split)
    words = made_up_words()
    for _ in range(PRETRAINING_ROWS[split]):
        text, continuation = reading(rng, words, plain=True)
        yield {"inputs": text, "targets": continuation}


def pretraining_rows(split: str) -> Iterator[Row]:
    """Text and its continuation, as a language model meets them."""
    rng = rng_of("pretrain", split)
    words = made_up_words()
    for _ in range(PRETRAINING_ROWS[split]):
        if rng.random() < SKILL_RATE:
            text, continuation = skill_text(rng)
        else:
            text, continuation = reading(rng, words)
        yield {"inputs": text, "targets": continuation}


def document_rows(
    split: str, count: Mapping[str, int] = DOCUMENT_ROWS
) -> Iterator[Row]:
    """Documents for CACLM: A and D for the hypermodel, B for the T5, C to be said.

    The first `count[split]` of one endless sequence.
    """
    rng = rng_of("documents", split)
    words = made_up_words()
    for _ in range(count[split]):
        text = document(rng, words)
        context = f"<extra_id_0> {text.a} <extra_id_1> {text.d}"
        yield {"inputs": text.b, "targets": text.c, "context": context}


def group_of(task: ToyTask) -> str:
    """Which data set the task belongs to: one of GROUPS."""
    if not task.held_out:
        return "train"
    return "family" if task.family == "trio" else "heldout"


def task_rows(group: str, split: str) -> Iterator[Row]:
    """Examples of the group's tasks; inputs of `test` do not occur in `train`."""
    trained, unseen = split_label_words()
    words = trained if group == "train" else unseen
    for task in all_tasks():
        if group_of(task) == group:
            pool = words if task.values else []
            for one in split_examples(task)[split]:
                yield {
                    "inputs": one.inputs,
                    "targets": one.targets,
                    "shot_targets": one.shown,
                    "options": list(one.options),
                    "task": task.name,
                    "label_pool": pool,
                }


def split_examples(task: ToyTask) -> dict[str, list[Example]]:
    """Different examples of a task, divided into the splits: {split: [Example]}."""
    rng = rng_of("task", task.name)
    wanted = sum(TASK_ROWS.values())
    found: dict[str, Example] = {}
    for _ in range(20 * wanted):
        one = example(task, rng)
        found.setdefault(one.inputs, one)
        if len(found) == wanted:
            break
    examples = list(found.values())
    test = min(TASK_ROWS["test"], len(examples) // TEST_SHARE)
    return {"test": examples[:test], "train": examples[test:]}
