"""The quickstart's world: deterministic, readable, and what is held out stays out."""

import itertools
import re

import numpy as np
import pytest

from hypert5_jax.preparation.quickstart import corpus
from hypert5_jax.preparation.quickstart.documents import document, skill_text
from hypert5_jax.preparation.quickstart.tasks import all_tasks, example
from hypert5_jax.preparation.quickstart.world import (
    KNOWN,
    VALUES,
    made_up_words,
    split_label_words,
)

READABLE = re.compile(r"[a-zA-Z ,.:!]*")


def rng(seed=0):
    return np.random.default_rng(seed)


def first(rows, count=300):
    return list(itertools.islice(rows, count))


def capitals(text):
    return set(re.findall(r"\b[A-Z]{4}\b", text))


def test_there_are_at_least_sixty_tasks_of_a_few_families():
    tasks = all_tasks()
    assert len({task.name for task in tasks}) == len(tasks) >= 60
    assert {task.family for task in tasks} == {"call", "tell", "sort", "trio"}
    assert sum(task.family == "call" for task in tasks) >= 20


@pytest.mark.parametrize(
    "rows",
    [
        corpus.first_rows,
        corpus.pretraining_rows,
        corpus.document_rows,
        lambda split: corpus.task_rows("heldout", split),
    ],
)
def test_the_same_split_is_generated_alike_every_time(rows):
    assert first(rows("test")) == first(rows("test"))


def test_no_task_is_in_two_groups_and_no_test_input_in_its_train_split():
    groups = {task.name: corpus.group_of(task) for task in all_tasks()}
    assert set(groups.values()) == set(corpus.GROUPS)
    for task in all_tasks()[::7]:
        split = corpus.split_examples(task)
        inputs = {name: {e.inputs for e in found} for name, found in split.items()}
        assert not inputs["train"] & inputs["test"]
        assert len(inputs["train"]) >= 16 and len(inputs["test"]) >= 8


def test_the_held_out_family_and_compositions_are_not_among_training_tasks():
    trained = [task for task in all_tasks() if corpus.group_of(task) == "train"]
    assert "trio" not in {task.family for task in trained}
    seen = {(task.family, task.attribute, task.detail, task.values) for task in trained}
    for task in all_tasks():
        if corpus.group_of(task) == "heldout":
            made_of = (task.family, task.attribute, task.detail, task.values)
            assert made_of not in seen
            # Each part by itself was trained on.
            assert task.attribute in {t.attribute for t in trained}
            assert task.detail in {t.detail for t in trained}
            alike = [t for t in trained if t.family == task.family]
            assert set(task.values) <= {value for t in alike for value in t.values}


def test_held_out_label_words_are_labels_of_no_training_task():
    trained, unseen = split_label_words()
    assert not set(trained) & set(unseen)
    assert sorted(trained + unseen) == sorted(made_up_words())
    used = set()
    for row in corpus.task_rows("train", "train"):
        used |= set(row["label_pool"])
        used |= capitals(f"{row['inputs']} {row['targets']}")
    assert used == set(trained)
    for group in ("heldout", "family"):
        pools = [set(row["label_pool"]) for row in corpus.task_rows(group, "test")]
        assert all(pool <= set(unseen) for pool in pools)


def test_only_the_pairs_tell_which_label_means_what():
    for task in all_tasks():
        for one in (example(task, rng(i)) for i in range(20)):
            if task.needs_pairs:
                assert re.fullmatch(r"<label_\d>", one.shown)
                assert one.targets == f"{one.inputs.split()[-1]} {one.shown}"
            else:
                assert one.shown == one.targets


def test_what_c_says_of_a_document_stands_in_a_and_d_and_not_in_b():
    draw = rng()
    for _ in range(500):
        text = document(draw, made_up_words())
        word = text.c.split()[-1]
        assert word in f"{text.a} {text.d}".split()
        assert word not in text.b.split()


def test_a_document_says_the_same_of_a_subject_every_time():
    draw = rng(1)
    for _ in range(200):
        text = document(draw, made_up_words())
        said = {}
        for fact in f"{text.a} {text.d} {text.c} . {text.more}".split(" ."):
            words = fact.split()
            if words:
                assert said.setdefault(words[-2], words[-1]) == words[-1]


def test_no_document_groups_things_by_kind():
    draw = rng(1)
    for _ in range(500):
        text = document(draw, made_up_words())
        assert not set(VALUES["kind"]) & set(f"{text.a} {text.c} {text.d}".split())


def test_text_can_be_read():
    draw = rng()
    texts = [" ".join(skill_text(draw)) for _ in range(200)]
    for _ in range(200):
        found = document(draw, made_up_words())
        texts += [found.a, found.b, found.c, found.d]
    assert all(READABLE.fullmatch(text) for text in texts)


def test_labels_follow_the_thing_or_its_attribute_whatever_the_words():
    for task in all_tasks():
        draw = rng(3)
        for _ in range(5 if task.needs_pairs else 0):
            one = example(task, draw)
            thing = one.inputs.split()[-1]
            known = {"name": thing, **KNOWN[thing]}
            meant = known[task.attribute]
            k = task.values.index(meant)
            assert one.targets == f"{thing} <label_{k}>" == one.options[k]
