"""python -m hypert5_jax.tune: where runs start, what a stopped sweep does, mistakes."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from hypert5_jax import convert, evaluate, tune
from hypert5_jax.config import cli, gin_files, tune_sources, tune_sweep
from hypert5_jax.config.tune_data import TuneTask
from hypert5_jax.config.tune_run import METHODS, STARTS, TuneRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.evaluation.appended import AppendedLines
from hypert5_jax.phi.files import load_phi, save_phi
from hypert5_jax.phi.spec import LoRASpec, phi_shapes
from tests.config import tune_world
from tests.killed import kill_when
from tests.models import random_tree

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Prepared tasks, a frozen T5 and five systems trained beside it."""
    home = tmp_path_factory.mktemp("tune")
    tune_world.make(home)
    return home


@pytest.fixture(scope="module")
def lines(home):
    """What a whole sweep wrote: 9 starts, 2 tasks, 2 learning rates, 2 seeds."""
    assert run(home, home / "whole") == 0
    return read(home / "whole")


def run(home, out, *settings, **kwargs):
    return cli.exit_code(
        tune.main, tune_world.arguments(home, out, *settings, **kwargs)
    )


def read(out):
    return [json.loads(x) for x in (out / "cells.jsonl").read_text().splitlines()]


def key(line):
    return tuple(line[k] for k in ("method", "start", "task", "learning_rate", "seed"))


def without_time(lines):
    return sorted(
        ({k: v for k, v in line.items() if k != "seconds"} for line in lines), key=key
    )


def test_every_run_has_its_line(home, lines):
    assert len({key(line) for line in lines}) == len(lines) == 3 * 3 * 2 * 2 * 2
    for line in lines:
        assert line["steps"] == [0, 2, 3] and len(line["scores"]) == 3
        assert line["losses"][0] is None and min(line["losses"][1:]) > 0
        assert line["column"] == {"t0": "RTE", "t1": "WGD"}[line["task"]]
        assert (line["metric"], line["seconds"] > 0) == ("accuracy", True)
    settings = json.loads((home / "whole" / "settings.json").read_text())
    assert settings["methods"] == list(METHODS) and settings["starts"] == list(STARTS)
    assert settings["tasks"] == ["t0", "t1"] and settings["seeds"] == [0, 1]


def test_runs_differ_by_rate_seed_start_and_method(lines):
    """Two tasks, so that chance does not make two losses equal."""
    losses = {}
    for line in lines:
        losses.setdefault(key(line)[:2] + key(line)[3:], []).append(line["losses"][1])
    assert len({tuple(values) for values in losses.values()}) == len(losses)


def test_each_start_scores_at_step_0_what_its_source_scores(lines):
    for line in lines:
        if line["start"] == "Rand":
            assert line["source_score"] is None
        else:
            assert line["scores"][0] == line["source_score"], key(line)


@pytest.mark.parametrize(
    ("method", "start", "source"),
    [
        ("Prefix-Flat", "Shared", "shared_prefix"),
        ("Prefix-MLP", "Hyper", "hyper_prefix_mlp"),
    ],
)
def test_the_front_door_that_evaluates_says_the_same(
    home, lines, tmp_path, method, start, source
):
    """Another program, the same φ: of seed 0 also the same 2 training examples."""
    variant = tune_world.SOURCES[source]
    files = ("gin/runs/evaluate.gin", f"gin/variants/{variant}.gin")
    given = {
        "OUTPUT_DIR": tmp_path,
        "PREPARED_DIR": home / "prepared",
        "MIXTURE_OR_TASK_NAME": "toy",
        "CHECKPOINT_PATH": home / source,
        "INITIAL_CHECKPOINT_PATH": home / "base",
        "PROTOCOL": "p3",
        "SPLIT": "validation",
        "SUPPORT_SPLIT": "train",
        "EvaluationData.tasks": ("t0", "t1"),
        "EvaluateRun.frozen_dtype": "float32",
        "BATCH_SIZE": 32,
    }
    argv = [f"--gin_file={file}" for file in (*files, home / "sizes.gin")]
    argv += [f"--gin.{name}={value}" for name, value in given.items()]
    assert cli.exit_code(evaluate.main, argv) == 0
    for task in ("t0", "t1"):
        unit = json.loads((tmp_path / "tasks" / task / "real-0.json").read_text())
        mine = [x for x in lines if key(x)[:3] == (method, start, task)]
        mine = [x["scores"][0] for x in mine if x["seed"] == 0]
        assert mine == [unit["scores"]["accuracy"]] * 2


def test_a_start_that_is_not_its_source_is_refused(home, tmp_path, monkeypatch, capsys):
    made = tune_sources.StartMaker._params

    def altered(self, *args):
        return jax.tree.map(lambda leaf: 1.5 * leaf, made(self, *args))

    monkeypatch.setattr(tune_sources.StartMaker, "_params", altered)
    more = ("METHODS=('LoRA',)", "STARTS=('Shared',)")
    assert run(home, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err
    assert re.search(
        r"LoRA \(Shared\) on t0, seed 0, does not start as its source: at step 0 it "
        r"scores \d+\.\d\d, .*shared_lora by itself \d+\.\d\d",
        said,
    ), said
    assert not (tmp_path / "out" / "cells.jsonl").read_text()


def test_a_phi_file_starts_what_the_run_that_learned_it_starts(home, lines, tmp_path):
    source, file = home / "shared_lora", tmp_path / "phi.safetensors"
    argv = [f"--input={source}", "--to=phi", f"--output={file}", f"--base={home}/base"]
    assert cli.exit_code(convert.main, argv) == 0
    out = tmp_path / "out"
    more = ("METHODS=('LoRA',)", "STARTS=('Shared',)", f"Starts.shared_lora={file}")
    assert run(home, out, *more) == 0
    expected = [x for x in without_time(lines) if key(x)[:2] == ("LoRA", "Shared")]
    assert without_time(read(out)) == expected


def test_a_phi_file_that_cannot_start_a_sweep_is_refused(home, tmp_path, capsys):
    phi, header = load_phi_of(home, tmp_path)
    for name, changed, setting, said in (
        ("size", {"spec": LoRASpec(4)}, "shared_lora", "this sweep has LoRASpec"),
        ("t5", {"base_model": "a" * 64}, "shared_lora", "beside another downstream T5"),
        ("hyper", {}, "hyper_lora", "expected a run that trained a hypermodel"),
    ):
        other = dataclasses.replace(header, **changed)
        arrays = random_tree(phi_shapes(other.spec, other.sites, 1), 0)
        path = tmp_path / name
        save_phi(str(path), phi if not changed else arrays, other)
        start = "Hyper" if setting == "hyper_lora" else "Shared"
        more = ("METHODS=('LoRA',)", f"STARTS=('{start}',)", f"Starts.{setting}={path}")
        assert run(home, tmp_path / f"out-{name}", *more) == 2
        assert said in capsys.readouterr().err


def load_phi_of(home, tmp_path):
    path = tmp_path / "phi.safetensors"
    argv = [f"--input={home}/shared_lora", "--to=phi", f"--output={path}"]
    assert cli.exit_code(convert.main, [*argv, f"--base={home}/base"]) == 0
    return load_phi(str(path))


def task_of(home, name="t0"):
    argv = tune_world.arguments(home, home / "unused")
    given = gin_files.read_arguments("tune", "", argv)
    judged, training = (
        open_mixture(home / "prepared/toy", split) for split in ("validation", "train")
    )
    built = gin_files.build(TuneRun, given)[0]
    return TuneTask(built, judged, training, judged.task(name))


def test_a_run_that_has_diverged_answers_nothing(home):
    """argmax takes NaN for the largest: the first option, which may be the right one."""
    task = task_of(home)
    count = len(task.questions(0))
    assert tune_sweep._score(task, 0, np.array([[-2.0, -1.0]] * count)) == 100
    assert tune_sweep._score(task, 0, np.array([[-2.0, np.nan]] * count)) == 0
    half = np.array([[-2.0, np.nan if i % 2 else -1.0] for i in range(count)])
    assert tune_sweep._score(task, 0, half) == 50


def test_rows_follow_from_the_seed_each_example_once_an_epoch(home):
    task = task_of(home)
    inputs, _ = task.rows(0)
    assert inputs.shape == (12, 6) and len({row.tobytes() for row in inputs}) == 12
    orders = {}
    for seed in (0, 1):
        rows = np.concatenate([task.batch(seed, step).inputs for step in range(6)])
        texts = [row.tobytes() for row in rows]
        epochs = [texts[i : i + 12] for i in range(0, 48, 12)]
        assert all(len(set(epoch)) == 12 for epoch in epochs)
        assert epochs[0] != epochs[1]
        orders[seed] = texts
    assert orders[0] != orders[1]
    again = task_of(home).batch(0, 3)
    np.testing.assert_array_equal(again.inputs, task.batch(0, 3).inputs)
    assert again.weights.sum() == 16  # eight rows, a word and EOS each


def test_seeds_draw_other_training_examples_for_a_hypermodel(home):
    task = task_of(home)
    words = {tuple(example.inputs) for example in task.training.examples(task.task)}
    contexts = [task.context(seed) for seed in (0, 1)]
    assert contexts[0] != contexts[1]
    x, y = task.judged.vocabulary.x_id, task.judged.vocabulary.y_id
    for ids in contexts:
        shots = [ids[i + 1 : i + 5] for i, word in enumerate(ids) if word == x]
        assert len(shots) == ids.count(y) == 2
        assert all(tuple(shot) in words for shot in shots)


def test_a_killed_sweep_continues_and_ends_as_if_it_had_not_been(home, lines, tmp_path):
    more = ("METHODS=('LoRA',)", "STARTS=('Rand','Shared')")
    out = tmp_path / "killed"
    file = out / "cells.jsonl"
    kill_when(
        lambda: file.exists() and file.stat().st_size > 0,
        "hypert5_jax.tune",
        tune_world.arguments(home, out, *more),
    )
    before = read(out)
    assert 4 <= len(before) < 16
    with file.open("a") as opened:
        opened.write('{"method": "LoRA", "sta')  # as a kill in the middle would
    assert run(home, out, *more) == 0
    after = read(out)
    assert after[: len(before)] == before
    expected = [x for x in lines if x["method"] == "LoRA" and x["start"] != "Hyper"]
    assert without_time(after) == without_time(expected)


def test_lines_of_one_file_have_one_writer_and_survive_being_torn(tmp_path):
    file = tmp_path / "a" / "lines.jsonl"
    with AppendedLines(file) as lines:
        lines.append([{"a": 1}, {"a": 2}])
        with pytest.raises(Exception, match="another process is writing"):
            AppendedLines(file)
    file.write_bytes(file.read_bytes() + b'{"a": 3')
    with AppendedLines(file) as lines:
        assert lines.lines == [{"a": 1}, {"a": 2}]
        lines.append([{"a": 3}])
    assert file.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 3}\n'
    for damaged in (b"b", b"[]", b'"\xff"', b""):
        file.write_bytes(b'{"a": 1}\n' + damaged + b'\n{"a": 3}\n')
        with pytest.raises(
            UserError, match=r"lines.jsonl:2 is not JSON .* delete the line"
        ):
            AppendedLines(file)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("LEARNING_RATES=(1e-3, 0.001)",),
            "learning_rates is .* 0.001 is there twice",
        ),
        (("LEARNING_RATES=(1e-3, 0)",), "all must be positive"),
        (("SEEDS=()",), "seeds is empty"),
        (("SEEDS=(0, 0.5)",), "seeds has 0.5; expected whole numbers"),
        (("METHODS=('LoRA', 'LoRA')",), "methods is LoRA, LoRA; LoRA is there twice"),
        (("METHODS=('Prefix',)",), "methods has 'Prefix'; expected some of"),
        (("STARTS=('Rand', 'hyper')",), "starts has 'hyper'"),
        (("PROTOCOL=metaicl",), "generates text; .*choose p3 or metaicl_official"),
        (
            ("PROTOCOL=metaicl_official", "EvaluationData.tasks=('t2',)"),
            "declares no `group`",
        ),
        (("MICROBATCHES=3",), "batch of 8 does not divide into 3"),
        (("MICROBATCHES=2",), "do not divide over 8 devices"),
        (("Starts.shared_lora=None",), "LoRA .Shared. start.*p3_large/t5_mtf_lora"),
        (("Starts.hyper_lora=/nowhere",), "no checkpoint at /nowhere.*hypert5_lora"),
        (("Starts.hyper_lora=runs/small/x",), "recipes/small/x.gin and set Starts.hyp"),
        (("Starts.shared_prefix={home}/shared_lora",), "expected 'prefix', 'learned'"),
        (("Starts.hyper_prefix={home}/short",), "PrefixSpec.length = 3.* has 2"),
        (("Starts.hyper_prefix={home}/wide",), "T5Config.mlp_dim = 24.* has 16"),
        (("Starts.hyper_prefix={home}/strange",), "beside another downstream T5: base"),
        (("EvaluationData.tasks=('t7',)",), "has no task 't7'"),
        (("EvaluationData.tasks=('t2',)",), "'t2' has no training examples in toy/tr"),
        (("MIXTURE_OR_TASK_NAME=bare",), "'t0' of 'bare' has examples without options"),
        (("SUPPORT_SPLIT='train_{{seed}}'",), "name it without"),
        (("SUPPORT_SPLIT=None",), "train on toy/validation, which it scores on"),
        (("RowFormat.context='none'",), "set it to 'hypermodel'"),
        (("OUTPUT_DIR=gs://bucket/out",), "needs a local folder"),
        (("INITIAL_CHECKPOINT_PATH=None",), "no initial checkpoint"),
        (("T5Config.vocab_size=41",), "41 embedding rows"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    home, tmp_path, settings, message, capsys
):
    if "short" in settings[0] and not (home / "short").exists():
        tune_world.write_run(home, "hypert5_prefix", "short", "PrefixSpec.length = 3")
    if "wide" in settings[0] and not (home / "wide").exists():
        tune_world.write_run(home, "hypert5_prefix", "wide", "T5Config.mlp_dim = 24")
    if "strange" in settings[0] and not (home / "strange").exists():
        other = tune_world.write_run(home, "t5_mtf", "base_of_others")
        tune_world.write_run(home, "hypert5_prefix", "strange", base=other)
    out = tmp_path / "out"
    more = [setting.format(home=home) for setting in settings]
    assert run(home, out, *more) == 2
    said = capsys.readouterr().err
    assert re.search(message, said) and "Traceback" not in said, said
    assert not (out / "cells.jsonl").exists()


def test_a_folder_of_another_sweep_is_refused(home, lines, capsys):
    assert run(home, home / "whole", "EVAL_EVERY=1", "SEEDS=(0, 1, 2)") == 2
    said = capsys.readouterr().err
    assert "eval_every was 2, is 1" in said and "seeds was [0, 1], is [0, 1, 2]" in said
    assert "another OUTPUT_DIR" in said and len(read(home / "whole")) == len(lines)
