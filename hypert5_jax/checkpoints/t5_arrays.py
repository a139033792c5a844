"""Every array of a T5 v1.1: what T5X and Hugging Face call it, and how it lies there.

    T5X            encoder/layers_0/attention/query/kernel             [d_model, inner]
    PyTorch        encoder.block.0.layer.0.SelfAttention.q.weight      [inner, d_model]
    Flax (HF)      encoder/block/0/layer/0/SelfAttention/q/kernel      [d_model, inner]

Names: t5x/examples/t5/network.py; transformers/models/t5/modeling_t5.py and, up to
version 4, modeling_flax_t5.py.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.config import T5Config

_MAPS = {"query": "q", "key": "k", "value": "v", "out": "o"}
# {stack: its blocks in order: (T5X's norm, T5X's name, Hugging Face's)}
_PARTS = {
    "encoder": (
        ("pre_attention_layer_norm", "attention", "SelfAttention"),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
    "decoder": (
        ("pre_self_attention_layer_norm", "self_attention", "SelfAttention"),
        (
            "pre_cross_attention_layer_norm",
            "encoder_decoder_attention",
            "EncDecAttention",
        ),
        ("pre_mlp_layer_norm", "mlp", "DenseReluDense"),
    ),
}


@dataclasses.dataclass(frozen=True)
class T5Array:
    """One parameter.

    Attributes:
      path: T5X's, of unstacked layers.
      shape: T5X's.
      torch, flax: Hugging Face's names.
      torch_transposed, flax_transposed: their axes are in reverse order.
    """

    path: str
    shape: tuple[int, ...]
    torch: str
    flax: str
    torch_transposed: bool = False
    flax_transposed: bool = False


def t5_arrays(config: T5Config) -> list[T5Array]:
    """All parameters of a T5 of these sizes, in T5X's order of names."""
    vocab, embed = config.vocab_size, config.emb_dim
    arrays = [
        T5Array(
            "token_embedder/embedding",
            (vocab, embed),
            "shared.weight",
            "shared/embedding",
        ),
        _kernel("decoder/logits_dense", (embed, vocab), "lm_head"),
    ]
    depths = {
        "encoder": config.num_encoder_layers,
        "decoder": config.num_decoder_layers,
    }
    for stack, depth in depths.items():
        first = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        arrays.append(
            _norm(f"{stack}/{stack}_norm", embed, f"{stack}.final_layer_norm")
        )
        arrays.append(
            T5Array(
                f"{stack}/relpos_bias/rel_embedding",
                (config.num_heads, config.relative_attention_num_buckets),
                f"{first}.weight",
                f"{first}.embedding".replace(".", "/"),
                torch_transposed=True,
                flax_transposed=True,
            )
        )
        for layer in range(depth):
            arrays += _layer(stack, layer, config)
    return sorted(arrays, key=lambda array: array.path)


def _layer(stack: str, layer: int, config: T5Config) -> Iterator[T5Array]:
    embed, inner = config.emb_dim, config.num_heads * config.head_dim
    for number, (norm, ours, theirs) in enumerate(_PARTS[stack]):
        path = f"{stack}/layers_{layer}"
        name = f"{stack}.block.{layer}.layer.{number}"
        yield _norm(f"{path}/{norm}", embed, f"{name}.layer_norm")
        if ours == "mlp":
            for wi in ("wi_0", "wi_1"):
                shape = (embed, config.mlp_dim)
                yield _kernel(f"{path}/mlp/{wi}", shape, f"{name}.{theirs}.{wi}")
            shape = (config.mlp_dim, embed)
            yield _kernel(f"{path}/mlp/wo", shape, f"{name}.{theirs}.wo")
        else:
            for ours_map, letter in _MAPS.items():
                shape = (inner, embed) if letter == "o" else (embed, inner)
                there = f"{name}.{theirs}.{letter}"
                yield _kernel(f"{path}/{ours}/{ours_map}", shape, there)


def _norm(path: str, embed: int, name: str) -> T5Array:
    flax = f"{name}.weight".replace(".", "/")
    return T5Array(f"{path}/scale", (embed,), f"{name}.weight", flax)


def _kernel(path: str, shape: tuple[int, ...], name: str) -> T5Array:
    flax = f"{name}.kernel".replace(".", "/")
    torch = f"{name}.weight"
    return T5Array(f"{path}/kernel", shape, torch, flax, torch_transposed=True)


def sizes_of(arrays: Mapping[str, Any], place: str) -> T5Config:
    """The sizes that the shapes of a T5's parameters, by T5X's paths, tell.

    Args:
      arrays: anything with a shape, unstacked.
      place: where they come from, for messages.

    Raises:
      UserError: the arrays that tell them are missing, or of other ranks.
    """
    depths = {
        stack: len(
            {
                path.split("/")[1]
                for path in arrays
                if path.startswith(f"{stack}/layers_")
            }
        )
        for stack in ("encoder", "decoder")
    }
    try:
        vocab, embed = arrays["token_embedder/embedding"].shape
        heads, buckets = arrays["encoder/relpos_bias/rel_embedding"].shape
        _, inner = arrays["encoder/layers_0/attention/query/kernel"].shape
        _, mlp = arrays["encoder/layers_0/mlp/wi_0/kernel"].shape
    except KeyError as error:
        raise UserError(f"{place} is no T5 v1.1: it lacks {error.args[0]}") from error
    except ValueError as error:
        raise UserError(
            f"{place} is no T5 v1.1: its matrices have other numbers of axes"
        ) from error
    return T5Config(
        vocab_size=vocab,
        emb_dim=embed,
        num_heads=heads,
        head_dim=inner // max(heads, 1),
        mlp_dim=mlp,
        num_encoder_layers=depths["encoder"],
        num_decoder_layers=depths["decoder"],
        relative_attention_num_buckets=buckets,
    )


# The fields of T5Config that decide shapes or numbers.
_SIZES = (
    "vocab_size",
    "emb_dim",
    "num_heads",
    "head_dim",
    "mlp_dim",
    "num_encoder_layers",
    "num_decoder_layers",
    "relative_attention_num_buckets",
)


def require_same_sizes(config: T5Config, expected: T5Config, place: str) -> None:
    """Refuses a T5 of other sizes than expected.

    Raises:
      UserError: naming what differs.
    """
    differing = [
        f"{name} is {getattr(config, name)}, expected {getattr(expected, name)}"
        for name in _SIZES
        if getattr(config, name) != getattr(expected, name)
    ]
    if differing:
        raise UserError(f"{place} is a T5 of other sizes: {'; '.join(differing)}")
