"""What was trained and judged keeps the settings it was made with; others are refused."""

import re

import pytest

from hypert5_jax import train
from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.resumption import require_same_training
from hypert5_jax.config.sweep_cells import build_sweep, require_starts
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from tests.config.test_evaluate_front_door import prepare
from tests.config.test_train_sweep import RECIPE
from tests.config.tiny_run import SIZES, TRAIN
from tests.killed import contents


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run of two steps, trained and judged."""
    home = tmp_path_factory.mktemp("resumption")
    for split in ("train", "test"):
        prepare(home / "prepared", split=split)
    (home / "sizes.gin").write_text(SIZES + TRAIN)
    (home / "one.gin").write_text(RECIPE.format(home=home, name="one"))
    assert cli.exit_code(train.main, arguments(home)) == 0
    return home


def arguments(home, *settings):
    return [f"--gin_file={home / 'one.gin'}", *(f"--gin.{s}" for s in settings)]


def built(home, *settings):
    given = gin_files.read_arguments("train", "", arguments(home, *settings))
    return gin_files.build(TrainRun, given)[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ("ScheduleConfig.learning_rate=1e-5", "DROPOUT_RATE=0.3"),
            "all 2 .* T5Config.dropout_rate was 0.0, is 0.3; .*rate was .*, is 1e-05. N",
        ),
        (("TrainConfig.seed=1",), "TrainConfig.seed was 0, is 1"),
        (("BATCH_SIZE=16",), "DataConfig.batch_size was 8, is 16"),
        (
            ("InitialConfig.neighbour_bias=4.0",),
            "InitialConfig.neighbour_bias was None, is 4.0",
        ),
        # The T5 itself is what this run trains: no frozen one to compare.
        (("INITIAL_CHECKPOINT_PATH=t5",), "checkpoint_path was None, is 't5'"),
        (("TRAIN_STEPS=1",), "has made 2 steps, more than TRAIN_STEPS = 1; set"),
        # Not when all steps are made, hours later.
        (
            ("TRAIN_STEPS=3",),
            "one/scores holds scores .*: TrainConfig.steps was 2, is 3. .*OUTPUT_DIR",
        ),
    ],
)
def test_a_run_that_was_judged_is_not_given_other_settings(
    home, settings, message, capsys
):
    before = contents(home / "runs")
    assert cli.exit_code(train.main, arguments(home, *settings)) == 2
    printed = capsys.readouterr()
    assert re.search(message, printed.err), printed.err
    assert "done" not in printed.out
    assert contents(home / "runs") == before


def test_a_sweep_says_so_before_its_first_cell(home, tmp_path):
    sweep = tmp_path / "sweep.gin"
    sweep.write_text(
        f'TrainSweep.output_dir = "{tmp_path}"\n'
        f'TrainSweep.recipes = ("{home / "one.gin"}",)\n'
        'TrainSweep.over = {"ScheduleConfig.warmup_steps": (0, 1)}\n'
    )
    given = gin_files.read_arguments("train", "", [f"--gin_file={sweep}"])
    cells = build_sweep(given)[1]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "warmup_steps_1").symlink_to(home / "runs" / "one")
    with pytest.raises(UserError, match="cell one/warmup_steps_1 .* was 0, is 1"):
        require_starts(cells)


def test_a_last_step_that_is_made_anew_is_no_other_training(home):
    """Its parameters will be those that were judged."""
    place = home / "runs" / "one" / "checkpoints"
    place.rename(place.with_name("aside"))
    try:
        require_same_training(built(home))
    finally:
        place.with_name("aside").rename(place)


def test_what_does_not_decide_the_parameters_may_differ(home, capsys):
    """A finished run goes on to another judgement; steps may be added."""
    settings = (
        *("TrainConfig.log_every=7", "TrainConfig.microbatches=2"),
        *("T5Config.scan_layers=False", "T5Config.remat='none'", "MeshConfig.data=1"),
        *("CheckpointConfig.keep=1", "DataConfig.num_workers=1", "TASK_MODULES=('x',)"),
        "TrainRun.evaluation=None",
    )
    require_same_training(built(home, *settings))
    more = ("TRAIN_STEPS=3", "ScheduleConfig.learning_rate=1e-5")
    require_same_training(built(home, *more, "TrainRun.evaluation=None"))
    require_same_training(built(home, *more, f"OUTPUT_DIR={home / 'more'}"))
    require_same_training(built(home, *more, f"CHECKPOINT_PATH={home / 'other'}"))
    require_same_training(built(home, f"MODEL_DIR={home / 'nowhere'}"))
    assert cli.exit_code(train.main, arguments(home, "SEEDS=(0, 1)")) == 0
    assert "done: 2 of 2 steps" in capsys.readouterr().out
