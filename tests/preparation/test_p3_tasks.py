"""P3 as seqio tasks: rates, options and groups as prepared; what is missing is told."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import open_mixture

seqio = pytest.importorskip("seqio", reason="seqio, of `data`, is not installed")

ROOT = Path(__file__).resolve().parents[2]
CB = "super_glue_cb_can_we_infer"
TREC = "trec_what_category_best_describe"
WIKI = "wiki_bio_who"
NAMES = {
    "p3_train": 241,
    "p3_eval": 111,
    "p3_peft": 8,
}


@pytest.fixture(scope="module")
def p3():
    return importlib.import_module("tasks.p3")


@pytest.fixture
def folder(tmp_path):
    """Two training prompts, and a held-out one with both splits."""
    folder = tmp_path / "p3"
    lines = [{"inputs": f"question {i}", "targets": f" {i}"} for i in range(30)]
    _write(folder / TREC / "train.jsonl", lines)
    unlabelled = {"inputs": "a", "targets": ""}
    _write(folder / "train" / "wiki_bio" / "who.jsonl", [*lines, unlabelled])
    choices = ["Yes", "No", "Maybe"]
    rows = [
        {"inputs": f"is it {i}?", "targets": choices[i % 3], "answer_choices": choices}
        for i in range(12)
    ]
    _write(folder / CB / "train.jsonl", rows)
    _write(folder / CB / "validation.jsonl", rows[:5])
    return folder


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _register(p3, folder, prefix, **more):
    # Registration is for good, so each test has names of its own.
    p3.register(prefix, folder, vocabulary=seqio.ByteVocabulary(), **more)
    return prefix


def _prepare(name, split, output_dir, **more):
    from hypert5_jax.preparation.mixture import prepare_mixture

    home = prepare_mixture(name, split, output_dir, modules=["tasks.p3"], **more)
    return open_mixture(home, split)


def test_the_mixtures_have_t0s_rates_and_no_more_than_their_prompts(p3):
    for name, count in NAMES.items():
        mixture = seqio.MixtureRegistry.get(name)
        assert len(mixture.tasks) == count
        assert seqio.MixtureRegistry.get(f"{name}_available").name
    train = seqio.MixtureRegistry.get("p3_train")
    assert train.total_rate == 11_175_536
    amazon = seqio.TaskRegistry.get("amazon_polarity_would_you_buy")
    assert train.get_rate(amazon) == 55_555  # 500,000 // 9


def test_what_is_there_is_prepared_with_rates_groups_and_options(p3, folder, tmp_path):
    prefix = _register(p3, folder, "all_")
    mixture = _prepare(f"{prefix}p3_train_available", "train", tmp_path)
    told = [(t.name, t.count, t.rate, t.group) for t in mixture.tasks]
    assert told == [(TREC, 30, 5452, "trec"), (WIKI, 30, 100_000, "wiki_bio")]
    skipped = mixture.manifest["skipped"]
    assert skipped == {prefix + WIKI: {"no label": 1}}
    assert mixture.manifest["about"][prefix + TREC] == {"train": "jsonl"}
    assert mixture.examples(mixture.tasks[0])[3].options == ()

    for split, count in (("train", 12), ("validation", 5)):
        mixture = _prepare(f"{prefix}p3_eval_available", split, tmp_path)
        (task,) = mixture.tasks
        assert (task.name, task.group, task.count) == (CB, "cb", count)
        examples = mixture.examples(task)
        decode = mixture.vocabulary.decode
        options = [decode(option) for option in examples[4].options]
        assert options == ["Yes </s>", "No </s>", "Maybe </s>"]
        assert examples[4].targets == list(examples[4].options[1])


def test_rows_through_seqio_are_the_rows_that_are_prepared(p3, folder, tmp_path):
    from hypert5_jax.preparation import seqio_tasks

    prefix = _register(p3, folder, "both_")
    for name, split in ((TREC, "train"), (CB, "validation")):
        source = seqio.TaskRegistry.get(prefix + name).source
        for shard in ((0, 1), (1, 3)):
            info = seqio.ShardInfo(*shard)
            data = source.get_dataset(split, shuffle=False, shard_info=info)
            through = [_plain(row) for row in data.as_numpy_iterator()]
            assert through == list(source.python_examples(split, shard))
            assert len(through) > 1
    # A task with steps of its own still takes them.
    task = seqio.Task(
        "both_stepped",
        seqio.TaskRegistry.get(prefix + TREC).source,
        seqio.TaskRegistry.get(prefix + TREC).output_features,
        preprocessors=[lambda data: data.take(7)],
    )
    vocabulary, _ = seqio_tasks.vocabulary_of({"both_stepped": task})
    items = seqio_tasks.read_items(task, "train", vocabulary, (0, 1))
    assert len(list(items)) == 7


def _plain(row):
    values = {name: value for name, value in row.items() if name != "options"}
    plain = {name: value.decode() for name, value in values.items()}
    if "options" in row:
        plain["options"] = [option.decode() for option in row["options"]]
    return plain


def test_missing_data_are_told_once_and_completely(p3, folder, tmp_path):
    prefix = _register(p3, folder, "part_")
    with pytest.raises(UserError, match=r"no data of \S+, split train, in") as told:
        _prepare(f"{prefix}p3_train", "train", tmp_path)
    message = str(told.value)
    assert "2 of the 241 prompts of part_p3_train have data" in message
    assert "part_p3_train_available takes those" in message and str(folder) in message
    with pytest.raises(UserError, match="1 of the 111 prompts of part_p3_eval have"):
        _prepare(f"{prefix}p3_eval", "validation", tmp_path)
    # A held-out prompt with training rows alone is not passed over in silence.
    (folder / CB / "validation.jsonl").unlink()
    with pytest.raises(UserError, match="has no split 'validation'; it has train"):
        _prepare(f"{prefix}p3_eval_available", "validation", tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="0 of the 241 prompts"):
        _prepare(f"{prefix}p3_train_available", "train", tmp_path)


def test_an_unknown_layout_is_told_before_anything_is_registered(p3):
    with pytest.raises(UserError, match="expected some of tfrecord"):
        p3.register("wrong_", layouts=("cvs",))
    assert not any(n.startswith("wrong_") for n in seqio.TaskRegistry.names())


def test_a_large_file_is_shared_by_several_units(p3, folder, tmp_path, monkeypatch):
    from hypert5_jax.preparation import seqio_tasks
    from hypert5_jax.preparation.p3.examples import Reading

    prefix = _register(p3, folder, "units_")
    whole = _prepare(prefix + TREC, "train", tmp_path)
    monkeypatch.setattr(seqio_tasks, "_EXAMPLES_PER_UNIT", 25)
    parted = _prepare(prefix + TREC, "train", tmp_path / "parted")
    assert len(parted.manifest["shards"]) > 1
    one, other = (m.examples(m.tasks[0]) for m in (whole, parted))
    assert sorted(e.inputs for e in one) == sorted(e.inputs for e in other)
    # Repeats are found only where one unit sees all rows.
    _write(folder / TREC / "train.jsonl", [{"inputs": "a", "targets": "b"}] * 60)
    prefix = _register(p3, folder, "once_", reading=Reading(skip_repeated=True))
    once = _prepare(prefix + TREC, "train", tmp_path)
    assert once.manifest["skipped"] == {prefix + TREC: {"repeated example": 59}}
    assert len(once.manifest["shards"]) == 1


def test_ids_are_those_of_the_published_rows(p3, shared, tmp_path):
    import tensorflow as tf

    from tests.preparation.test_p3_examples import write_tfrecord

    model = shared / "data" / "t5" / "vocab" / "t5_cc_all_32000.model"
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=100)
    features = {
        "inputs": seqio.Feature(vocabulary, add_eos=False),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }
    texts = [("A word\nand – another.", "\n two words"), ("été?  yes", " <br />No")]
    data = tf.data.Dataset.from_tensor_slices(
        {"inputs": [i for i, _ in texts], "targets": [t for _, t in texts]}
    )
    # t-zero's own steps, which made the published files.
    data = seqio.preprocessors.tokenize(data, features)
    rows = list(seqio.preprocessors.append_eos(data, features).as_numpy_iterator())
    file = tmp_path / "p3" / TREC / "train.tfrecord-00000-of-00001"
    write_tfrecord(file, rows)
    p3.register("ids_", tmp_path / "p3", vocabulary=vocabulary)
    mixture = _prepare(f"ids_{TREC}", "train", tmp_path)
    for example, row in zip(mixture.examples(mixture.tasks[0]), rows, strict=True):
        assert example.inputs == row["inputs"].tolist()
        assert example.targets == row["targets"].tolist()


def test_the_public_slices_are_prepared(shared, tmp_path):
    mixture = _prepare("p3_eval_available", "validation", tmp_path)
    groups = [task.group for task in mixture.tasks]
    assert (groups.count("cb"), groups.count("winogrande")) == (15, 5)
    assert {task.count for task in mixture.tasks} == {56, 300}
    assert mixture.manifest["skipped"] == {}
    sizes = {"cb": 3, "winogrande": 2}
    for task in mixture.tasks:
        for example in mixture.examples(task):
            assert len(example.options) == sizes[task.group]
            assert tuple(example.targets) in set(map(tuple, example.options))


def test_importing_needs_no_data_and_little_time(tmp_path):
    code = (
        "import seqio, time, sys\n"
        "start = time.perf_counter()\n"
        "import tasks.p3\n"
        "assert time.perf_counter() - start < 5, 'slow'\n"
        "assert 'jinja2.sandbox' in sys.modules\n"
        "print(len(seqio.TaskRegistry.names()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=ROOT,
        env={"HYPERT5_DATA": "/nowhere", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "353", result.stderr


def test_bad_lines_are_left_out_up_to_the_bound(p3, folder, tmp_path, monkeypatch):
    from hypert5_jax.preparation import seqio_tasks

    # Two units read this file: each bad line is told by one of them.
    monkeypatch.setattr(seqio_tasks, "_EXAMPLES_PER_UNIT", 100)
    file = folder / TREC / "train.jsonl"
    lines = file.read_text().splitlines()
    lines[4:6] = ["{", "[]"]
    file.write_text("\n".join(lines))
    prefix = _register(p3, folder, "bad_")
    with pytest.raises(UserError, match=r"train\.jsonl:5: malformed JSON .*--skip_bad"):
        _prepare(prefix + TREC, "train", tmp_path)
    with pytest.raises(UserError, match=r"2 bad lines or more, --skip_bad_lines=1"):
        _prepare(prefix + TREC, "train", tmp_path, skip_bad_lines=1)
    mixture = _prepare(prefix + TREC, "train", tmp_path, skip_bad_lines=2)
    assert len(mixture.manifest["shards"]) == 2 and mixture.tasks[0].count == 28
    assert mixture.manifest["skipped"] == {prefix + TREC: {"bad line": 2}}
