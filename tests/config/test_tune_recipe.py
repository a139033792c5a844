"""gin/recipes/peft: the paper's sweep, full-size without memory."""

import pytest

from hypert5_jax.config import gin_files
from hypert5_jax.config.tune_report import sizes_text
from hypert5_jax.config.tune_run import METHODS, STARTS, TuneRun
from hypert5_jax.preparation.p3.catalogue import read_prompts

RECIPE = "gin/recipes/peft/tune_large.gin"


@pytest.fixture(scope="module")
def sweep():
    return gin_files.build(TuneRun, gin_files.GinArguments((RECIPE,), ()))[0]


def test_it_is_the_papers_648_runs(sweep):
    """Section 6, Appendices B.1 and D; steps and batch are ours (A25)."""
    prompts = [p for p in read_prompts() if sweep.data.mixture in p.uses]
    assert all({"train", "validation"} <= set(p.splits) for p in prompts)
    assert sweep.methods == tuple(METHODS) and sweep.starts == STARTS
    assert sweep.learning_rates == (1e-3, 1e-4, 1e-5) and len(sweep.seeds) == 3
    runs = len(METHODS) * len(STARTS) * len(prompts) * 3 * 3
    assert runs == 648
    assert (sweep.steps, sweep.batch_size, sweep.eval_every) == (1000, 256, 100)
    assert sweep.data.row_format.max_shots == 16
    assert len(sweep.eval_steps) == 11
    assert sweep.recipe.table == "tables_6_7"
    assert RECIPE.endswith(f"recipes/{sweep.recipe.name}.gin")


def test_full_size_steps_and_their_layout_hold_together(sweep):
    """Parameters by hand: 24 layers, d = 1024 = 16 heads x 64, P = 32, rank 8."""
    flat = 24 * 2 * 2 * 32 * 1024
    head = (1024 * 1024 + 1024) + (1024 + 1) * 24 * 1024
    mlp = 2 * 32 * 1024 + 4 * head
    lora = 24 * 3 * 2 * 8 * (1024 + 1024)
    lines = sizes_text(sweep).splitlines()
    for line, count in zip(lines, (flat, mlp, lora), strict=True):
        # Parameters and two moments in float32, a count for each run.
        counts = 9 * (3 * 4 * count + 2 * 4)
        assert f" {count:,} parameters a run" in line and "9 runs" in line
        assert int(line.split()[-2].replace(",", "")) == counts
