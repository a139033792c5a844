"""MetaICL: its lists, its files, and the shots of its five draws."""

import json
import sys
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.metaicl.files import Files
from hypert5_jax.preparation.metaicl.lists import KINDS, SETTINGS, kind_of, setting

LABELS = ["yes", "no"]


def write_rows(folder: Path, task: str, name: str, rows) -> None:
    (folder / task).mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"task": task, **row}) + "\n" for row in rows]
    (folder / task / f"{task}_{name}.jsonl").write_text("".join(lines))


def row(number: int, options=LABELS, mark: str = "") -> dict:
    output = options[number % len(options)] if options else f"free {number}"
    return {"input": f"{mark}input {number}", "output": output, "options": options}


@pytest.fixture
def folder(tmp_path):
    for task in ("my-labels", "choices"):
        options = LABELS if task == "my-labels" else None
        for name in ("16_100_test", "16_100_train", "16_13_train", "16_100_dev"):
            mark = "" if name.endswith("test") else f"{name} "
            rows = [row(i, options or [f"a{i}", f"b{i}"], mark) for i in range(20)]
            write_rows(tmp_path, task, name, rows)
    return tmp_path


def test_the_settings_have_the_published_numbers_of_tasks():
    # MetaICL, Table 1: meta-train and target tasks; protocols §2: kinds of targets.
    sizes = {n: (len(setting(n).train), len(setting(n).test)) for n in SETTINGS}
    assert sizes == {
        "hr_to_lr": (61, 26),
        "non_nli_to_nli": (55, 8),
        "non_class_to_class": (37, 20),
    }
    kinds = {n: [kind_of(t) for t in setting(n).test] for n in SETTINGS}
    counts = {n: [kinds[n].count(k) for k in KINDS] for n in SETTINGS}
    assert counts == {
        "hr_to_lr": [16, 10, 0],
        "non_nli_to_nli": [8, 0, 0],
        "non_class_to_class": [20, 0, 0],
    }
    for name in SETTINGS:
        both = set(setting(name).train) & set(setting(name).test)
        assert both == ({"sick"} if name == "non_nli_to_nli" else set())  # published so


def test_the_lists_are_the_published_ones(shared):
    wanted = json.loads((shared / "reference" / "metaicl_splits.json").read_text())
    tasks = json.loads((shared / "reference" / "metaicl_tasks.json").read_text())
    for name, lists in wanted["settings"].items():
        assert list(setting(name).train) == lists["train"]
        assert list(setting(name).test) == lists["test"]
    kinds = {task: fields["task_type"] for task, fields in tasks["tasks"].items()}
    assert {task: kind_of(task) for task in kinds} == kinds


def test_a_split_is_the_files_of_its_draw(folder):
    files = Files(("my-labels", "choices"), folder, seeds=(100, 13))
    assert files.support_splits() == ["train_100", "train_13"]
    names = {s: [p.name for p in files.files(s)] for s in ("test", "train_13")}
    assert names == {
        "test": ["my-labels_16_100_test.jsonl", "choices_16_100_test.jsonl"],
        "train_13": ["my-labels_16_13_train.jsonl", "choices_16_13_train.jsonl"],
    }
    rows = list(files.read("test", files.files("test")[0]))
    assert rows[3] == {
        "inputs": "input 3",
        "targets": "no",
        "options": LABELS,
        "references": ["no"],
        "task": "my-labels",
        "group": "classification",
    }
    assert next(files.read("test", files.files("test")[1]))["group"] == "multi-choice"


def test_official_tasks_that_are_missing_are_named(folder):
    tasks = ("my-labels", "glue-rte", "sick")
    with pytest.raises(UserError, match=r"2 of 3 tasks .*: glue-rte, sick\. Make them"):
        Files(tasks, folder).files("test")
    part = Files(tasks, folder, available=True)
    assert len(part.files("test")) == 1
    about = part.about(["test", "train_100"])
    assert about["tasks"] == "1 of 3" and about["absent"] == "glue-rte, sick"
    with pytest.raises(UserError, match="1 of 1 tasks"):
        Files(("sick",), folder, available=True).files("test")


@pytest.mark.parametrize(
    "bad_row, message",
    [
        ({"input": "a", "options": []}, r":2: no `output`"),
        ({"input": "a", "output": "b"}, r":2: no `options`"),
        ({"input": 1, "output": "b", "options": ["b"]}, r":2: no `input`"),
        ({"input": "a", "output": "c", "options": ["b"]}, r":2: the output 'c' is not"),
    ],
)
def test_a_row_that_is_not_as_published_is_told(tmp_path, bad_row, message):
    rows = [row(0, []), bad_row, row(1, [])]
    write_rows(tmp_path, "t", "16_100_test", rows)
    files = Files(("t",), tmp_path)
    (path,) = files.files("test")
    with pytest.raises(UserError, match=rf"t_16_100_test\.jsonl{message}"):
        list(files.read("test", path))
    told: list[str] = []
    read = list(files.read("test", path, bad=told.append))
    assert [r["targets"] for r in read] == ["free 0", "free 1"] and len(told) == 1
    assert {r["group"] for r in read} == {"free-form"}


def test_a_task_without_rows_is_told(tmp_path):
    write_rows(tmp_path, "t", "16_100_test", [])
    files = Files(("t",), tmp_path)
    with pytest.raises(UserError, match="t_16_100_test.jsonl has no rows"):
        list(files.read("test", files.files("test")[0]))


def test_judged_tasks_take_their_shots_from_the_official_draw(folder, tmp_path):
    seqio = pytest.importorskip("seqio", reason="the extra `data` is not installed")
    from hypert5_jax.data.contexts import evaluation_rows
    from hypert5_jax.data.prepared import open_mixture
    from hypert5_jax.data.rows import RowFormat
    from hypert5_jax.preparation.mixture import prepare_mixture
    from hypert5_jax.preparation.modules import import_module

    register = import_module("tasks.metaicl").register
    vocabulary = seqio.ByteVocabulary(extra_ids=10)
    tasks = ["choices", "my-labels"]
    register("toy_metaicl", tasks, True, folder, vocabulary, seeds=(100, 13))
    for split in ("test", "train_13"):
        home = prepare_mixture("toy_metaicl", split, tmp_path / "out")
    judged, support = open_mixture(home, "test"), open_mixture(home, "train_13")
    assert [(t.name, t.group) for t in judged.tasks] == [
        ("choices", "multi-choice"),
        ("my-labels", "classification"),
    ]
    lengths = {"hyper_inputs": 1024, "inputs": 50, "targets": 20}
    row_format = RowFormat(lengths=lengths)
    found = evaluation_rows(judged, "my-labels", row_format, 0, support=support)
    decode = judged.vocabulary.decode
    (context,) = found.contexts
    shots = decode(context).split("<x>")[1:]
    assert len(shots) == 16 and all("16_13_train input" in shot for shot in shots)
    assert len(found) == 20 and len(found.options[0]) == 2
    registry = seqio.TaskRegistry
    official = registry.get("metaicl_hr_to_lr_test")
    assert list(official.splits) == [
        "test",
        *(f"train_{seed}" for seed in (100, 13, 21, 42, 87)),
    ]
    assert list(registry.get("metaicl_non_nli_to_nli_train").splits) == ["train"]


def test_real_rows_of_the_same_format_are_prepared(shared, tmp_path):
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    from hypert5_jax.data.prepared import open_mixture
    from hypert5_jax.preparation.mixture import prepare_mixture
    from hypert5_jax.preparation.modules import import_module

    folder = shared / "data" / "metaicl_style"
    tasks = sorted(path.name for path in folder.iterdir() if path.is_dir())
    import_module("tasks.metaicl").register("real_metaicl", tasks, True, folder)
    home = prepare_mixture("real_metaicl", "test", tmp_path, skip_bad_lines=20)
    mixture = open_mixture(home, "test")
    assert [task.name for task in mixture.tasks] == tasks and len(tasks) == 49
    # Seven rows of one task really have an output outside of their options.
    skipped = mixture.manifest["skipped"]["real_metaicl"]
    assert skipped == {"bad line": 7}
    assert all("scierc_16_100_test" in line for line in mixture.manifest["bad_lines"])
    lines = {
        task: (folder / task / f"{task}_16_100_test.jsonl").read_bytes().count(b"\n")
        for task in tasks
    }
    lines["scierc"] -= 7
    assert {task.name: task.count for task in mixture.tasks} == lines
    names = sys.modules["seqio"].TaskRegistry.names()
    assert {f"metaicl_{n}_{s}" for n in SETTINGS for s in ("train", "test")} <= {*names}
