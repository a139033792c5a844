"""The small sweep goes from an empty folder to scores, stage by stage, in two steps each."""

import json

import pytest

from hypert5_jax import train
from hypert5_jax.config import cli

RECIPES = ("base_first", "base", "p3_hypert5_lora")
SIZES = {
    "T5Config.emb_dim": 16,
    "T5Config.num_heads": 2,
    "T5Config.head_dim": 8,
    "T5Config.mlp_dim": 16,
    "T5Config.num_encoder_layers": 1,
    "T5Config.num_decoder_layers": 1,
    # Eight devices share the contexts, of four targets each.
    "BATCH_SIZE": 32,
    "TRAIN_STEPS": 2,
    "ScheduleConfig.warmup_steps": 1,
    # One mixture for all stages: each takes seconds to prepare.
    "MIXTURE_OR_TASK_NAME": "quickstart_train",
    "INITIAL_ADAPTATION_PATH": None,
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    pytest.importorskip("seqio", reason="seqio, of `data`, is not installed")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_small_sweep_trains_and_judges_what_starts_from_each_other(place):
    files = tuple(f"gin/recipes/small/{name}.gin" for name in RECIPES)
    argv = [
        "--gin_file=gin/recipes/small/sweep.gin",
        f"--gin.TrainSweep.recipes={files!r}",
        f"--gin.TrainSweep.bindings={SIZES!r}",
    ]
    assert cli.exit_code(train.main, argv) == 0
    found = json.loads(
        (place / "runs/small/p3_hypert5_lora/scores/results.json").read_text()
    )
    assert found["recipe"]["table"] == "small_p3"
    assert found["recipe"]["system"] == "HyperT5-LoRA"
    assert set(found["contexts"]) == {"real", "empty", "shuffled_targets"}
    assert set(found["contexts"]["real"]["mean"]) == {
        *("call", "sort", "tell", "trio", "AVG")
    }
