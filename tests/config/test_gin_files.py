"""Mistakes in gin files and arguments: one message each, naming what was meant."""

import pytest

from hypert5_jax.config import cli, gin_files
from hypert5_jax.config.evaluate_run import EvaluationData
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat

FILES = (
    "gin/models/t5_1_1_tiny.gin",
    "gin/variants/hypert5_prefix.gin",
    "gin/runs/multitask.gin",
)
GIVEN = {
    "MODEL_DIR": "'/tmp/run'",
    "MIXTURE_OR_TASK_NAME": "'m'",
    "INITIAL_CHECKPOINT_PATH": "None",
}


def arguments(*extra, files=FILES, **given):
    bindings = [f"{k} = {v}" for k, v in {**GIVEN, **given}.items() if v is not None]
    return gin_files.GinArguments(files, (*bindings, *extra))


def message(given):
    with pytest.raises(UserError) as caught:
        gin_files.build(TrainRun, given)
    return cli.message_of(caught.value)


def test_a_misspelt_setting_a_misspelt_class_and_a_misspelt_macro_are_refused():
    assert "T5Config has no setting 'emb_dimm'; did you mean emb_dim" in message(
        arguments("T5Config.emb_dimm = 3")
    )
    assert "nothing is called 'T5Confg'; did you mean T5Config" in message(
        arguments("T5Confg.emb_dim = 3")
    )
    assert "TRAIN_STEP is set, but nothing" in message(arguments("TRAIN_STEP = 3"))
    assert "nothing is called 'Varaint'" in message(
        arguments("System.variant = @Varaint()")
    )


def test_macros_nothing_sets_are_listed():
    text = message(arguments(MODEL_DIR=None, INITIAL_CHECKPOINT_PATH=None))
    assert "INITIAL_CHECKPOINT_PATH, MODEL_DIR, which nothing sets" in text


def test_a_missing_or_malformed_file_is_named(tmp_path):
    assert "cannot read the gin file none.gin" in message(
        arguments(files=("none.gin",))
    )
    bad = tmp_path / "bad.gin"
    bad.write_text("T5Config.emb_dim = = 3\n")
    assert str(bad) in message(arguments(files=(*FILES, str(bad))))


def test_values_of_a_wrong_type_or_without_sense_are_named():
    assert "a setting of TrainConfig has a value of the wrong kind" in message(
        arguments("TrainConfig.z_loss = 'a'")
    )
    assert "T5Config.head_dim is 1.5; expected int" in message(
        arguments("T5Config.head_dim = 1.5")
    )
    assert "hypermodel that reads the context" in message(arguments(CONTEXT="'none'"))


def test_one_text_is_one_value_of_a_setting_that_holds_several():
    given = arguments(
        "TASK_MODULES = 'my_tasks.py'", "Variant.trainable = 'hypermodel'"
    )
    run, _ = gin_files.build(TrainRun, given)
    assert run.data.modules == ("my_tasks.py",)
    assert run.system.variant.trainable == ("hypermodel",)
    row = RowFormat()
    data = EvaluationData("m", row, tasks="alpha", modules="my_tasks.py")
    assert (data.tasks, data.modules) == (("alpha",), ("my_tasks.py",))


def test_no_file_at_all_says_what_is_missing():
    assert "TrainRun is not fully configured" in message(gin_files.GinArguments((), ()))


def test_arguments_keep_t5xs_habits(tmp_path):
    (tmp_path / "steps.gin").write_text("TRAIN_STEPS = 7\nBATCH_SIZE = 16\n")
    argv = [f"--gin_file={file}" for file in FILES]
    argv += ["--gin_file", "steps.gin", f"--gin_search_paths=/nowhere,{tmp_path}"]
    argv += ["--gin.MODEL_DIR=gs://bucket/run", '--gin.MIXTURE_OR_TASK_NAME="m"']
    argv += ["--gin.INITIAL_CHECKPOINT_PATH=None", "--gin.BATCH_SIZE=32", "--dry_run"]
    read = gin_files.read_arguments("hypert5_jax.train", "", argv)
    run, text = gin_files.build(TrainRun, read)
    assert read.dry_run
    assert run.model_dir == "gs://bucket/run"
    assert (run.train.steps, run.data.batch_size) == (7, 32)
    assert "TRAIN_STEPS = 7" in text


def test_an_unknown_argument_exits_with_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        gin_files.read_arguments("hypert5_jax.train", "", ["--gin_fle=x"])
    assert caught.value.code == 2
    assert "--gin_fle" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("no such mixture"), 2),
        (FloatingPointError("step 3 is not finite"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_front_doors_end_with_one_line_and_a_code(error, code, capsys):
    def main(argv):
        raise error

    assert cli.exit_code(main, []) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "Traceback" not in printed


def test_a_defect_keeps_its_traceback():
    def main(argv):
        raise RuntimeError("ours")

    with pytest.raises(RuntimeError):
        cli.exit_code(main, [])
