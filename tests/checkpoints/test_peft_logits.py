"""peft itself on Hugging Face's T5 against φ on ours, both ways."""

import json
import os
import re
import subprocess
import sys

import pytest

from hypert5_jax.checkpoints import huggingface as huggingface_folder
from hypert5_jax.checkpoints import merged, peft_adapter
from hypert5_jax.checkpoints.lazy import in_memory
from hypert5_jax.core import trees
from hypert5_jax.phi import types
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5 import stacking
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


def test_a_merged_t5_is_what_peft_merges_and_says_what_phi_makes_it_say(
    peft, model, weights, tmp_path
):
    import numpy as np
    import transformers

    phi = ragged()
    params = phi_cases.our_params(weights)
    flat = trees.flatten(stacking.unstack_layers(params))
    arrays, changed = merged.merged({k: in_memory(v) for k, v in flat.items()}, phi)
    # Encoder: 2 layers of q, v, o; decoder: 3 layers of o, and across of q, k, v, o.
    assert changed == 2 * 3 + 3 * 1 + 3 * 4
    huggingface_folder.write_folder(str(tmp_path / "ours"), arrays, phi_cases.CONFIG)
    ours = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours")
    expected = phi_cases.our_logits(params, phi)
    found = phi_cases.their_logits(ours.eval())
    assert parity.difference(found, expected) <= parity.TOLERANCE

    peft_adapter.save_adapter(str(tmp_path / "adapter"), phi, 3)
    adapted = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    theirs = dict(adapted.merge_and_unload().named_parameters())
    for name, parameter in ours.named_parameters():
        np.testing.assert_allclose(
            parameter.detach(), theirs[name].detach(), atol=1e-6, err_msg=name
        )


def test_what_hf_runtime_s_readme_says_runs_without_this_package(
    peft, model, weights, tmp_path
):
    """Another process, in the folder that `--to=hf-runtime` wrote, which cannot import
    jax or hypert5_jax."""
    from hypert5_jax.config.convert_arguments import Conversion
    from hypert5_jax.config.convert_phi import convert_phi

    spec = PrefixSpec(3)
    phi_cases.written(
        tmp_path / "phi", phi_cases.random_phi(spec), phi_cases.header(spec, weights)
    )
    out = tmp_path / "out"
    convert_phi(Conversion(str(tmp_path / "phi"), "hf-runtime", str(out)), print)
    readme = (out / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    code = code.replace("T5_FOLDER", repr(str(tmp_path / "hf")))
    # A random T5 has no tokenizer: three ids stand in for a text.
    code = re.sub(
        r"from transformers import AutoTokenizer, ",
        "import torch\nfrom transformers import ",
        code,
    )
    code = re.sub(r"tokenizer = .*\n", "", code)
    code = re.sub(
        r"inputs = [^)]*\)", "inputs = {'input_ids': torch.tensor([[5, 6, 7]])}", code
    )
    code = re.sub(r"print\(.*", "print('said', answers.shape)", code)
    code = code.replace("max_new_tokens=128", "max_new_tokens=3, use_cache=False")
    fence = "import sys\nsys.modules['jax'] = sys.modules['hypert5_jax'] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", fence + code],
        cwd=out,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "said torch.Size([1, " in done.stdout


def test_an_older_adapter_in_pytorch_s_file_is_read_and_a_program_in_one_is_not(
    peft, tmp_path
):
    import torch
    from safetensors.torch import load_file

    from hypert5_jax.config.pytorch_files import read_pytorch
    from hypert5_jax.core.errors import UserError

    class Program:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    spec = LoRASpec(2)
    phi = phi_cases.random_phi(spec)
    peft_adapter.save_adapter(str(tmp_path / "a"), phi, 2)
    weights = tmp_path / "a" / peft_adapter.WEIGHTS
    pickled = tmp_path / "a" / peft_adapter.PICKLED
    torch.save(load_file(weights), pickled)
    weights.unlink()
    sites = phi_cases.CONFIG.sites
    found, read = peft_adapter.load_adapter(str(tmp_path / "a"), sites, read_pytorch)
    assert read == spec
    for (name, ours), (_, theirs) in zip(
        types.named_arrays(phi), types.named_arrays(found), strict=True
    ):
        assert (ours == theirs).all(), name
    torch.save({"x": Program()}, pickled)
    with pytest.raises(UserError, match="not a whole file of tensors alone"):
        peft_adapter.load_adapter(str(tmp_path / "a"), sites, read_pytorch)
    assert not (tmp_path / "ran").exists()
