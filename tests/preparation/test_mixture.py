"""Preparing seqio tasks, seqio and TensorFlow really imported (once for all tests)."""

import sys
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import SHOTS_SLOT
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.stream import batches
from tests.killed import contents, kill_when

MODULE = "tests.preparation.toy_tasks"
NAMES = (
    *("toy_mixture", "toy_tokenised", "toy_context", "toy_ids", "toy_labels"),
    "toy_references",
)


@pytest.fixture(scope="module")
def output_dir(tmp_path_factory) -> Path:
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    from hypert5_jax.preparation.mixture import prepare_mixture

    path = tmp_path_factory.mktemp("prepared")
    for name in NAMES:
        prepare_mixture(name, "train", path, modules=[MODULE])
    return path


def opened(output_dir: Path, name: str) -> PreparedMixture:
    return open_mixture(output_dir / name, "train")


def texts(mixture: PreparedMixture, task: str, number: int) -> tuple[str, ...]:
    example = mixture.examples(mixture.task(task), [number])[0]
    decode = mixture.vocabulary.decode
    options = tuple(decode(option) for option in example.options)
    return decode(example.inputs), decode(example.targets), *options


def test_plain_text_is_tokenised_and_grouped_by_logical_task(output_dir):
    mixture = opened(output_dir, "toy_mixture")
    assert [(t.name, t.count) for t in mixture.tasks] == [
        ("even", 12),
        ("odd", 12),
        ("toy_text", 24),
    ]
    assert texts(mixture, "toy_text", 4) == ("question 4", "answer 1 </s>")
    row = ("question 9", "answer 0 </s>", "yes </s>", "no </s>")
    assert texts(mixture, "odd", 4) == row
    assert mixture.manifest["rates"] == {"toy_text": 3.0, "toy_groups": 24.0}
    assert mixture.metrics["toy_text"] == ["exact_match"]


def test_ids_that_seqio_made_are_those_we_make(output_dir):
    plain, tokenised = (opened(output_dir, n) for n in ("toy_mixture", "toy_tokenised"))
    ours = plain.examples(plain.task("toy_text"))
    assert tokenised.examples(tokenised.task("toy_tokenised")) == ours


def test_references_and_group_are_kept_as_they_were_written(output_dir):
    mixture = opened(output_dir, "toy_references")
    (task,) = mixture.tasks
    assert task.group == "sums"
    assert mixture.examples(task, [4])[0].references == ("Answer  1", "né")
    assert opened(output_dir, "toy_ids").tasks[0].group == ""


def test_markers_in_a_context_become_ids(output_dir):
    mixture = opened(output_dir, "toy_context")
    vocabulary = mixture.vocabulary
    brief, end = vocabulary.encode("be brief"), vocabulary.encode("end")
    sentinel = vocabulary.size - 1
    wanted = [vocabulary.x_id, *brief, SHOTS_SLOT, sentinel, *end]
    (task,) = mixture.tasks
    assert task.context == "constant" and task.wants_shots
    assert mixture.examples(task, [0])[0].context == wanted

    row = RowFormat(lengths={"hyper_inputs": 99, "inputs": 20, "targets": 12})
    row_ids = next(batches(mixture, row, 4, seed=0)).hyper_inputs[0]
    text = vocabulary.decode(row_ids)
    assert text.startswith("<x> be brief <x> question ")
    assert text.endswith("<extra_id_0> end") and text.count("<y>") >= 2


def test_a_context_of_ids_is_kept_as_it_is(output_dir):
    mixture = opened(output_dir, "toy_ids")
    (task,) = mixture.tasks
    assert task.context == "per_example" and not task.wants_shots
    assert mixture.examples(task, [3])[0].context == [7, 8, 12]


def test_label_words_fill_targets_and_options(output_dir):
    mixture = opened(output_dir, "toy_labels")
    row = ("question 3", "is <label_1> </s>", "is <label_0> </s>", "is <label_1> </s>")
    assert texts(mixture, "toy_labels", 3) == row
    words = [mixture.vocabulary.decode(w) for w in mixture.tasks[0].label_pool]
    assert words == ["zop", "mib", "tak"]
    lengths = {"hyper_inputs": 200, "inputs": 20, "targets": 12}
    batch = next(batches(mixture, RowFormat(lengths=lengths, max_shots=4), 8, seed=0))
    for target in batch.targets:
        assert mixture.vocabulary.decode(target).split()[1] in words
    for context in batch.hyper_inputs:
        shown = mixture.vocabulary.decode(context).split("<y>")[1:]
        assert all(shot.split("<x>")[0].strip() in words for shot in shown)


def test_preprocessors_get_the_lengths_they_ask_for(output_dir, tmp_path):
    from hypert5_jax.preparation.mixture import prepare_mixture

    lengths = {"inputs": 3, "targets": 9}
    prepare_mixture("toy_lengths", "train", tmp_path, [MODULE], lengths=lengths)
    mixture = opened(tmp_path, "toy_lengths")
    assert mixture.index["inputs"].tolist() == [3] * 24


def test_preparing_twice_changes_nothing(output_dir):
    from hypert5_jax.preparation.mixture import prepare_mixture

    before = contents(output_dir / "toy_mixture")
    prepare_mixture("toy_mixture", "train", output_dir, modules=[MODULE])
    assert contents(output_dir / "toy_mixture") == before


def test_tasks_whose_names_differ_in_punctuation_keep_their_own_data(tmp_path):
    from hypert5_jax.preparation.mixture import prepare_mixture

    prepare_mixture("toy_pairs", "train", tmp_path, modules=[MODULE])
    mixture = opened(tmp_path, "toy_pairs")
    for mark in ":#":
        assert texts(mixture, f"toy_pair{mark}x", 0) == ("question 0", f"{mark} </s>")
    files = [shard["file"] for shard in mixture.manifest["shards"]]
    assert len(set(files)) == len(files) == 2


def test_what_was_prepared_with_other_settings_is_refused(output_dir, tmp_path):
    from hypert5_jax.preparation.mixture import prepare_mixture

    def prepare(name: str, **more):
        return prepare_mixture(name, "train", tmp_path, [MODULE], **more)

    short, long = ({"inputs": length, "targets": 9} for length in (3, 4))
    prepare("toy_lengths", lengths=short)
    before = contents(tmp_path)
    prepare("toy_lengths", lengths=short, num_workers=2, skip_bad_lines=5)
    with pytest.raises(UserError, match=r"lengths was .*3.* is .*4.*--overwrite"):
        prepare("toy_lengths", lengths=long)
    with pytest.raises(UserError, match="cache_dir was None, is cached"):
        prepare("toy_lengths", lengths=short, cache_dir="cached")
    assert contents(tmp_path) == before
    prepare("toy_lengths", lengths=long, overwrite=True)
    assert opened(tmp_path, "toy_lengths").index["inputs"].tolist() == [4] * 24
    # Nothing in this task asks for lengths.
    prepare("toy_tokenised", lengths=short)
    prepare("toy_tokenised", lengths=long)


def test_first_use_prepares_what_is_small(output_dir, tmp_path):
    from hypert5_jax.preparation.first_use import ensure_prepared

    with pytest.raises(UserError, match="too many to prepare by the way"):
        ensure_prepared("toy_text", "train", tmp_path, [MODULE], most_examples=10)
    assert not list(tmp_path.iterdir())
    mixture = ensure_prepared("toy_text", "train", tmp_path, [MODULE])
    assert mixture.tasks[0].count == 24
    # Now the files are enough: an unknown module is not even looked for.
    assert ensure_prepared("toy_text", "train", tmp_path, ["no_such"]).tasks


@pytest.mark.parametrize(
    "name, split, modules, message",
    [
        ("toy_mixtur", "train", [MODULE], "near names: toy_mixture"),
        ("toy_text", "validation", [MODULE], "no split 'validation'; it has train"),
        ("toy_text", "train", ["no_such_module"], "--module=no_such_module"),
        ("toy_nothing", "train", [MODULE], "has no examples"),
        ("toy_lengths", "train", [MODULE], "if it wants lengths, give them"),
    ],
)
def test_a_users_mistake_is_told(output_dir, tmp_path, name, split, modules, message):
    from hypert5_jax.preparation.mixture import prepare_mixture

    with pytest.raises(UserError, match=message):
        prepare_mixture(name, split, tmp_path, modules=modules)


def test_another_vocabulary_than_the_prepared_data_has_is_refused(output_dir, tmp_path):
    from hypert5_jax.preparation.mixture import prepare_mixture

    home = prepare_mixture("toy_text", "train", tmp_path, modules=[MODULE])
    home.rename(tmp_path / "toy_other_vocabulary")
    with pytest.raises(UserError, match="was prepared with vocabulary"):
        prepare_mixture("toy_other_vocabulary", "train", tmp_path, modules=[MODULE])


def test_a_damaged_line_is_told_with_its_file_and_number(
    output_dir, tmp_path, monkeypatch
):
    from hypert5_jax.preparation.mixture import prepare_mixture

    write_files(tmp_path / "files", 1)
    with open(tmp_path / "files" / "0.jsonl", "a") as file:
        file.write('{"inputs": "a", "targets"\n')
    monkeypatch.setenv("TOY_TASKS_FOLDER", str(tmp_path / "files"))
    with pytest.raises(UserError, match=r"0\.jsonl:31: malformed JSON"):
        prepare_mixture("toy_files", "train", tmp_path, modules=[MODULE])


def test_a_killed_preparation_goes_on_and_ends_byte_identical(
    output_dir, tmp_path, monkeypatch
):
    from hypert5_jax.preparation.mixture import prepare_mixture

    write_files(tmp_path / "files", 6)
    monkeypatch.setenv("TOY_TASKS_FOLDER", str(tmp_path / "files"))
    arguments = ["--mixture=toy_files", f"--module={MODULE}"]
    folder = tmp_path / "killed" / "toy_files" / "train"
    kill_when(
        lambda: len(list(folder.glob("*-of-*.json"))) >= 2,
        "hypert5_jax.prepare",
        [*arguments, f"--output_dir={tmp_path / 'killed'}"],
        {"TOY_TASKS_DELAY": "0.02"},
    )
    finished = {p: p.stat().st_mtime_ns for p in folder.glob("*-of-*.arrayrecord")}
    assert not (folder / "manifest.json").exists()

    for name in ("killed", "straight"):
        prepare_mixture("toy_files", "train", tmp_path / name, modules=[MODULE])
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")
    kept = [p for p, t in finished.items() if p.stat().st_mtime_ns == t]
    assert len(kept) >= 2  # what was whole was not written again
    about = opened(tmp_path / "killed", "toy_files").about
    assert about == {"toy_files": {"release": "7"}}


MINE = """
import seqio
from hypert5_jax.preparation.sources import TEXT, FilesSource
from tests.preparation.toy_tasks import FEATURES, toy_files, toy_lines

def read(split, path):
    for row in toy_lines(split, path):
        yield row | {"targets": "old"}

kinds = {"inputs": TEXT, "targets": TEXT}
source = FilesSource(toy_files, read, kinds, ["train"])
seqio.TaskRegistry.add("mended", source, output_features=FEATURES, preprocessors=[])
"""


def test_units_of_a_module_that_was_mended_are_made_anew(
    output_dir, tmp_path, monkeypatch, capsys
):
    import seqio

    from hypert5_jax.preparation.mixture import prepare_mixture

    write_files(tmp_path / "files", 2)
    monkeypatch.setenv("TOY_TASKS_FOLDER", str(tmp_path / "files"))
    last, mine = tmp_path / "files" / "1.jsonl", tmp_path / "mine.py"
    whole = last.read_text()
    last.write_text("{broken\n")
    mine.write_text(MINE)
    with pytest.raises(UserError, match="malformed JSON"):
        prepare_mixture("mended", "train", tmp_path, [str(mine)])

    # As another process would see it.
    last.write_text(whole)
    mine.write_text(MINE.replace("old", "new"))
    del sys.modules[str(mine)]
    seqio.TaskRegistry.remove("mended")
    capsys.readouterr()
    prepare_mixture("mended", "train", tmp_path, [str(mine)])
    mixture = opened(tmp_path, "mended")
    assert {texts(mixture, "mended", i)[1] for i in range(60)} == {"new </s>"}
    said = capsys.readouterr().err
    assert "mended/train: 1 finished units are of other settings or code" in said


def write_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        lines = [
            f'{{"inputs": "file {number} line {i}", "targets": "{i}"}}\n'
            for i in range(30)
        ]
        (folder / f"{number}.jsonl").write_text("".join(lines))
