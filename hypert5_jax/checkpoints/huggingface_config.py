"""Hugging Face's config.json of a T5: read into our sizes, or refused by name; written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config

# What our T5 is, under the names that Hugging Face has for it.
_MODEL_TYPES = ("t5", "mt5")
_GATED_GELU = ("gated-gelu", "gated-gelu_new")
_EPSILON = 1e-6
_MOST_LAYERS = 1000
_KNOWN_STRANGERS = {
    "bert": "BERT, an encoder alone",
    "longt5": "LongT5, whose attention is local",
    "switch_transformers": "Switch Transformers, a mixture of experts",
    "umt5": "UMT5, which has a table of relative positions in every layer",
}


@dataclasses.dataclass(frozen=True)
class Switches:
    """What a config.json says of a T5.

    Attributes:
      config: our sizes of it.
      tied: its output layer may be its embeddings, for want of one of its own.
      scales: decoder outputs are multiplied by d_model**-0.5 before the output layer.
    """

    config: T5Config
    tied: bool
    scales: bool


def read_config(content: Any, place: str) -> Switches:
    """The sizes and switches of a Hugging Face T5.

    Args:
      content: of config.json.
      place: of the folder, for messages.

    Raises:
      UserError: another architecture, by name, with the reason.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{place}/config.json holds no table of settings")
    kind = content.get("model_type")
    if kind not in _MODEL_TYPES:
        named = _KNOWN_STRANGERS.get(str(kind), f"model_type {kind!r}")
        raise UserError(
            f"{place} is {named}; expected a T5 v1.1 (model_type t5 or mt5)"
        )
    for name in content.get("architectures") or ():
        if "EncoderModel" in name or "Classification" in name or "Question" in name:
            raise UserError(
                f"{place} is a {name}; expected a T5ForConditionalGeneration, with a "
                "decoder and an output layer over the vocabulary"
            )
    _require_v1_1(content, kind, place)
    try:
        layers = content.get("num_layers", 6)
        config = T5Config(
            vocab_size=_int(content, "vocab_size", 32128 if kind == "t5" else 250112),
            emb_dim=_int(content, "d_model", 512),
            num_heads=_int(content, "num_heads", 8 if kind == "t5" else 6),
            head_dim=_int(content, "d_kv", 64),
            mlp_dim=_int(content, "d_ff", 2048 if kind == "t5" else 1024),
            num_encoder_layers=_int(content, "num_layers", 6 if kind == "t5" else 8),
            num_decoder_layers=int(content.get("num_decoder_layers") or layers),
            relative_attention_num_buckets=_int(
                content, "relative_attention_num_buckets", 32
            ),
            relative_attention_max_distance=_int(
                content, "relative_attention_max_distance", 128
            ),
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"{place}/config.json is damaged: {error}") from error
    if max(config.num_encoder_layers, config.num_decoder_layers) > _MOST_LAYERS:
        raise UserError(
            f"{place}/config.json is damaged: more than {_MOST_LAYERS} layers"
        )
    tied = bool(content.get("tie_word_embeddings", kind != "mt5"))
    # transformers 5 says so outright, and says of every T5 that it is tied; earlier
    # ones scale what is tied.
    return Switches(config, tied, bool(content.get("scale_decoder_outputs", tied)))


def _int(content: Mapping[str, Any], name: str, default: int) -> int:
    return int(content.get(name, default))


def _require_v1_1(content: Mapping[str, Any], kind: str, place: str) -> None:
    default = "relu" if kind == "t5" else "gated-gelu"
    projection = content.get("feed_forward_proj", default)
    if projection == "relu":
        raise UserError(
            f"{place} is a T5 v1.0 (one ReLU projection, tied and scaled embeddings); "
            "this project runs T5 v1.1 (gated GELU, untied), such as "
            "google/t5-v1_1-… , google/t5-…-lm-adapt or google/flan-t5-…"
        )
    if projection not in _GATED_GELU:
        silu = " (UL2's)" if projection == "gated-silu" else ""
        raise UserError(
            f"{place} has feed_forward_proj {projection!r}{silu}; expected 'gated-gelu', "
            "T5 v1.1's"
        )
    epsilon = content.get("layer_norm_epsilon", _EPSILON)
    if epsilon != _EPSILON:
        raise UserError(
            f"{place} has layer_norm_epsilon {epsilon}; expected {_EPSILON}, T5's"
        )


def write_config(config: T5Config, dtype: str) -> dict[str, Any]:
    """config.json of a T5 v1.1 of these sizes.

    `tie_word_embeddings` False is what tells transformers that nothing is scaled.

    Args:
      config: its sizes.
      dtype: of most of its weights.
    """
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "d_ff": config.mlp_dim,
        "d_kv": config.head_dim,
        "d_model": config.emb_dim,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "initializer_factor": 1.0,
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": _EPSILON,
        "model_type": "t5",
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_encoder_layers,
        "output_past": True,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


GENERATION_CONFIG = {
    "_from_model_config": True,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
