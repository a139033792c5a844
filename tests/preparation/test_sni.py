"""Super-NaturalInstructions: releases, contexts, and files that are not as they should."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.sni import CONTEXTS, Repository, read_task

TASK = {
    "Definition": ["Say the opposite. "],
    "Categories": ["Word Semantics", "Translation"],
    "Input_language": ["English"],
    "Output_language": ["English"],
    "Positive Examples": [
        {"input": "hot", "output": "cold"},
        {"input": "up", "output": "down"},
        {"input": "in", "output": "out"},
    ],
    "Instances": [{"input": "up", "output": ["down"]}]
    + [{"input": f"word {i}", "output": [f"a {i}", f"b {i}"]} for i in range(150)],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "splits" / "default").mkdir(parents=True)
    (tmp_path / "tasks" / "task1_opposite.json").write_text(json.dumps(TASK))
    names = "task1_opposite\ntask2_not_here\n"
    (tmp_path / "splits" / "default" / "train_tasks.txt").write_text(names)
    return tmp_path


def task_file(folder: Path, **changes) -> Path:
    path = folder / "changed.json"
    path.write_text(json.dumps(TASK | changes))
    return path


def kept(rows):
    return [row for row in rows if not row["skipped"]]


def test_a_split_that_names_unknown_tasks_is_refused_beyond_an_allowance(folder):
    with pytest.raises(UserError, match=r"1 of the 2 tasks .* \(task2_not_here\)"):
        Repository(folder).files("train")
    (path,) = Repository(folder, missing=1).files("train")
    assert path.stem == "task1_opposite"
    with pytest.raises(UserError, match="test_tasks.txt is missing; set HYPERT5_DATA"):
        Repository(folder, missing=1).files("test")
    path.unlink()
    with pytest.raises(UserError, match="2 of the 2 tasks"):
        Repository(folder, missing=5).files("train")


def test_a_part_of_a_release_says_what_it_has(folder):
    part = folder / "splits" / "available"
    part.mkdir()
    (part / "train_tasks.txt").write_text("task1_opposite\n")
    assert len(Repository(folder).files("train")) == 1
    assert Repository(folder).about("train")["tasks"] == "1 of 2 in splits/default"
    # What it promises must be there all the same.
    (part / "train_tasks.txt").write_text("task1_opposite\ntask2_not_here\n")
    with pytest.raises(UserError, match="task2_not_here"):
        Repository(folder).files("train")


def test_the_release_is_named_by_the_user_by_git_or_by_a_checksum(folder):
    whole = Repository(folder, missing=1)
    release = whole.about("train")["release"]
    assert release.startswith("sha256:")
    changed = folder / "tasks" / "task1_opposite.json"
    changed.write_text(changed.read_text().replace("hot", "warm"))
    assert whole.about("train")["release"] != release
    assert (
        Repository(folder, missing=1, release="2.6").about("train")["release"] == "2.6"
    )

    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    commit = ["commit", "-qm", "a release", "--no-gpg-sign"]
    for command in (["init", "-q"], ["add", "."], commit, ["tag", "v2.7"]):
        subprocess.run([*git, *command], check=True)
    assert whole.about("train")["release"] == "v2.7"


def test_training_draws_a_hundred_instances_and_evaluation_takes_the_first(folder):
    path = folder / "tasks" / "task1_opposite.json"
    train = list(read_task("train", path))
    assert len(train) == 100 and train == list(read_task("train", path))
    assert {row["targets"][0] for row in train} >= {"a", "b"}
    assert train[0]["task"] == "task1_opposite" and "context" not in train[0]
    test = list(read_task("test", path))
    assert [row["inputs"] for row in test] == ["up"] + [f"word {i}" for i in range(99)]
    assert test[4]["references"] == ["a 3", "b 3"] and test[4]["targets"] == "a 3"
    assert {row["group"] for row in [*train, *test]} == {"Word Semantics"}


@pytest.mark.parametrize(
    "context, expected",
    [
        ("def", "<x> Say the opposite."),
        ("def_shots", "<x> Say the opposite. <shots>"),
        ("def_2pos", "<x> Say the opposite. <x> hot <y> cold <x> up <y> down"),
    ],
)
def test_the_definition_begins_the_context(folder, context, expected):
    path = folder / "tasks" / "task1_opposite.json"
    rows = list(read_task("train", path, context, instances=1000))
    assert len(rows) == 151 and {row["context"] for row in kept(rows)} == {expected}
    # A fixed example is never its own target, and that is counted.
    shown = [row["skipped"] for row in rows if row["skipped"]]
    left_out = ["an instance that the context shows"]
    assert shown == (left_out if context == "def_2pos" else [])
    assert ("up" in {r["inputs"] for r in kept(rows)}) == (context != "def_2pos")


@pytest.mark.parametrize("given", [("Input_language", "French"), ("Output_language",)])
def test_only_tasks_from_english_to_english_are_taken(tmp_path, given):
    changes = {given[0]: ["English", *given[1:]] if given[1:] else []}
    path = task_file(tmp_path, **changes)
    rows = list(read_task("test", path, "def"))
    if given[1:]:
        assert [row["skipped"] for row in rows] == [
            "the whole task: not from English to English"
        ]
        assert len(list(read_task("test", path, "def", english=False))) == 100
    else:  # the other language alone decides
        assert len(kept(rows)) == 100


def test_a_bare_text_and_a_single_output_of_an_old_release_are_read(tmp_path):
    instances = [{"input": "naïve 東京", "output": "日本"}] * 2
    path = task_file(tmp_path, Definition="Né. ", Instances=instances, Categories=[])
    rows = list(read_task("test", path, "def"))
    assert [row["targets"] for row in rows] == ["日本", "日本"]
    assert rows[0]["inputs"] == "naïve 東京" and rows[0]["references"] == ["日本"]
    assert rows[0]["context"] == "<x> Né." and rows[0]["group"] == ""


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"Definition": "a",\n "Instances": [}', r"bad\.json:2: malformed JSON"),
        ("[1, 2]", r"bad\.json:1: expected a JSON object, got list"),
        ('{"Definition": "a"}', "no list `Input_language`"),
        (json.dumps(TASK | {"Definition": None}), "no list `Definition`"),
        (json.dumps(TASK | {"Definition": []}), "`Definition` is empty"),
        (json.dumps(TASK | {"Instances": []}), "`Instances` is empty"),
        (
            json.dumps(TASK | {"Instances": [{"input": "a"}]}),
            r"bad\.json: Instances\[0\] has no `output`",
        ),
        (
            json.dumps(TASK | {"Instances": [{"input": "a", "output": []}]}),
            r"Instances\[0\] has no output",
        ),
        (
            json.dumps(TASK | {"Positive Examples": [{"output": "a"}]}),
            r"Positive Examples\[0\] has no `input`",
        ),
    ],
)
def test_a_file_that_is_no_task_is_told(tmp_path, content, message):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=message):
        list(read_task("train", tmp_path / "bad.json", "def_2pos"))


def test_the_official_numbers_are_those_of_the_lists(shared):
    # allenai/natural-instructions, splits/default: 756 train and 119 test tasks.
    repository = Repository(shared / "data" / "sni")
    assert [len(repository.listed(s)) for s in ("train", "test")] == [756, 119]
    files = repository.files("test")
    assert [path.stem for path in files] == [
        name
        for name in repository.listed("test")
        if (shared / "data" / "sni" / "tasks" / f"{name}.json").exists()
    ]
    assert repository.about("test")["tasks"] == f"{len(files)} of 119 in splits/default"
    # The twelve categories of Tk-Instruct's test split hold all of its tasks.
    groups = {next(read_task("test", path))["group"] for path in files}
    assert groups and groups <= {
        *(
            "Textual Entailment",
            "Cause Effect Classification",
            "Coreference Resolution",
        ),
        *("Dialogue Act Recognition", "Answerability Classification", "Word Analogy"),
        *("Overlap Extraction", "Keyword Tagging", "Question Rewriting"),
        *("Title Generation", "Data to Text", "Grammar Error Correction"),
    }


def test_real_instructions_are_prepared_with_their_references(shared, tmp_path):
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    from hypert5_jax.preparation.first_use import ensure_prepared

    name = "sni_def_2pos_test"
    mixture = ensure_prepared(name, "test", tmp_path, ["tasks.sni"])
    assert (
        mixture.about[name]["tasks"] == f"{len(mixture.tasks)} of 119 in splits/default"
    )
    task = mixture.tasks[0]
    file = shared / "data" / "sni" / "tasks" / f"{task.name}.json"
    fields = json.loads(file.read_text())
    assert task.group == fields["Categories"][0] and task.context == "constant"
    examples = mixture.examples(task)
    assert [list(e.references) for e in examples] == [
        instance["output"] for instance in fields["Instances"][:100]
    ]
    context = mixture.vocabulary.decode(examples[0].context)
    assert context.count("<x>") == 3 and context.count("<y>") == 2
    kinds = [f"sni_{kind}_" if kind != "shots" else "sni_" for kind in CONTEXTS]
    registry = sys.modules["seqio"].TaskRegistry.names()
    assert {f"{k}{s}" for k in kinds for s in ("train", "test")} <= set(registry)
