"""From P3's files to examples: every layout gives the same, and nothing vanishes."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.p3 import examples as ex
from hypert5_jax.preparation.p3.catalogue import read_prompts
from hypert5_jax.preparation.p3.examples import Reading, read_examples
from hypert5_jax.preparation.p3.layouts import Layout

for package in ("jinja2", "pyarrow", "seqio", "yaml"):
    pytest.importorskip(package, reason=f"{package}, of `data`, is not installed")

PROMPTS = {prompt.name: prompt for prompt in read_prompts()}
TRAIN = PROMPTS["trec_what_category_best_describe"]
HELD_OUT = PROMPTS["super_glue_copa_best_option"]
ANLI = PROMPTS["anli_can_we_infer_r2"]
# What the three rows of the tests below are to become.
ROWS = [("Où  est-il?\nLà", "a place"), ("Who?", "ein Mensch"), ("When?", "a time")]


def write_lines(path: Path, rows, opener=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_parquet(path: Path, rows):
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_tfrecord(path: Path, rows):
    """As seqio's Beam cache writes: seqio's own function makes the records."""
    import seqio
    import tensorflow as tf

    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for row in rows:
            file.write(seqio.utils.dict_to_tfexample(row).SerializeToString())


def published(inputs, targets, **more):
    """A row of P3: ids beside the text, the target's text with white space before it."""
    return {
        "inputs": [5, 6, 7],
        "inputs_pretokenized": inputs,
        "targets": [8, 1],
        "targets_pretokenized": f"\n {targets} ",
        **more,
    }


def read(prompt, folder, split="train", part=(0, 1), reading=Reading()):
    found = Layout(folder).find(prompt, split)
    assert found is not None
    return list(read_examples(prompt, split, found, found.files, part, reading))


def texts(rows):
    return [(row["inputs"], row["targets"]) for row in rows]


def _write(layout, folder, rows):
    name = TRAIN.name
    plain = [{"inputs": i, "targets": f" {t}\n"} for i, t in rows]
    full = [published(i, t) for i, t in rows]
    if layout == "tfrecord":
        write_tfrecord(folder / "data" / name / "train.tfrecord-00000-of-00001", full)
    elif layout == "parquet":
        write_parquet(folder / name / "train-00000-of-00001.parquet", full)
    elif layout == "parquet_folder":
        write_parquet(folder / name / "train" / "0000.parquet", full)
    elif layout == "jsonl":
        write_lines(folder / "train" / "trec" / f"{TRAIN.template}.jsonl", plain)
    elif layout == "jsonl_gz":
        write_lines(folder / name / "train.jsonl.gz", plain, gzip.open)


LAYOUT_NAMES = ["tfrecord", "parquet", "parquet_folder", "jsonl", "jsonl_gz"]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_every_layout_gives_the_same_examples(tmp_path, layout):
    _write(layout, tmp_path, ROWS)
    rows = read(TRAIN, tmp_path)
    assert texts(rows) == ROWS
    assert {(row["task"], row["group"], row["skipped"]) for row in rows} == {
        (TRAIN.name, "trec", "")
    }
    assert "options" not in rows[0]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_parts_of_a_file_are_the_file(tmp_path, layout):
    rows = [(f"question {i}", f"answer {i}") for i in range(2500)]
    _write(layout, tmp_path, rows)
    parts = [texts(read(TRAIN, tmp_path, part=(i, 3))) for i in range(3)]
    assert parts == [rows[0::3], rows[1::3], rows[2::3]]


def test_published_files_come_before_lines_and_lines_before_raw_data(tmp_path):
    layouts = []
    for layout in ("jsonl", "parquet", "tfrecord"):
        _write(layout, tmp_path, ROWS)
        layouts.append(Layout(tmp_path).find(TRAIN, "train").layout)
    assert layouts == ["jsonl", "parquet", "tfrecord"]
    assert Layout(tmp_path, ("jsonl",)).find(TRAIN, "train").layout == "jsonl"
    assert Layout(tmp_path).find(TRAIN, "validation") is None
    assert Layout(tmp_path).find(ANLI, "train") is None
    with pytest.raises(UserError, match="expected some of tfrecord, parquet"):
        Layout(tmp_path, ("csv",))


def test_rows_without_text_or_label_are_left_out_and_say_why(tmp_path):
    rows = [("", "a"), ("a", "  "), ("b", "<NO LABEL>"), ("c", "d"), ("c", "d")]
    _write("parquet", tmp_path, rows)
    skipped = [row["skipped"] for row in read(TRAIN, tmp_path)]
    assert skipped == [ex.NO_INPUT, ex.NO_LABEL, ex.NO_LABEL, "", ""]
    rows = read(TRAIN, tmp_path, reading=Reading(skip_repeated=True))
    assert [row["skipped"] for row in rows][3:] == ["", ex.REPEATED]
    assert texts(rows)[4] == ("", "")


CHOICES = ["it rained", "it snowed"]


@pytest.mark.parametrize("layout", ["tfrecord", "parquet", "jsonl"])
def test_scored_rows_are_folded_back_into_examples(tmp_path, layout):
    # (example, option, correct); rows of two examples lie in any order.
    order = [(4, 1, True), (9, 0, True), (4, 0, False), (9, 1, False), (2, 0, False), (2, 1, False)]  # fmt: skip
    rows = [
        published(
            *(f"premise {example}", CHOICES[option]),
            idx=[example, option],
            is_correct=int(correct),
            weight=1.0,
        )
        for example, option, correct in order
    ]
    folder = tmp_path / f"{HELD_OUT.name}_score_eval"
    if layout == "tfrecord":
        write_tfrecord(folder / "validation.tfrecord-00000-of-00002", rows[:3])
        write_tfrecord(folder / "validation.tfrecord-00001-of-00002", rows[3:])
    elif layout == "parquet":
        write_parquet(folder / "validation-00000-of-00001.parquet", rows)
    else:
        write_lines(folder / "validation.jsonl", rows)
    found = read(HELD_OUT, tmp_path, "validation")
    assert [(r["inputs"], r["targets"], r["options"], r["skipped"]) for r in found] == [
        ("premise 4", "it snowed", CHOICES, ""),
        ("premise 9", "it rained", CHOICES, ""),
        ("", "", [], ex.NO_SUCH_OPTION),
    ]
    assert {row["group"] for row in found} == {"copa"}
    parts = [read(HELD_OUT, tmp_path, "validation", (i, 2)) for i in range(2)]
    assert parts == [found[0::2], found[1::2]]


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"idx": [0, 0], "is_correct": True}], r"example 0 .* has only options \[0\] of 2"),
        ([{"idx": [0, 1], "is_correct": True}] * 2, "option 1 of example 0 comes twice"),
        ([{"idx": [0, 2], "is_correct": True}], "is beyond the 2"),
        ([{"is_correct": True}], r"`idx` is None; scored rows need \[example, option\]"),
        ([{"idx": [0, i]} for i in range(2)], "no field `is_correct`; the row has idx"),
    ],
)  # fmt: skip
def test_scored_rows_that_do_not_belong_together_are_told(tmp_path, rows, message):
    folder = tmp_path / f"{HELD_OUT.name}_score_eval"
    write_lines(
        folder / "validation.jsonl", [published("a", "b") | row for row in rows]
    )
    with pytest.raises(UserError, match=message):
        read(HELD_OUT, tmp_path, "validation")


def test_held_out_rows_need_their_options(tmp_path):
    home = tmp_path / HELD_OUT.name
    row = published(" p", "it rained", answer_choices=[" it rained", "it snowed "])
    other = row | {"targets_pretokenized": "it hailed"}
    write_lines(home / "validation.jsonl", [row, other])
    rows = read(HELD_OUT, tmp_path, "validation")
    assert rows[0]["options"] == CHOICES and rows[0]["targets"] == "it rained"
    assert [row["skipped"] for row in rows] == ["", ex.NO_SUCH_OPTION]
    for bad, message in (
        (published("p", "it rained"), "has 2 options to choose from, this row 0"),
        (row | {"answer_choices": "it rained"}, "`answer_choices` is 'it rained'"),
    ):
        write_lines(home / "validation.jsonl", [row, bad])
        with pytest.raises(UserError, match=rf"validation\.jsonl:2: .*{message}"):
            read(HELD_OUT, tmp_path, "validation")


TEMPLATES = """templates:
  1: !Template
    answer_choices: Yes ||| No ||| Maybe
    jinja: '{% if premise %}{{premise}} So {{hypothesis}} {{ ["?", "!"] | choice }} |||
      {% if label != -1 %}{{ answer_choices[label] }}{% endif %}{% endif %}'
    name: can we infer
"""


def _raw(folder, rows, templates=TEMPLATES):
    write_lines(folder / "raw" / "anli" / "dev_r2.jsonl", rows)
    file = folder / "templates" / "anli" / "templates.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(templates)


def test_raw_rows_and_templates_become_examples(tmp_path):
    row = {"premise": "Il pleut ☂", "hypothesis": "it is wet", "label": 0}
    _raw(tmp_path, [row, row | {"label": -1}, row | {"premise": ""}] + [row] * 20)
    rows = read(ANLI, tmp_path, "validation")
    assert [row["skipped"] for row in rows[:3]] == ["", ex.NO_LABEL, ex.NO_PROMPT]
    assert rows[0]["inputs"].startswith("Il pleut ☂ So it is wet ")
    assert (rows[0]["targets"], rows[0]["options"]) == ("Yes", ["Yes", "No", "Maybe"])
    # What is drawn belongs to the row: once more, in parts, it is the same.
    ends = {row["inputs"][-1:] for row in rows[3:]}
    assert ends == {"?", "!"}
    parts = [read(ANLI, tmp_path, "validation", (i, 2)) for i in range(2)]
    assert parts == [rows[0::2], rows[1::2]]
    assert read(ANLI, tmp_path, "validation", reading=Reading(seed=1)) != rows


def test_raw_rows_that_do_not_fit_their_template_are_told(tmp_path):
    row = {"premise": "a", "hypothesis": "b", "label": 0}
    _raw(tmp_path, [row, {"premise": "a", "label": 0}])
    message = r"templates\.yaml: template 'can we infer' fails on .*dev_r2\.jsonl:2 .*'hypothesis' is undefined"  # fmt: skip
    with pytest.raises(UserError, match=message):
        read(ANLI, tmp_path, "validation")
    _raw(tmp_path, [row], TEMPLATES.replace("can we", "may we"))
    with pytest.raises(UserError, match="no template 'can_we_infer'; it has may_we_"):
        read(ANLI, tmp_path, "validation")
    # Without templates, raw rows are no data.
    (tmp_path / "templates" / "anli" / "templates.yaml").unlink()
    assert Layout(tmp_path).find(ANLI, "validation") is None


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"targets": "a"}], r"train\.jsonl:1: no field `inputs`; the row has targets"),
        ([{"inputs": "a"}], r"train\.jsonl:1: no field `targets`"),
        (
            [{"inputs": [1, 2], "targets": "a"}],
            "`inputs` is no text but list; expected",
        ),
    ],
)
def test_a_row_without_a_field_is_told_with_its_line(tmp_path, rows, message):
    write_lines(tmp_path / TRAIN.name / "train.jsonl", rows)
    with pytest.raises(UserError, match=message):
        read(TRAIN, tmp_path)


def test_half_a_character_is_told(tmp_path):
    file = tmp_path / TRAIN.name / "train.jsonl"
    file.parent.mkdir()
    file.write_text(r'{"inputs": "\ud83d\ude00 \ud83d", "targets": "a"}')
    with pytest.raises(UserError, match=r"train\.jsonl:1: not Unicode text .*ud83d"):
        read(TRAIN, tmp_path)


@pytest.mark.parametrize("layout", ["tfrecord", "parquet", "jsonl_gz"])
def test_a_file_that_is_cut_is_told(tmp_path, layout):
    _write(layout, tmp_path, [(f"question {i}", f"answer {i}") for i in range(3000)])
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        UserError, match=f"{file.name} is damaged after .*fetch it again"
    ):
        read(TRAIN, tmp_path)


def test_a_record_that_is_no_example_is_told(tmp_path):
    import tensorflow as tf

    file = tmp_path / TRAIN.name / "train.tfrecord-00000-of-00001"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"\xff no example")
    with pytest.raises(UserError, match=r"record 1 is no tf\.train\.Example"):
        read(TRAIN, tmp_path)


def test_of_two_copies_of_the_rows_one_is_read(tmp_path):
    home = tmp_path / "raw" / "anli"
    _raw(tmp_path, [{}])
    # The last one is what there is at first; each that is added comes before it.
    names = ["train_r232.jsonl", "train_r2/a.jsonl", "train_r2-00000-of-00001.jsonl"]
    for name in [*names, "train_r2.jsonl"]:
        write_lines(home / name, [{}])
        write_lines(home / name.replace("r2", "r1"), [{}])
        write_lines(home / name.replace("r2", "r2x"), [{}])
        found = Layout(tmp_path).find(ANLI, "train")
        assert found.files == (home / name,)
    assert Layout(tmp_path).find(replace(ANLI, anli_round="r4"), "train") is None
