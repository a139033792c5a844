"""From a frozen description of an optimiser to an optax transformation."""

import dataclasses
from typing import Any

import optax

from hypert5_jax.core.errors import UserError
from hypert5_jax.training.layerwise import over_layers

OPTIMISERS = ("adam", "adamw", "adafactor")


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Which optimiser and its constants.

    The defaults are what the paper leaves out and the Hugging Face Trainer of its time
    filled in: betas 0.9 and 0.999, eps 1e-8, no weight decay, gradients clipped to a
    global norm of 1. The paper's "1-bit Adam" cites the 8-bit one; moments here are f32,
    of which both are compressions.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay) or "adafactor".
      b1, b2, eps: Adam's decay rates and its denominator's guard.
      weight_decay: added to the update as weight_decay * parameter before the learning
        rate; "adamw" and "adafactor" only.
      clip_norm: gradients of all trainable groups together are scaled down to this L2
        norm; None does not clip.
      decay_rate: Adafactor, exponent of the second moment's decay (1 - step^-rate).
      clipping_threshold: Adafactor, largest root mean square of one array's update.
      multiply_by_parameter_scale: Adafactor, scales updates by each array's RMS.
      min_dim_size_to_factor: Adafactor, arrays whose second largest axis is smaller
        keep an unfactored second moment.
    """

    name: str = "adam"
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    decay_rate: float = 0.8
    clipping_threshold: float | None = 1.0
    multiply_by_parameter_scale: bool = True
    min_dim_size_to_factor: int = 128

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise UserError(
                f"unknown optimiser {self.name!r}; choose one of "
                f"{', '.join(OPTIMISERS)}"
            )
        if self.name == "adam" and self.weight_decay:
            raise UserError(
                f"weight_decay is {self.weight_decay} but adam has none; "
                "set the optimiser to adamw or weight_decay to 0"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(
                f"clip_norm is {self.clip_norm}; give a positive norm, or None for none"
            )


def make_optimiser(
    config: OptimiserConfig, schedule: optax.Schedule, axes: Any
) -> optax.GradientTransformation:
    """The optax transformation from gradients to the change of the parameters.

    Args:
      config: which optimiser.
      schedule: learning rate as a function of the step.
      axes: tree like the trainable parameters, a tuple of logical axis names for each
        array; only Adafactor reads it, to treat "layers" as a batch axis.
    """
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "adafactor":
        parts.append(over_layers(_adafactor(config), axes))
    else:
        parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)


def _adafactor(config: OptimiserConfig) -> optax.GradientTransformation:
    """Adafactor without a learning rate and without weight decay; descends."""
    descend_negated = optax.adafactor(
        learning_rate=None,
        min_dim_size_to_factor=config.min_dim_size_to_factor,
        decay_rate=config.decay_rate,
        clipping_threshold=config.clipping_threshold,
        multiply_by_parameter_scale=config.multiply_by_parameter_scale,
    )
    # optax.adafactor ends by flipping the sign; scale_by_learning_rate flips it once
    # more at the end of the chain, so it is flipped back here.
    return optax.chain(descend_negated, optax.scale(-1.0))
