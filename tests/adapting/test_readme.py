"""The README's lines on adapting run as they stand, where there is the model they name."""

import importlib
import json
import re
import runpy
import shlex

import pytest

from hypert5_jax.adapting.model import Model
from hypert5_jax.config import cli
from hypert5_jax.data.rows import RowFormat
from tests.adapting.tiny import model
from tests.conftest import ROOT

HEADING = "## Adapt your own"
ROOMY = RowFormat(lengths={"hyper_inputs": 64, "inputs": 16, "targets": 16})


def section() -> str:
    text = (ROOT / "README.md").read_text()
    return text.split(HEADING, 1)[1].split("\n## ", 1)[0]


def blocks(language: str) -> list[str]:
    """The section's blocks of code in a language; "" is none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", section(), re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, but for the model where the section has it."""
    (place,) = {*re.findall(r'(?:load\("|--checkpoint=)([^"\s]+)', section())}
    tiny = model()
    parts = (tiny.system, tiny.params, tiny.vocabulary, ROOMY, tiny.base_model)
    Model(*parts).save(tmp_path / place)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_three_lines_run(home, capsys):
    (block,) = blocks("python")
    assert len(re.findall(r"model\b.* = |phi = |generate", block)) == 3
    (home / "block.py").write_text(block)
    names = runpy.run_path(str(home / "block.py"))
    phi, again = names["phi"], names["model"].generate(["your crab"], names["phi"])
    assert capsys.readouterr().out.startswith(f"[{again[0]!r}, ")
    assert "2 of 2 examples" in phi.header.origin


def test_the_commands_run(home):
    few = [{"input": "the cat", "target": "it is animal"}]
    (home / "few.jsonl").write_text("".join(json.dumps(one) + "\n" for one in few))
    (home / "in.txt").write_text("your crab\n")
    (commands,) = blocks("")
    lines = commands.replace("\\\n", " ").splitlines()
    assert len(lines) == 2
    for line in lines:
        python, _, module, *arguments = shlex.split(line)
        assert python == "python"
        assert cli.exit_code(importlib.import_module(module).main, arguments) == 0
    assert json.loads((home / "out.jsonl").read_text())["input"] == "your crab"
