"""From a frozen description of an optimiser to an optax transformation."""

import dataclasses
from typing import Any

import optax
from jax.sharding import Mesh

from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel.mesh import FSDP, MODEL, copies
from hypert5_jax.parallel.sign_mean import BITS
from hypert5_jax.training.adam1bit import PerDeviceOptimiser, scale_by_adam1bit
from hypert5_jax.training.adam8bit import scale_by_adam8bit
from hypert5_jax.training.layerwise import over_layers

OPTIMISERS = ("adam", "adamw", "adafactor", "adam8bit", "adam1bit")


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Which optimiser and its constants.

    The defaults are what the paper leaves out and the Hugging Face Trainer of its time
    filled in: betas 0.9 and 0.999, eps 1e-8, no weight decay, gradients clipped to a
    global norm of 1. The paper's "1-bit Adam" cites the 8-bit one: the first saves what
    crosses devices, the second memory. Both are here by name; the default is neither,
    but what they approximate. docs/optimisers.md measures them.

    Attributes:
      name: "adam", "adamw" (decoupled weight decay), "adafactor", "adam8bit" (moments
        in 8 bits) or "adam1bit" (momentum averaged over devices in 1 bit).
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
      block_size: "adam8bit" and "adam1bit", consecutive numbers that share a scale.
      min_compressed_size: of both, arrays (of stacked layers, a layer) with fewer
        numbers are left in float32.
      full_precision_steps: "adam1bit", updates before the variance is frozen and signs
        are sent.
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
    block_size: int = 256
    min_compressed_size: int = 4096
    full_precision_steps: int = 1000

    def __post_init__(self) -> None:
        if self.name not in OPTIMISERS:
            raise UserError(
                f"unknown optimiser {self.name!r}; choose one of "
                f"{', '.join(OPTIMISERS)}"
            )
        if self.weight_decay and self.name not in ("adamw", "adafactor"):
            raise UserError(
                f"weight_decay is {self.weight_decay} but {self.name} has none; "
                "set the optimiser to adamw or weight_decay to 0"
            )
        for name in ("block_size", "min_compressed_size", "full_precision_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.name == "adam1bit" and self.block_size % BITS:
            raise UserError(
                f"block_size is {self.block_size}; adam1bit packs {BITS} signs into a "
                f"byte and takes multiples of {BITS}"
            )
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(
                f"clip_norm is {self.clip_norm}; give a positive norm, or None for none"
            )


def make_optimiser(
    config: OptimiserConfig,
    schedule: optax.Schedule,
    axes: Any,
    mesh: Mesh | None = None,
) -> optax.GradientTransformation:
    """The optax transformation from gradients to the change of the parameters.

    Args:
      config: which optimiser.
      schedule: learning rate as a function of the step.
      axes: tree like the trainable parameters, a tuple of logical axis names for each
        array, from which "layers" is known as a batch axis, and "vocab" as what
        "adam8bit" keeps in float32.
      mesh: the run's; only "adam1bit" asks for it.

    Raises:
      UserError: the mesh is not one for this optimiser.
    """
    if config.name == "adam1bit":
        return _adam1bit(config, schedule, axes, mesh)
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "adafactor":
        parts.append(over_layers(_adafactor(config), axes))
    elif config.name == "adam8bit":
        parts.append(
            scale_by_adam8bit(
                config.b1,
                config.b2,
                config.eps,
                config.block_size,
                config.min_compressed_size,
                axes,
            )
        )
    else:
        parts.append(optax.scale_by_adam(config.b1, config.b2, config.eps))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay))
    parts.append(optax.scale_by_learning_rate(schedule))
    return optax.chain(*parts)


def identity(config: OptimiserConfig, mesh: Mesh) -> str:
    """What a state's arrays depend on: states of equal text fit each other."""
    if config.name not in ("adam8bit", "adam1bit"):
        return config.name
    text = (
        f"{config.name} (block_size {config.block_size}, min_compressed_size "
        f"{config.min_compressed_size}"
    )
    if config.name == "adam1bit":
        text += f", {copies(mesh)} data devices"
    return f"{text})"


def _adam1bit(
    config: OptimiserConfig, schedule: optax.Schedule, axes: Any, mesh: Mesh | None
) -> PerDeviceOptimiser:
    if mesh is None:
        raise UserError(
            "adam1bit sends signs between the devices of a training run's mesh, which "
            "there is none of here; use another optimiser"
        )
    for axis in (FSDP, MODEL):
        if mesh.shape[axis] > 1:
            raise UserError(
                f"adam1bit holds parameters whole on every device, but the mesh has "
                f"{axis}={mesh.shape[axis]}; set MeshConfig.{axis} to 1, or the "
                "optimiser to adam or adam8bit"
            )
    chain = optax.chain(
        scale_by_adam1bit(
            config.b1,
            config.b2,
            config.eps,
            config.clip_norm,
            config.full_precision_steps,
            config.block_size,
            config.min_compressed_size,
            axes,
            copies(mesh),
        ),
        optax.scale_by_learning_rate(schedule),
    )
    return PerDeviceOptimiser(chain, mesh)


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
