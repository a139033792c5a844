"""T5X checkpoints: T5X's own files are read; what is written is read back unchanged."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import serialization

from hypert5_jax.checkpoints import t5x
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System, check_same_shapes
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.stacking import stack_layers
from hypert5_jax.training.initial import InitialConfig, initial_params
from tests.models import TINY, random_params

PLAIN = Variant("none", "none", trainable=("downstream",), context="none")


def test_t5x_export_then_import_is_the_identity(tmp_path):
    params = random_params(System(TINY, PLAIN))["downstream"]
    path = str(tmp_path / "checkpoint_7")
    t5x.save_t5(path, params, step=7)
    assert t5x.is_t5x(path)
    again = stack_layers(t5x.load_t5(path))
    assert jax.tree.structure(again) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    # On disk: T5X's names, one subtree a layer.
    content = serialization.msgpack_restore((tmp_path / "checkpoint_7").read_bytes())
    kernel = content["optimizer"]["target"]["decoder"]["layers_2"]["mlp"]["wo"]
    np.testing.assert_array_equal(
        kernel["kernel"], params["decoder"]["layers"]["mlp"]["wo"]["kernel"][2]
    )


@pytest.mark.parametrize(
    ("where", "sizes"),
    [
        ("t5x_legacy/test_t5_tiny.checkpoint_0", (8, 4, 3, 16, 32)),
        ("test_t5_1_1_tiny/checkpoint_3", (4, 2, 2, 8, 4)),
    ],
)
def test_checkpoints_written_by_t5x_are_read(shared, where, sizes):
    emb, heads, head_dim, mlp, buckets = sizes
    config = T5Config(
        emb_dim=emb,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=mlp,
        num_encoder_layers=2,
        num_decoder_layers=2,
        relative_attention_num_buckets=buckets,
    )
    path = str(shared / "data/t5/checkpoints" / where)
    assert t5x.is_t5x(path)
    params = stack_layers(t5x.load_t5(path))
    expected = System(config, PLAIN).abstract_params()["downstream"]
    check_same_shapes(expected, params, "T5X's")
    assert all(np.isfinite(leaf).all() for leaf in trees.flatten(params).values())
    assert np.std(params["token_embedder"]["embedding"]) > 0
    wrong = dataclasses.replace(config, mlp_dim=mlp + 1)
    with pytest.raises(UserError, match="of another model"):
        check_same_shapes(
            System(wrong, PLAIN).abstract_params()["downstream"], params, "T5X's"
        )


def test_a_run_starts_from_a_t5x_checkpoint(tmp_path):
    system = System(TINY, Variant(prefix=PrefixSpec(3)))
    t5 = random_params(System(TINY, PLAIN), seed=5)["downstream"]
    path = str(tmp_path / "checkpoint_1000000")
    t5x.save_t5(path, t5)
    begin = initial_params(system, InitialConfig(checkpoint_path=path), seed=0)
    assert begin.origins["downstream"] == path
    jax.tree.map(np.testing.assert_array_equal, begin.params["downstream"], t5)
    np.testing.assert_array_equal(
        begin.params["hypermodel"]["encoder"]["encoder_norm"]["scale"],
        t5["encoder"]["encoder_norm"]["scale"],
    )


def test_a_missing_and_a_truncated_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError, match="no T5X checkpoint"):
        t5x.load_t5(str(tmp_path))
    path = tmp_path / "checkpoint_0"
    t5x.save_t5(str(path), {"token_embedder": {"embedding": np.ones((4, 2))}})
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="not a whole msgpack file: cut short"):
        t5x.load_t5(str(path))


def test_a_bucket_is_not_written_to_and_no_folder_of_its_name_is_made(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="to this machine only"):
        t5x.save_t5("gs://bucket/t5", {"a": np.ones(2)})
    assert not list(tmp_path.iterdir())
