"""A model in a folder of its own: what is saved is loaded, and what is damaged is named."""

import dataclasses
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import hypert5_jax
from hypert5_jax.adapting.model import Model
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from tests.adapting.tiny import EXAMPLES, LORA, model


def saved(folder, tiny=None):
    (tiny or model()).save(str(folder))
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_saved_model_loads_as_it_was(tmp_path, dtype):
    tiny = model(LORA)
    params = dict(tiny.params)
    params["downstream"] = trees.cast(params["downstream"], dtype)
    held = Model(
        *(tiny.system, params, tiny.vocabulary, tiny.row, tiny.base_model, "tiny")
    )
    again = hypert5_jax.load(saved(tmp_path / "deep" / "model", held))
    assert again.system == tiny.system and again.row == tiny.row
    assert again.vocabulary == tiny.vocabulary
    assert again.base_model == tiny.base_model  # of the origin, whatever holds it
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    assert trees.flatten(again.params["downstream"])[
        "token_embedder/embedding"
    ].dtype == (jnp.dtype(dtype))
    wide = Model.load(tmp_path / "deep" / "model", frozen_dtype="float32")
    assert {str(x.dtype) for x in jax.tree.leaves(wide.params)} == {"float32"}


def test_the_files_are_plain_safetensors_with_t5x_names(tmp_path):
    tiny = model()
    arrays = load_file(saved(tmp_path / "model") / "downstream.safetensors")
    kernel = arrays["decoder/layers_1/self_attention/query/kernel"]
    stacked = tiny.params["downstream"]["decoder"]["layers"]
    np.testing.assert_array_equal(
        kernel, stacked["self_attention"]["query"]["kernel"][1]
    )


def test_phi_goes_from_one_machine_to_another(tmp_path):
    tiny = model()
    phi = tiny.adapt(EXAMPLES)
    phi.save(tmp_path / "phi.safetensors")
    carried = hypert5_jax.load(saved(tmp_path / "model"))
    again = hypert5_jax.Phi.load(tmp_path / "phi.safetensors")
    assert carried.generate(["ab"], again) == tiny.generate(["ab"], phi)


def edited(folder, change):
    content = json.loads((folder / "model.json").read_text())
    change(content)
    (folder / "model.json").write_text(json.dumps(content))


def overwritten(folder, change):
    """downstream.safetensors with other bytes."""
    file = folder / "downstream.safetensors"
    file.write_bytes(change(file.read_bytes()))


def with_header(raw, change):
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def longer(header):
    header["decoder/decoder_norm/scale"]["data_offsets"][1] += 10**9


def larger(header):
    header["decoder/decoder_norm/scale"]["shape"] = [10**12]


def nan_inside(raw):
    return raw[:-4] + struct.pack("<f", float("nan"))


DAMAGES = {
    "half": (
        lambda f: (f / "downstream.safetensors").unlink(),
        "downstream.safetensors is missing",
    ),
    "unfinished": (lambda f: (f / "model.json").unlink(), "no model.json: saving or"),
    "truncated": (
        lambda f: overwritten(f, lambda raw: raw[:-9]),
        "not a whole safetensors file",
    ),
    "header too long": (
        lambda f: overwritten(f, lambda raw: b"\xff" * 7 + b"\x7f" + raw[8:]),
        "not a whole safetensors file",
    ),
    "offsets that lie": (
        lambda f: overwritten(f, lambda raw: with_header(raw, longer)),
        "not a whole safetensors file",
    ),
    "shapes that lie": (
        lambda f: overwritten(f, lambda raw: with_header(raw, larger)),
        "not a whole safetensors file",
    ),
    "NaN": (lambda f: overwritten(f, nan_inside), "holds NaN or infinity"),
    "other weights": (
        lambda f: overwritten(f, lambda raw: raw[:-4] + struct.pack("<f", 7.0)),
        "not the one that model.json was written beside",
    ),
    "a zip": (
        lambda f: overwritten(f, lambda raw: b"PK\x03\x04" + raw),
        "not a whole safetensors file",
    ),
    "other sizes": (
        lambda f: edited(f, lambda c: c["system"]["downstream"].update(mlp_dim=44)),
        r"mlp/wi_0/kernel is \(32, 40\) there, \(32, 44\) here",
    ),
    "no JSON": (lambda f: (f / "model.json").write_text('{"format'), "is not whole"),
    "another file": (
        lambda f: (f / "model.json").write_text('{"a": 1}'),
        "does not describe a model",
    ),
    "a later version": (
        lambda f: edited(f, lambda c: c.update(version=2)),
        "version 2, this program reads version 1",
    ),
    "an unknown setting": (
        lambda f: edited(f, lambda c: c["system"]["variant"].update(new=1)),
        "not what this release writes",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_one_message(tmp_path, damage):
    folder = saved(tmp_path / "model")
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(UserError, match=message):
        Model.load(folder)


def test_a_folder_that_is_no_model_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match="there is no .*nowhere"):
        Model.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="has no model.json"):
        Model.load(tmp_path)
    folder = saved(tmp_path / "model")
    with pytest.raises(UserError, match="has its T5 inside"):
        Model.load(folder, base="elsewhere")
    with pytest.raises(UserError, match="frozen_dtype is 'int8'"):
        Model.load(folder, frozen_dtype="int8")
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(UserError, match="holds a run's checkpoints"):
        model().save(tmp_path / "run")


def test_a_sentencepiece_vocabulary_travels_along(tmp_path):
    from hypert5_jax.data.vocabulary import MODEL_FILE, Vocabulary, fingerprint

    file = tmp_path / "spm" / MODEL_FILE
    file.parent.mkdir()
    _train(file)
    words = Vocabulary(
        "sentencepiece",
        *(40, 4, fingerprint("sentencepiece", file.read_bytes(), 4)),
        model_path=str(file),
    )
    tiny = model()
    other = Model(
        *(tiny.system, tiny.params, words, tiny.row, tiny.base_model), name="spm"
    )
    folder = saved(tmp_path / "model", other)
    again = Model.load(folder)
    assert again.input_ids("a cat sat") == other.input_ids("a cat sat")
    assert dataclasses.replace(
        again.vocabulary, model_path=None
    ) == dataclasses.replace(words, model_path=None)
    (folder / MODEL_FILE).write_bytes(b"other")
    with pytest.raises(UserError, match="is not the vocabulary that the model"):
        Model.load(folder)
    (folder / MODEL_FILE).unlink()
    with pytest.raises(UserError, match="vocabulary.model is missing"):
        Model.load(folder)
    file.unlink()
    with pytest.raises(UserError, match="vocabulary model .* is missing"):
        saved(tmp_path / "again", other)


def _train(file):
    import io

    import sentencepiece

    model_bytes = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a cat sat", "the dog ran", "a dog sat"] * 9),
        model_writer=model_bytes,
        vocab_size=36,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    file.write_bytes(model_bytes.getvalue())
