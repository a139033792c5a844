"""Between what a process has in its memory and arrays that lie over all processes.

from_share   each process has its own rows of a batch
from_whole   each process has the whole array
to_host      each process gets the whole array
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Share:
    """Which of the equal parts of every batch lie on this process's devices.

    Two processes have the same parts where one example's computation lies over both.

    Attributes:
      parts: their numbers, ascending.
      ways: how many parts a batch has.
    """

    parts: tuple[int, ...] = (0,)
    ways: int = 1

    def whole(self, rows: int) -> int:
        """Rows of the batch of which this process has `rows`."""
        return rows * self.ways // len(self.parts)


def share(sharding: NamedSharding) -> Share:
    """This process's share of arrays whose first axis lies as `sharding` says."""
    along = sharding.spec[0] if sharding.spec else None
    names = (along,) if isinstance(along, str) else tuple(along or ())
    ways = int(np.prod([sharding.mesh.shape[name] for name in names], dtype=int))
    rows = NamedSharding(sharding.mesh, PartitionSpec(along))
    indices = rows.addressable_devices_indices_map((ways,)).values()
    parts = sorted({index[0].start or 0 for index in indices if index is not None})
    return Share() if len(parts) == ways else Share(tuple(parts), ways)


def from_share(rows: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A global array from this process's rows.

    Args:
      rows: [n, …], the parts of its share, one after another.
      sharding: of the whole: its first axis alone is divided.
    """
    own = share(sharding)
    size = len(rows) // len(own.parts)
    places = {part * size: i * size for i, part in enumerate(own.parts)}

    def piece(index: Any) -> np.ndarray:
        if own.ways == 1:
            return rows[index]
        start = places[index[0].start or 0]
        return rows[start : start + size]

    return jax.make_array_from_callback(
        (own.whole(len(rows)), *rows.shape[1:]), sharding, piece
    )


def from_whole(array: Any, sharding: Any) -> jax.Array:
    """A global array from the whole of it, which every process has; may share memory."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return jax.device_put(array, sharding)
    # device_put would first compare the values of all processes, over the network.
    values = np.asarray(array)
    return jax.make_array_from_callback(values.shape, sharding, lambda i: values[i])


def to_host(array: Any) -> np.ndarray:
    """The whole array in this process's memory; every process must call it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if not array.is_fully_replicated:
            from jax.experimental import multihost_utils

            return multihost_utils.process_allgather(array, tiled=True)
        return np.asarray(array.addressable_data(0))
    return np.asarray(array)
