"""The folder of an evaluation: what is damaged there is named, and nothing is lost."""

import pytest
from etils import epath

from hypert5_jax.config.evaluation_draws import Draws
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.evaluation.results import ResultsFolder, file_name


@pytest.mark.parametrize("text", ["", '{"task": ', "[]", "\xff"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, text):
    def damaged(name, words):
        file = epath.Path(tmp_path / name)
        file.write_bytes(text.encode("latin-1"))
        return pytest.raises(UserError, match=f"{file} is damaged: .*; {words}")

    folder = ResultsFolder(tmp_path)
    folder.claim({"limit": 1}, "A = 1\n")
    folder.write_unit("t0", "real", 0, {"task": "t0"}, None)
    with damaged("settings.json", "put it back, or choose another OUTPUT_DIR"):
        folder.claim({"limit": 1}, "A = 1\n")
    with damaged("tasks/t0/real-0.json", "delete it, and the task is judged again"):
        folder.unit("t0", "real", 0)
    lengths = {"hyper_inputs": 8, "inputs": 8, "targets": 8}
    draws = Draws(epath.Path(tmp_path), None, RowFormat(lengths), None, False)
    with damaged("0.json", "delete it, and it is drawn again"):
        draws._read(epath.Path(tmp_path / "0.json"), {"task": "t0"})


def test_the_configuration_of_something_else_is_left_alone(tmp_path):
    """A training run's folder is no place for scores: they have a config.gin, too."""
    config = tmp_path / "config.gin"
    config.write_text("TrainRun.model_dir = 'runs/a'\n")
    with pytest.raises(UserError, match="config.gin of something else.* OUTPUT_DIR"):
        ResultsFolder(tmp_path).claim({"limit": 1}, "A = 1\n")
    assert [file.name for file in tmp_path.iterdir()] == ["config.gin"]
    # A run that is judged where it was trained has one configuration.
    ResultsFolder(tmp_path).claim({"limit": 1}, config.read_text())
    # Of an evaluation that goes on, what does not decide its scores may change.
    ResultsFolder(tmp_path).claim({"limit": 1}, "A = 2\n")
    assert config.read_text() == "A = 2\n"


def test_every_name_of_a_task_has_a_folder_of_its_own(tmp_path):
    names = [
        "t0",
        "a/b",
        "a_b",
        "..",
        ".",
        "é" * 120,
        "あ" * 100,
        "あ" * 101,
        "a" * 300,
    ]
    folder = ResultsFolder(tmp_path)
    for name in names:
        folder.write_unit(name, "real", 0, {"task": name}, None)
    assert [folder.unit(name, "real", 0) for name in names] == [
        {"task": name} for name in names
    ]
    assert file_name("é" * 120) == "é" * 120
