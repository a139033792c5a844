"""Hugging Face's folders, written by the packages safetensors and flax or by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hypert5_jax.checkpoints import huggingface
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.checkpoints.t5_arrays import t5_arrays
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.t5.config import SIZES
from hypert5_jax.t5.stacking import stack_layers, unstack_layers
from hypert5_jax.training.initial import InitialConfig, initial_params
from tests.checkpoints.written_by_hand import OURS, WEIGHTS, flax_name, hf_folder
from tests.t5 import hf_weights
from tests.t5.parity import TINY

PLAIN = Variant("none", "none", trainable=("downstream",), context="none")
REFERENCE_LEAVES = {"small": 190, "base": 282, "large": 558, "xl": 558, "xxl": 558}


@pytest.mark.parametrize("size", REFERENCE_LEAVES)
def test_the_table_of_arrays_is_the_model_s_and_the_reference_s(size):
    """Our network, the tests' own maps and the published counts, all three."""
    config = SIZES[size]
    table = {a.path: a for a in t5_arrays(config)}
    assert len(table) == REFERENCE_LEAVES[size]
    theirs = hf_weights.hf_shapes(config)
    assert {a.torch for a in table.values()} == set(theirs)
    for name, shape in theirs.items():
        array = table[hf_weights.our_path(name)]
        assert array.torch == name and array.flax == flax_name(name)
        assert (array.shape[::-1] if array.torch_transposed else array.shape) == shape
    if size == "small":  # 8 + 8 layers, unstacked here
        shapes = System(config, PLAIN).abstract_params()["downstream"]
        ours = trees.flatten(shapes)
        for path, array in table.items():
            stacked = ours.get(path) or ours[_stacked(path)]
            assert array.shape == stacked.shape[-len(array.shape) :], path


def _stacked(path):
    stack, _, rest = path.split("/", 2)
    return f"{stack}/layers/{rest}"


@pytest.mark.parametrize("form", ["one", "sharded", "flax", "sharded flax"])
def test_every_form_of_weights_is_read(tmp_path, form):
    params, config = load_any_t5(str(hf_folder(tmp_path / "hf", form=form)))
    found = trees.flatten(params)
    assert set(found) == set(OURS)
    for path, x in OURS.items():
        np.testing.assert_array_equal(found[path], x, path)
    assert (config.num_encoder_layers, config.num_decoder_layers) == (2, 3)
    assert config.mlp_dim == TINY.mlp_dim and config.vocab_size == TINY.vocab_size


@pytest.mark.parametrize("stacked", [False, True])
def test_what_is_written_holds_hugging_face_s_names_turns_and_settings(
    tmp_path, stacked
):
    params = trees.unflatten(OURS)
    if stacked:
        params = stack_layers(params)
    huggingface.save_huggingface(str(tmp_path / "hf"), params, TINY)
    found = load_file(tmp_path / "hf/model.safetensors")
    assert set(found) == set(WEIGHTS)
    for name, x in WEIGHTS.items():
        np.testing.assert_array_equal(found[name], x, name)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    assert config["model_type"] == "t5" and config["feed_forward_proj"] == "gated-gelu"
    assert config["tie_word_embeddings"] is False and config["torch_dtype"] == "float32"
    assert config["num_layers"] == 2 and config["num_decoder_layers"] == 3
    generation = json.loads((tmp_path / "hf/generation_config.json").read_text())
    assert generation["decoder_start_token_id"] == 0
    assert not list(tmp_path.glob("*.partial"))


def test_copies_and_dead_tables_of_released_t5s_are_accounted_for(tmp_path):
    dead = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    weights = {
        **WEIGHTS,
        "encoder.embed_tokens.weight": WEIGHTS["shared.weight"].copy(),
        "decoder.embed_tokens.weight": WEIGHTS["shared.weight"].copy(),
        dead: np.ones((32, 4), np.float32),
    }
    opened = huggingface.open_huggingface(str(hf_folder(tmp_path / "a", weights)))
    unused = {line.source: line.reason for line in opened.lines if not line.target}
    assert set(unused) == set(weights) - set(WEIGHTS)
    assert "copy of shared.weight" in unused["encoder.embed_tokens.weight"]
    weights["encoder.embed_tokens.weight"][3, 4] += 1
    with pytest.raises(UserError, match="encoder.embed_tokens.weight .* no place"):
        huggingface.open_huggingface(str(hf_folder(tmp_path / "b", weights)))
    # PyTorch's tying may leave the embeddings under another of their names alone.
    alone = dict(WEIGHTS)
    alone["encoder.embed_tokens.weight"] = alone.pop("shared.weight")
    params, _ = load_any_t5(str(hf_folder(tmp_path / "c", alone)))
    np.testing.assert_array_equal(
        params["token_embedder"]["embedding"], WEIGHTS["shared.weight"]
    )


@pytest.mark.parametrize("form", ["one", "flax"])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_tied_or_scaled_output_layer_is_made_new(tmp_path, form, scaled, tied):
    weights = {n: x for n, x in WEIGHTS.items() if not (tied and n == "lm_head.weight")}
    folder = hf_folder(
        tmp_path / "hf",
        weights,
        form,
        scale_decoder_outputs=scaled,
        tie_word_embeddings=tied,
    )
    params, _ = load_any_t5(str(folder))
    (line,) = [
        line
        for line in huggingface.open_huggingface(str(folder)).lines
        if line.target == "decoder/logits_dense/kernel"
    ]
    assert (line.outcome == "made new") == (tied or scaled)
    expected = WEIGHTS["shared.weight" if tied else "lm_head.weight"].T
    if scaled:
        expected = expected * TINY.emb_dim**-0.5
    found = params["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"feed_forward_proj": "relu"}, "T5 v1.0"),
        ({"feed_forward_proj": None}, "T5 v1.0"),
        ({"feed_forward_proj": "gated-silu"}, r"gated-silu' \(UL2's\)"),
        ({"model_type": "bert"}, "BERT"),
        ({"model_type": "longt5"}, "LongT5"),
        ({"model_type": "umt5"}, "UMT5"),
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon"),
        ({"d_model": "wide"}, "config.json is damaged"),
        ({"d_model": 0}, "emb_dim=0"),
        ({"num_layers": 10**9}, "more than 1000 layers"),
        ({"num_layers": 3}, "encoder.block.2.* is missing"),
        ({"num_layers": 1}, "has no place"),
        ({"d_ff": 41}, r"wi_0.weight is \(40, 24\), expected \(41, 24\)"),
    ],
)
def test_other_architectures_and_sizes_are_refused_by_name(tmp_path, config, said):
    with pytest.raises(UserError, match=said):
        load_any_t5(str(hf_folder(tmp_path / "hf", **config)))


def test_mt5_of_the_same_kind_is_read(tmp_path):
    folder = hf_folder(
        tmp_path / "hf", model_type="mt5", architectures=None, tie_word_embeddings=False
    )
    params, _ = load_any_t5(str(folder))
    np.testing.assert_array_equal(
        params["decoder"]["logits_dense"]["kernel"], WEIGHTS["lm_head.weight"].T
    )


def test_half_a_folder_is_refused(tmp_path):
    folder = hf_folder(tmp_path / "hf", form="sharded")
    shard = folder / "model-00002-of-00003.safetensors"
    content = shard.read_bytes()

    def refused(said):
        with pytest.raises(UserError, match=said):
            load_any_t5(str(folder))

    shard.write_bytes(content[:-1])
    refused("not a whole safetensors file")
    shard.unlink()
    refused("names the shard model-00002")
    save_file({"shared.weight": np.ones((2, 2), np.float32)}, shard)
    refused("lacks")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"shared.weight": "../../secret"}}))
    refused("names the shard ../../secret")
    index.write_text("{")
    refused("cannot be read as JSON")
    index.unlink()
    refused("no weights")
    (folder / "config.json").unlink()
    save_file(
        {"shared.weight": np.ones((2, 2), np.float32)}, folder / "model.safetensors"
    )
    refused("but no config.json")


def test_a_run_starts_from_a_hugging_face_folder(tmp_path):
    """Half precision is held as float32, as a run trains it; sizes are compared."""
    half = {name: x.astype(np.float16) for name, x in WEIGHTS.items()}
    folder = hf_folder(tmp_path / "hf", half)
    system = System(TINY, PLAIN)
    begin = initial_params(system, InitialConfig(checkpoint_path=str(folder)), seed=0)
    assert begin.origins["downstream"] == str(folder)
    found = trees.flatten(unstack_layers(begin.params["downstream"]))
    for path, x in hf_weights.to_ours(half).items():
        assert found[path].dtype == np.float32
        np.testing.assert_array_equal(found[path], x.astype(np.float32), path)
    with pytest.raises(UserError, match="emb_dim is 24, expected 64"):
        initial_params(
            System(SIZES["tiny"], PLAIN),
            InitialConfig(checkpoint_path=str(folder)),
            seed=0,
        )


def test_an_output_layer_that_is_missing_is_a_gap_unless_it_is_tied(tmp_path):
    weights = {name: x for name, x in WEIGHTS.items() if name != "lm_head.weight"}
    for name, settings in (("t5", {}), ("mt5", {"tie_word_embeddings": None})):
        folder = hf_folder(tmp_path / name, weights, model_type=name, **settings)
        with pytest.raises(UserError, match="lm_head.weight is missing"):
            load_any_t5(str(folder))
    wide = {**weights, "lm_head.weight": np.ones((98, 24), np.float32)}
    folder = hf_folder(tmp_path / "wide", wide, scale_decoder_outputs=True)
    with pytest.raises(UserError, match="expected .24, 97."):
        load_any_t5(str(folder))
