"""`python -m hypert5_jax.plan` with the host's compiler, as users call it."""

import json
import subprocess
import sys

import pytest

from hypert5_jax import plan as door
from hypert5_jax.config import cli, gin_files, plan_compile, plan_run
from hypert5_jax.config.plan_compile import Request
from hypert5_jax.planning import topologies

TINY = (
    "--gin_file=gin/recipes/p3_large/hypert5_prefix.gin",
    "--gin_file=tests/recipes/tiny.gin",
    "--gin.MeshConfig.fsdp=2",
    "--gin.EVALUATION_BATCH_SIZE=8",
)


@pytest.fixture(autouse=True)
def host(monkeypatch):
    monkeypatch.setattr(topologies, "has_compiler", lambda: False)


def test_a_recipe_is_planned(tmp_path, capsys):
    file = tmp_path / "plan.json"
    command = [
        *TINY,
        "--topology=v5e:2x2",
        f"--cache={tmp_path}/cache",
        f"--json={file}",
        "--programs=adapt",
        "--trace",
    ]
    assert cli.exit_code(door.main, command) == 0
    said = capsys.readouterr().out
    assert "no libtpu is installed" in said and "most expensive" in said
    assert "compiler's cycles" not in said
    told = json.loads(file.read_text())
    adapt = told["programs"]["adapt"]
    assert adapt["fits"] is None and adapt["chips"] == 4


def test_the_second_time_nothing_is_compiled(tmp_path, monkeypatch):
    recipe = gin_files.read_arguments("test", "", TINY)
    request = Request(
        recipe.files, recipe.bindings, (), "v5e:2x2", "train", False, str(tmp_path)
    )
    train = plan_compile.answer(request)
    assert (train["mesh"]["data"], train["mesh"]["fsdp"]) == (2, 2)
    assert train["fits"] is None and not train["costs"]["unknown_loops"]
    # Without remat, nothing of note is computed twice.
    compiled_flops = train["costs"]["flops"] * train["chips"]
    assert 0.9 < compiled_flops / train["model_flops"] < 1.1
    assert any("fsdp" in one["axes"] for one in train["costs"]["sent"])

    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(plan_compile.compiled, "compile_program", refuse)
    assert plan_compile.answer(request) == train


@pytest.mark.slow
def test_every_program_of_a_recipe_is_planned_and_searched(tmp_path, capsys):
    common = [*TINY, f"--cache={tmp_path}/cache", f"--json={tmp_path}/plan.json"]
    assert cli.exit_code(door.main, [*common, "--topology=v5e:2x2"]) == 0
    told = json.loads((tmp_path / "plan.json").read_text())
    assert list(told["programs"]) == ["train", "evaluate", "adapt"]
    search = [*common, "--topology=v5e:1x1,v5e:2x2", "--search"]
    assert cli.exit_code(door.main, search) == 0
    assert "cheapest (whether it fits: unknown): v5e" in capsys.readouterr().out
    rows = json.loads((tmp_path / "plan.json").read_text())["rows"]
    assert len({str(row["mesh"]) + row["topology"] for row in rows}) == len(rows) > 4


def _refuse(*_):
    raise AssertionError("compiled first")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--topology=v5p:4x4"], "known: v4:2x2x1"),
        (["--topology=v5e:2x2,v5e:4x4"], "give one"),
        (["--topology=v5e:2x2", "--programs=trian"], "none of train"),
        (["--topology=v5e:2x2", "--prices=v5x=1"], "expected such as v5p=4.20"),
        (["--topology=v5e:2x2", "--prices=v5e=nan"], "expected such as v5p=4.20"),
        (["--topology=v5e:2x2", "--prices=v5e=-1"], "expected such as v5p=4.20"),
        (["--topology=v5e:2x2", "--programs=,"], "--programs=,: expected of train"),
        (["--topology=v5e:2x2", "--largest_batch"], "TPU's compiler"),
    ],
)
def test_mistakes_end_with_a_message_and_code_2(tmp_path, capsys, wrong, says):
    command = [*TINY, f"--cache={tmp_path}", *wrong]
    assert cli.exit_code(door.main, command) == 2
    assert says in capsys.readouterr().err


def test_a_mesh_without_its_devices_is_named_before_batches_are_tried(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(topologies, "has_compiler", lambda: True)
    monkeypatch.setattr(plan_run, "_child", _refuse)
    command = [*TINY, f"--cache={tmp_path}", "--topology=v5e:2x2", "--largest_batch"]
    command.append("--gin.MeshConfig.model=8")
    assert cli.exit_code(door.main, command) == 2
    assert "needs at least 16 devices, there are 4" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--json", "--cache"])
def test_a_place_that_cannot_be_written_is_named_before_compiling(
    tmp_path, capsys, monkeypatch, flag
):
    monkeypatch.setattr(plan_run, "_child", _refuse)
    (tmp_path / "file").write_text("")
    for more in ([], ["--search"]):
        command = [*TINY, f"--cache={tmp_path}", "--topology=v5e:2x2", *more]
        command.append(f"{flag}={tmp_path}/file/in_it")
        assert cli.exit_code(door.main, command) == 2
        assert f"cannot write {tmp_path}/file/in_it" in capsys.readouterr().err


def test_a_folder_is_no_file_for_json(tmp_path, capsys):
    command = [*TINY, f"--cache={tmp_path}", "--topology=v5e:2x2", f"--json={tmp_path}"]
    assert cli.exit_code(door.main, command) == 2
    assert "it is a folder" in capsys.readouterr().err


def test_a_recipe_of_tune_is_said_to_be_one(capsys):
    tune = "--gin_file=gin/recipes/peft/tune_large.gin"
    assert cli.exit_code(door.main, [tune, "--topology=v5e:2x2"]) == 2
    assert "is a recipe of tune" in capsys.readouterr().err


def test_no_recipe_is_a_mistake_too(capsys):
    assert cli.exit_code(door.main, ["--topology=v5e:2x2"]) == 2
    assert "--gin_file" in capsys.readouterr().err


def test_a_compiler_that_dies_is_said_so(tmp_path, capsys, monkeypatch):
    killed = ("/bin/sh", "-c", "kill -SEGV $$", "plan")
    monkeypatch.setattr(plan_run, "_WITH_STACK", killed)
    command = [*TINY, f"--cache={tmp_path}", "--topology=v5e:2x2"]
    assert cli.exit_code(door.main, command) == 2
    assert "SIGSEGV" in capsys.readouterr().err


def test_the_compiler_ends_with_the_plan_that_asked_for_it():
    nobody = "0"  # is the parent of a process: what plan says is gone
    compiles = [sys.executable, "-m", "hypert5_jax.config.plan_compile", nobody]
    with subprocess.Popen(compiles, stdin=subprocess.PIPE) as waits:
        try:
            assert waits.wait(timeout=60) == 1
        finally:
            waits.kill()
