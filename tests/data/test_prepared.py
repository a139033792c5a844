"""Opening prepared files: what is there, and what is wrong with them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary, fingerprint
from hypert5_jax.preparation.writer import Item
from tests.data.toy_mixture import EOS, numbered, plain, write_mixture


@pytest.fixture
def mixture(tmp_path):
    return write_mixture(tmp_path / "toy", plain([5, 7]))


def test_examples_come_back_as_they_were_written(mixture):
    assert mixture.examples(mixture.task("t1"), [6, 0]) == [
        numbered(1, 6),
        numbered(1, 0),
    ]
    assert mixture.manifest["examples"] == 12
    assert mixture.index["inputs"].tolist() == [2] * 12


def test_examples_that_will_be_cut_are_counted(mixture):
    lengths = {"hyper_inputs": 9, "inputs": 1, "targets": 2}
    assert mixture.longer_than(lengths) == {
        "hyper_inputs": 0,
        "inputs": 12,
        "targets": 0,
    }


def test_interleaved_tasks_lie_together_in_the_index(tmp_path):
    items = [Item(f"task{i % 3}", numbered(i % 3, i)) for i in range(20)]
    mixture = write_mixture(tmp_path / "toy", {"all": items})
    assert [(t.name, t.first, t.count) for t in mixture.tasks] == [
        ("task0", 0, 7),
        ("task1", 7, 7),
        ("task2", 14, 6),
    ]
    for number, task in enumerate(mixture.tasks):
        wanted = [numbered(number, i) for i in range(number, 20, 3)]
        assert mixture.examples(task) == wanted


def test_a_mixture_can_be_sent_to_another_process(mixture):
    again = pickle.loads(pickle.dumps(mixture))
    assert again.tasks == mixture.tasks
    assert again.examples(again.task("t0")) == mixture.examples(mixture.task("t0"))


def test_equal_inputs_have_equal_keys():
    assert Example([5, 6], [7]).key() == Example([5, 6], [8]).key()
    assert Example([5, 6], [7]).key() != Example([6, 5], [7]).key()
    # An empty input says nothing: there the target tells examples apart.
    assert Example([], [7]).key() != Example([], [8]).key()


def test_what_is_not_prepared_is_told_with_near_names(mixture):
    home = mixture.directory.parent.parent
    with pytest.raises(UserError, match=r"prepared there: toy/train.*--mixture=toi"):
        open_mixture(home / "toi", "train")
    with pytest.raises(UserError, match="near names: t0"):
        mixture.task("t00")


@pytest.mark.parametrize("name", ["t0-00000-of-00001.arrayrecord", "index.npy"])
def test_a_truncated_or_missing_file_is_told(mixture, name):
    file = mixture.directory / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match=f"{name} is .* the manifest says"):
        open_mixture(mixture.directory.parent, "train")
    file.unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        open_mixture(mixture.directory.parent, "train")


def test_a_damaged_file_of_the_right_size_is_told(mixture):
    file = mixture.directory / "t0-00000-of-00001.arrayrecord"
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match="cannot be read"):
        mixture.examples(mixture.task("t0"))


def test_a_manifest_of_another_format_is_refused(mixture):
    path = mixture.directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 9}))
    with pytest.raises(UserError, match="format version 9"):
        open_mixture(mixture.directory.parent, "train")
    path.write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json:1 is not JSON"):
        open_mixture(mixture.directory.parent, "train")


def test_a_model_of_another_vocabulary_is_refused(mixture):
    mixture.require_vocabulary("toy", rows=20_002)
    with pytest.raises(UserError, match="prepared with vocabulary toy"):
        mixture.require_vocabulary("other")
    with pytest.raises(UserError, match="at least 20002"):
        mixture.require_vocabulary(rows=20_001)


def test_contexts_must_be_given_to_all_examples_or_none(tmp_path):
    items = [Item(None, Example([5], [6, EOS], [7])), Item(None, Example([5], [6]))]
    with pytest.raises(UserError, match="'t': some examples have a `context`"):
        write_mixture(tmp_path / "toy", {"t": items})


def test_byte_text_goes_to_ids_and_back():
    vocabulary = Vocabulary("bytes", 259 + 10, 10, fingerprint("bytes", b"", 10))
    ids = vocabulary.encode_marked("<x> né <y> yes <extra_id_1>")
    assert ids[0] == 269 and ids[-1] == 267 and vocabulary.y_id in ids
    assert vocabulary.decode([*ids, 1, 0, 0]) == "<x> né <y> yes <extra_id_1> </s>"
    with pytest.raises(UserError, match="10 sentinels"):
        vocabulary.sentinel_id(10)


def test_t5_ids_are_those_of_the_paper(shared):
    model = shared / "data" / "t5" / "vocab" / "t5_cc_all_32000.model"
    vocabulary = Vocabulary("sentencepiece", 32_100, 100, "", model_path=str(model))
    ids = vocabulary.encode_marked("<extra_id_0> A <extra_id_1> D <x> x <y> y")
    assert (ids[0], ids[2]) == (32_099, 32_098)
    assert {32_100, 32_101} < set(ids)
    assert vocabulary.decode(ids) == "<extra_id_0> A <extra_id_1> D <x> x <y> y"


def test_reading_needs_no_tensorflow():
    code = (
        "import sys\n"
        "import hypert5_jax.data.stream, hypert5_jax.data.contexts, grain\n"
        "banned = {'tensorflow', 'seqio', 'torch', 'gin', 'clu'} & set(sys.modules)\n"
        "assert not banned, banned\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_index_is_not_read_into_memory(mixture):
    assert isinstance(mixture.index, np.memmap)
