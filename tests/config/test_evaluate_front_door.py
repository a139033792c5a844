"""python -m hypert5_jax.evaluate: what it writes, resumes, refuses and repeats."""

import json
import re
import shutil

import numpy as np
import pytest
from etils import epath

from hypert5_jax import evaluate, train
from hypert5_jax.checkpoints import run_lock
from hypert5_jax.config import cli, evaluation
from hypert5_jax.config.evaluation_report import table_text
from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.evaluation import averages, protocols
from hypert5_jax.evaluation.averages import TaskScores
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit
from hypert5_jax.reporting.comparable import training_config
from hypert5_jax.reporting.result_files import read_result
from tests.config.tiny_run import SIZES, TRAIN
from tests.killed import kill_when

GROUPS = ("anli_r1", "anli_r2", "anli_r3", "hellaswag", "cb", "copa", "rte", "wic")
GROUPS = (*GROUPS, "wsc", "winogrande")


def prepare(
    home, name="toy", split="test", count=10, options=True, group=True, fingerprint="x"
):
    """Ten tasks, one for each group of P3's columns, of `count` examples."""
    place = home / name / split
    place.mkdir(parents=True)
    rng = np.random.default_rng(len(split))
    items = []
    for i, task_group in enumerate(GROUPS):
        for _ in range(count):
            ids = [int(x) for x in rng.integers(3, 40, 4)]
            choices = ([ids[0], 1], [ids[1], ids[2], 1]) if options else ()
            example = Example(ids, [ids[0], 1], options=choices)
            items.append(Item(f"t{i}", example, group=task_group if group else ""))
    write_unit(place, "u-00000-of-00001", items, default_task="t")
    vocabulary = Vocabulary(
        kind="opaque", size=40, extra_ids=0, fingerprint=fingerprint
    )
    source = Source(name, 1.0, (), ("u-00000-of-00001",), {"release": "7"})
    write_manifest(place, name, split, [source], vocabulary)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Prepared data, a base T5 and a hypermodel trained beside it for two steps."""
    home = tmp_path_factory.mktemp("evaluate")
    data = home / "prepared"
    prepare(data)
    prepare(data, split="train")
    prepare(data, "bare", options=False, group=False)
    prepare(data, "foreign", fingerprint="y")
    (home / "sizes.gin").write_text(SIZES)
    (home / "train.gin").write_text(TRAIN)
    for variant, name, initial in (
        ("t5_mtf", "base", "None"),
        ("hypert5_prefix", "hyper", home / "base"),
    ):
        files = (f"gin/variants/{variant}.gin", "gin/runs/multitask.gin")
        argv = [
            *(f"--gin_file={f}" for f in (*files, home / "sizes.gin")),
            f"--gin_file={home / 'train.gin'}",
            f"--gin.MODEL_DIR={home / name}",
            f"--gin.PREPARED_DIR={data}",
            "--gin.MIXTURE_OR_TASK_NAME=toy",
            f"--gin.INITIAL_CHECKPOINT_PATH={initial}",
            "--gin.InitialConfig.allow_random=True",
        ]
        assert cli.exit_code(train.main, argv) == 0
    return home


def arguments(home, out, *more, variant="hypert5_prefix", checkpoint="hyper"):
    files = ("gin/runs/evaluate.gin", f"gin/variants/{variant}.gin")
    given = {
        "OUTPUT_DIR": out,
        "PREPARED_DIR": home / "prepared",
        "MIXTURE_OR_TASK_NAME": "toy",
        "CHECKPOINT_PATH": checkpoint and home / checkpoint,
        "PROTOCOL": "p3",
        "MeshConfig.data": 8,
    }
    argv = [f"--gin_file={file}" for file in (*files, home / "sizes.gin")]
    return [*argv, *(f"--gin.{k}={v}" for k, v in given.items()), *more]


def run(*args, **kwargs):
    return cli.exit_code(evaluate.main, arguments(*args, **kwargs))


def results(out):
    return json.loads((out / "results.json").read_text())


def test_a_p3_table_with_everything_to_repeat_it(home, tmp_path, capsys):
    out = tmp_path / "out"
    kinds = "real,empty,other_task,shuffled_targets,random"
    assert run(home, out, f"--contexts={kinds}", "--seeds=0,1") == 0
    printed = capsys.readouterr().out
    assert "done: 100 units of 10 tasks" in printed
    found = results(out)
    real = found["contexts"]["real"]
    assert len(real["headline"]["draws"]) == 2 and real["headline"]["sd"] is not None
    assert list(found["contexts"]) == kinds.split(",")
    change = found["change_from_real"]["empty"]
    other = found["contexts"]["empty"]["headline"]["mean"]
    assert change == pytest.approx(other - real["headline"]["mean"])

    # The headline again, from the predictions on disk and by hand.
    accuracies = {}
    for number, group in enumerate(GROUPS):
        lines = (out / "tasks" / f"t{number}" / "real-1.jsonl").read_text()
        rows = [json.loads(line) for line in lines.splitlines()]
        assert len(rows) == 8  # ten, less the two shots
        for row in rows:
            best = int(np.argmax(row["scores"]))
            assert row["prediction"] == row["options"][best]
        right = [row["prediction"] == row["references"][0] for row in rows]
        accuracies[group] = 100 * float(np.mean(right))
    anli = np.mean([accuracies[f"anli_r{i}"] for i in (1, 2, 3)])
    others = [a for g, a in accuracies.items() if not g.startswith("anli")]
    expected = np.mean([anli, *others])
    assert real["headline"]["draws"][1] == pytest.approx(expected)

    about = found["about"]
    assert about["data_about"]["toy"]["release"] == "7"
    assert set(about["settings"]["parameters"]) == {"hypermodel", "downstream"}
    assert about["settings"]["versions"]["jax"] and about["data"]["toy/test"]
    assert str(home / "hyper") in about["origins"]["hypermodel"]
    assert str(home / "base") in about["origins"]["downstream"]
    # Not what this command says of training, which is nothing.
    assert about["trained_with"] == (home / "hyper" / "config.gin").read_text()
    read = read_result(epath.Path(out / "results.json"))
    assert training_config(read) == about["trained_with"]


def test_groups_that_are_no_columns_of_the_protocol_are_printed():
    def printed(*groups):
        scores = [
            TaskScores(f"t{i}", group, 4, {"accuracy": 25.0 * i}, {})
            for i, group in enumerate(groups)
        ]
        table = averages.table(protocols.find("p3"), scores)
        return table_text({"contexts": {"real": averages.over_draws([table])}})

    rows = [line.split() for line in printed("mine", "yours", "yours").splitlines()[1:]]
    assert rows == [["real", "mine", "0.00", "1"], ["real", "yours", "37.50", "1"]]
    assert printed("", "").splitlines()[1].split() == ["real", "12.50", "1"]
    # Some of the protocol's columns: those.
    assert printed("mine", "hellaswag").splitlines()[1].split()[:2] == ["real", "HSwag"]


def test_finished_units_are_kept_and_other_settings_refused(
    home, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    assert run(home, out) == 0
    first = results(out)
    calls = []
    judge = evaluation.Evaluation._judge
    monkeypatch.setattr(
        evaluation.Evaluation,
        "_judge",
        lambda self, unit, *a: calls.append(unit) or judge(self, unit, *a),
    )
    assert run(home, out) == 0 and not calls
    assert results(out) == first
    (out / "tasks" / "t3" / "real-0.json").unlink()
    assert run(home, out, "--seeds=0,5") == 0
    # The one that was gone, and all of the new draw.
    judged = [(unit.task.name, unit.seed) for unit in calls]
    assert judged.count(("t3", 0)) == 1 and len(judged) == 11
    draws = results(out)["contexts"]["real"]["headline"]["draws"]
    assert draws[0] == first["contexts"]["real"]["headline"]["mean"]
    assert run(home, out, "--gin.EvaluationData.limit=3") == 2
    printed = capsys.readouterr().err
    assert "limit was null, is 3" in printed and "Traceback" not in printed


def test_two_evaluations_do_not_judge_in_one_folder(
    home, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run_lock, "_PATIENCE", 0.0)
    with run_lock.only_run(tmp_path):
        assert run(home, tmp_path, "--gin.EvaluationData.tasks=('t0',)") == 2
    said = capsys.readouterr().err
    assert "another process is judging in" in said and "another OUTPUT_DIR" in said
    assert [path.name for path in tmp_path.iterdir()] == [run_lock.NAME]


def test_units_whose_shots_are_of_other_data_are_not_mixed(home, tmp_path, capsys):
    data = tmp_path / "prepared"
    shutil.copytree(home / "prepared", data)
    more = ("--gin.SUPPORT_SPLIT=train", "--gin.EvaluationData.tasks=('t0', 't1')")
    more = (*more, f"--gin.PREPARED_DIR={data}")
    out = tmp_path / "out"
    assert run(home, out, *more) == 0
    # As if it had been killed before t1, and another release prepared in between.
    (out / "tasks" / "t1" / "real-0.json").unlink()
    shutil.rmtree(out / "draws" / "toy-test" / "t1")
    shutil.rmtree(data / "toy" / "train")
    prepare(data, split="train", count=12)
    assert run(home, out, *more) == 2
    said = capsys.readouterr().err
    assert "the shots of task 't0', draw 0, came from a toy/train with digest" in said
    assert not (out / "tasks" / "t1" / "real-0.json").exists()


def test_draws_are_read_again_and_refused_beside_other_data(home, tmp_path, capsys):
    draws = f"--gin.EvaluateRun.draws_dir={tmp_path / 'draws'}"
    assert run(home, tmp_path / "a", draws) == 0
    file = tmp_path / "draws" / "toy-test" / "t0" / "0.json"
    record = json.loads(file.read_text())
    record["draw"]["targets"] = [3, 1]
    file.write_text(json.dumps(record))
    assert run(home, tmp_path / "b", draws) == 0
    lines = (tmp_path / "b" / "tasks" / "t0" / "real-0.jsonl").read_text()
    assert [json.loads(line)["index"] for line in lines.splitlines()] == [3, 1]
    more = "--gin.SUPPORT_SPLIT=train"
    assert run(home, tmp_path / "c", draws, more) == 2
    assert "draw of another evaluation: its support" in capsys.readouterr().err


def test_shots_of_a_split_named_by_the_seed_and_generated_text(home, tmp_path):
    """`tra{seed}n` is no nice name, but shows what stands for the seed."""
    data = home / "prepared"
    for seed in (11, 22):
        if not (data / "toy" / f"train_{seed}").exists():
            prepare(data, split=f"train_{seed}")
    out = tmp_path / "out"
    more = ("--gin.SUPPORT_SPLIT='train_{seed}'", "--seeds=11,22")
    more = (*more, "--gin.PROTOCOL=metaicl", "--gin.EvaluateRun.decoding=@Decoding()")
    assert run(home, out, *more, "--gin.Decoding.max_tokens=4") == 0
    found = results(out)
    assert {"toy/train_11", "toy/train_22"} < set(found["about"]["data"])
    lines = (out / "tasks" / "t0" / "real-11.jsonl").read_text().splitlines()
    assert len(lines) == 10  # shots are not among the targets
    row = json.loads(lines[0])
    assert len(row["prediction"].split()) <= 4 and len(row["references"]) == 1
    # All of these groups are other than "classification": ROUGE-L decides.
    assert list(found["contexts"]["real"]["by_metric"]) == ["rouge_l"]


@pytest.mark.parametrize(
    ("variant", "context"), [("t5_mtf", "none"), ("t5_mtf_fewshot", "downstream")]
)
def test_baselines_are_judged_on_the_same_draws(home, tmp_path, variant, context):
    draws = f"--gin.EvaluateRun.draws_dir={tmp_path / 'draws'}"
    assert run(home, tmp_path / "hyper", draws) == 0
    kwargs = {"variant": variant, "checkpoint": "base"}
    assert run(home, tmp_path / context, draws, **kwargs) == 0
    indices = [
        [
            json.loads(line)["index"]
            for line in (tmp_path / name / "tasks" / "t4" / "real-0.jsonl")
            .read_text()
            .splitlines()
        ]
        for name in ("hyper", context)
    ]
    assert indices[0] == indices[1]


@pytest.mark.parametrize(
    ("settings", "checkpoint", "message"),
    [
        ((), "absent", "no checkpoint at"),
        (("CHECKPOINT_PATH=None",), None, "no checkpoint to judge"),
        (("MIXTURE_OR_TASK_NAME=bare",), "hyper", "options, and protocol p3"),
        (("MIXTURE_OR_TASK_NAME=foreign",), "hyper", "trained with vocabulary x"),
        (("MIXTURE_OR_TASK_NAME=bare", "PROTOCOL=metaicl"), "hyper", "no `group`"),
        (("PROTOCOL=p4",), "hyper", "protocol is 'p4'; expected one of"),
        (("T5Config.vocab_size=41",), "hyper", "41 embedding rows"),
        (("T5Config.emb_dim=32",), "hyper", "is of another model"),
        (("BATCH_SIZE=12",), "hyper", "12 does not divide over 8 devices"),
        (("EvaluationData.tasks=('t77',)",), "hyper", "has no task 't77'"),
        (("CONTEXTS=('real','fake')",), "hyper", "contexts is real, fake"),
        (("SEEDS=(1, 1)",), "hyper", "all different"),
        (("SEEDS=(1, 1.5)",), "hyper", "seeds has 1.5; expected whole numbers"),
        (("SEEDS=(9223372036854775808,)",), "hyper", "seeds has 9223372036854775808"),
        (("OUTPUT_DIR=a,b",), "hyper", r"the value a,b; .* needs quotes within"),
        (("RowFormat.context='downstream'",), "hyper", "the rows' is 'downstream'"),
        (("EvaluateRun.frozen_dtype='int8'",), "hyper", "bfloat16 or float32"),
    ],
)
def test_mistakes_end_with_code_2_and_one_message(
    home, tmp_path, settings, checkpoint, message, capsys
):
    more = [f"--gin.{setting}" for setting in settings]
    assert run(home, tmp_path / "out", *more, checkpoint=checkpoint) == 2
    printed = capsys.readouterr().err
    assert re.search(message, printed), printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.parametrize("name", ["seeds", "contexts"])
def test_an_empty_list_is_told_as_that(home, tmp_path, capsys, name):
    assert run(home, tmp_path / "out", f"--{name}=") == 2
    assert f"--{name} is empty; expected one or more" in capsys.readouterr().err


def test_a_killed_evaluation_continues_and_ends_as_if_it_had_not_been(home, tmp_path):
    more = ("--contexts=real,random", "--seeds=0,1,2")
    whole = tmp_path / "whole"
    assert run(home, whole, *more) == 0
    out = tmp_path / "killed"
    kill_when(
        lambda: any(out.glob("tasks/*/*.json")),
        "hypert5_jax.evaluate",
        arguments(home, out, *more),
    )
    assert 0 < len(list(out.glob("tasks/*/*.json"))) < 60
    assert not (out / "results.json").exists()
    assert run(home, out, *more) == 0
    files = sorted(p.relative_to(whole) for p in whole.rglob("*.json*"))
    assert files == sorted(
        p.relative_to(out) for p in out.rglob("*.json*") if p.suffix != ".partial"
    )
    for file in files:
        if file.name != "results.json":
            assert (out / file).read_bytes() == (whole / file).read_bytes(), file
    assert results(out)["contexts"] == results(whole)["contexts"]
