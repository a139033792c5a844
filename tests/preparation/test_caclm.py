"""CACLM: how documents are cut, and the sources they come from."""

import gzip
import json
import random

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError

pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")

from hypert5_jax.preparation.caclm import Segments, read_windows
from hypert5_jax.preparation.documents import FirstThere, JsonLines, PlainText, Tfds


class _Numbers:
    """A vocabulary whose text is numbers."""

    vocab_size, eos_id = 32_100, 1

    def encode(self, text):
        return [int(word) for word in text.split()]


def texts(documents, split="train"):
    return [
        text
        for path in documents.files(split)
        for _, text in documents.read(split, path)
    ]


def write_gz(path, documents):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for text in documents:
            file.write(json.dumps({"text": text, "timestamp": "", "url": ""}) + "\n")


def test_a_window_is_cut_into_context_input_and_target():
    ids = np.arange(512, dtype=np.int32)
    row = Segments().cut(ids, _Numbers(), random.Random(0))
    assert row["inputs"].tolist() == list(range(176, 208))
    assert row["targets"].tolist() == list(range(208, 336))
    context = [32099, *range(176), 32098, *range(336, 512)]
    assert row["context"].tolist() == context and len(context) == 354


@pytest.mark.parametrize("cuts", ["offset", "random"])
def test_random_cuts_keep_every_token_once(cuts):
    segments = Segments(cuts=cuts, markers="eos", eos=True)
    ids = np.arange(2, 514, dtype=np.int32)
    lengths = set()
    for seed in range(20):
        row = segments.cut(ids, _Numbers(), random.Random(seed))
        assert row["targets"][-1] == 1 and list(row["context"]).count(1) == 1
        joined = np.concatenate([row[k] for k in ("inputs", "targets", "context")])
        assert sorted(joined[joined != 1].tolist()) == ids.tolist()
        lengths.add((len(row["inputs"]), len(row["targets"])))
    assert len(lengths) == 1 if cuts == "offset" else len(lengths) > 10


def test_windows_come_from_one_document_and_short_ones_are_counted(tmp_path):
    write_gz(tmp_path / "a.jsonl.gz", ["1 " * 30, "2 " * 9, "3 " * 10, ""])
    documents = JsonLines(str(tmp_path / "*.jsonl.gz"))
    (path,) = documents.files("train")
    segments = Segments(a=3, b=2, c=2, d=3)
    rows = list(read_windows("train", path, documents, segments, _Numbers()))
    kept = [row for row in rows if not row["skipped"]]
    assert [int(row["inputs"][0]) for row in kept] == [1, 1, 1, 3]
    skipped = [row["skipped"] for row in rows if row["skipped"]]
    assert skipped == ["document of fewer than 10 tokens"] * 2
    assert not list(read_windows("validation", path, documents, segments, _Numbers()))


def test_one_document_in_fifty_is_held_out_where_no_file_is(tmp_path):
    lines = [f"{i} né" for i in range(1, 121)]
    write_gz(tmp_path / "a.jsonl.gz", lines)
    (tmp_path / "a.txt").write_text("\n--\n".join(lines), encoding="utf-8")
    held = ["50 né", "100 né"]
    sources = (
        JsonLines(str(tmp_path / "*.jsonl.gz")),
        PlainText(str(tmp_path / "*.txt"), separator="--"),
    )
    for source in sources:
        stripped = [
            [t.strip() for t in texts(source, s)] for s in ("train", "validation")
        ]
        assert stripped == [[line for line in lines if line not in held], held]


def test_a_file_of_plain_text_is_a_document(tmp_path):
    for i in range(1, 52):
        (tmp_path / f"{i:03d}.txt").write_text(f"{i}\n\n{i}\n")
    with gzip.open(tmp_path / "052.txt.gz", "wt") as file:
        file.write("52")
    source = PlainText(str(tmp_path / "*.txt*"))
    assert texts(source, "validation") == ["50\n\n50\n"]
    train = texts(source)
    assert len(train) == 51 and train[0] == "1\n\n1\n" and train[-1] == "52"
    given = PlainText(str(tmp_path / "001.txt"), str(tmp_path / "002.txt"))
    assert texts(given, "validation") == ["2\n\n2\n"]
    assert given.about()["validation"] == "1 files, 5 bytes"


def test_a_document_without_text_is_told_and_may_be_left_out(tmp_path):
    rows = ({"text": "a"}, {"words": "b"}, {"text": None}, {"text": "é"})
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "d.jsonl").write_text(lines, encoding="utf-8")
    documents = JsonLines(str(tmp_path / "d.jsonl"))
    (path,) = documents.files("train")
    with pytest.raises(UserError, match=r"d\.jsonl:2: no field `text`"):
        list(documents.read("train", path))
    told: list[str] = []
    assert list(documents.read("train", path, told.append)) == [(1, "a"), (4, "é")]
    assert [line.split(": ")[0] for line in told] == [f"{path}:2", f"{path}:3"]
    with pytest.raises(UserError, match="no file matches"):
        JsonLines(str(tmp_path / "*.json.gz")).files("train")


@pytest.fixture
def prepared_by_tfds(tmp_path):
    """A tiny c4/en:3.0.1 of two shards, written with TFDS's own functions."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    names = ("text", "timestamp", "url")
    features = tfds.features.FeaturesDict({n: tfds.features.Text() for n in names})
    home = tmp_path / "c4" / "en" / "3.0.1"
    home.mkdir(parents=True)
    infos = []
    for split, lengths in (("train", [3, 4]), ("validation", [2])):
        for shard, count in enumerate(lengths):
            file = f"c4-{split}.tfrecord-{shard:05d}-of-{len(lengths):05d}"
            with tf.io.TFRecordWriter(str(home / file)) as writer:
                for i in range(count):
                    row = dict.fromkeys(names, "") | {"text": f"{split} {shard} né {i}"}
                    writer.write(features.serialize_example(row))
        infos.append(
            tfds.core.SplitInfo(
                name=split, shard_lengths=lengths, num_bytes=0, filename_template=None
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=str(home),
        features=features,
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    )
    return tmp_path


def test_a_prepared_tfds_directory_is_read_as_seqio_reads_it(prepared_by_tfds):
    import seqio

    judge = seqio.TfdsDataSource("c4/en:3.0.1", tfds_data_dir=str(prepared_by_tfds))
    source = Tfds(str(prepared_by_tfds / "c4" / "en" / "3.0.1"))
    for split, count in (("train", 7), ("validation", 2)):
        rows = judge.get_dataset(split, shuffle=False).as_numpy_iterator()
        wanted = [row["text"].decode() for row in rows]
        assert texts(source, split) == wanted and len(wanted) == count
    assert source.about()["train"].startswith("2 of 2 files, ")
    first = source.files("train")[0]
    first.write_bytes(first.read_bytes()[:-5])
    with pytest.raises(UserError, match="damaged or missing after record 2"):
        list(source.read("train", first))
    with pytest.raises(
        UserError, match="has no split 'test'; it has train, validation"
    ):
        source.files("test")
    with pytest.raises(UserError, match="no dataset_info.json"):
        Tfds(str(prepared_by_tfds)).files("train")


def test_c4_is_looked_for_as_tfds_then_as_json_lines_then_as_text(
    prepared_by_tfds, tmp_path, monkeypatch
):
    from hypert5_jax.preparation.modules import import_module

    documents = import_module("tasks.c4")._DOCUMENTS
    assert isinstance(documents, FirstThere)
    monkeypatch.setenv("HYPERT5_DATA", str(tmp_path / "nothing"))
    with pytest.raises(UserError, match=r"nothing/c4/en holds neither 3\.0\.1/"):
        documents.files("train")
    folder = tmp_path / "here" / "c4" / "en"
    folder.mkdir(parents=True)
    monkeypatch.setenv("HYPERT5_DATA", str(tmp_path / "here"))
    (folder / "1.txt").write_text("plain")
    assert texts(documents) == ["plain"]
    for name in (
        "train.00000-of-01024",
        "train.00002-of-01024",
        "validation.00000-of-8",
    ):
        write_gz(folder / f"c4-{name}.json.gz", [name])
    assert texts(documents) == ["train.00000-of-01024", "train.00002-of-01024"]
    assert texts(documents, "validation") == ["validation.00000-of-8"]
    assert documents.about()["train"].startswith("2 of 1,024 files, ")
    (prepared_by_tfds / "c4" / "en" / "3.0.1").rename(folder / "3.0.1")
    assert len(texts(documents)) == 7


def test_the_context_is_padded_to_its_own_length_not_to_1024():
    from pathlib import Path

    from hypert5_jax.config import gin_files
    from hypert5_jax.config.train_run import TrainRun

    gin = Path(__file__).resolve().parents[2] / "gin"
    files = ("models/t5_1_1_tiny", "variants/hypert5_prefix", "runs/hyperpretrain")
    for task in ("c4_caclm", "text_caclm"):
        chosen = (*files, f"tasks/{task}")
        given = (
            "MODEL_DIR = '/nowhere/run'",
            "INITIAL_CHECKPOINT_PATH = '/nowhere/t5'",
        )
        arguments = gin_files.GinArguments(
            tuple(str(gin / f"{name}.gin") for name in chosen), given
        )
        run, _ = gin_files.build(TrainRun, arguments)
        batch = run.data.batch_shapes()
        assert batch.hyper_inputs.shape == (256, 384)
        assert batch.inputs.shape == (256, 32) and batch.targets.shape == (256, 128)
