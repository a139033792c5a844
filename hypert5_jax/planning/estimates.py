"""From a compiled step's measures to what a run takes: time, money, use of the chips."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.compiled import HOST, QUICK
from hypert5_jax.planning.topologies import read

Json = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What is computed from the answer of `compiled.measures`.

    Attributes:
      seconds: of a step.
      flops_ratio: compiled FLOPs of all devices over model FLOPs: what is computed again
        or for nothing.
      mfu: model FLOPs a second over the chips' peak.
      slow_seconds, slow_mfu: the same by the compiler's cycles; None where it has
        none, as the host's, or they mean nothing, as it compiled quickly.
      tokens_per_second: of one chip.
      rows_per_second: examples that each host has to read.
      hours: of all steps.
      chip_hours: the same, times chips.
      dollars: the same, times the price of one.
    """

    seconds: float
    flops_ratio: float
    mfu: float
    slow_seconds: float | None
    slow_mfu: float | None
    tokens_per_second: float
    rows_per_second: float
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
    topology = read(measured["topology"])
    chip, hosts = topology.chip, topology.chips / topology.chips_per_host
    chips, seconds = measured["chips"], costs["seconds"]
    hours = steps * seconds / 3600
    compiler = measured["compiler"]
    no_cycles = compiler.startswith(HOST) or compiler.endswith(QUICK)
    slow = None if no_cycles else costs["slow_seconds"]
    ideal = measured["model_flops"] / (chips * chip.peak_flops)
    return Estimate(
        seconds=seconds,
        flops_ratio=costs["flops"] * chips / measured["model_flops"],
        mfu=ideal / seconds,
        slow_seconds=slow,
        slow_mfu=None if slow is None else ideal / slow,
        tokens_per_second=measured["tokens"] / seconds / chips,
        rows_per_second=measured["rows"] / seconds / hosts,
        hours=hours,
        chip_hours=hours * chips,
        dollars=hours * chips * prices.get(chip.name, CHIPS[chip.name].price),
    )
