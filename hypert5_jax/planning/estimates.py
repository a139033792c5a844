"""From a compiled step's measures to what a run takes: time, money, use of the chips."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.topologies import read

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is computed from `compiled.compile_and_measure`'s answer.

    Attributes:
      seconds: of a step.
      flops_ratio: compiled FLOPs of all devices over model FLOPs: what is computed again
        or for nothing.
      mfu: model FLOPs a second over the chips' peak.
      tokens_per_second: of one chip.
      hours: of all steps.
      chip_hours: the same, times chips.
      dollars: the same, times the price of one.
    """

    seconds: float
    flops_ratio: float
    mfu: float
    tokens_per_second: float
    hours: float
    chip_hours: float
    dollars: float


def estimate(
    measured: Json, steps: int, prices: Mapping[str, float]
) -> Estimate | None:
    """None where nothing was compiled, because it did not fit.

    Args:
      measured: of one program.
      steps: how often it runs.
      prices: {chip: US dollars an hour}; a chip that is missing has its list price.
    """
    costs = measured["costs"]
    if costs is None:
        return None
    chip = read(measured["topology"]).chip
    chips, seconds = measured["chips"], costs["seconds"]
    hours = steps * seconds / 3600
    return Estimate(
        seconds=seconds,
        flops_ratio=costs["flops"] * chips / measured["model_flops"],
        mfu=measured["model_flops"] / (seconds * chips * chip.peak_flops),
        tokens_per_second=measured["tokens"] / seconds / chips,
        hours=hours,
        chip_hours=hours * chips,
        dollars=hours * chips * prices.get(chip.name, CHIPS[chip.name].price),
    )
