"""The mesh of devices: named axes, checked against the devices that are there."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from hypert5_jax.core.errors import UserError

DATA = "data"
FSDP = "fsdp"
MODEL = "model"
MESH_AXES = (DATA, FSDP, MODEL)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis of the mesh.

    Attributes:
      data: copies of the model, each with its own part of the batch; -1 takes all
        devices the other axes leave.
      fsdp: devices that share one copy's parameters and optimiser state (ZeRO), each
        with its own part of the batch.
      model: devices that share one example's matrix products (tensor parallel).
    """

    data: int = -1
    fsdp: int = 1
    model: int = 1

    def __post_init__(self) -> None:
        if self.fsdp < 1 or self.model < 1 or self.data == 0 or self.data < -1:
            raise UserError(
                f"mesh data={self.data}, fsdp={self.fsdp}, model={self.model}: an axis "
                "has at least 1 device; only data may be -1, for all that are left"
            )


def mesh_shape(config: MeshConfig, device_count: int) -> tuple[int, int, int]:
    """Devices along (data, fsdp, model).

    Raises:
      UserError: the sizes do not multiply to device_count.
    """
    inner = config.fsdp * config.model
    data = config.data
    if data == -1:
        data = device_count // inner
        if data == 0:
            raise UserError(
                f"zero devices for the mesh asked for: fsdp {config.fsdp} x model "
                f"{config.model} needs at least {inner} devices, there are "
                f"{device_count}; make them smaller or use more devices"
            )
    if data * inner != device_count:
        raise UserError(
            f"the mesh asked for has data {data} x fsdp {config.fsdp} x model "
            f"{config.model} = {data * inner} devices, there are {device_count}; "
            "change the mesh (data=-1 takes what the others leave)"
        )
    return data, config.fsdp, config.model


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over `devices` (default: all of this run's).

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = mesh_shape(config, len(devices))
    # Auto: sharding of intermediate arrays is XLA's; explicit axes would make the
    # logical rules fail.
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(shape, MESH_AXES, axis_types=axis_types, devices=devices)


def batch_ways(mesh: Mesh) -> int:
    """Into how many parts the mesh splits a batch."""
    return math.prod(mesh.shape[axis] for axis in (DATA, FSDP))
