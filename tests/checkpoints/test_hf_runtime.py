"""hf_runtime.py: φ on an unmodified Hugging Face T5 says what it says on ours."""

import ast
import dataclasses
import importlib.util
import shutil
import sys
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


# generate() of transformers 5 sizes its cache by the encoder's depth.
GENERATING = dataclasses.replace(phi_cases.CONFIG, num_decoder_layers=2)


@pytest.fixture(scope="module")
def generating(tmp_path_factory):
    """(weights, model, our parameters) of a T5 that `generate` runs."""
    weights = hf_weights.random_hf_weights(GENERATING)
    model = huggingface.load(GENERATING, weights, tmp_path_factory.mktemp("hf"))
    return weights, model.eval(), phi_cases.our_params(weights)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["prefix, own across", "lora everywhere"])
def test_greedy_answers_with_a_cache_are_ours(runtime, generating, name, tmp_path):
    """Six rows, each with a φ of its own, and six that share one."""
    weights, model, params = generating
    spec = SPECS[name]
    about = phi_cases.header(spec, weights, GENERATING)
    phis = [phi_cases.random_phi(spec, i, config=GENERATING) for i in range(6)]
    paths = [
        phi_cases.written(tmp_path / f"{i}.safetensors", phi, about)
        for i, phi in enumerate(phis)
    ]
    inputs = phi_cases.inputs_in_front()
    plain = phi_cases.their_answers(model, inputs)
    for chosen, phi in ((paths, phi_cases.joined(phis)), (paths[0], phis[0])):
        expected = phi_cases.our_answers(params, phi, inputs, GENERATING)
        for settings in ({}, {"use_cache": False}):
            with runtime.apply_phi(model, chosen):
                found = phi_cases.their_answers(model, inputs, **settings)
            np.testing.assert_array_equal(found, expected)
        assert (found != plain).any()


@pytest.mark.parity
def test_beams_of_a_row_share_its_phi(runtime, generating, tmp_path):
    """Three rows with a φ each, 4 beams: what every row gets when it is alone."""
    weights, model, _ = generating
    spec = SPECS["prefix"]
    about = phi_cases.header(spec, weights, GENERATING)
    inputs, paths = phi_cases.inputs_in_front()[:3], []
    for i in range(3):
        phi = phi_cases.random_phi(spec, i, config=GENERATING)
        path = tmp_path / f"{i}.safetensors"
        paths.append(phi_cases.written(path, phi, about))
    with runtime.apply_phi(model, paths):
        together = phi_cases.their_answers(model, inputs, num_beams=4)
    for i, path in enumerate(paths):
        with runtime.apply_phi(model, path):
            alone = phi_cases.their_answers(model, inputs[i : i + 1], num_beams=4)
        np.testing.assert_array_equal(together[i : i + 1], alone)


@pytest.mark.parity
def test_what_does_not_fit_is_refused_and_the_model_left_as_it_was(
    runtime, generating, tmp_path
):
    weights, model, _ = generating
    spec = LoRASpec(2)
    phi = phi_cases.random_phi(spec, config=GENERATING)
    about = phi_cases.header(spec, weights, GENERATING)

    def refused(said, chosen, **settings):
        with pytest.raises(runtime.PhiError, match=said):
            runtime.apply_phi(model, chosen, **settings)

    path = phi_cases.written(tmp_path / "right", phi, about)
    other = dataclasses.replace(about, base_model="a" * 64)
    other_path = phi_cases.written(tmp_path / "other", phi, other)
    refused("made for the T5 with fingerprint aaaa", other_path)
    runtime.apply_phi(model, other_path, check_weights=False).remove()
    deeper = phi_cases.random_phi(spec)
    deeper_path = phi_cases.written(
        tmp_path / "deeper", deeper, phi_cases.header(spec, weights)
    )
    refused("made for a T5 whose decoder/cross_attention", deeper_path)
    wide = LoRASpec(3)
    wide_path = phi_cases.written(
        tmp_path / "wide",
        phi_cases.random_phi(wide, config=GENERATING),
        phi_cases.header(wide, weights, GENERATING),
    )
    refused("differ in spec", [path, wide_path])
    refused("no φ file is given", [])
    (tmp_path / "cut").write_bytes(Path(path).read_bytes()[:-9])
    refused("not a whole safetensors file", str(tmp_path / "cut"))
    refused("not a whole safetensors file", str(tmp_path / "absent"))
    with runtime.apply_phi(model, path):
        refused("a φ is at work", path)
    with (
        runtime.apply_phi(model, [path, path]),
        pytest.raises(runtime.PhiError, match="2 φ met a batch of 3 rows"),
    ):
        phi_cases.their_answers(model, phi_cases.inputs_in_front()[:3])
    plain = phi_cases.their_answers(model, phi_cases.inputs_in_front())
    again = huggingface.load(GENERATING, weights, tmp_path / "hf").eval()
    np.testing.assert_array_equal(
        plain, phi_cases.their_answers(again, phi_cases.inputs_in_front())
    )


def test_the_file_stands_alone():
    """It imports torch, transformers, safetensors (which comes with them), and Python."""
    roots = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            roots.add(node.module.split(".")[0])
    assert roots - set(sys.stdlib_module_names) == {
        "safetensors",
        "torch",
        "transformers",
    }
