"""Input that is damaged, odd or too long: told, bounded, counted; never silently lost."""

import gzip
import json
from pathlib import Path

import pytest

from hypert5_jax import prepare
from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.preparation.json_files import read_json, read_json_lines
from tests.killed import contents, kill_when

pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")

MODULE = "tests.preparation.toy_tasks"


def test_damaged_files_are_told_with_file_and_line(tmp_path):
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


def test_bad_lines_are_passed_over_only_if_somebody_listens(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [b'{"a": "\xc3\xa9"}', b'{"a": "\xff"}', b"[1]", b'{"a":', b'{"a": "z"}']
    path.write_bytes(b"\n".join(lines))
    told: list[str] = []
    assert list(read_json_lines(path, told.append)) == [
        (1, {"a": "é"}),
        (5, {"a": "z"}),
    ]
    assert [line.split(" ")[0] for line in told] == [f"{path}:{n}:" for n in (2, 3, 4)]
    for message, number in zip(("not UTF-8", "expected a JSON", "malformed"), range(3)):
        assert message in told[number]
    with pytest.raises(UserError, match=r"a\.jsonl:2: not UTF-8"):
        list(read_json_lines(path))
    # A damaged archive is no bad line: nobody knows how much of it is lost.
    whole = gzip.compress(b'{"a": "b"}\n' * 5000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(UserError, match="fetch it again"):
        list(read_json_lines(tmp_path / "b.jsonl.gz", told.append))


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Two files of the task toy_files; two bad lines in the first, one in the second."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number, bad in enumerate(([3, 7], [0])):
        lines = [
            "{broken"
            if i in bad
            else json.dumps({"inputs": f"né {i}", "targets": "日本"})
            for i in range(10)
        ]
        (folder / f"{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("TOY_TASKS_FOLDER", str(folder))
    return folder


def run(folder: Path, *extra: str, name: str = "toy_files") -> int:
    arguments = [f"--mixture={name}", f"--module={MODULE}", f"--output_dir={folder}"]
    return cli.exit_code(prepare.main, [*arguments, *extra])


@pytest.mark.parametrize("name", ["toy_files", "toy_files_tokenised"])
def test_bad_lines_are_left_out_up_to_a_bound_over_the_split(
    files, tmp_path, capsys, name
):
    out = tmp_path / "out"
    assert run(out, name=name) == 2
    told = capsys.readouterr().err
    assert "0.jsonl:4: malformed JSON" in told and "--skip_bad_lines=N" in told
    assert run(out, "--skip_bad_lines=1", name=name) == 2
    assert "2 bad lines or more, --skip_bad_lines=1" in capsys.readouterr().err
    # No file has more than two, all have three.
    assert run(out, "--skip_bad_lines=2", name=name) == 2
    told = capsys.readouterr().err
    assert "3 bad lines or more" in told and "0.jsonl:8" in told and "1.jsonl:1" in told
    assert not (out / name / "train" / "manifest.json").exists()
    assert run(out, "--skip_bad_lines=3", name=name) == 0
    printed = capsys.readouterr().out
    assert "17 examples of 1 tasks" in printed
    assert f"{name}: 3 left out (bad line)" in printed
    assert f"{files}/1.jsonl:1: malformed JSON" in printed
    mixture = open_mixture(out / name, "train")
    assert mixture.manifest["skipped"] == {name: {"bad line": 3}}
    assert mixture.manifest["settings"]["skip_bad_lines"] == 3
    assert run(out, "--skip_bad_lines=4", name=name) == 0
    assert run(out, "--skip_bad_lines=2", name=name) == 2
    assert "3 bad lines were left out, skip_bad_lines is 2" in capsys.readouterr().err


def test_where_several_units_read_one_file_its_bad_lines_count_once(files):
    from hypert5_jax.preparation.modules import import_module
    from hypert5_jax.preparation.sources import TEXT, FilesSource

    toy = import_module(MODULE)
    kinds = {"inputs": TEXT, "targets": TEXT}
    source = FilesSource(toy.toy_files, toy.toy_lines, kinds, ["train"])
    (files / "1.jsonl").unlink()
    told: list[str] = []
    shards = [
        [row["inputs"] for row in source.python_examples("train", (i, 3), told.append)]
        for i in range(3)
    ]
    kept = [f"né {i}" for i in range(10) if i not in (3, 7)]
    assert shards == [kept[0::3], kept[1::3], kept[2::3]] and len(told) == 2


def test_repeats_and_what_the_lengths_would_cut_are_counted(files, tmp_path, capsys):
    lengths = "--sequence_length=inputs=4,targets=6,other=3"
    assert run(tmp_path / "out", "--skip_bad_lines=3", lengths) == 0
    printed = capsys.readouterr().out
    # 8 and 9 lines are left, of 10 different inputs "né 0" … "né 9" of five bytes.
    assert "7 examples repeat an input of their task" in printed
    assert "17 of 17 examples are cut: inputs longer than 4 tokens" in printed
    # 日本: six bytes and EOS.
    assert "17 of 17 examples are cut: targets longer than 6 tokens" in printed
    mixture = open_mixture(tmp_path / "out" / "toy_files", "train")
    assert mixture.tasks[0].distinct == 10
    example = mixture.examples(mixture.tasks[0], [0])[0]
    assert mixture.vocabulary.decode(example.inputs) == "né 0"
    assert mixture.vocabulary.decode(example.targets) == "日本 </s>"
    assert mixture.cut_report({"targets": 7}) == []
    # <x> né 0 <y> 日本: 2 + 5 + 6.
    report = mixture.cut_report({"targets": 7}, shot_length=12)
    assert report == ["17 of 17 examples are cut: as a shot longer than 12 tokens"]
    assert mixture.cut_report({"targets": 7}, shot_length=13) == []


def write_c4(home: Path) -> None:
    folder = home / "c4" / "en"
    folder.mkdir(parents=True)
    for number in range(6):
        name = f"c4-train.{number:05d}-of-00006.json.gz"
        with gzip.open(folder / name, "wt", encoding="utf-8") as file:
            for i in range(20):
                text = f"file {number} document {i} " * (1 + i % 4)
                file.write(json.dumps({"text": text, "url": ""}) + "\n")
            file.write("no JSON\n" if number == 4 else "")


def test_c4_killed_goes_on_and_ends_as_one_that_was_not_with_any_workers(
    tmp_path, monkeypatch, capsys
):
    write_c4(tmp_path)
    monkeypatch.setenv("HYPERT5_DATA", str(tmp_path))
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    arguments = ["--mixture=toy_c4", "--module=tests.preparation.toy_c4"]
    arguments.append("--skip_bad_lines=1")
    folder = killed / "toy_c4" / "train"
    kill_when(
        lambda: len(list(folder.glob("*-of-*.json"))) >= 2,
        "hypert5_jax.prepare",
        [*arguments, f"--output_dir={killed}"],
        {"TOY_C4_DELAY": "0.02"},
    )
    assert not (folder / "manifest.json").exists()
    whole = [p.with_suffix(".arrayrecord") for p in folder.glob("*-of-*.json")]
    times = [p.stat().st_mtime_ns for p in whole]

    for out, workers in ((killed, 1), (straight, 2)):
        told = [f"--output_dir={out}", f"--num_workers={workers}"]
        assert cli.exit_code(prepare.main, [*arguments, *told]) == 0
        assert "1 left out (bad line)" in capsys.readouterr().out
    assert [p.stat().st_mtime_ns for p in whole] == times  # not written again
    assert contents(killed) == contents(straight)

    # Counted by hand: document i of file f has (1 + i % 4) times 18 or 19 bytes (19
    # where i has two digits), of which windows of 36 are cut.
    windows = sum(len(f"file 0 document {i} " * (1 + i % 4)) // 36 for i in range(20))
    mixture = open_mixture(straight / "toy_c4", "train")
    assert mixture.tasks[0].count == 6 * windows
    assert mixture.manifest["skipped"]["toy_c4"] == {
        "document of fewer than 36 tokens": 6 * 5,
        "bad line": 1,
    }
    assert [shard["records"] for shard in mixture.manifest["shards"]] == [windows] * 6
