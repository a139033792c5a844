"""A variant is data: adaptation x source x what is trained x where the context goes.

Every system of the paper is one value of `Variant`; a combination without a meaning is
refused by name. Settings that resolve an ambiguity of the paper say which (A1 … A29 of
docs/numerics.md).
"""

import dataclasses
from collections.abc import Iterator

from hypert5_jax.core.errors import UserError
from hypert5_jax.core.field_types import as_tuple
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec, Spec

ADAPTATIONS = ("none", "prefix", "lora")
SOURCES = ("none", "generated", "learned")
PARAMETRISATIONS = ("direct", "mlp")
CONTEXTS = ("none", "hypermodel", "downstream")
GROUPS = ("hypermodel", "downstream", "phi")


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """How heads turn decoder outputs into φ (Figures 7 and 8).

    Attributes:
      norm: first step of a generated-direct head: "layer" (mean-centred, bias, eps
        1e-5, as written), "rms" or "none" (A13). The mlp parametrisation has none: it is
        prefix tuning's MLP.
      output_init: how heads start beside a given T5: "normal"; a prefix's also as
        "projections", the T5's own key and value maps; LoRA's also as "associative", a
        memory in the value maps; see hyper/start.py.
      output_init_std: of a normal last linear map (A14).
      divide_by_sqrt_width: divide φ by sqrt(emb_dim) (A14, off).
      gate: which LoRA factor tanh(gate) multiplies: "up" (b), "both" or "none" (A12).
      gate_init: raw gate at the start; 0 makes the first φ a no-op.
      slot_init: how slots start beside a given T5: "normal", or "vocabulary": as the
        embeddings of the first words of its vocabulary, the most frequent ones, as in
        prompt tuning (Lester et al., 2021, section 3.2). A slot that starts as a word
        looks for that word in the context, which sets slots apart from the first step.
      slot_init_std: of normal slots.
      bidirectional_buckets: give later slots relative-position buckets of their own in
        the non-causal decoder; off keeps the pretrained table's meaning (A15).
    """

    norm: str = "layer"
    output_init: str = "normal"
    output_init_std: float = 0.02
    divide_by_sqrt_width: bool = False
    gate: str = "up"
    gate_init: float = 0.0
    slot_init: str = "normal"
    slot_init_std: float = 1.0
    bidirectional_buckets: bool = False

    def __post_init__(self) -> None:
        if self.norm not in ("layer", "rms", "none"):
            raise UserError(
                f"HeadConfig.norm={self.norm!r}: expected 'layer', 'rms' or 'none'"
            )
        if self.gate not in ("up", "both", "none"):
            raise UserError(
                f"HeadConfig.gate={self.gate!r}: expected 'up', 'both' or 'none'"
            )
        if self.slot_init not in ("normal", "vocabulary"):
            raise UserError(
                f"HeadConfig.slot_init={self.slot_init!r}: expected 'normal' or "
                "'vocabulary'"
            )
        if self.output_init not in ("normal", "projections", "associative"):
            raise UserError(
                f"HeadConfig.output_init={self.output_init!r}: expected 'normal', "
                "'projections' or 'associative'"
            )
        if self.gate == "both" and self.gate_init == 0.0:
            raise UserError(
                "HeadConfig.gate='both' with gate_init=0 never learns: the change is "
                "proportional to gate squared, whose gradient at 0 is 0. Use "
                "gate='up', or another gate_init"
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of adapting a downstream T5.

    Attributes:
      adaptation: what φ is: "none", "prefix" or "lora".
      source: where φ comes from: "none", "generated" by a hypermodel, or "learned".
      parametrisation: of a prefix: "direct", or "mlp" (embeddings through a
        reparametrisation MLP; generated, the hypermodel writes the embeddings).
      trainable: which of hypermodel, downstream, phi the gradient reaches.
      context: who reads the task's context: "none", "hypermodel" or "downstream".
      prefix, lora: sizes of the adaptation.
      head: how a hypermodel's heads work.
      learned_batch: how many φ are learned side by side, one per group of
        batch / learned_batch consecutive rows; 1 is one φ for all.
      learned_init_std: of directly learned prefixes and of embeddings.
      downstream_dropout: dropout also in a frozen downstream model (A3).
    """

    adaptation: str = "prefix"
    source: str = "generated"
    parametrisation: str = "direct"
    trainable: tuple[str, ...] = ("hypermodel",)
    context: str = "hypermodel"
    prefix: PrefixSpec = PrefixSpec()
    lora: LoRASpec = LoRASpec()
    head: HeadConfig = HeadConfig()
    learned_batch: int = 1
    learned_init_std: float = 0.02
    downstream_dropout: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "trainable", as_tuple(self.trainable))
        _one_of("adaptation", self.adaptation, ADAPTATIONS)
        _one_of("source", self.source, SOURCES)
        _one_of("parametrisation", self.parametrisation, PARAMETRISATIONS)
        _one_of("context", self.context, CONTEXTS)
        for name in self.trainable:
            _one_of("trainable", name, GROUPS)
        for why in self._nonsense():
            raise UserError(f"this variant has no meaning: {why}")

    def _nonsense(self) -> Iterator[str]:
        """What is wrong with the combination, if anything."""
        generated, learned = self.source == "generated", self.source == "learned"
        source = f"source={self.source!r}"
        if (self.adaptation == "none") != (self.source == "none"):
            yield (
                f"adaptation={self.adaptation!r} with {source}; φ needs both a form "
                "(prefix, lora) and a source (generated, learned), or neither"
            )
        if generated != (self.context == "hypermodel"):
            yield (
                f"{source} with context={self.context!r}; a generated φ comes from a "
                "hypermodel that reads the context, and nothing else does"
            )
        if "hypermodel" in self.trainable and not generated:
            yield (
                f"trainable holds 'hypermodel', but {source} has none; use "
                "source='generated'"
            )
        if "phi" in self.trainable and not learned:
            yield (
                f"trainable holds 'phi', but φ is not a parameter with {source}; use "
                "source='learned'"
            )
        if self.parametrisation == "mlp" and self.adaptation != "prefix":
            yield (
                f"parametrisation='mlp' with adaptation={self.adaptation!r}; the "
                "reparametrisation MLP is prefix tuning's"
            )
        prefix_heads = generated and self.adaptation == "prefix"
        if self.head.output_init == "projections" and not prefix_heads:
            yield (
                f"HeadConfig.output_init='projections' with {source}, adaptation="
                f"{self.adaptation!r}; key and value maps can start the heads of a "
                "generated prefix only"
            )
        lora_values = (
            generated and self.adaptation == "lora" and "value" in self.lora.maps
        )
        if self.head.output_init == "associative" and not lora_values:
            yield (
                f"HeadConfig.output_init='associative' with {source}, adaptation="
                f"{self.adaptation!r}, LoRASpec.maps={self.lora.maps}; it starts the "
                "value maps of a generated LoRA"
            )
        if self.learned_batch < 1 or (self.learned_batch > 1 and not learned):
            yield (
                f"learned_batch={self.learned_batch} with {source}; a learned φ has a "
                "batch of 1 or more, every other source a batch of its own"
            )
        if self.adaptation == "prefix" and generated and self.prefix.length == 0:
            yield "a generated prefix of length 0 has nothing to generate"
        if len(set(self.trainable)) != len(self.trainable):
            yield f"trainable={self.trainable} names a group twice"

    @property
    def spec(self) -> Spec | None:
        """The adaptation's sizes, or None without one."""
        if self.adaptation == "none":
            return None
        return self.prefix if self.adaptation == "prefix" else self.lora

    @property
    def groups(self) -> tuple[str, ...]:
        """The parameter groups that exist, in the order of GROUPS."""
        present = {"generated": "hypermodel", "learned": "phi"}.get(self.source)
        return tuple(g for g in GROUPS if g in (present, "downstream"))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The groups the gradient does not reach."""
        return tuple(g for g in self.groups if g not in self.trainable)


def _one_of(field: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(
            f"Variant.{field}={value!r}: expected one of {', '.join(choices)}"
        )
