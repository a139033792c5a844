"""How long the links of a slice take for what its chips send one another.

The chips of a slice are a grid. Between neighbours there is one link, used both ways at
once, and where the ends of an axis are joined (`Topology.rings`) its chips are a ring. A
chip at the end of an axis that is no ring has one link along it, and no chip can have all
of a sum or a gathered array sooner than that one. Bandwidth alone is counted, no latency,
and the links as those of the slice's own network alone.

Formulas: "How to Scale Your Model" (Austin et al., 2025), parts 2 and 3. What a collective
crosses is taken from where its devices lie, so that an axis of the mesh has the links it
was given and no others.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from hypert5_jax.planning.topologies import Topology

Group = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """The chips of a slice, and where in it the partitions of a program lie.

    Attributes:
      shape: chips along each axis.
      rings: whether the ends of each are joined.
      link_bandwidth: bytes a second of one link, one way.
      places: [partition][axis], of each in its own slice.
    """

    shape: tuple[int, ...]
    rings: tuple[bool, ...]
    link_bandwidth: float
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, topology: Topology, devices: Sequence[Any] = ()) -> "Grid":
        """That of a mesh's devices, in the order of its partitions.

        Devices that do not know their place, as those of a host that stand in for a
        TPU's, and devices that are not named lie row by row.
        """
        axes = len(topology.shape)
        if devices and all(hasattr(one, "coords") for one in devices):
            places = tuple(tuple(one.coords[:axes]) for one in devices)
        else:
            row_by_row = itertools.product(*map(range, topology.shape))
            places = tuple(row_by_row) * topology.slices
        chip = topology.chip
        return cls(topology.shape, topology.rings, chip.link_bandwidth, places)

    def seconds(self, kind: str, groups: Sequence[Group], nbytes: int) -> float:
        """Of one collective within slices.

        Args:
          kind: of collectives.KINDS.
          groups: partitions that talk to one another; of a collective-permute pairs
            (from, to).
          nbytes: that each of them sends.
        """
        if not nbytes:
            return 0.0
        if kind == "collective-permute":
            return nbytes * self._busiest(groups) / self.link_bandwidth
        slowest = 0.0
        for ways in {self._ways(group) for group in groups}:
            each = [1 / sum(links for _, links in ways)]
            if kind.endswith("all-to-all"):
                # Half of what is sent crosses the middle of each axis.
                each += [count / (4 * links) for count, links in ways]
            slowest = max(slowest, *each)
        return nbytes * slowest / self.link_bandwidth

    def _ways(self, group: Group) -> tuple[tuple[int, float], ...]:
        """(members, links of a chip) along each axis of the grid that a group spans.

        Members that are no neighbours share the links between them with the groups whose
        members lie there.
        """
        found = []
        for at, size, ring in zip(range(len(self.shape)), self.shape, self.rings):
            members = sorted({self.places[one][at] for one in group})
            gaps = [b - a for a, b in itertools.pairwise(members)]
            if not gaps:
                continue
            around = members[0] + size - members[-1]
            if ring and {around} == set(gaps):
                found.append((len(members), 2 / around))
                continue
            if ring:
                gaps.append(around)
                gaps.remove(max(gaps))
            found.append((len(members), 1 / max(gaps)))
        return tuple(found)

    def _busiest(self, pairs: Sequence[Group]) -> int:
        """Messages over the link that has most, each sent along one axis after another."""
        loads: collections.Counter[Any] = collections.Counter()
        for source, target in pairs:
            loads.update(self._route(source, target))
        return max(loads.values(), default=0)

    def _route(self, source: int, target: int) -> Iterator[Any]:
        """The links (place, axis, direction) from one partition to another."""
        place = list(self.places[source])
        for at, size, ring in zip(range(len(place)), self.shape, self.rings):
            way = self.places[target][at] - place[at]
            if ring and abs(way) > size // 2:
                way -= size if way > 0 else -size
            step = 1 if way > 0 else -1
            for _ in range(abs(way)):
                yield tuple(place), at, step
                place[at] = (place[at] + step) % size
