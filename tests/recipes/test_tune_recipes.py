"""Every recipe of single-task tuning, as listed by the folder: built full-size, counted."""

import dataclasses
import re

import pytest

from hypert5_jax.config import gin_files
from hypert5_jax.config.tune_report import sizes_text
from hypert5_jax.config.tune_run import METHODS, TuneRun
from tests.recipes import described

NAMES = described.tune_names()


def sweep(name):
    return gin_files.build(TuneRun, described.arguments(name))[0]


def parts_counted_by_hand(run):
    """{method: parameters of one run}, from the figures of the paper."""
    t5, prefix = run.downstream, run.prefix
    assert t5.num_encoder_layers == t5.num_decoder_layers
    layers, width = t5.num_encoder_layers, t5.num_heads * t5.head_dim
    sites = 3 if prefix.cross_attention == "own" else 2
    slots = sites * prefix.length
    hidden = t5.emb_dim * t5.emb_dim + t5.emb_dim
    out = t5.emb_dim * layers * width + layers * width
    return {
        "Prefix-Flat": layers * 2 * slots * width,
        "Prefix-MLP": slots * t5.emb_dim + 2 * sites * (hidden + out),
        "LoRA": layers * 3 * 2 * run.lora.rank * (t5.emb_dim + width),
    }


def test_the_paper_and_its_small_form_are_there():
    assert {"peft/tune_large", "small/tune"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_is_whole_and_its_runs_have_their_number_of_parameters(name):
    run = sweep(name)
    assert run.recipe is not None and run.recipe.name == name and run.recipe.table
    assert run.output_dir == f"runs/{name}"
    assert run.methods == tuple(METHODS)
    header = (described.FOLDER / f"{name}.gin").read_text().split("\n\n")[0]
    assert f"python -m hypert5_jax.tune --gin_file=gin/recipes/{name}.gin" in header
    built = sizes_text(run)
    for method, parameters in parts_counted_by_hand(run).items():
        (line,) = re.findall(rf"^{method}\b.*$", built, re.MULTILINE)
        assert f" {parameters:,} " in line, (line, parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_starts_from_recipes_that_make_what_it_needs(name):
    run = sweep(name)
    expected = {
        "shared_prefix": ("prefix", "learned", "mlp"),
        "shared_lora": ("lora", "learned", "direct"),
        "hyper_prefix": ("prefix", "generated", "direct"),
        "hyper_prefix_mlp": ("prefix", "generated", "mlp"),
        "hyper_lora": ("lora", "generated", "direct"),
    }
    for field, folder in dataclasses.asdict(run.trained).items():
        source = described.run_of(folder.removeprefix("runs/"))
        assert source.model_dir == folder
        variant = source.system.variant
        made = (variant.adaptation, variant.source, variant.parametrisation)
        assert made == expected[field], (field, folder)
        assert variant.spec == (run.prefix if made[0] == "prefix" else run.lora)
        assert source.initial.checkpoint_path == run.initial.checkpoint_path
        # What changes no parameter may differ.
        same = {"dropout_rate": 0.0, "remat": "full"}
        sizes = dataclasses.replace(source.system.downstream, **same)
        assert sizes == dataclasses.replace(run.downstream, **same)
