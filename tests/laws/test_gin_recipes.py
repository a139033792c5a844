"""Every gin file under gin/ parses, builds its dataclasses and one abstract step."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax.config import gin_files
from hypert5_jax.config.evaluate_run import EvaluateRun
from hypert5_jax.config.train_run import TrainRun, check_abstractly
from hypert5_jax.core import trees
from hypert5_jax.t5.config import SIZES
from hypert5_jax.training.table import parameter_table

ROOT = Path(__file__).resolve().parents[2]
GIVEN = (
    "MODEL_DIR = '/nowhere/run'",
    "MIXTURE_OR_TASK_NAME = 'some_mixture'",
    "INITIAL_CHECKPOINT_PATH = '/nowhere/t5'",
)


def names(folder):
    return sorted(p.stem for p in (ROOT / "gin" / folder).glob("*.gin"))


def composed(
    model="t5_1_1_tiny", variant="hypert5_prefix", run="multitask", given=GIVEN
):
    files = (
        f"gin/models/{model}.gin",
        f"gin/variants/{variant}.gin",
        f"gin/runs/{run}.gin",
    )
    return gin_files.build(TrainRun, gin_files.GinArguments(files, given))


@pytest.mark.parametrize("name", names("models"))
def test_models_have_the_public_sizes(name):
    run, _ = composed(model=name)
    size = SIZES[name.removeprefix("t5_1_1_")]
    built = run.system.downstream
    for field in ("emb_dim", "num_heads", "head_dim", "mlp_dim", "vocab_size"):
        assert getattr(built, field) == getattr(size, field)
    assert built.num_encoder_layers == built.num_decoder_layers
    assert built.num_encoder_layers == size.num_encoder_layers
    assert trees.count(run.system.abstract_params()["downstream"]) > 4_000_000


@pytest.mark.parametrize("name", names("variants"))
def test_variants_build_a_step(name):
    run, _ = composed(variant=name)
    state = check_abstractly(run)
    assert set(state.trainable) == set(run.system.variant.trainable)
    table = parameter_table(state)
    for group in run.system.groups:
        assert group in table


# What other run files include, or what is included after them.
_PARTS = ("train", "held_out", "evaluate", "tune", "judged")


@pytest.mark.parametrize("name", [n for n in names("runs") if n not in _PARTS])
def test_runs_have_the_papers_numbers(name):
    run, _ = composed(run=name)
    assert run.data.batch_size == 256
    steps = {"hyperpretrain": 100_000, "multitask": 10_000, "finetune": 1_000}
    assert run.train.steps == steps[name]
    check_abstractly(run)


@pytest.mark.parametrize("name", names("variants"))
def test_an_evaluation_composes_with_a_variant(name):
    files = ("runs/evaluate", "models/t5_1_1_tiny", f"variants/{name}")
    given = (*GIVEN[1:], "OUTPUT_DIR = '/nowhere/out'", "PROTOCOL = 'p3'")
    given = (*given, "CHECKPOINT_PATH = '/nowhere/run'")
    paths = tuple(f"gin/{file}.gin" for file in files)
    run, _ = gin_files.build(EvaluateRun, gin_files.GinArguments(paths, given))
    assert run.data.row_format.context == run.system.variant.context
    assert run.data.row_format.lengths == {
        "hyper_inputs": 1024,
        "inputs": 384,
        "targets": 128,
    }
    assert run.answers.max_tokens == 128 and run.data.mixture == "some_mixture"


def test_held_out_data_are_the_training_data_but_for_the_split():
    files = ("models/t5_1_1_tiny", "variants/hypert5_prefix", "runs/multitask")
    paths = tuple(f"gin/{name}.gin" for name in (*files, "runs/held_out"))
    run, text = gin_files.build(TrainRun, gin_files.GinArguments(paths, GIVEN))
    assert run.held_out == dataclasses.replace(run.data, split="validation")
    assert "held_out/DataConfig" in text
    check_abstractly(run)


# tiny_joint is the part the recipes share.
@pytest.mark.parametrize("name", [n for n in names("real") if n != "tiny_joint"])
def test_real_recipes_are_whole_by_themselves(name):
    given = ("MODEL_DIR = '/nowhere/run'",)
    arguments = gin_files.GinArguments((f"gin/real/{name}.gin",), given)
    run, _ = gin_files.build(TrainRun, arguments)
    assert run.system.downstream.vocab_size == 32128
    check_abstractly(run)


def test_the_resolved_configuration_builds_the_same_run_again(tmp_path):
    run, text = composed()
    (tmp_path / "config.gin").write_text(text)
    arguments = gin_files.GinArguments((str(tmp_path / "config.gin"),), ())
    again, text_again = gin_files.build(TrainRun, arguments)
    assert again == run
    assert text_again == text


@pytest.mark.parametrize("folder", [".", "gin", "hypert5_jax", "tasks"])
def test_the_configs_do_not_shadow_gin_config_from_any_folder(folder):
    script = "import gin, tasks.sni; gin.external_configurable; print(gin.__file__)"
    script = script.replace(", tasks.sni", "")
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=ROOT / folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "site-packages" in done.stdout
