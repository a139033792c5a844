"""SIGTERM ends the quickstart between two stages, and never with half a table."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax import quickstart
from hypert5_jax.config import gin_files, registry
from hypert5_jax.config.quickstart_run import QuickstartRun, Stage
from hypert5_jax.core.errors import UserError
from hypert5_jax.training.interruption import Interruption

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "gin" / "quickstart.gin"
STAGES = ["first", "base", "hyperpretrain", "tune", "learned_phi"]


class Words:
    vocabulary = None


@pytest.fixture
def run():
    registry.add(Stage)
    registry.add(QuickstartRun)
    argv = [f"--gin_file={RECIPE}"]
    return gin_files.build(
        QuickstartRun, gin_files.read_arguments("quickstart", "", argv)
    )[0]


@pytest.mark.parametrize("last", STAGES)
def test_no_stage_begins_after_sigterm(run, monkeypatch, tmp_path, last):
    """Though it came when the stage had made all its steps."""
    made = []

    def stage(name):
        made.append(name)
        if name == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"downstream": None, "hypermodel": None}

    def began(system, settings, mixture, begin, directory, seed, notes=None):
        return stage(directory.name)

    monkeypatch.setattr(quickstart, "train_stage", began)
    monkeypatch.setattr(quickstart, "learn_phi", lambda *_: stage("learned_phi"))
    begin = quickstart.InitialParams({}, {})
    monkeypatch.setattr(quickstart, "around_base", lambda *_: begin)
    monkeypatch.setattr(quickstart, "judge_documents", lambda *_: {})
    monkeypatch.setattr(quickstart, "judge_tasks", lambda *_: pytest.fail("judged"))
    data = dict.fromkeys(
        ((name, "train") for name in ("first", "pretrain", "caclm", "train")), Words
    )
    with Interruption() as interruption:
        table = quickstart.run_seed(
            run, data, tmp_path, 0, quickstart.Clock(), interruption
        )
    assert table is None and made == STAGES[: STAGES.index(last) + 1]
    assert not list(tmp_path.rglob("table.*"))


def test_a_stage_that_made_no_checkpoint_may_have_other_settings(tmp_path):
    quickstart.remember(tmp_path, ["1"])
    quickstart.remember(tmp_path, ["2"])
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    quickstart.remember(tmp_path, ["2"])
    with pytest.raises(UserError, match="was trained with other settings"):
        quickstart.remember(tmp_path, ["1"])


@pytest.mark.slow
def test_stopped_while_the_ceiling_is_learned_it_goes_on_to_a_whole_table(tmp_path):
    names = ["first", "pretrain", "hyperpretrain", "tune", "learn"]
    steps = dict.fromkeys(names, 3) | {"learn": 30}
    command = [sys.executable, "-m", "hypert5_jax.quickstart", f"--gin_file={RECIPE}"]
    command += [f"--gin.OUTPUT_DIR='{tmp_path}'"]
    command += [f"--gin.{name}/Stage.steps={steps[name]}" for name in names]
    command += [f"--gin.{name}/Stage.warmup_steps=1" for name in names]
    command += ["--gin.QuickstartRun.evaluation_examples=2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "learn φ per task" in line:
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    assert process.wait() == 0 and "stopped; the same command continues" in rest
    assert not list(tmp_path.rglob("table.*"))

    subprocess.run(command, cwd=ROOT, check=True)
    assert "learned φ (ceiling)" in (tmp_path / "table.md").read_text()
