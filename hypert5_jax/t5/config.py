"""Sizes and switches of a T5 v1.1; field names are T5X's where T5X has them."""

import dataclasses
from collections.abc import Mapping

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi import spec

REMAT_POLICIES = ("full", "blocks", "minimal", "none")
ATTENTIONS = ("plain", "fused")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """One T5 v1.1 (gated GELU, RMS norm, no biases, untied output layer).

    Attributes:
      vocab_size: rows of the embedding table, unused padding rows included.
      emb_dim, num_heads, head_dim, mlp_dim: widths; num_heads * head_dim may differ
        from emb_dim (T5-small).
      num_encoder_layers, num_decoder_layers: depths.
      dropout_rate: used where a caller passes a dropout key, never otherwise.
      dtype: of activations, "bfloat16" or "float32". Norm statistics, softmax, logits
        and loss are float32 always.
      relative_attention_num_buckets, relative_attention_max_distance: T5's.
      scan_layers: stack the layers' parameters and scan over them (compiles one layer);
        False unrolls, same numbers.
      remat: what the backward pass recomputes: "full" all of a layer but its dropout
        masks, "blocks" not what each of its blocks reads either, "minimal" all but its
        matrix products with weights, "none" nothing.
      attention: "plain" as it is written down; "fused" keeps no float32 scores, which
        on accelerators at long lengths spares most of the memory and of the time, and
        rounds weights before instead of after they are divided by their sum.
    """

    vocab_size: int = 32128
    emb_dim: int = 512
    num_heads: int = 6
    head_dim: int = 64
    mlp_dim: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    dropout_rate: float = 0.0
    dtype: str = "bfloat16"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    scan_layers: bool = True
    remat: str = "full"
    attention: str = "plain"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1 and field.name != "scan_layers":
                raise UserError(f"T5Config.{field.name}={value}: expected 1 or more")
        if self.dtype not in ("bfloat16", "float32"):
            raise UserError(
                f"T5Config.dtype={self.dtype!r}: expected 'bfloat16' or 'float32'"
            )
        if self.remat not in REMAT_POLICIES:
            raise UserError(
                f"T5Config.remat={self.remat!r}: expected one of {REMAT_POLICIES}"
            )
        if self.attention not in ATTENTIONS:
            raise UserError(
                f"T5Config.attention={self.attention!r}: expected one of {ATTENTIONS}"
            )
        if not 0.0 <= self.dropout_rate < 1.0:
            raise UserError(
                f"T5Config.dropout_rate={self.dropout_rate}: expected 0 <= rate < 1"
            )

    @property
    def sites(self) -> Mapping[str, spec.Site]:
        """The attention blocks φ may touch, with their sizes."""
        encoder = spec.Site(
            self.num_encoder_layers, self.num_heads, self.head_dim, self.emb_dim
        )
        decoder = dataclasses.replace(encoder, layers=self.num_decoder_layers)
        return {
            spec.ENCODER_SELF: encoder,
            spec.DECODER_SELF: decoder,
            spec.DECODER_CROSS: decoder,
        }


def _size(emb: int, heads: int, head_dim: int, mlp: int, layers: int) -> T5Config:
    return T5Config(
        emb_dim=emb,
        num_heads=heads,
        head_dim=head_dim,
        mlp_dim=mlp,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
    )


# Public T5 1.1 sizes (T5X, t5x/examples/t5/t5_1_1/*.gin) and one for tests.
SIZES: Mapping[str, T5Config] = {
    "tiny": _size(64, 4, 16, 128, 2),
    "small": _size(512, 6, 64, 1024, 8),
    "base": _size(768, 12, 64, 2048, 12),
    "large": _size(1024, 16, 64, 2816, 24),
    "xl": _size(2048, 32, 64, 5120, 24),
    "xxl": _size(4096, 64, 64, 10240, 24),
}
