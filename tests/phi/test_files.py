"""φ files: what is written is read, and what does not fit is refused with its sizes."""

import dataclasses
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.files import PhiHeader, load_phi, save_phi
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from hypert5_jax.t5.config import SIZES
from tests.models import TINY, random_tree

PREFIX, LORA = PrefixSpec(3), LoRASpec(2, alpha=4.0)


def header(spec, config=TINY, base_model="a" * 64):
    return PhiHeader(spec, config.sites, base_model, "adapted from 16 examples")


def phi_for(spec, config=TINY, batch=1):
    return random_tree(phi_shapes(spec, config.sites, batch), 0)


@pytest.mark.parametrize("spec", [PREFIX, LORA], ids=["prefix", "lora"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_saved_phi_loads_as_it_was(tmp_path, spec, dtype):
    phi = jax.tree.map(lambda a: jnp.asarray(a, dtype), phi_for(spec, batch=2))
    path = str(tmp_path / "deep" / "phi.safetensors")
    save_phi(path, phi, header(spec))
    again, read = load_phi(path, TINY.sites, "a" * 64)
    assert jax.tree.structure(again) == jax.tree.structure(phi)
    jax.tree.map(np.testing.assert_array_equal, again, phi)
    assert all(a.dtype == dtype for a in jax.tree.leaves(again))
    assert read == header(spec)


def test_the_header_is_readable_without_this_package(tmp_path):
    path = tmp_path / "phi.safetensors"
    save_phi(str(path), phi_for(LORA), header(LORA))
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = json.loads(raw[8 : 8 + length])["__metadata__"]
    assert text["adaptation"] == "lora"
    assert text["base_model"] == "a" * 64
    assert text["origin"] == "adapted from 16 examples"
    assert json.loads(text["sites"])["encoder/self_attention"]["heads"] == 2


def test_a_phi_for_another_model_is_refused_with_both_sizes(tmp_path):
    path = str(tmp_path / "phi.safetensors")
    save_phi(path, phi_for(PREFIX), header(PREFIX))
    with pytest.raises(UserError) as refusal:
        load_phi(path, SIZES["small"].sites)
    assert "2 layers of 2 heads x 12" in str(refusal.value)
    assert "8 layers of 6 heads x 64" in str(refusal.value)


def test_a_phi_for_other_weights_is_refused_by_fingerprint(tmp_path):
    path = str(tmp_path / "phi.safetensors")
    save_phi(path, phi_for(PREFIX), header(PREFIX))
    with pytest.raises(UserError, match="aaaaaaaa.*bbbbbbbb"):
        load_phi(path, TINY.sites, "b" * 64)


def test_a_phi_that_is_not_what_its_header_says_is_neither_written_nor_read(tmp_path):
    path = tmp_path / "phi.safetensors"
    with pytest.raises(UserError, match="coder/self_attention/prefix/keys"):
        save_phi(str(path), phi_for(PrefixSpec(4)), header(PREFIX))
    broken = phi_for(PREFIX)
    broken.encoder.self_attention.prefix.keys[0, 0, 0, 0, 0] = np.nan
    with pytest.raises(UserError, match="NaN"):
        save_phi(str(path), broken, header(PREFIX))
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_a_foreign_and_a_missing_file_are_refused(tmp_path):
    path = tmp_path / "phi.safetensors"
    save_phi(str(path), phi_for(PREFIX), header(PREFIX))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_phi(str(path))
    path.write_bytes(b"PK\x03\x04 a zip, not a phi")
    with pytest.raises(UserError, match="not a whole safetensors file"):
        load_phi(str(path))
    with pytest.raises(UserError, match="no φ file"):
        load_phi(str(tmp_path / "absent"))


def test_phi_is_written_over_phi_and_over_nothing_else(tmp_path):
    path = tmp_path / "few.jsonl"
    for mine in (b'{"input": "a", "target": "b"}\n', b"\x02" + bytes(7) + b"{}"):
        path.write_bytes(mine)
        with pytest.raises(UserError, match="few.jsonl is there and is no φ file"):
            save_phi(str(path), phi_for(PREFIX), header(PREFIX))
        assert path.read_bytes() == mine and [path] == list(tmp_path.iterdir())
    path.write_bytes(b"")
    for spec in (PREFIX, LORA):
        save_phi(str(path), phi_for(spec), header(spec))
        assert load_phi(str(path))[1].spec == spec


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spec", '{"length": 3, "later": 1}'),
        ("spec", "[3]"),
        ("sites", "[]"),
        ("sites", "{}"),
        ("sites", '{"encoder/self_attention": {}}'),
        ("adaptation", "prompt"),
        ("base_model", None),
    ],
)
def test_a_header_that_lies_is_one_message(tmp_path, field, value):
    path = tmp_path / "phi.safetensors"
    save_phi(str(path), phi_for(PREFIX), header(PREFIX))
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    text = json.loads(raw[8 : 8 + length])
    text["__metadata__"][field] = value
    if value is None:
        del text["__metadata__"][field]
    changed = json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(changed)) + changed + raw[8 + length :])
    with pytest.raises(UserError, match="damaged φ header"):
        load_phi(str(path), TINY.sites)


def test_a_newer_format_asks_for_an_update(tmp_path, monkeypatch):
    path = str(tmp_path / "phi.safetensors")
    monkeypatch.setattr("hypert5_jax.phi.files.VERSION", 2)
    save_phi(path, phi_for(PREFIX), header(PREFIX))
    monkeypatch.setattr("hypert5_jax.phi.files.VERSION", 1)
    with pytest.raises(UserError, match="version 2"):
        load_phi(path)


def test_specifications_check_themselves():
    with pytest.raises(UserError, match="rank 0"):
        LoRASpec(rank=0)
    with pytest.raises(UserError, match="maps"):
        LoRASpec(maps=("query", "keys"))
    with pytest.raises(UserError, match="cross_attention"):
        PrefixSpec(cross_attention="both")
    assert dataclasses.replace(LORA, alpha=None).scale == 1.0
    assert LORA.scale == 2.0
