"""One command trains and judges; a sweep does so cell by cell; what is done is not redone."""

import json
import os
import re
import signal

import pytest

from hypert5_jax import evaluate, train
from hypert5_jax.config import cli, evaluation, gin_files, sweep_cells, train_and_judge
from hypert5_jax.config.sweep_cells import build_sweep
from hypert5_jax.core.errors import UserError
from hypert5_jax.training import snapshot
from tests.config.test_evaluate_front_door import prepare
from tests.config.tiny_run import SIZES, TRAIN

RECIPE = """
include "gin/runs/multitask.gin"
include "gin/runs/judged.gin"
include "gin/variants/t5_mtf.gin"
include "{home}/sizes.gin"
MODEL_DIR = "{home}/runs/{name}"
INITIAL_CHECKPOINT_PATH = None
InitialConfig.allow_random = True
MIXTURE_OR_TASK_NAME = "toy"
EVALUATION_MIXTURE = "toy"
PROTOCOL = "p3"
EvaluationData.limit = 2
PREPARED_DIR = "{home}/prepared"
TrainRun.recipe = @Recipe()
Recipe.name = "{name}"
Recipe.table = "table_1"
Recipe.system = "T5-MTF"
"""
SWEEP = """
OUTPUT_DIR = "{home}/sweep"
TrainSweep.output_dir = %OUTPUT_DIR
TrainSweep.recipes = ("{home}/recipes/small/one.gin",)
TrainSweep.over = {{"ScheduleConfig.learning_rate": (1e-3, 1e-4)}}
TrainSweep.bindings = {{"TrainConfig.log_every": 1}}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("sweep")
    prepare(home / "prepared")
    prepare(home / "prepared", split="train")
    (home / "sizes.gin").write_text(SIZES + TRAIN)
    folder = home / "recipes" / "small"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        text = RECIPE.format(home=home, name=f"small/{name}")
        (folder / f"{name}.gin").write_text(text)
    (home / "sweep.gin").write_text(SWEEP.format(home=home))
    return home


def run(front_door, file, *more):
    argv = [f"--gin_file={file}", *(f"--gin.{setting}" for setting in more)]
    return cli.exit_code(front_door.main, argv)


def cells(home, *more):
    argv = [f"--gin_file={home / 'sweep.gin'}", *(f"--gin.{s}" for s in more)]
    return build_sweep(gin_files.read_arguments("train", "", argv))[1]


def test_a_recipe_is_trained_and_judged_by_one_command_and_not_again(
    home, monkeypatch, capsys
):
    """Through a sweep, whose cells are recipes; then by the configuration it left."""
    sweep = home / "sweep.gin"
    over = "TrainSweep.over={'ScheduleConfig.learning_rate': (1e-3,)}"
    assert run(train, sweep, over, "EvaluationData.tasks=('t0',)") == 0
    assert "done: 1 cells" in capsys.readouterr().out
    cell = home / "sweep" / "small" / "one" / "learning_rate_0.001"
    scores = cell / "scores"
    found = json.loads((scores / "results.json").read_text())
    assert found["recipe"]["name"] == "small/one"
    assert found["recipe"]["table"] == "table_1" and "real" in found["contexts"]
    assert found["about"]["checkpoint"] == str(cell)
    assert os.listdir(scores / "tasks") == ["t0"]
    config = (cell / "config.gin").read_text()
    assert "learning_rate = 0.001" in config and "log_every = 1\n" in config

    # The judgement alone: nothing is left to judge, and the same is written.
    monkeypatch.setattr(evaluation.Evaluation, "_judge", None)
    assert run(evaluate, cell / "config.gin") == 0
    assert json.loads((scores / "results.json").read_text()) == found

    # Trained again: no model is made, nothing is written.
    before = (scores / "results.json").stat().st_mtime_ns
    monkeypatch.setattr(train_and_judge, "train", None)
    capsys.readouterr()
    assert run(train, cell / "config.gin") == 0
    assert "is done: 2 of 2 steps" in capsys.readouterr().out
    assert (scores / "results.json").stat().st_mtime_ns == before
    # With another setting it is not taken for done, nor with a bit of it changed.
    with pytest.raises(TypeError):
        run(train, cell / "config.gin", "TrainConfig.log_every=2")
    files = (f for f in (cell / "checkpoints" / "2").rglob("*") if f.is_file())
    largest = max(files, key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 4
    largest.write_bytes(content)
    with pytest.raises(TypeError):
        run(train, cell / "config.gin")


def test_sigterm_ends_a_sweep_between_its_cells_too(home, monkeypatch, capsys):
    begun = []

    def one(cell_run, text):
        begun.append(cell_run.model_dir)
        os.kill(os.getpid(), signal.SIGTERM)
        return True

    monkeypatch.setattr(sweep_cells, "train_and_judge", one)
    assert run(train, home / "sweep.gin", "OUTPUT_DIR=x") == 0
    assert "stopped; the same command" in capsys.readouterr().out
    assert begun == ["x/small/one/learning_rate_0.001"]

    monkeypatch.setattr(sweep_cells, "train_and_judge", lambda *_: False)
    assert run(train, home / "sweep.gin", "OUTPUT_DIR=x") == 0
    printed = capsys.readouterr().out
    assert "stopped" in printed and "2/2" not in printed


def test_sigterm_stops_a_cell_before_it_trains_and_before_it_is_judged(
    home, monkeypatch, capsys, tmp_path
):
    """Where nothing of the cell asks any more, or not yet."""

    def terminate(function):
        def terminated(*args):
            os.kill(os.getpid(), signal.SIGTERM)
            return function(*args)

        return terminated

    def stopped():
        assert run(train, home / "sweep.gin", f"OUTPUT_DIR={tmp_path}") == 0
        assert "stopped; the same command" in capsys.readouterr().out
        assert not list(tmp_path.rglob("scores"))
        return [path.name for path in tmp_path.glob("small/one/*")]

    with monkeypatch.context() as opening:
        opened = terminate(train_and_judge.open_evaluation)
        opening.setattr(train_and_judge, "open_evaluation", opened)
        assert stopped() == []
    monkeypatch.setattr(snapshot, "save", terminate(snapshot.save))
    assert stopped() == ["learning_rate_0.001"]
    folder = tmp_path / "small" / "one" / "learning_rate_0.001"
    assert (folder / "checkpoints" / "2" / "manifest.json").exists()


def test_a_dry_run_lists_the_cells(home, capsys):
    argv = [f"--gin_file={home / 'sweep.gin'}", "--dry_run", "--gin.OUTPUT_DIR=runs/x"]
    assert cli.exit_code(train.main, argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == [
        "runs/x/small/one/learning_rate_0.001",
        "runs/x/small/one/learning_rate_0.0001",
    ]
    assert not (home / "runs" / "x").exists()
    assert (
        cli.exit_code(train.main, [*argv, "--gin.INITIAL_CHECKPOINT_PATH=gs://x"]) == 0
    )
    assert capsys.readouterr().out.count("note: gs://x (INITIAL_CHECKPOINT_PATH)") == 1
    argv += ["--gin.INITIAL_CHECKPOINT_PATH=runs/a"]
    assert cli.exit_code(train.main, argv) == 2
    assert "cell small/one/learning_rate_0.001 of the" in capsys.readouterr().err


def test_cells_are_recipes_times_values(home):
    recipes = tuple(str(home / f"recipes/small/{n}.gin") for n in ("one", "two"))
    over = "TrainSweep.over={'TRAIN_STEPS': (1, 2), 'BATCH_SIZE': (8, 16)}"
    found = cells(home, f"TrainSweep.recipes={recipes}", over, "DROPOUT_RATE=0.5")
    assert len(found) == 8
    names = [cell.name for cell in found]
    assert names[0] == "small/one/train_steps_1/batch_size_8"
    assert names[-1] == "small/two/train_steps_2/batch_size_16"
    last = found[-1].run
    assert (last.train.steps, last.data.batch_size) == (2, 16)
    assert last.recipe.name == "small/two"
    assert all(cell.run.system.downstream.dropout_rate == 0.5 for cell in found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("TrainSweep.over={'TRAIN_STEPS': (3, 3)}",),
            "two cells .* share .*steps_3: small/one/train_steps_3 of .*one.gin and s",
        ),
        (("MODEL_DIR=x",), "share the folder x: .*rate_0.001 of .*rate_0.0001 of"),
        (
            ("TrainSweep.over={'TRAIN_STEP': (1,)}",),
            "cell small/one/train_step_1 .*TRA",
        ),
        (("TrainSweep.over={'TRAIN_STEPS': 3}",), "a tuple of values"),
        (("TrainSweep.over={'TRAIN_STEPS': (@System,)}",), "numbers, texts"),
        (("TrainSweep.recipes=()",), "names no gin file"),
        (("TrainSweep.recipes=('no.gin',)",), "cell no/.*cannot read the gin file"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_it_trains(
    home, settings, message
):
    with pytest.raises(UserError, match=message):
        cells(home, *settings)


@pytest.mark.parametrize(
    ("front_door", "settings", "message"),
    [
        (train, ("INITIAL_CHECKPOINT_PATH=runs/a",), "no checkpoint at runs/a.*copy"),
        (
            train,
            (
                "Recipe.checkpoint_recipe='small/base'",
                "INITIAL_CHECKPOINT_PATH=runs/small/base",
            ),
            r"makes it: python -m .*train --gin_file=gin/recipes/small/base.gin\n",
        ),
        (
            train,
            (
                "Recipe.adaptation_recipe='h'",
                "INITIAL_ADAPTATION_PATH=runs/a",
                "InitialConfig.adaptation_step=7",
            ),
            "at runs/a/checkpoints/7.*recipe h makes it: .*h.gin --gin.MODEL_DIR=runs/a",
        ),
        (train, ("InitialConfig.adaptation_step=7",), "adaptation_path is None"),
        (train, ("InitialConfig.adaptation_step=-1",), "0 or more"),
        (train, ("MeshConfig.model=16",), "cell .*one.*: the mesh asked for, slice"),
        (evaluate, (), "describe a sweep"),
    ],
)
def test_what_a_cell_starts_from_is_missed_before_the_first_one_trains(
    home, front_door, settings, message, capsys, tmp_path
):
    settings = (*settings, f"OUTPUT_DIR={tmp_path / 'out'}")
    code = run(front_door, home / "sweep.gin", *settings)
    printed = capsys.readouterr().err
    assert code == 2 and re.search(message, printed), printed
    assert not (tmp_path / "out").exists()


def test_an_earlier_cell_may_make_what_a_later_one_starts_from(home, tmp_path):
    first = str(home / "recipes" / "small" / "one.gin")
    text = RECIPE.format(home=home, name="small/next")
    text = text.replace("PATH = None", f'PATH = "{tmp_path}/small/one"')
    (tmp_path / "next.gin").write_text(text)
    more = (f"TrainSweep.recipes=('{first}', '{tmp_path / 'next.gin'}')",)
    found = cells(home, *more, "TrainSweep.over={}", f"OUTPUT_DIR={tmp_path}")
    sweep_cells.require_starts(found)
    with pytest.raises(UserError, match="cell next of the sweep: no checkpoint"):
        sweep_cells.require_starts(found[1:])
