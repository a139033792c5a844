"""The mesh of devices: named axes, checked against the devices that are there.

    slice   slices of a pod, joined by the data-centre network: data parallel alone
    data    copies of the model within a slice
    fsdp    devices that share a copy's parameters, gradients and optimiser state
    model   devices that share the matrix products of one example

From the outermost to the innermost: neighbours along `model` talk at every layer, those
along `fsdp` once or twice a layer, those along `data` and `slice` once a step.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from hypert5_jax.core.errors import UserError

SLICE = "slice"
DATA = "data"
FSDP = "fsdp"
MODEL = "model"
MESH_AXES = (SLICE, DATA, FSDP, MODEL)
# What splits a batch.
BATCH_AXES = (SLICE, DATA, FSDP)
# What holds copies of the same parameters.
COPY_AXES = (SLICE, DATA)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh.

    Attributes:
      slice: slices joined by the data-centre network, each with its own part of the
        batch; -1 takes as many as the devices say they lie in (1 off a pod).
      data: copies of the model in a slice, each with its own part of the batch; -1
        takes all devices the other axes leave.
      fsdp: devices that share one copy's parameters and optimiser state (ZeRO), each
        with its own part of the batch.
      model: devices that share one example's matrix products (tensor parallel).
    """

    slice: int = -1
    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        least = min(self.fsdp, self.model, abs(self.slice), abs(self.data))
        if least < 1 or min(self.slice, self.data) < -1:
            raise UserError(
                f"mesh slice={self.slice}, data={self.data}, fsdp={self.fsdp}, "
                f"model={self.model}: an axis has at least 1 device; only slice (as many "
                "as there are) and data (all that are left) may be -1"
            )


def slice_count(devices: Sequence[Any]) -> int:
    """In how many TPU slices these devices say they lie; 1 where they say nothing."""
    return len({_slice_index(device) for device in devices})


def _slice_index(device: Any) -> int:
    # A GPU's is the number of its host, and hosts of GPUs may well share a fast network.
    return getattr(device, "slice_index", 0) if device.platform == "tpu" else 0


def mesh_shape(
    config: MeshConfig, device_count: int, slices: int = 1
) -> tuple[int, int, int, int]:
    """Devices along (slice, data, fsdp, model).

    Args:
      config: what is asked for.
      device_count: how many there are.
      slices: in how many slices they lie.

    Raises:
      UserError: the sizes do not multiply to device_count.
    """
    outer = slices if config.slice == -1 else config.slice
    others = outer * config.fsdp * config.model
    data = config.data
    if data == -1:
        data = device_count // others
        if data == 0:
            raise UserError(
                f"the mesh asked for, slice {outer} x fsdp {config.fsdp} x model "
                f"{config.model}, needs at least {others} devices, there are "
                f"{device_count}; make these axes smaller or use more devices"
            )
    if data * others != device_count:
        raise UserError(
            f"the mesh asked for has slice {outer} x data {data} x fsdp {config.fsdp} x "
            f"model {config.model} = {data * others} devices, there are {device_count}; "
            "change the mesh (data=-1 takes what the others leave)"
        )
    return outer, data, config.fsdp, config.model


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of this run's).

    Devices of one slice are neighbours in it, ordered along the other axes as their
    network is wired: the slice axis alone crosses the data-centre network.

    Raises:
      UserError: the sizes do not multiply to the number of devices; slices of unequal
        sizes; or another number of slices than the devices lie in.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices), slice_count(devices))
    # Auto: sharding of intermediate arrays is XLA's; explicit axes would make the
    # logical rules fail.
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    slices = [_wired(shape[1:], part) for part in _by_slice(devices, shape[0])]
    return Mesh(np.stack(slices), MESH_AXES, axis_types=axis_types)


def _wired(shape: tuple[int, ...], devices: Sequence[Any]) -> np.ndarray:
    """The devices of one slice [data, fsdp, model], neighbours by their network."""
    # An axis of 8 on a torus of 4 x 4 x 4 is half a plane: not for jax.make_mesh, which
    # splits a torus' axis on v5e alone.
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _by_slice(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """The devices of each slice, in the order given.

    Devices that lie in one slice may be divided into several, to try such a mesh out.
    """
    sizes = collections.Counter(map(_slice_index, devices))
    if slices % len(sizes):
        raise UserError(
            f"the devices lie in {len(sizes)} slices, the mesh asked for has slice "
            f"{slices}: fsdp and model would cross the data-centre network; set "
            f"MeshConfig.slice to {len(sizes)}, or leave it at -1"
        )
    if len(set(sizes.values())) > 1:
        counts = ", ".join(str(count) for _, count in sorted(sizes.items()))
        raise UserError(
            f"the slices have {counts} devices; a mesh needs as many in each"
        )
    in_order = sorted(devices, key=_slice_index)
    size = len(in_order) // slices
    return [in_order[i : i + size] for i in range(0, len(in_order), size)]


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def copies(mesh: Mesh) -> int:
    """How many copies of the parameters the mesh holds."""
    return math.prod(mesh.shape[axis] for axis in COPY_AXES)
