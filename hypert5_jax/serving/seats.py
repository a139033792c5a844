"""Many φ on the device at once: a fixed number of seats, the least recently used gives way.

Every array of φ has one array here, [layers, seats, …], so that a compiled program can
gather each row's φ by the number of its seat. φ is written into that array in place.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.spec import Site, Spec, phi_shapes
from hypert5_jax.phi.types import Phi
from hypert5_jax.serving.bank import StoredPhi


class Seated(NamedTuple):
    """Where a batch's φ are.

    Attributes:
      phi: all seats, arrays [layers, seats, …]; valid until φ are seated again.
      seats: of each φ asked for, its seat or why it has none.
    """

    phi: Phi
    seats: list[int | UserError]


class Seats:
    """φ on the device; used by one thread.

    Args:
      spec, sites: the shapes of all φ; see phi/spec.py.
      capacity: seats.
      read: φ of batch 1 from where it is stored.
      dtype: of the arrays; φ is cast to activations' dtype where it meets them, so
        nothing is lost by holding it in that.
    """

    def __init__(
        self,
        spec: Spec,
        sites: Mapping[str, Site],
        capacity: int,
        read: Callable[[StoredPhi], Phi],
        dtype: Any,
    ):
        self.capacity = capacity
        self.loads = self.evictions = 0
        self._read = read
        self._write = jax.jit(_write, donate_argnums=0)
        empty = _zeros(phi_shapes(spec, sites, 1))
        everybody = _zeros(phi_shapes(spec, sites, capacity, dtype))
        # Compiled here, not in somebody's request.
        self._phi = self._write(everybody, empty, jnp.int32(0))
        # Least recently used first.
        self._taken: OrderedDict[StoredPhi, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._taken)

    @property
    def nbytes(self) -> int:
        """Of the device's memory."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self._phi))

    def seat(self, wanted: Sequence[StoredPhi]) -> Seated:
        """Gives every φ a seat; none of `wanted` makes way for another of them.

        Raises:
          ValueError: more different φ than there are seats.
        """
        if len(set(wanted)) > self.capacity:
            raise ValueError(f"{len(set(wanted))} φ for {self.capacity} seats")
        # First of all, so that whoever makes way is none of them.
        for stored in wanted:
            if stored in self._taken:
                self._taken.move_to_end(stored)
        found: dict[StoredPhi, int | UserError] = {}
        for stored in wanted:
            if stored not in found:
                found[stored] = self._seat_of(stored)
        return Seated(self._phi, [found[stored] for stored in wanted])

    def _seat_of(self, stored: StoredPhi) -> int | UserError:
        if stored in self._taken:
            return self._taken[stored]
        try:
            phi = jax.tree.map(jnp.asarray, self._read(stored))
        except UserError as error:
            return error
        seat = self._free()
        # A seat is nobody's while it is written.
        self._phi = self._write(self._phi, phi, jnp.int32(seat))
        self._taken[stored] = seat
        self.loads += 1
        return seat

    def _free(self) -> int:
        if len(self._taken) < self.capacity:
            return (set(range(self.capacity)) - set(self._taken.values())).pop()
        self.evictions += 1
        _, seat = self._taken.popitem(last=False)
        return seat


def _zeros(shapes: Phi) -> Phi:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _write(all_phi: Phi, phi: Phi, seat: jax.Array) -> Phi:
    """all_phi [layers, seats, …] with φ [layers, 1, …] at a seat."""

    def one(everybody: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(everybody.dtype)
        return jax.lax.dynamic_update_slice_in_dim(everybody, new, seat, axis=1)

    return jax.tree.map(one, all_phi, phi)
