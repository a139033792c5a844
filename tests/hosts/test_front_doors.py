"""train and evaluate over two processes write what one process with as many devices does."""

import json
import shutil

import pytest

from tests.config.test_evaluate_front_door import prepare
from tests.config.tiny_run import SIZES, TRAIN
from tests.hosts.processes import front_door
from tests.killed import contents

RECIPE = """
include "gin/runs/multitask.gin"
include "gin/runs/held_out.gin"
include "gin/runs/judged.gin"
include "gin/variants/{variant}.gin"
include "{home}/sizes.gin"
MODEL_DIR = "{home}/run"
INITIAL_CHECKPOINT_PATH = None
InitialConfig.allow_random = True
MIXTURE_OR_TASK_NAME = "toy"
EVALUATION_MIXTURE = "toy"
HELD_OUT_SPLIT = "test"
TrainRun.held_out_batches = 2
TrainConfig.log_every = 1
CheckpointConfig.every = 1
PROTOCOL = "p3"
EvaluationData.limit = 10
EvaluationData.tasks = ("t0", "t1")
EVALUATION_BATCH_SIZE = 8
CONTEXTS = {contexts}
PREPARED_DIR = "{home}/prepared"
MeshConfig.fsdp = 2
"""


CONTEXTS = {"t5_mtf": ("real",), "hypert5_prefix": ("real", "other_task")}


@pytest.fixture(
    scope="module",
    params=["t5_mtf", pytest.param("hypert5_prefix", marks=pytest.mark.slow)],
)
def home(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("hosts")
    for split in ("train", "test"):
        prepare(home / "prepared", split=split)
    (home / "sizes.gin").write_text(SIZES + TRAIN)
    variant = request.param
    recipe = RECIPE.format(home=home, variant=variant, contexts=CONTEXTS[variant])
    (home / "recipe.gin").write_text(recipe)
    return home


@pytest.fixture(scope="module")
def one(home):
    """The folder of the run that one process with two devices made."""
    (ended,) = front_door("train", [f"--gin_file={home / 'recipe.gin'}"], 1, 2)
    assert ended.code == 0, ended.err
    shutil.move(home / "run", home / "one")
    return home / "one"


def losses(folder):
    """The rows of metrics, less what depends on the machine."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if not k.startswith("speed")} for r in rows]


def test_train_held_out_and_judged_are_those_of_one_process(home, one):
    first, second = front_door("train", [f"--gin_file={home / 'recipe.gin'}"], 2)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    two = home / "run"
    assert losses(two) == losses(one)
    assert any("held_out/loss" in row for row in losses(two))
    for name in ("scores", "config.gin", "model.json"):
        if (one / name).is_file():
            assert (two / name).read_bytes() == (one / name).read_bytes()
        else:
            assert contents(two / name) == contents(one / name)
    saved = [
        json.loads((run / "checkpoints/2/manifest.json").read_text().rsplit("\n", 2)[0])
        for run in (one, two)
    ]
    assert saved[0]["about"] == saved[1]["about"]
    # One speaks.
    assert "done: 2 of 2 steps" in first.out and "units of 2 tasks" in first.out
    assert "toy 2/2" in first.err
    assert not [line for line in second.out.splitlines() if "Gloo" not in line]
    assert not second.err


@pytest.mark.slow
def test_evaluate_over_two_processes_judges_as_train_does(home, one):
    evaluated = home / "evaluated"
    shutil.copytree(one, home / "run", dirs_exist_ok=True)
    shutil.rmtree(home / "run" / "scores")
    ended = front_door("evaluate", [f"--gin_file={one / 'config.gin'}"], 2)
    assert [e.code for e in ended] == [0, 0], ended
    shutil.move(home / "run" / "scores", evaluated)
    assert contents(evaluated) == contents(one / "scores")
    # Nothing is left to do for either door.
    shutil.copytree(evaluated, home / "run" / "scores")
    for door in ("evaluate", "train"):
        ended = front_door(door, [f"--gin_file={one / 'config.gin'}"], 2)
        assert [e.code for e in ended] == [0, 0], ended
        assert "done" in ended[0].out
    assert contents(home / "run" / "scores") == contents(evaluated)
