"""φ <-> peft: names, shapes, scales and refusals by hand; test_peft_logits.py has peft."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hypert5_jax.checkpoints import peft_adapter
from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, phi_shapes
from tests.models import TINY, random_tree
from tests.t5 import hf_weights

MODULES = [
    name.removesuffix(".weight")
    for name in hf_weights.hf_shapes(TINY)
    if name.endswith("weight")
]


def random_phi(spec, batch=1):
    return random_tree(phi_shapes(spec, TINY.sites, batch), 0)


def arrays_of(phi):
    return dict(types.named_arrays(phi))


def adapter(folder, arrays=None, **settings):
    """A folder as peft writes it, one query map of rank 2 adapted."""
    name = "base_model.model.encoder.block.1.layer.0.SelfAttention.q.lora_{}.weight"
    if arrays is None:
        rng = np.random.default_rng(0)
        arrays = {
            name.format("A"): rng.standard_normal((2, 32)).astype(np.float32),
            name.format("B"): rng.standard_normal((24, 2)).astype(np.float32),
        }
    folder.mkdir(exist_ok=True)
    save_file(arrays, folder / peft_adapter.WEIGHTS)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q"]}
    (folder / peft_adapter.CONFIG).write_text(json.dumps({**config, **settings}))
    return str(folder), arrays


def test_an_adapter_names_exactly_the_maps_that_phi_touches(tmp_path):
    spec = LoRASpec(3, maps=("query", "key", "value", "out"))
    kept = {
        f"{site}/{name}/{part}"
        for site, maps in {
            "encoder/self_attention": ("query", "value"),
            "decoder/self_attention": ("out",),
            "decoder/cross_attention": ("key", "value"),
        }.items()
        for name in maps
        for part in "ab"
    }
    arrays = {k: v for k, v in arrays_of(random_phi(spec)).items() if k in kept}
    # A zero factor: that layer's map is as it was.
    arrays["decoder/cross_attention/key/b"][1] = 0
    phi = types.from_named_arrays(arrays)
    modules = peft_adapter.save_adapter(str(tmp_path), phi, 3)
    expected = {
        f"encoder.block.{i}.layer.0.SelfAttention.{m}" for i in (0, 1) for m in "qv"
    }
    expected |= {f"decoder.block.{i}.layer.0.SelfAttention.o" for i in (0, 1, 2)}
    expected |= {f"decoder.block.{i}.layer.1.EncDecAttention.k" for i in (0, 2)}
    expected |= {f"decoder.block.{i}.layer.1.EncDecAttention.v" for i in (0, 1, 2)}
    assert set(modules) == expected
    config = json.loads((tmp_path / peft_adapter.CONFIG).read_text())
    pattern = config["target_modules"]
    assert {m for m in MODULES if re.fullmatch(pattern, m)} == expected
    assert config["lora_alpha"] == config["r"] == 3
    written = load_file(tmp_path / peft_adapter.WEIGHTS)
    assert {k.split("model.", 2)[2].rsplit(".lora", 1)[0] for k in written} == expected
    cross = "base_model.model.decoder.block.2.layer.1.EncDecAttention.k.lora_{}.weight"
    np.testing.assert_array_equal(
        written[cross.format("A")], arrays["decoder/cross_attention/key/a"][2, 0].T
    )
    np.testing.assert_array_equal(
        written[cross.format("B")], arrays["decoder/cross_attention/key/b"][2, 0].T
    )


def test_phi_to_peft_and_back_is_the_identity(tmp_path):
    spec = LoRASpec(3, maps=("query", "out"))
    phi = random_phi(spec)
    peft_adapter.save_adapter(str(tmp_path), phi, 3)
    again, read = peft_adapter.load_adapter(str(tmp_path), TINY.sites)
    assert read == spec
    for name, array in arrays_of(phi).items():
        np.testing.assert_array_equal(arrays_of(again)[name], array)


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 6 / 2),
        ({"use_rslora": True}, 6 / 2**0.5),
        ({"alpha_pattern": {"SelfAttention.q": 10}}, 10 / 2),
        ({"alpha_pattern": {"EncDecAttention.q": 10}}, 6 / 2),
        ({"r": 8, "rank_pattern": {"encoder.block.1.layer.0.SelfAttention.q": 2}}, 3),
    ],
)
def test_scales_are_folded_into_b(tmp_path, settings, scale):
    path, arrays = adapter(tmp_path / "a", **settings)
    phi, spec = peft_adapter.load_adapter(path, TINY.sites)
    assert spec == LoRASpec(2, maps=("query",))
    a, b = (arrays_of(phi)[f"encoder/self_attention/query/{part}"] for part in "ab")
    first, second = arrays.values()
    np.testing.assert_allclose(a[1, 0], first.T)
    np.testing.assert_allclose(b[1, 0], second.T * scale, rtol=1e-6)
    # What the adapter does not touch stays as it is.
    assert not a[0].any() and not b[0].any()
    assert not any(
        x.any() for k, x in arrays_of(phi).items() if "encoder/self" not in k
    )


def test_smaller_ranks_are_padded_with_zeros(tmp_path):
    _, arrays = adapter(tmp_path / "a")
    rng = np.random.default_rng(1)
    wide = "base_model.model.decoder.block.0.layer.1.EncDecAttention.o.lora_{}.weight"
    arrays[wide.format("A")] = rng.standard_normal((5, 24)).astype(np.float32)
    arrays[wide.format("B")] = rng.standard_normal((32, 5)).astype(np.float32)
    settings = {"rank_pattern": {"EncDecAttention.o": 5}}
    path, _ = adapter(tmp_path / "a", arrays, **settings)
    phi, spec = peft_adapter.load_adapter(path, TINY.sites)
    assert spec == LoRASpec(5, maps=("query", "out"))
    found = arrays_of(phi)
    a, b = (found[f"encoder/self_attention/query/{part}"][1, 0] for part in "ab")
    assert not a[:, 2:].any() and not b[2:].any()
    first, second = list(arrays.values())[:2]
    np.testing.assert_allclose(a[:, :2], first.T)
    np.testing.assert_allclose(b[:2], 3 * second.T, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "type IA3"),
        ({"use_dora": True}, "use_dora = True; DoRA"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "'pissa' changed the base weights"),
        ({"r": 4}, "says rank 4"),
    ],
)
def test_what_is_more_than_lora_is_refused_by_name(tmp_path, settings, said):
    path, _ = adapter(tmp_path / "a", **settings)
    with pytest.raises(UserError, match=re.escape(said)):
        peft_adapter.load_adapter(path, TINY.sites)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("encoder.block.0.layer.1.DenseReluDense.wi_0", "q, k, v, o of a T5's"),
        ("lm_head", "q, k, v, o of a T5's"),
        ("model.layers.0.self_attn.q_proj", "q, k, v, o of a T5's"),
        ("encoder.block.0.layer.1.EncDecAttention.q", "q, k, v, o of a T5's"),
        ("encoder.block.2.layer.0.SelfAttention.q", "this T5 has 2 layers"),
        ("encoder.block.0.layer.0.SelfAttention.o", "this T5 maps 24 to 32"),
    ],
)
def test_other_modules_and_other_t5s_are_refused_by_name(tmp_path, module, said):
    arrays = {
        f"base_model.model.{module}.lora_A.weight": np.ones((2, 32), np.float32),
        f"base_model.model.{module}.lora_B.weight": np.ones((24, 2), np.float32),
    }
    path, _ = adapter(tmp_path / "a", arrays)
    with pytest.raises(UserError, match=re.escape(said)) as refusal:
        peft_adapter.load_adapter(path, TINY.sites)
    assert module in str(refusal.value)


def test_half_and_damaged_adapters_are_refused(tmp_path):
    path, arrays = adapter(tmp_path / "a")
    weights = tmp_path / "a" / peft_adapter.WEIGHTS

    def refused(said):
        with pytest.raises(UserError, match=said):
            peft_adapter.load_adapter(path, TINY.sites)

    broken = {name: array.copy() for name, array in arrays.items()}
    next(iter(broken.values()))[0, 0] = np.nan
    adapter(tmp_path / "a", broken)
    refused("NaN")
    first = dict([next(iter(arrays.items()))])
    adapter(tmp_path / "a", first)
    refused("only one of its factors")
    adapter(tmp_path / "a", arrays)
    weights.write_bytes(weights.read_bytes()[:-10])
    refused("not a whole safetensors file")
    weights.rename(weights.with_name(peft_adapter.PICKLED))
    refused("load the adapter with peft and save it again")
    weights.with_name(peft_adapter.PICKLED).unlink()
    refused("half an adapter: it has no adapter_model.safetensors")
    adapter(tmp_path / "a", arrays)
    (tmp_path / "a" / peft_adapter.CONFIG).write_text("{")
    refused("not a peft configuration")
    (tmp_path / "a" / peft_adapter.CONFIG).unlink()
    assert peft_adapter.is_adapter(path)
    refused("half an adapter: it has no adapter_config.json")


def test_a_prefix_several_phi_and_a_zero_phi_are_no_adapter(tmp_path):
    for phi, said in (
        (random_phi(PrefixSpec(2)), "its encoder never sees a prefix.*hf-runtime"),
        (random_phi(LoRASpec(2), batch=3), "holds 3 adaptations"),
        (
            types.from_named_arrays(
                {k: 0 * v for k, v in arrays_of(random_phi(LoRASpec(2))).items()}
            ),
            "zero everywhere",
        ),
    ):
        with pytest.raises(UserError, match=said):
            peft_adapter.save_adapter(str(tmp_path / "a"), phi, 2)
    assert not (tmp_path / "a").exists()
