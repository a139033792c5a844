"""Whatever a T5 lies in, it is recognised; what is nearly one is named."""

import json

import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import save_file

from hypert5_jax.checkpoints.any_t5 import load_any_t5, open_any_t5
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from tests.checkpoints.written_by_hand import OURS, hf_folder, t5x_directory
from tests.models import TINY as OTHER
from tests.t5.parity import TINY


def test_a_saved_model_gives_its_t5_and_its_vocabulary(tmp_path):
    arrays = {path: np.ascontiguousarray(x) for path, x in OURS.items()}
    save_file(arrays, tmp_path / "downstream.safetensors")
    (tmp_path / "vocabulary.model").write_bytes(b"pieces")
    (tmp_path / "model.json").write_text('{"vocabulary": {"extra_ids": 3}}')
    found = trees.flatten(load_any_t5(str(tmp_path))[0])
    assert set(found) == set(OURS)
    for path, x in OURS.items():
        np.testing.assert_array_equal(found[path], x, path)
    tokenizer = open_any_t5(str(tmp_path)).tokenizer
    assert tokenizer["spiece.model"] == b"pieces"
    assert json.loads(tokenizer["tokenizer_config.json"])["extra_ids"] == 3
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(UserError, match="model.json is damaged"):
        load_any_t5(str(tmp_path))


@pytest.mark.parametrize("make", [hf_folder, t5x_directory])
def test_sizes_are_compared_and_other_switches_kept(tmp_path, make):
    path = str(make(tmp_path / "t5"))
    _, config = load_any_t5(path, TINY)
    assert config == TINY
    with pytest.raises(UserError, match="emb_dim is 24, expected 32"):
        load_any_t5(path, OTHER)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"version": 3}, "no optimizer/target"),
        ({"optimizer": 3}, "no optimizer/target"),
        ({"optimizer": {"target": np.ones(3)}}, "no optimizer/target"),
        ({"target": {}}, "it lacks token_embedder/embedding"),
        ({"target": {"a": "b"}}, "a is 'b', expected an array"),
        ({"target": {"a": {"driver": "n5"}}}, "driver 'n5'"),
        ({"target": {"a": {"driver": "zarr", "kvstore": 1}}}, "without a path"),
        ({"target": {"a": "PLACEHOLDER://.."}}, "without a path"),
        ({"target": {}, "state": {"step": "x"}}, "its step is no number"),
        (np.ones((5, 3)), r"array \(5, 3\): a soft prompt of prompt-tuning"),
        ([1], "holds a list"),
    ],
)
def test_trees_that_are_none_of_t5x_are_refused(tmp_path, content, said):
    (tmp_path / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    with pytest.raises(UserError, match=said):
        load_any_t5(str(tmp_path))
