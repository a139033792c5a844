"""The bundled tasks: reading Super-NaturalInstructions files and cutting text."""

import gzip
import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.json_files import read_json, read_json_lines

pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")

ROOT = Path(__file__).resolve().parents[2]
TASK = {
    "Definition": ["Say the opposite. "],
    "Positive Examples": [
        {"input": "hot", "output": "cold"},
        {"input": "up", "output": "down"},
        {"input": "in", "output": "out"},
    ],
    "Instances": [{"input": "up", "output": ["down"]}]
    + [{"input": f"word {i}", "output": [f"a {i}", f"b {i}"]} for i in range(150)],
}


@pytest.fixture(scope="module")
def sni():
    return importlib.import_module("tasks.sni")


@pytest.fixture(scope="module")
def text():
    return importlib.import_module("tasks.text")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "tasks" / "task1_opposite.json").write_text(json.dumps(TASK))
    names = "task1_opposite\ntask2_not_here\n"
    (tmp_path / "splits" / "default" / "train_tasks.txt").write_text(names)
    return tmp_path


def test_the_files_of_the_official_list_that_are_there(sni, folder):
    (path,) = sni.task_files(folder, "train")
    assert path.stem == "task1_opposite"
    with pytest.raises(UserError, match="test_tasks.txt is missing; set HYPERT5_DATA"):
        sni.task_files(folder, "test")
    path.unlink()
    with pytest.raises(UserError, match="none of the 2 tasks"):
        sni.task_files(folder, "train")


def test_training_draws_a_hundred_instances_and_evaluation_takes_the_first(sni, folder):
    (path,) = sni.task_files(folder, "train")
    train = list(sni.read_task("train", path))
    assert len(train) == 100 and train == list(sni.read_task("train", path))
    assert {row["targets"][0] for row in train} >= {"a", "b"}
    assert train[0]["task"] == "task1_opposite" and "context" not in train[0]
    test = list(sni.read_task("test", path))
    assert [row["inputs"] for row in test] == ["up"] + [f"word {i}" for i in range(99)]


@pytest.mark.parametrize(
    "context, expected",
    [
        ("def", "<x> Say the opposite."),
        ("def_shots", "<x> Say the opposite. <shots>"),
        ("def_pos", "<x> Say the opposite. <x> hot <y> cold <x> up <y> down"),
    ],
)
def test_the_definition_begins_the_context(sni, folder, context, expected):
    (path,) = sni.task_files(folder, "train")
    rows = list(sni.read_task("train", path, context, instances=1000))
    assert {row["context"] for row in rows} == {expected}
    # A fixed example is never its own target.
    assert ("up" in {row["inputs"] for row in rows}) == (context != "def_pos")


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"Definition": "a",\n "Instances": [}', r"bad\.json:2: malformed JSON"),
        ("[1, 2]", r"bad\.json:1: expected a JSON object, got list"),
        ('{"Definition": "a"}', "KeyError: 'Instances'"),
        ('{"Instances": [{"input": "a"}], "Definition": "a"}', "KeyError: 'output'"),
    ],
)
def test_a_file_that_is_no_task_is_told(sni, tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=message):
        list(sni.read_task("train", tmp_path / "bad.json", "def"))


def test_a_window_is_cut_into_context_input_and_target(text):
    vocabulary = _Numbers()
    ids = np.arange(512, dtype=np.int32)
    row = text.Segments().cut(ids, vocabulary, random.Random(0))
    assert row["inputs"].tolist() == list(range(176, 208))
    assert row["targets"].tolist() == list(range(208, 336))
    context = [32099, *range(176), 32098, *range(336, 512)]
    assert row["context"].tolist() == context and len(context) == 354


@pytest.mark.parametrize("cuts", ["offset", "random"])
def test_random_cuts_keep_every_token_once(text, cuts):
    segments = text.Segments(cuts=cuts, markers="eos", eos=True)
    ids = np.arange(2, 514, dtype=np.int32)
    lengths = set()
    for seed in range(20):
        row = segments.cut(ids, _Numbers(), random.Random(seed))
        assert row["targets"][-1] == 1 and list(row["context"]).count(1) == 1
        joined = np.concatenate([row[k] for k in ("inputs", "targets", "context")])
        assert sorted(joined[joined != 1].tolist()) == ids.tolist()
        lengths.add((len(row["inputs"]), len(row["targets"])))
    assert len(lengths) == 1 if cuts == "offset" else len(lengths) > 10


def test_windows_come_from_one_document_and_short_ones_are_counted(text, tmp_path):
    path = tmp_path / "a.jsonl.gz"
    documents = ["1 " * 30, "2 " * 9, "3 " * 10]
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"text": d}) + "\n" for d in documents)
    segments = text.Segments(a=3, b=2, c=2, d=3)
    rows = list(text.read_windows("train", path, segments, _Numbers()))
    kept = [row for row in rows if not row["skipped"]]
    assert [int(row["inputs"][0]) for row in kept] == [1, 1, 1, 3]
    skipped = [row["skipped"] for row in rows if row["skipped"]]
    assert skipped == ["document of fewer than 10 tokens"]
    assert list(text.read_windows("validation", path, segments, _Numbers())) == []


def test_damaged_text_is_told_with_file_and_line(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": a}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:3: malformed JSON"):
        list(read_json_lines(path))
    whole = gzip.compress(b'{"text": "some words"}\n' * 5000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"b\.jsonl\.gz is damaged after line \d+"):
        list(read_json_lines(tmp_path / "b.jsonl.gz"))
    (tmp_path / "c.jsonl.gz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"c\.jsonl\.gz is damaged"):
        list(read_json_lines(tmp_path / "c.jsonl.gz"))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "d.jsonl").write_text('{"words": "a"}\n')
    with pytest.raises(UserError, match=r"d\.jsonl:1: no field `text`"):
        list(text.read_windows("train", tmp_path / "d.jsonl", text.Segments(), None))
    with pytest.raises(UserError, match="no file matches"):
        text.text_files(str(tmp_path / "*.txt"), "train")


def test_importing_the_tasks_needs_no_data(tmp_path):
    # From another working directory, with nothing where the data would be, and with a
    # `tasks` package of somebody else's in the way.
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemError('not this one')")
    code = (
        "from hypert5_jax.core.errors import UserError\n"
        "from hypert5_jax.preparation.mixture import prepare_mixture\n"
        "for module, name in (('tasks.sni', 'sni_train'), ('tasks.text', 'text_caclm')):"
        "\n  try: prepare_mixture(name, 'train', 'out', [module])\n"
        "  except UserError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env={"HYPERT5_DATA": "/nowhere", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert result.stdout.count("SentencePiece model /nowhere") == 2, result.stderr


def test_real_instructions_are_prepared_and_read(shared, tmp_path):
    from hypert5_jax.data.rows import RowFormat
    from hypert5_jax.data.stream import batches
    from hypert5_jax.preparation.first_use import ensure_prepared

    mixture = ensure_prepared("sni_def_shots_test", "test", tmp_path, ["tasks.sni"])
    assert len(mixture.tasks) >= 2 and mixture.vocabulary.size == 32_100
    row = RowFormat(max_shots=2, targets_per_context=2, too_few="fewer")
    batch = next(batches(mixture, row, 8, seed=0))
    text = mixture.vocabulary.decode(batch.hyper_inputs[0])
    assert text.startswith("<x> ") and text.count("<y>") == 2
    assert 32_100 == batch.hyper_inputs[0, 0]


class _Numbers:
    """A vocabulary whose text is numbers."""

    vocab_size, eos_id = 32_100, 1

    def encode(self, text):
        return [int(word) for word in text.split()]
