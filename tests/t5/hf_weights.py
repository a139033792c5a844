"""Hugging Face's names and layout of a T5 v1.1, and what they are called here.

Written from Hugging Face's state dict, independently of any converter of ours, so that
it can judge both the model and the converter. Weights come from raw Philox bits: the
same numbers on every machine, with every version of NumPy.

    encoder.block.0.layer.0.SelfAttention.q.weight  [out, in]
    <-> encoder/layers_0/attention/query/kernel     [in, out]
"""

import re
import zlib

import numpy as np

from hypert5_jax.t5.config import T5Config

_MAPS = {"q": "query", "k": "key", "v": "value", "o": "out"}
# {stack: the parts of a block in Hugging Face's order: (their name, our name, our norm)}
_PARTS = {
    "encoder": [
        ("SelfAttention", "attention", "pre_attention_layer_norm"),
        ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
    ],
    "decoder": [
        ("SelfAttention", "self_attention", "pre_self_attention_layer_norm"),
        (
            "EncDecAttention",
            "encoder_decoder_attention",
            "pre_cross_attention_layer_norm",
        ),
        ("DenseReluDense", "mlp", "pre_mlp_layer_norm"),
    ],
}


def hf_shapes(cfg: T5Config) -> dict[str, tuple[int, ...]]:
    """{name: shape} of T5ForConditionalGeneration, untied, gated GELU."""
    embed, inner = cfg.emb_dim, cfg.num_heads * cfg.head_dim
    shapes = {
        "shared.weight": (cfg.vocab_size, embed),
        "lm_head.weight": (cfg.vocab_size, embed),
    }
    depths = {"encoder": cfg.num_encoder_layers, "decoder": cfg.num_decoder_layers}
    for stack, depth in depths.items():
        shapes[f"{stack}.final_layer_norm.weight"] = (embed,)
        shapes[
            f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        ] = (cfg.relative_attention_num_buckets, cfg.num_heads)
        for block in range(depth):
            for part, (name, _, _) in enumerate(_PARTS[stack]):
                path = f"{stack}.block.{block}.layer.{part}"
                shapes[f"{path}.layer_norm.weight"] = (embed,)
                if name == "DenseReluDense":
                    shapes[f"{path}.{name}.wi_0.weight"] = (cfg.mlp_dim, embed)
                    shapes[f"{path}.{name}.wi_1.weight"] = (cfg.mlp_dim, embed)
                    shapes[f"{path}.{name}.wo.weight"] = (embed, cfg.mlp_dim)
                else:
                    for letter in "qkv":
                        shapes[f"{path}.{name}.{letter}.weight"] = (inner, embed)
                    shapes[f"{path}.{name}.o.weight"] = (embed, inner)
    return shapes


def noise(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Uniform float32 numbers of mean 0 and variance 1, a function of the arguments."""
    bits = np.random.Philox(key=[seed, zlib.crc32(name.encode())])
    raw = bits.random_raw(int(np.prod(shape)))
    unit = (raw >> np.uint64(40)).astype(np.float32) / np.float32(1 << 24)
    return ((unit - np.float32(0.5)) * np.float32(12.0**0.5)).reshape(shape)


def random_hf_weights(cfg: T5Config, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a trained model's order of magnitude, norms and biases far from trivial.

    T5 scales no attention score: queries are drawn 1/sqrt(head_dim) smaller.
    """
    weights = {}
    for name, shape in hf_shapes(cfg).items():
        x = noise(name, shape, seed)
        if name.endswith("norm.weight"):
            x = 1 + 0.2 * x
        elif name == "lm_head.weight":
            x = 2 * x / np.sqrt(cfg.emb_dim)
        elif name != "shared.weight" and "relative_attention" not in name:
            scale = np.sqrt(cfg.head_dim) if name.endswith(".q.weight") else 1.0
            x = 1.5 * x / np.sqrt(shape[1]) / scale
        weights[name] = x.astype(np.float32)
    return weights


def our_path(name: str) -> str:
    """What a Hugging Face parameter is called in the unstacked T5X layout."""
    if name == "shared.weight":
        return "token_embedder/embedding"
    if name == "lm_head.weight":
        return "decoder/logits_dense/kernel"
    stack, rest = name.split(".", 1)
    if rest == "final_layer_norm.weight":
        return f"{stack}/{stack}_norm/scale"
    if "relative_attention_bias" in rest:
        return f"{stack}/relpos_bias/rel_embedding"
    found = re.fullmatch(r"block\.(\d+)\.layer\.(\d+)\.(.*)\.weight", rest)
    assert found, f"not a parameter of T5: {name}"
    theirs, ours, norm = _PARTS[stack][int(found[2])]
    layer = f"{stack}/layers_{found[1]}"
    if found[3] == "layer_norm":
        return f"{layer}/{norm}/scale"
    assert found[3].startswith(f"{theirs}."), name
    kernel = found[3].removeprefix(f"{theirs}.")
    return f"{layer}/{ours}/{_MAPS.get(kernel, kernel)}/kernel"


def _keeps_orientation(name: str) -> bool:
    return name == "shared.weight"


def to_ours(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{our path, unstacked: array}; their matrices are [out, in], ours [in, out]."""
    return {
        our_path(name): np.ascontiguousarray(x if _keeps_orientation(name) else x.T)
        for name, x in weights.items()
    }


def to_hf(flat: dict[str, np.ndarray], cfg: T5Config) -> dict[str, np.ndarray]:
    """The inverse of `to_ours`; every array of `flat` must have a place.

    Raises:
      AssertionError: `flat` has other paths than a T5 of these sizes.
    """
    names = {our_path(name): name for name in hf_shapes(cfg)}
    assert set(names) == set(flat), set(names) ^ set(flat)
    return {
        name: np.asarray(flat[path] if _keeps_orientation(name) else flat[path].T)
        for path, name in names.items()
    }
