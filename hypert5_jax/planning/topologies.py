"""Slices by name: "v5p:4x4x4" is 64 chips of v5p; "2*v5e:4x4" is two slices of v5e.

The devices of a slice that is not there come from libtpu, the TPU's compiler, which
`pip install jax[tpu]` brings. Each chip is one device, as on the machines themselves;
without being told so, libtpu describes the two cores of a v4 chip as two.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from hypert5_jax.core.errors import UserError
from hypert5_jax.planning.chips import CHIPS, Chip

# Slices that Google rents out (cloud.google.com/tpu/docs, the chips' pages), up to 256
# chips; others of a chip's torus are accepted too.
KNOWN = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}
_NAME = re.compile(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)")


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice, or several alike.

    Attributes:
      chip: what it is made of.
      shape: chips along each axis of the torus.
      slices: how many, joined by the data centre's network.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def chips_per_host(self) -> int:
        """Chips that one machine (VM) drives, as Cloud TPU hands out slices: up to 8 of
        v5e and v6e come with one, others have one for every 4."""
        each = math.prod(self.shape)
        return each if self.chip.axes == 2 and each <= 8 else min(each, 4)

    @property
    def rings(self) -> tuple[bool, ...]:
        """Whether the ends of each axis are joined: those of a v5e's and v6e's axes of
        16, and all where a v4 or v5p slice is of whole cubes of 4 x 4 x 4 ("How to Scale
        Your Model", Austin et al., 2025, part 2)."""
        if self.chip.axes == 2:
            return tuple(size == 16 for size in self.shape)
        return (all(size % 4 == 0 for size in self.shape),) * len(self.shape)

    @property
    def name(self) -> str:
        """As `read` takes it."""
        several = f"{self.slices}*" if self.slices > 1 else ""
        return f"{several}{self.chip.name}:{'x'.join(map(str, self.shape))}"


def read(name: str) -> Topology:
    """The topology of a name.

    Raises:
      UserError: it is none, or larger than a pod; the message has the known ones.
    """
    found = _NAME.fullmatch(name)
    chip = CHIPS.get(found[2]) if found else None
    if found is None or chip is None:
        raise UserError(f"{name!r} is no topology; {known()}")
    shape = tuple(int(n) for n in found[3].split("x"))
    slices = int(found[1] or 1)
    whole = math.prod(shape) == 1 or all(n % 2 == 0 for n in shape[:2])
    if len(shape) != chip.axes or not math.prod(shape) or not whole or slices < 1:
        raise UserError(
            f"{name!r} is no slice of {chip.name}: its torus has {chip.axes} axes, the "
            f"first two of even length (or one chip in all); {known()}"
        )
    too_long = chip.axes == 2 and max(shape) > 16
    if math.prod(shape) > chip.largest_slice or too_long:
        most = "16x16" if chip.axes == 2 else f"{chip.largest_slice:,} chips"
        raise UserError(
            f"{name!r} is larger than any slice of {chip.name}, which has at most {most}; "
            f"several slices are such as 2*{chip.name}:{KNOWN[chip.name][-1]}. {known()}"
        )
    return Topology(chip, shape, slices)


def known() -> str:
    """The topologies that can be rented, for a message."""
    each = (f"{chip}:{', '.join(shapes)}" for chip, shapes in KNOWN.items())
    return f"known: {'; '.join(each)}; N* before it is N slices"


def has_compiler() -> bool:
    """Whether libtpu is installed, or TPU_LIBRARY_PATH says where it is."""
    place = os.environ.get("TPU_LIBRARY_PATH")
    if place:
        return os.path.exists(place)
    return importlib.util.find_spec("libtpu") is not None


def environment(topology: Topology, compiler: bool) -> dict[str, str]:
    """Environment variables of a process that compiles for the topology; JAX reads them
    when it is imported.

    Args:
      topology: the slice.
      compiler: whether libtpu is there; without it, fake devices of the host stand in.
    """
    if not compiler:
        flag = f"--xla_force_host_platform_device_count={topology.chips}"
        others = os.environ.get("XLA_FLAGS", "")
        return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{others} {flag}".strip()}
    return {
        "JAX_PLATFORMS": "cpu",
        # So that no metadata server of a cloud machine is asked which TPU this is …
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": f"{topology.chip.name}-{topology.chips}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        # … and since nothing runs on a TPU, several processes may compile.
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }


def devices(topology: Topology, compiler: bool) -> Sequence[Any]:
    """The slice's devices, to be called in a process with that `environment`."""
    import jax

    if not compiler:
        return jax.devices()[: topology.chips]
    from jax.experimental import topologies

    extra: dict[str, Any] = {"chip_config_name": "default"}
    if topology.chip.name == "v4":
        extra["chip_config_name"] = "megacore"
    if math.prod(topology.shape) == 1:
        extra["chips_per_host_bounds"] = [1] * 3
    if topology.slices > 1:
        extra["num_slices"] = topology.slices
    shape = "x".join(map(str, topology.shape))
    name = f"{topology.chip.name}:{shape}"
    return topologies.get_topology_desc(name, platform="tpu", **extra).devices
