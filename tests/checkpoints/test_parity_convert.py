"""Whole T5s between T5X and Hugging Face, judged by transformers reading and writing."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from hypert5_jax.checkpoints import t5x
from hypert5_jax.checkpoints.any_t5 import load_any_t5
from hypert5_jax.checkpoints.huggingface import save_huggingface, tokenizer_of
from hypert5_jax.config.convert_arguments import Conversion
from hypert5_jax.config.convert_t5 import convert_t5
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.inference import decoding
from hypert5_jax.t5 import network, stacking
from tests.t5 import hf_weights, parity

pytestmark = pytest.mark.parity

CASE = parity.CASES["tiny"]
WEIGHTS = hf_weights.random_hf_weights(CASE.config, seed=3)
OURS = hf_weights.to_ours(WEIGHTS)
NEW_TOKENS = 24


@pytest.fixture(scope="module")
def transformers():
    pytest.importorskip("torch", reason="needs the extra `parity`")
    return pytest.importorskip("transformers", reason="needs the extra `parity`")


@pytest.fixture
def t5x_directory(tmp_path):
    path = tmp_path / "checkpoint_7"
    t5x.save_t5(str(tmp_path / "file"), trees.unflatten(OURS), step=7)
    convert_t5(Conversion(str(tmp_path / "file"), "t5x", str(path)))
    return path


def convert(**fields):
    convert_t5(Conversion(**{k: str(v) for k, v in fields.items()}), say=lambda _: None)


def their_model(transformers, folder):
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"], report
    return model.eval()


def their_logits(model):
    import torch

    inputs, targets = (torch.from_numpy(x).long() for x in CASE.batch())
    with torch.no_grad():
        return (
            model(
                input_ids=inputs,
                attention_mask=(inputs != 0).long(),
                labels=targets.masked_fill(targets == 0, -100),
            )
            .logits.float()
            .numpy()
        )


def our_logits(params, config=CASE.config):
    inputs, targets = CASE.batch()
    config = dataclasses.replace(config, dtype="float32")
    apply = jax.jit(network.T5(config).apply)
    return np.asarray(apply({"params": stacking.stack_layers(params)}, inputs, targets))


def test_what_is_written_gives_transformers_the_same_logits_and_text(
    transformers, tmp_path, t5x_directory
):
    import torch

    convert(input=t5x_directory, to="huggingface", output=tmp_path / "hf")
    model = their_model(transformers, tmp_path / "hf")
    assert model.config.scale_decoder_outputs is False
    ours = our_logits(trees.unflatten(OURS))
    assert parity.difference(ours, their_logits(model)) <= parity.TOLERANCE
    inputs, _ = CASE.batch()
    theirs = model.generate(
        torch.from_numpy(inputs).long(),
        attention_mask=torch.from_numpy(inputs != 0).long(),
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        # transformers 5.23 sizes the decoder's cache by the encoder's depth.
        use_cache=False,
    ).numpy()[:, 1:]
    config = dataclasses.replace(CASE.config, dtype="float32")
    params = stacking.stack_layers(trees.unflatten(OURS))
    mine = np.asarray(decoding.greedy(config, params, inputs, NEW_TOKENS))
    np.testing.assert_array_equal(mine[:, : theirs.shape[1]], theirs)
    assert len(set(mine.ravel().tolist())) > 5  # not one word over and over


@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 9000])
def test_a_written_folder_holds_the_very_numbers(
    transformers, tmp_path, t5x_directory, shard_bytes
):
    convert_t5(
        Conversion(
            str(t5x_directory),
            "huggingface",
            str(tmp_path / "hf"),
            shard_bytes=shard_bytes,
        )
    )
    shards = sorted(tmp_path.glob("hf/*.safetensors"))
    assert (len(shards) > 3) == (shard_bytes == 9000)
    loaded = dict(their_model(transformers, tmp_path / "hf").named_parameters())
    for name, x in WEIGHTS.items():
        np.testing.assert_array_equal(loaded[name].detach().numpy(), x, name)


@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin", "sharded bin"])
def test_what_transformers_wrote_is_read_and_gives_the_same_logits(
    transformers, tmp_path, form
):
    import torch

    save_huggingface(str(tmp_path / "first"), trees.unflatten(OURS), CASE.config)
    model = their_model(transformers, tmp_path / "first")
    folder = tmp_path / "theirs"
    if form in ("safetensors", "sharded"):
        size = "9KB" if form == "sharded" else "5GB"
        model.save_pretrained(folder, max_shard_size=size)
    else:
        model.save_pretrained(folder)
        os.remove(folder / "model.safetensors")
        state = model.state_dict()
        if form == "bin":
            torch.save(state, folder / "pytorch_model.bin")
        else:
            names = sorted(state)
            parts = {"a.bin": names[::2], "b.bin": names[1::2]}
            for file, chosen in parts.items():
                torch.save({n: state[n] for n in chosen}, folder / file)
            places = {n: file for file, chosen in parts.items() for n in chosen}
            index = folder / "pytorch_model.bin.index.json"
            index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    convert(input=folder, to="t5x", output=tmp_path / "t5x")
    params, config = load_any_t5(str(tmp_path / "t5x"))
    for path, x in trees.flatten(params).items():
        np.testing.assert_array_equal(x, OURS[path], path)
    assert len(trees.flatten(params)) == len(OURS)
    ours = our_logits(params, config)
    assert parity.difference(ours, their_logits(model)) <= parity.TOLERANCE


@pytest.mark.parametrize("scaled", [False, True])
def test_tied_gated_models_become_untied_ones_with_the_same_logits(
    transformers, tmp_path, scaled
):
    """Without a checkpoint, transformers 5 ties every T5; v1.0's scaling is a switch."""
    cfg = CASE.config
    config = transformers.T5Config(
        vocab_size=cfg.vocab_size,
        d_model=cfg.emb_dim,
        d_kv=cfg.head_dim,
        d_ff=cfg.mlp_dim,
        num_layers=cfg.num_encoder_layers,
        num_decoder_layers=cfg.num_decoder_layers,
        num_heads=cfg.num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=scaled,
        initializer_factor=0.5,
        decoder_start_token_id=0,
    )
    assert config.scale_decoder_outputs is scaled
    model = transformers.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    params, _ = load_any_t5(str(tmp_path / "theirs"))
    ours = our_logits(params)
    assert parity.difference(ours, their_logits(model)) <= parity.TOLERANCE


def test_bfloat16_goes_through_unchanged(transformers, tmp_path, t5x_directory):
    import torch

    convert(
        input=t5x_directory, to="huggingface", output=tmp_path / "a", dtype="bfloat16"
    )
    model = their_model(transformers, tmp_path / "a")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    for name, p in model.named_parameters():
        expected = torch.from_numpy(np.array(WEIGHTS[name])).to(torch.bfloat16)
        assert torch.equal(p, expected), name
    (tmp_path / "bin").mkdir()
    torch.save(model.state_dict(), tmp_path / "bin/pytorch_model.bin")
    model.config.save_pretrained(tmp_path / "bin")
    convert(input=tmp_path / "bin", to="huggingface", output=tmp_path / "b")
    again = their_model(transformers, tmp_path / "b")
    for name, p in again.named_parameters():
        assert torch.equal(p, dict(model.named_parameters())[name]), name


def test_pickles_in_a_bin_file_never_run(transformers, tmp_path):
    import torch

    ran = tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return (open, (str(ran), "w"))

    save_huggingface(str(tmp_path / "hf"), trees.unflatten(OURS), CASE.config)
    (tmp_path / "hf/model.safetensors").unlink()
    for zipped in (True, False):
        torch.save(
            {"shared.weight": torch.zeros(2, 2), "trap": Trap()},
            tmp_path / "hf/pytorch_model.bin",
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(UserError, match="tensors alone"):
            convert(input=tmp_path / "hf", to="t5x", output=tmp_path / "out")
        assert not ran.exists() and not (tmp_path / "out").exists()


def test_real_v1_0_is_refused_by_name(transformers, tmp_path):
    config = transformers.T5Config(
        d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=16
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "v1")
    with pytest.raises(UserError, match="T5 v1.0"):
        load_any_t5(str(tmp_path / "v1"))
    bert = transformers.BertConfig(
        hidden_size=8, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8
    )
    transformers.BertModel(bert).save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="BERT"):
        load_any_t5(str(tmp_path / "bert"))


def test_the_vocabulary_of_a_run_becomes_a_tokenizer_with_the_same_ids(
    transformers, shared, tmp_path
):
    model = (shared / "data/t5/vocab/t5_cc_all_32000.model").read_bytes()
    for name, content in tokenizer_of(model, 100).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == 32100
    (tmp_path / "vocabulary.model").write_bytes(model)
    fields = {"kind": "sentencepiece", "size": 32100, "extra_ids": 100}
    ours = Vocabulary.from_json({**fields, "fingerprint": ""}, tmp_path)
    for text in ("Translate this: That is good.", "Größe, naïve — 3.5%  two  spaces"):
        assert theirs(text).input_ids == [*ours.encode(text), 1]
    assert theirs("<extra_id_0>").input_ids[0] == ours.sentinel_id(0)
