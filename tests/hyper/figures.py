"""Figures 7 and 8 of the paper and the T5 they adapt, again, in float64 NumPy.

A second reading of the paper to judge the first: written after the figures, line by
line, sharing with the package only the names of parameters. Rows are computed one at a
time, so that nothing can leak from one to another.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hypert5_jax.t5.config import T5Config

Floats = NDArray[np.float64]
Params = dict[str, Any]
# {site: {"prefix": (keys, values) each [l, p, heads * head_dim],
#         "query" | "value": (down [l, r, d], up [l, r, heads * head_dim])}}
SitePhis = dict[str, dict[str, tuple[Floats, Floats]]]


def rms_norm(x: Floats, scale: Floats) -> Floats:
    """T5's norm."""
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def gelu(x: Floats) -> Floats:
    """The tanh form."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def bucket(offset: int, both_ways: bool) -> int:
    """T5's bucket of key position minus query position: 32 buckets up to 128."""
    start, count = 0, 32
    if both_ways:
        count = 16
        start = 16 if offset > 0 else 0
        distance = abs(offset)
    else:
        distance = max(-offset, 0)
    exact = count // 2
    if distance < exact:
        return start + distance
    far = np.log(distance / exact) / np.log(128 / exact) * (count - exact)
    return start + min(exact + int(far), count - 1)


def position_bias(table: Floats, q: int, k: int, both_ways: bool) -> Floats:
    """[heads, q, k] from the table [heads, 32]."""
    buckets = [[bucket(j - i, both_ways) for j in range(k)] for i in range(q)]
    return table[:, np.array(buckets)]


def attention(
    cfg: T5Config,
    weights: Params,
    x: Floats,
    attended: Floats,
    bias: Floats,
    adapted: dict[str, tuple[Floats, Floats]],
    layer: int,
) -> Floats:
    """One row's attention: x [q, d] over `attended` [k, d], adapted by φ's `layer`."""

    def project(name: str, source: Floats) -> Floats:
        y = source @ weights[name]["kernel"][layer]
        if name in adapted:
            down, up = (factor[layer] for factor in adapted[name])
            y = y + (source @ down.T) @ up
        return y

    query, key = project("query", x), project("key", attended)
    value = project("value", attended)
    if "prefix" in adapted:
        keys, values = (part[layer] for part in adapted["prefix"])
        key, value = np.concatenate([keys, key]), np.concatenate([values, value])
        # Prefix columns are always visible and have no position.
        bias = np.concatenate([np.zeros((*bias.shape[:2], len(keys))), bias], -1)
    heads = []
    for h in range(cfg.num_heads):
        part = slice(h * cfg.head_dim, (h + 1) * cfg.head_dim)
        scores = query[:, part] @ key[:, part].T + bias[h]
        heads.append(softmax(scores) @ value[:, part])
    return np.concatenate(heads, -1) @ weights["out"]["kernel"][layer]


def mlp(weights: Params, x: Floats, layer: int) -> Floats:
    """Gated GELU."""
    gate, linear, out = (weights[n]["kernel"][layer] for n in ("wi_0", "wi_1", "wo"))
    return (gelu(x @ gate) * (x @ linear)) @ out


def encoder(
    cfg: T5Config, params: Params, tokens: NDArray[np.int32], phi: SitePhis
) -> Floats:
    """[k, d] of one row without padding, tokens int [k]."""
    own = params["encoder"]
    layers = own["layers"]
    x = params["token_embedder"]["embedding"][tokens]
    table = own["relpos_bias"]["rel_embedding"]
    bias = position_bias(table, len(tokens), len(tokens), both_ways=True)
    adapted = phi.get("encoder/self_attention", {})
    for layer in range(cfg.num_encoder_layers):
        y = rms_norm(x, layers["pre_attention_layer_norm"]["scale"][layer])
        x = x + attention(cfg, layers["attention"], y, y, bias, adapted, layer)
        y = rms_norm(x, layers["pre_mlp_layer_norm"]["scale"][layer])
        x = x + mlp(layers["mlp"], y, layer)
    return rms_norm(x, own["encoder_norm"]["scale"])


def decoder(
    cfg: T5Config,
    params: Params,
    x: Floats,
    encoded: Floats,
    phi: SitePhis,
    causal: bool,
) -> Floats:
    """[q, d] of one row: x [q, d] decoder inputs, encoded [k, d]."""
    own = params["decoder"]
    layers = own["layers"]
    # Removing the mask changes no relative position: the pretrained buckets stay.
    table = own["relpos_bias"]["rel_embedding"]
    bias = position_bias(table, len(x), len(x), both_ways=False)
    if causal:
        bias = np.where(np.tri(len(x), dtype=bool), bias, -np.inf)
    no_bias = np.zeros((cfg.num_heads, len(x), len(encoded)))
    self_phi = phi.get("decoder/self_attention", {})
    cross_phi = phi.get("decoder/cross_attention", {})
    for layer in range(cfg.num_decoder_layers):
        y = rms_norm(x, layers["pre_self_attention_layer_norm"]["scale"][layer])
        x = x + attention(cfg, layers["self_attention"], y, y, bias, self_phi, layer)
        y = rms_norm(x, layers["pre_cross_attention_layer_norm"]["scale"][layer])
        cross = layers["encoder_decoder_attention"]
        x = x + attention(cfg, cross, y, encoded, no_bias, cross_phi, layer)
        y = rms_norm(x, layers["pre_mlp_layer_norm"]["scale"][layer])
        x = x + mlp(layers["mlp"], y, layer)
    return rms_norm(x, own["decoder_norm"]["scale"])


def head(weights: Params, x: Floats) -> Floats:
    """[LayerNorm,] Linear(H), tanh, Linear(out)."""
    if "norm" in weights:
        centred = x - x.mean(-1, keepdims=True)
        x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        x = x * weights["norm"]["scale"] + weights["norm"]["bias"]
    hidden = np.tanh(x @ weights["hidden"]["kernel"] + weights["hidden"]["bias"])
    return hidden @ weights["output"]["kernel"] + weights["output"]["bias"]


def hyper_decoder_output(
    cfg: T5Config, params: Params, context: NDArray[np.int32]
) -> Floats:
    """hyper_dec_out of both figures for one context without padding: [slots, d]."""
    encoded = encoder(cfg, params, context, {})
    slots = params["slots"]["embedding"]
    return decoder(cfg, params, slots, encoded, {}, causal=False)


def figure_7(cfg: T5Config, heads: Params, hyper_dec_out: Floats) -> SitePhis:
    """2P representations -> prefixes of encoder and decoder self-attention."""
    p = len(hyper_dec_out) // 2
    phi: SitePhis = {}
    groups = {
        "encoder": (hyper_dec_out[:p], cfg.num_encoder_layers),
        "decoder": (hyper_dec_out[p:], cfg.num_decoder_layers),
    }
    for stack, (representations, depth) in groups.items():
        # [P, L H] -> [P, L, H] -> a prefix for each layer
        keys, values = (
            head(heads[f"{stack}_self_attention_{part}"], representations)
            .reshape(p, depth, -1)
            .swapaxes(0, 1)
            for part in ("keys", "values")
        )
        phi[f"{stack}/self_attention"] = {"prefix": (keys, values)}
    return phi


def figure_8(
    cfg: T5Config, heads: Params, hyper_dec_out: Floats, rank: int
) -> SitePhis:
    """3L representations -> LoRA on query and value of all three kinds of attention.

    With stacks of different depth the groups are as long as their stack is deep; with
    keys of another width than H, an up row is that wide and a down row H.
    """
    depths = {
        "encoder/self_attention": cfg.num_encoder_layers,
        "decoder/self_attention": cfg.num_decoder_layers,
        "decoder/cross_attention": cfg.num_decoder_layers,
    }
    wide, start, phi = cfg.num_heads * cfg.head_dim, 0, {}
    for site, depth in depths.items():
        representations = hyper_dec_out[start : start + depth]
        start += depth
        phi[site] = {}
        for name in ("query", "value"):
            label = f"{site.replace('/', '_')}_{name}"
            both = head(heads[label], representations)
            up = both[:, : rank * wide].reshape(depth, rank, wide)
            down = both[:, rank * wide :].reshape(depth, rank, cfg.emb_dim)
            # The figure defines the gates and never uses them; see A12 of
            # docs/numerics.md: they multiply the up factor.
            gate = np.tanh(heads[f"{label}_gate"])[:, None, None]
            phi[site][name] = (down, gate * up)
    assert start == len(hyper_dec_out)
    return phi


def downstream_logits(
    cfg: T5Config,
    params: Params,
    inputs: NDArray[np.int32],
    targets: NDArray[np.int32],
    phi: SitePhis,
) -> Floats:
    """[q, vocab] of one row without padding."""
    encoded = encoder(cfg, params, inputs, phi)
    shifted = np.concatenate([[0], targets[:-1]])
    x = params["token_embedder"]["embedding"][shifted]
    hidden = decoder(cfg, params, x, encoded, phi, causal=True)
    return hidden @ params["decoder"]["logits_dense"]["kernel"]
