"""The front doors prepare and show: what they print, and how they end."""

import json
import os
import sys
from pathlib import Path

import pytest

from hypert5_jax import prepare, show
from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.modules import import_module, require_modules
from tests.data.toy_mixture import plain, write_mixture

MODULE = "tests.preparation.toy_tasks"


def test_show_prints_rows_as_text_and_ids(tmp_path, capsys):
    write_mixture(tmp_path / "toy", plain([30]))
    arguments = ["--mixture=toy", f"--output_dir={tmp_path}", "-n", "2"]
    assert cli.exit_code(show.main, [*arguments, "--max_shots=2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("--- ") == 2 and "t0 (30 examples)" in printed
    assert "inputs: 0 of 30 examples are cut" in printed
    assert printed.count("hyper_inputs [10/1024]: <x> ") == 2
    assert printed.count("  ids: 20000 ") == 2
    assert printed.count("loss on 2 target tokens") == 2
    last, beyond = 2**63 - 4, 2**63
    assert cli.exit_code(show.main, [*arguments, f"--start_step={last}"]) == 0
    assert f"--- {last + 1}: " in capsys.readouterr().out
    for wrong in ("--start_step=-1", f"--start_step={last + 2}", f"--seed={beyond}"):
        assert cli.exit_code(show.main, [*arguments, wrong]) == 2
        assert wrong.replace("=", " is ") in capsys.readouterr().err
    for number in ("0", "-2"):
        assert cli.exit_code(show.main, [*arguments, "-n", number]) == 2
        assert f"-n is {number}" in capsys.readouterr().err


def test_prepare_tells_what_it_made(tmp_path, capsys):
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    arguments = ["--mixture=toy_text", f"--module={MODULE}"]
    arguments.append(f"--output_dir={tmp_path}")
    for extra in ([], [], ["--overwrite"]):
        assert cli.exit_code(prepare.main, [*arguments, *extra]) == 0
        assert "24 examples of 1 tasks" in capsys.readouterr().out
    manifest = json.loads(
        (tmp_path / "toy_text" / "train" / "manifest.json").read_text()
    )
    assert manifest["examples"] == 24 and manifest["skipped"] == {}
    assert manifest["shards"][0]["records"] == 24


def test_a_file_registers_once_whatever_it_is_called_by(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for first, second in (("two", "two.py"), ("tow.py", "tow")):
        # As seqio does, which knows of each name once.
        line = (
            "import sys\nassert not hasattr(sys, __file__)\nsetattr(sys, __file__, 1)"
        )
        (tmp_path / f"{first.removesuffix('.py')}.py").write_text(line)
        assert import_module(first) is import_module(second)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--mixture=toy_txet", f"--module={MODULE}"], "near names: toy_text"),
        (["--mixture=toy_text", "--module=no_such"], "--module=no_such"),
        (["--mixture=toy_nothing", f"--module={MODULE}"], "has no examples"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(
    tmp_path, capsys, arguments, message
):
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    folder = [f"--output_dir={tmp_path}"]
    assert cli.exit_code(prepare.main, [*arguments, *folder]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ") and message in told
    assert not list(Path(tmp_path).rglob("manifest.json"))
    assert not list(Path(tmp_path).rglob("*.tmp"))


def test_a_file_of_ones_own_can_register_the_mixture(tmp_path, capsys):
    pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")
    source = Path(os.path.dirname(__file__), "toy_tasks.py").read_text()
    (tmp_path / "mine.py").write_text(source.replace('"toy_', '"mine_'))
    arguments = ["--mixture=mine_text", f"--module={tmp_path / 'mine.py'}"]
    arguments.append(f"--output_dir={tmp_path}")
    assert cli.exit_code(prepare.main, arguments) == 0
    assert (tmp_path / "mine_text" / "train" / "manifest.json").exists()
    # Asked again in one process, for preparing on first use and for another name.
    arguments = ["--mixture=mine_groups", *arguments[1:], "-n", "1"]
    assert cli.exit_code(show.main, arguments) == 0
    assert (tmp_path / "mine_groups" / "train" / "manifest.json").exists()


def test_modules_are_looked_for_and_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("1 / 0")
    (tmp_path / "pack").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "pack" / f"{name}.py").write_text("1 / 0")
    require_modules(["mine", "mine.py", "pack.inner", "tasks.p3", MODULE])
    for name in ("nope", "nope.py", "nope.inner", "pack.nope", "mine.inner"):
        with pytest.raises(UserError, match=f"--module={name}: there is none"):
            require_modules([name])


def test_where_seqio_is_not_installed_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    write_mixture(tmp_path / "toy", plain([30]))
    arguments = [f"--output_dir={tmp_path}", "-n", "1"]
    assert cli.exit_code(show.main, ["--mixture=other", *arguments]) == 2
    assert "pip install hypert5_jax[data]" in capsys.readouterr().err
    # What is prepared can be read all the same.
    assert cli.exit_code(show.main, ["--mixture=toy", *arguments]) == 0
