"""The other T5: Hugging Face's, with given weights. Needs torch and transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hypert5_jax.t5.config import T5Config
from tests.t5 import hf_weights
from tests.t5.parity import Case, Outcome


def load(cfg: T5Config, weights: dict[str, np.ndarray], folder: Path) -> Any:
    """A T5ForConditionalGeneration read from a checkpoint written to `folder`.

    transformers 5 constructs every T5 with tied embeddings whatever its configuration
    says, and only loading a checkpoint with another lm_head.weight unties them.
    """
    import torch
    import transformers
    from safetensors.numpy import save_file

    config = {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": cfg.vocab_size,
        "d_model": cfg.emb_dim,
        "d_kv": cfg.head_dim,
        "d_ff": cfg.mlp_dim,
        "num_heads": cfg.num_heads,
        "num_layers": cfg.num_encoder_layers,
        "num_decoder_layers": cfg.num_decoder_layers,
        "relative_attention_num_buckets": cfg.relative_attention_num_buckets,
        "relative_attention_max_distance": cfg.relative_attention_max_distance,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
        "tie_word_embeddings": False,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    loaded = dict(model.named_parameters())
    assert set(loaded) == set(hf_weights.hf_shapes(cfg))
    for name, x in weights.items():
        assert np.array_equal(loaded[name].detach().numpy(), x), name
    return model


def theirs(case: Case, model: Any, dtype: str = "float32") -> Outcome:
    """`model` on the case's batch, in `dtype`."""
    import torch

    model = model.to(getattr(torch, dtype))
    inputs, targets = (torch.from_numpy(x).long() for x in case.batch())
    model.zero_grad()
    output = model(
        input_ids=inputs,
        attention_mask=(inputs != 0).long(),
        labels=targets.masked_fill(targets == 0, -100),
    )
    output.loss.backward()
    gradients = {
        name: parameter.grad.float().numpy()
        for name, parameter in model.named_parameters()
    }
    logits = output.logits.detach().float().numpy()
    return Outcome(logits, float(output.loss.detach()), gradients)
