"""The small real tasks: what is held out stays so, and every question can be answered."""

import json

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation import small_real
from hypert5_jax.preparation.small_real import HELD_OUT, TRAINED, RealTask


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "data"


def test_no_task_is_both_trained_and_held_out():
    for source in small_real.SOURCES:
        assert not set(TRAINED[source]) & set(HELD_OUT[source])


@pytest.mark.parametrize("held_out", [False, True])
def test_every_example_offers_its_target_once_beside_others(folder, held_out):
    rows = list(small_real.task_rows(folder, held_out, "test"))
    for row in rows:
        assert row["options"].count(row["targets"]) == 1, row
        assert len(set(row["options"])) == len(row["options"]) >= 2, row
    assert {row["group"] for row in rows} == set(small_real.SOURCES)


def test_where_the_target_stands_among_the_options_tells_nothing(folder):
    """Of 4 drawn options each place holds the target about a quarter of the time."""
    rows = [
        row
        for row in small_real.task_rows(folder, True, "train")
        if row["group"] in ("abstractive", "induction")
    ]
    places = [row["options"].index(row["targets"]) for row in rows]
    for place in range(4):
        assert 0.2 < places.count(place) / len(rows) < 0.3


def test_no_input_of_the_test_split_is_trained_on(folder):
    for held_out in (False, True):
        inputs = {
            split: {
                (row["task"], row["inputs"])
                for row in small_real.task_rows(folder, held_out, split)
            }
            for split in ("train", "test")
        }
        assert not inputs["train"] & inputs["test"]


def test_the_base_reads_training_examples_only(folder):
    """Of held-out tasks neither pairs nor names; of training tasks no test pair."""
    trained = {
        (row["inputs"], row["targets"])
        for row in small_real.task_rows(folder, False, "train")
    }
    read = small_real.reading_rows(folder, "train", ["one two three"], 600)
    for number, row in enumerate(read):
        if number % 5:
            asked = row["inputs"].removesuffix(" :")
            assert any(
                asked.endswith(source) and row["targets"] == answer
                for source, answer in trained
            ), row


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="HYPERT5_DATA"):
        list(small_real.task_rows(tmp_path / "nowhere", True, "test"))


def test_a_file_of_another_form_is_told(tmp_path):
    path = tmp_path / "diff.json"
    path.write_text(json.dumps({"examples": []}))
    with pytest.raises(UserError, match=r"diff\.json is no task of induction"):
        small_real.read_task(path, "induction", "diff")


def test_extractive_tasks_offer_the_words_of_their_input():
    task = RealTask("extractive", "choose", (("a, b, c", "b"),))
    assert task.options(("a, b, c", "b")) == ("a", "b", "c")
