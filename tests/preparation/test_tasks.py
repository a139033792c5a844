"""The bundled tasks: registered without their data, read with it."""

import subprocess
import sys
from pathlib import Path

import pytest

from hypert5_jax.config import gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.preparation.modules import find_provider

pytest.importorskip("seqio", reason="seqio, of the extra `data`, is not installed")

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = (
    ("tasks.sni", "sni_train"),
    ("tasks.text", "text_caclm"),
    ("tasks.c4", "c4_caclm"),
    ("tasks.metaicl", "metaicl_hr_to_lr_train"),
)


def test_importing_the_tasks_needs_no_data(tmp_path):
    # From another working directory, with nothing where the data would be, and with a
    # `tasks` package of somebody else's in the way.
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise SystemError('not this one')")
    code = (
        "from hypert5_jax.core.errors import UserError\n"
        "from hypert5_jax.preparation.mixture import prepare_mixture\n"
        f"for module, name in {BUNDLED}:"
        "\n  try: prepare_mixture(name, 'train', 'out', [module])\n"
        "  except UserError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env={"HYPERT5_DATA": "/nowhere", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    count = result.stdout.count("SentencePiece model /nowhere")
    assert count == len(BUNDLED), result.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "gin" / "tasks").glob("*.gin")))
def test_each_gin_file_of_a_task_names_one_that_its_module_registers(file):
    folder = ROOT / "gin"
    files = ("models/t5_1_1_tiny", "variants/hypert5_prefix", "runs/multitask")
    given = ("MODEL_DIR = '/nowhere/run'", "INITIAL_CHECKPOINT_PATH = '/nowhere/t5'")
    arguments = gin_files.GinArguments(
        (*(str(folder / f"{name}.gin") for name in files), str(file)), given
    )
    run, _ = gin_files.build(TrainRun, arguments)
    assert run.data.modules
    task = find_provider(run.data.mixture, run.data.modules)
    assert run.data.split in task.splits


def test_real_instructions_are_prepared_and_read(shared, tmp_path):
    from hypert5_jax.data.rows import RowFormat
    from hypert5_jax.data.stream import batches
    from hypert5_jax.preparation.first_use import ensure_prepared

    mixture = ensure_prepared("sni_def_shots_test", "test", tmp_path, ["tasks.sni"])
    assert len(mixture.tasks) >= 2 and mixture.vocabulary.size == 32_100
    row = RowFormat(max_shots=2, targets_per_context=2, too_few="fewer")
    batch = next(batches(mixture, row, 8, seed=0))
    text = mixture.vocabulary.decode(batch.hyper_inputs[0])
    assert text.startswith("<x> ") and text.count("<y>") == 2
    assert 32_100 == batch.hyper_inputs[0, 0]
