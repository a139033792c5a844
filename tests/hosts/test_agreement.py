"""Processes that were started for different things say so instead of computing together."""

import re

import jax
import pytest

from hypert5_jax.config.evaluate_run import EvaluationData
from hypert5_jax.config.opening import open_data
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.agreement import require_same, require_same_settings
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.start import start
from hypert5_jax.training.state import InitialParams
from tests.config.test_evaluate_front_door import prepare
from tests.config.tiny_run import SIZES, TRAIN
from tests.hosts.processes import front_door
from tests.training import toy

SETTINGS = "TRAIN_STEPS = 2\nSEED = 0\n"
RECIPE = """
include "gin/runs/multitask.gin"
include "gin/variants/t5_mtf.gin"
include "{home}/sizes.gin"
MODEL_DIR = "{home}/run"
INITIAL_CHECKPOINT_PATH = None
InitialConfig.allow_random = True
MIXTURE_OR_TASK_NAME = "toy"
PREPARED_DIR = "{home}/prepared"
"""


@pytest.fixture
def process_1(monkeypatch):
    """Makes this process one of two, process 0 of which says what it is told to."""

    def told_by_process_0(*values):
        left = iter(values)
        monkeypatch.setattr(hosts, "told", lambda make: next(left))
        monkeypatch.setattr("jax.process_index", lambda: 1)

    return told_by_process_0


@pytest.fixture
def said(monkeypatch):
    """What this process says where it is process 0."""
    heard = []

    def told(make):
        heard.append(make())
        return heard[-1]

    monkeypatch.setattr(hosts, "told", told)
    return heard


def test_two_processes_with_other_settings_end_with_code_2_and_train_nothing(tmp_path):
    prepare(tmp_path / "prepared", split="train")
    (tmp_path / "sizes.gin").write_text(SIZES + TRAIN)
    recipe = tmp_path / "recipe.gin"
    recipe.write_text(RECIPE.format(home=tmp_path))
    other = {1: ["--gin.TRAIN_STEPS=3"]}
    first, second = front_door("train", [f"--gin_file={recipe}"], 2, own=other)
    assert (first.code, second.code) == (2, 2), first.err + second.err
    assert "process 1 has other settings than process 0" in second.err
    assert "3" in second.err and "the same command" in second.err
    assert first.err.startswith("process 1 of 2 ended: error: process 1 has other")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (
            "TRAIN_STEPS = 2\nSEED = 1\n",
            "line 2 of run 1 is 'SEED = 1' instead of 'SEED = 0'",
        ),
        ("TRAIN_STEPS = 2\n", "line 2 of run 1 is 'absent' instead of 'SEED = 0'"),
        (SETTINGS + "A = 1\n", "line 3 of run 1 is 'A = 1' instead of 'absent'"),
    ],
)
def test_the_first_line_that_differs_is_named(said, process_1, other, names):
    require_same_settings(SETTINGS)
    process_1(*said, *said)
    require_same_settings(SETTINGS)
    with pytest.raises(UserError, match=re.escape(names)):
        require_same_settings(other)


def test_another_version_is_another_setting(said, process_1):
    require_same_settings(SETTINGS)
    process_1(said[0] | {"jax": "0.0.1"})
    with pytest.raises(UserError, match=r"jax is .* instead of '0\.0\.1'"):
        require_same_settings(SETTINGS)


def test_another_number_of_runs_is_another_setting(said, process_1):
    require_same_settings(SETTINGS, SETTINGS)
    process_1(*said)
    with pytest.raises(UserError, match="number of runs is '1' instead of '2'"):
        require_same_settings(SETTINGS)


def test_a_process_alone_agrees_with_itself():
    require_same("anything", {"a": "1"}, "")


def test_other_prepared_data_on_a_host_are_refused(tmp_path, process_1):
    prepare(tmp_path / "prepared")
    row = RowFormat({"hyper_inputs": 24, "inputs": 6, "targets": 4})
    data = EvaluationData("toy", row, prepared_dir=str(tmp_path / "prepared"))
    open_data(data, "toy", "test", 48)
    prepared_first = None
    process_1(prepared_first, {"the digest of toy, split test": "of other files"})
    with pytest.raises(UserError, match=r"other prepared data.*of one host to all"):
        open_data(data, "toy", "test", 48)


@pytest.mark.parametrize("group", ["downstream", "hypermodel"])
def test_other_parameters_on_a_host_are_refused(said, process_1, monkeypatch, group):
    monkeypatch.setattr(hosts, "alone", lambda: False)
    system, config = toy.ToySystem(), TrainConfig(steps=1)
    mesh, begin = make_mesh(MeshConfig()), toy.initial(system)
    start(system, config, begin, None, mesh)
    process_1(said[-1], said[-1])
    start(system, config, begin, None, mesh)
    first, *others = jax.tree.leaves(begin.params[group])
    structure = jax.tree.structure(begin.params[group])
    moved = jax.tree.unflatten(structure, [first.at[0].add(0.1), *others])
    other = InitialParams({**begin.params, group: moved}, begin.origins)
    with pytest.raises(
        UserError, match=f"other parameters.*fingerprint of the {group}"
    ):
        start(system, config, other, None, mesh)
