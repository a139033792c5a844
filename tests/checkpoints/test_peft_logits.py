"""peft itself on Hugging Face's T5 against φ on ours, both ways."""

import json

import pytest

from hypert5_jax.checkpoints import peft_adapter
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import LoRASpec
from tests.checkpoints import phi_cases
from tests.t5 import hf_weights, huggingface, parity

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def peft():
    pytest.importorskip("torch", reason="needs the extra `parity`")
    return pytest.importorskip("peft", reason="needs the extra `parity`")


@pytest.fixture(scope="module")
def weights():
    return hf_weights.random_hf_weights(phi_cases.CONFIG)


@pytest.fixture
def model(peft, weights, tmp_path):
    return huggingface.load(phi_cases.CONFIG, weights, tmp_path / "hf").eval()


def ragged():
    """A φ whose sites differ in the maps they touch, and layers with nothing."""
    spec = LoRASpec(3, maps=("query", "key", "value", "out"))
    arrays = dict(types.named_arrays(phi_cases.random_phi(spec)))
    for name in list(arrays):
        if name.startswith("encoder") and "/key/" in name:
            del arrays[name]
        if name.startswith("decoder/self") and "/out/" not in name:
            del arrays[name]
    arrays["decoder/cross_attention/value/b"][1] = 0
    return types.from_named_arrays(arrays)


@pytest.mark.parametrize(
    "phi",
    [phi_cases.random_phi(LoRASpec(4)), ragged()],
    ids=["queries and values", "sites that differ"],
)
def test_peft_says_what_our_t5_says_with_phi(peft, model, weights, phi, tmp_path):
    rank = next(types.named_arrays(phi))[1].shape[-1]
    modules = peft_adapter.save_adapter(str(tmp_path / "adapter"), phi, rank)
    plain = phi_cases.their_logits(model)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    adapted_modules = {
        name.removeprefix("base_model.model.")
        for name, module in adapted.named_modules()
        if isinstance(module, peft.tuners.lora.LoraLayer)
    }
    assert adapted_modules == set(modules)
    theirs = phi_cases.their_logits(adapted.eval())
    ours = phi_cases.our_logits(phi_cases.our_params(weights), phi)
    assert parity.difference(ours, plain) > 0.05
    assert parity.difference(theirs, ours) <= parity.TOLERANCE


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q", "v"], "lora_alpha": 16},
        {
            "target_modules": r"decoder\..*\.(SelfAttention|EncDecAttention)\.[ko]",
            "rank_pattern": {"EncDecAttention.o": 5, r"block\.1\..*\.k": 2},
            "alpha_pattern": {r".*SelfAttention\.k": 9},
            "use_rslora": True,
        },
        {"target_modules": ["q"], "init_lora_weights": "orthogonal"},
    ],
    ids=["plain", "patterns, rslora, decoder only", "orthogonal"],
)
def test_phi_says_what_a_peft_adapter_says(peft, model, weights, settings, tmp_path):
    import torch

    torch.manual_seed(0)
    plain = phi_cases.their_logits(model)
    config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, **settings)
    adapted = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    theirs = phi_cases.their_logits(adapted)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / peft_adapter.WEIGHTS).is_file()
    phi, _ = peft_adapter.load_adapter(
        str(tmp_path / "adapter"), phi_cases.CONFIG.sites
    )
    ours = phi_cases.our_logits(phi_cases.our_params(weights), phi)
    assert parity.difference(theirs, plain) > 0.02
    assert parity.difference(ours, theirs) <= parity.TOLERANCE


def test_what_is_no_phi_is_refused_as_peft_wrote_it(peft, model, tmp_path):
    from hypert5_jax.core.errors import UserError

    for name, settings, said in (
        ("dora", {"target_modules": ["q"], "use_dora": True}, "DoRA"),
        ("mlp", {"target_modules": ["wi_0", "q"]}, "DenseReluDense.wi_0"),
        ("head", {"target_modules": ["q"], "modules_to_save": ["lm_head"]}, "lm_head"),
    ):
        config = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=4, **settings)
        adapted = peft.get_peft_model(model, config)
        folder = tmp_path / name
        adapted.save_pretrained(str(folder))
        model = adapted.unload()
        assert json.loads((folder / peft_adapter.CONFIG).read_text())
        with pytest.raises(UserError, match=said):
            peft_adapter.load_adapter(str(folder), phi_cases.CONFIG.sites)
