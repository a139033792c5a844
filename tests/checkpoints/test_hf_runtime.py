"""hf_runtime.py: φ on an unmodified Hugging Face T5 says what it says on ours."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest

from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from tests.checkpoints import phi_cases
from tests.t5 import hf_weights, huggingface, parity

SOURCE = Path(importlib.util.find_spec("hypert5_jax").origin).parent / (
    "checkpoints/hf_runtime.py"
)
SPECS = {
    "prefix": PrefixSpec(5),
    "prefix, shared across": PrefixSpec(5, "share_decoder"),
    "prefix, own across": PrefixSpec(5, "own"),
    "lora": LoRASpec(3),
    "lora everywhere": LoRASpec(3, maps=("query", "key", "value", "out")),
}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The file as a user has it: a copy, imported by itself."""
    pytest.importorskip("torch", reason="needs the extra `parity`")
    pytest.importorskip("transformers", reason="needs the extra `parity`")
    place = tmp_path_factory.mktemp("theirs") / "hf_runtime.py"
    shutil.copy(SOURCE, place)
    spec = importlib.util.spec_from_file_location("copied_hf_runtime", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def weights():
    return hf_weights.random_hf_weights(phi_cases.CONFIG)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request, weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    model = huggingface.load(phi_cases.CONFIG, weights, folder)
    model.set_attn_implementation(request.param)
    return model.eval()


@pytest.fixture(scope="module")
def params(weights):
    return phi_cases.our_params(weights)


@pytest.mark.parity
@pytest.mark.parametrize("name", list(SPECS))
def test_logits_are_ours_and_unchanged_after(
    runtime, model, weights, params, name, tmp_path
):
    spec = SPECS[name]
    phi = phi_cases.random_phi(spec)
    path = phi_cases.written(
        tmp_path / "phi.safetensors", phi, phi_cases.header(spec, weights)
    )
    before, names = phi_cases.their_logits(model), set(model.state_dict())
    with runtime.apply_phi(model, path):
        found = phi_cases.their_logits(model)
        assert set(model.state_dict()) == names
    ours = phi_cases.our_logits(params, phi_cases.in_use(phi, spec))
    assert parity.difference(ours, before) > 0.05
    assert parity.difference(found, ours) <= parity.TOLERANCE
    np.testing.assert_array_equal(phi_cases.their_logits(model), before)
    assert not list(model.named_buffers())
