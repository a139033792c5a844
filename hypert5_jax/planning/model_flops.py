"""FLOPs of a step by its shapes: what the mathematics asks for, nothing computed twice.

Counted are products of matrices, 2 for a multiplication and its addition: maps with
weights, attention's scores and what it takes by them (of all positions, also those that a
causal mask hides), φ's low ranks and the heads that write φ. A backward pass costs as much
as the forward pass for the gradient of the inputs, and as much again for that of the
weights where they are trained; a product of two activations costs both.
"""

import dataclasses

from hypert5_jax.hyper.heads import slot_count, slot_groups
from hypert5_jax.hyper.system import System
from hypert5_jax.phi.spec import (
    DECODER_CROSS,
    DECODER_SELF,
    ENCODER_SELF,
    LoRASpec,
    PrefixSpec,
)
from hypert5_jax.t5.config import T5Config


@dataclasses.dataclass(frozen=True)
class Rows:
    """What goes through the models at a time.

    Attributes:
      rows: target examples.
      inputs, targets: tokens of each.
      contexts: that a hypermodel reads.
      context: tokens of each.
    """

    rows: int
    inputs: int
    targets: int
    contexts: int = 0
    context: int = 0


@dataclasses.dataclass(frozen=True)
class Flops:
    """Of one group of parameters, forward.

    Attributes:
      weights: products of activations with weights.
      activations: products of activations with one another.
    """

    weights: float = 0
    activations: float = 0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.weights + other.weights, self.activations + other.activations)

    @property
    def forward(self) -> float:
        """One forward pass."""
        return self.weights + self.activations

    def backward(self, trained: bool) -> float:
        """One backward pass."""
        return self.weights * (2 if trained else 1) + 2 * self.activations


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Of a training step: forward + backward; the forward pass once more for what full
    rematerialisation computes again is not in it."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Model FLOPs."""
        return self.forward + self.backward


def step_flops(system: System, rows: Rows) -> StepFlops:
    """Of one training step of a system."""
    forward = backward = 0.0
    for group, flops in group_flops(system, rows).items():
        forward += flops.forward
        backward += flops.backward(group in system.variant.trainable)
    return StepFlops(round(forward), round(backward))


def group_flops(system: System, rows: Rows) -> dict[str, Flops]:
    """{group: forward FLOPs}, those of φ's application among the downstream model's."""
    downstream = system.downstream
    found = {
        "downstream": _t5(downstream, rows.rows, rows.inputs, rows.targets, system)
        + _low_rank(system, rows)
    }
    variant = system.variant
    if variant.source == "generated":
        found["hypermodel"] = phi_flops(system, rows)
    elif variant.source == "learned":
        mlp = variant.parametrisation == "mlp"
        width = downstream.emb_dim
        found["phi"] = _heads(system, variant.learned_batch, width) if mlp else Flops()
    return found


def answer_flops(system: System, rows: Rows, answers: int) -> int:
    """Of reading each row's inputs once and saying `answers` targets to them, φ given."""
    read = dataclasses.replace(rows, targets=0)
    reading, both = (
        group_flops(system, each)["downstream"].forward for each in (read, rows)
    )
    return round(reading + answers * (both - reading))


def phi_flops(system: System, rows: Rows) -> Flops:
    """Of the pass in which a hypermodel writes φ."""
    spec = system.variant.spec
    assert spec is not None
    model = system.hypermodel or system.downstream
    slots = slot_count(spec, system.downstream.sites)
    body = _t5(model, rows.contexts, rows.context, slots, None)
    return body + _heads(system, rows.contexts, model.emb_dim)


def _t5(
    model: T5Config, rows: int, inputs: int, targets: int, system: System | None
) -> Flops:
    """A T5; with `system` its downstream model, which ends in logits and sees φ."""
    width, joined = model.emb_dim, model.num_heads * model.head_dim
    mlp = 3 * width * model.mlp_dim
    encoder = inputs * (4 * width * joined + mlp)
    decoder = targets * (6 * width * joined + mlp) + inputs * 2 * width * joined
    weights = model.num_encoder_layers * encoder + model.num_decoder_layers * decoder
    if system is not None:
        weights += targets * width * model.vocab_size
    prefix = _prefix(system)
    own = inputs * (inputs + prefix[ENCODER_SELF])
    others = targets * (targets + prefix[DECODER_SELF])
    others += targets * (inputs + prefix[DECODER_CROSS])
    seen = model.num_encoder_layers * own + model.num_decoder_layers * others
    return Flops(2 * rows * weights, 2 * rows * 2 * joined * seen)


def _prefix(system: System | None) -> dict[str, int]:
    """{site: prefix positions there}."""
    found = dict.fromkeys((ENCODER_SELF, DECODER_SELF, DECODER_CROSS), 0)
    spec = system.variant.spec if system is not None else None
    if isinstance(spec, PrefixSpec):
        found[ENCODER_SELF] = found[DECODER_SELF] = spec.length
        if spec.cross_attention != "none":
            found[DECODER_CROSS] = spec.length
    return found


def _low_rank(system: System, rows: Rows) -> Flops:
    """(x @ a) @ b of every adapted map."""
    spec = system.variant.spec
    if not isinstance(spec, LoRASpec):
        return Flops()
    total = 0
    for name, site in system.downstream.sites.items():
        for which in spec.maps:
            reads = name == ENCODER_SELF or (
                name == DECODER_CROSS and which in ("key", "value")
            )
            tokens = rows.inputs if reads else rows.targets
            total += site.layers * tokens * spec.rank * sum(site.map_dims(which))
    return Flops(activations=2 * rows.rows * total)


def _heads(system: System, count: int, width: int) -> Flops:
    """Linear(d) -> tanh -> Linear(features) for every slot of every part of φ."""
    spec, sites = system.variant.spec, system.downstream.sites
    assert spec is not None
    total = 0
    for name, slots in slot_groups(spec, sites).items():
        site = sites[name]
        if isinstance(spec, PrefixSpec):
            features = [site.layers * site.joined_kv] * 2
        else:
            features = [spec.rank * sum(site.map_dims(which)) for which in spec.maps]
        positions = slots.stop - slots.start
        total += positions * sum(width * width + width * out for out in features)
    return Flops(weights=2 * count * total)
