"""python -m hypert5_jax.adapt and .generate: files in, files out, resumed and refused."""

import dataclasses
import json
import re

import numpy as np
import pytest

from hypert5_jax import adapt, generate
from hypert5_jax.adapting.model import Model
from hypert5_jax.config import cli
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec
from hypert5_jax.phi.task_phi import TaskPhi
from tests.adapting.tiny import BYTES, EXAMPLES, ROW, model
from tests.killed import contents, kill_when

LEARNED = Variant(
    adaptation="lora",
    source="learned",
    trainable=("phi",),
    context="none",
    lora=LoRASpec(2),
)
INPUTS = [f"in {i}" + "x" * (i % 5) for i in range(40)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A model to carry, examples, a φ of them, and inputs."""
    home = tmp_path_factory.mktemp("front_doors")
    model().save(home / "model")
    lines = [json.dumps({"input": a, "target": b}) + "\n" for a, b in EXAMPLES]
    (home / "few.jsonl").write_text("".join(lines))
    (home / "in.txt").write_text("".join(f"{line}\n" for line in INPUTS))
    model().adapt(EXAMPLES).save(home / "phi.safetensors")
    return home


def adapted(home, output, *more, examples="few.jsonl"):
    return cli.exit_code(
        adapt.main,
        [
            f"--checkpoint={home / 'model'}",
            f"--examples={home / examples}",
            f"--output={output}",
            *more,
        ],
    )


def arguments(home, output, *more, inputs="in.txt"):
    return [
        f"--checkpoint={home / 'model'}",
        f"--phi={home / 'phi.safetensors'}",
        f"--inputs={home / inputs}",
        f"--output={output}",
        "--batch_size=8",
        *more,
    ]


def generated(*args, **kwargs):
    return cli.exit_code(generate.main, arguments(*args, **kwargs))


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_adapt_writes_the_phi_of_the_library_and_says_what_it_read(
    home, tmp_path, capsys
):
    output = tmp_path / "deep" / "phi.safetensors"
    assert adapted(home, output, "--score") == 0
    printed = capsys.readouterr().out
    assert "context: 3 of 3 examples, 17 of 40 tokens" in printed
    tiny = model()
    expected = TaskPhi.load(home / "phi.safetensors")
    found = TaskPhi.load(output)
    np.testing.assert_array_equal(
        found.phi.encoder.self_attention.prefix.keys,
        expected.phi.encoder.self_attention.prefix.keys,
    )
    losses = [float(x) for x in re.findall(r"φ.*: (\d+\.\d{4})", printed)]
    assert losses[:2] == pytest.approx(
        [tiny.loss(EXAMPLES, expected), tiny.loss(EXAMPLES)], abs=1e-4
    )
    assert len(losses) == 3


def test_adapt_names_what_it_leaves_out_and_what_to_do(home, tmp_path, capsys):
    twelve = [{"input": c, "target": c} for c in "abcdefghijkl"]
    file = tmp_path / "twelve.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in twelve))
    assert adapted(home, tmp_path / "phi", examples=file) == 0
    printed = capsys.readouterr().out
    assert f"left out: 2 examples, for want of room ({file}:11, {file}:12)" in printed
    assert "had at most 4 examples" in printed and "--combine" in printed
    assert adapted(home, tmp_path / "phi", "--combine=mean", examples=file) == 0
    printed = capsys.readouterr().out
    assert "context 2: 6 of 12 examples, 24 of 40 tokens" in printed
    assert "left out" not in printed
    file.write_text(json.dumps(twelve[0]) + "\n")
    assert adapted(home, tmp_path / "phi", examples=file) == 0
    assert "note: one example" in capsys.readouterr().out


def test_mistakes_end_with_code_2_and_write_nothing(home, tmp_path, capsys):
    file = tmp_path / "few.jsonl"
    file.write_text('{"input": "a", "target": "much too long"}\n')
    assert adapted(home, tmp_path / "phi", examples=file) == 2
    said = capsys.readouterr().err
    assert f"{file}:1: the target has 14 tokens" in said and "6 at most" in said
    file.write_text('{"input": "a"}\n')
    assert adapted(home, tmp_path / "phi", examples=file) == 2
    file.write_text('{"input": "a", "target": "b"}\n')
    assert adapted(tmp_path / "absent", file, examples=file) == 2
    assert f"{file} is there and is no φ file" in capsys.readouterr().err
    assert file.read_text() == '{"input": "a", "target": "b"}\n'
    other = model(seed=1).adapt(EXAMPLES)
    other.save(tmp_path / "other.safetensors")
    out = tmp_path / "out.jsonl"
    more = f"--phi={tmp_path / 'other.safetensors'}"
    assert generated(home, out, more) == 2
    assert "other weights. Adapt again" in capsys.readouterr().err
    assert generated(home, out, "--options=a,bcdefghij") == 2
    assert "the option 'bcdefghij' has 10 tokens" in capsys.readouterr().err
    assert generated(home, out, "--options=a,b", "--beams=2") == 2
    assert generated(home, out, "--options=a,,b") == 2
    assert generated(home, out, "--batch_size=0") == 2
    assert "batch_size is 0; expected 1 or more" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {
        "few.jsonl",
        "other.safetensors",
    }


def test_generate_answers_in_order_and_once(home, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert generated(home, out) == 0
    rows = lines_of(out)
    assert [row["number"] for row in rows] == list(range(40))
    assert [row["input"] for row in rows] == INPUTS
    phi = TaskPhi.load(home / "phi.safetensors")
    assert [row["output"] for row in rows] == model().generate(INPUTS, phi)
    before = contents(tmp_path)
    assert generated(home, out) == 0
    assert contents(tmp_path) == before

    # Answers of other settings are not mixed into it.
    assert generated(home, out, "--max_tokens=3") == 2
    assert "decoding max_tokens was 6, is 3" in capsys.readouterr().err
    # A seed decides something only where answers are drawn.
    assert generated(home, out, "--seed=4") == 0
    assert generated(home, out, "--seed=4", "--temperature=1") == 2
    assert "decoding seed was 0, is 4" in capsys.readouterr().err
    (tmp_path / "notes.jsonl").write_text("mine\n")
    assert generated(home, tmp_path / "notes.jsonl") == 2
    assert "not written by this command" in capsys.readouterr().err
    assert (tmp_path / "notes.jsonl").read_text() == "mine\n"


def test_generate_does_not_take_another_runs_phi_or_rows_for_its_own(tmp_path, capsys):
    # Two φ learned beside one T5, and one of them with rows of another length.
    one, other = (model(LEARNED, seed) for seed in (0, 1))
    params = {"downstream": one.params["downstream"], "phi": other.params["phi"]}
    lengths = {"hyper_inputs": 40, "inputs": 9, "targets": 6}
    short = dataclasses.replace(ROW, lengths=lengths)
    for name, parts in {
        "one": (one.params, ROW),
        "other": (params, ROW),
        "short": (one.params, short),
    }.items():
        built = Model(one.system, parts[0], BYTES, parts[1], one.base_model, name)
        built.save(tmp_path / name)
    (tmp_path / "in.txt").write_text("ab\ncd\n")

    def code(name):
        given = [f"--checkpoint={tmp_path / name}", f"--inputs={tmp_path / 'in.txt'}"]
        return cli.exit_code(
            generate.main, [*given, f"--output={tmp_path / 'out'}", "--options=a,b"]
        )

    assert code("one") == code("one") == 0
    before = lines_of(tmp_path / "out")
    assert code("other") == 2
    assert "other settings: phi was" in capsys.readouterr().err
    assert code("short") == 2
    assert "lengths.inputs was 12, is 9" in capsys.readouterr().err
    assert lines_of(tmp_path / "out") == before


def test_a_second_generate_leaves_a_running_ones_settings_alone(home, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    note = tmp_path / "out.jsonl.settings.json"
    with AppendedLines(out):  # begun, and nothing answered yet
        note.write_text('{"of": "the first"}\n')
        assert generated(home, out, "--max_tokens=3") == 2
        assert "another process is writing" in capsys.readouterr().err
        assert note.read_text() == '{"of": "the first"}\n'
    assert generated(home, out) == 0


def test_generate_goes_on_where_it_was_killed(home, tmp_path):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    drawn = ("--temperature=1.0", "--top_k=20", "--top_p=0.9", "--seed=5")
    assert generated(home, whole, *drawn) == 0
    kill_when(
        lambda: out.exists() and out.stat().st_size > 0,
        "hypert5_jax.generate",
        arguments(home, out, *drawn),
    )
    # What a kill in the middle of a line, and of a batch of 8, leaves.
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]) + lines[-1][:7])
    assert generated(home, out, *drawn) == 0
    assert out.read_bytes() == whole.read_bytes()


def test_options_are_ranked_as_the_library_ranks_them(home, tmp_path):
    out = tmp_path / "out.jsonl"
    assert generated(home, out, "--options=a, bc", "--ranking=mean") == 0
    phi = TaskPhi.load(home / "phi.safetensors")
    expected = model().rank(INPUTS, ["a", "bc"], phi, "mean")
    assert [row["option"] for row in lines_of(out)] == expected
    assert lines_of(out)[0]["output"] in ("a", "bc")

    own = [
        {"input": t, "options": ["a", "b", "c"][: 1 + i]} for i, t in enumerate("xyz")
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(o) + "\n" for o in own))
    assert generated(home, tmp_path / "own", inputs=tmp_path / "in.jsonl") == 0
    assert [len(row["scores"]) for row in lines_of(tmp_path / "own")] == [1, 2, 3]
