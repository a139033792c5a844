"""What a compiled step takes: every operation times how often its loops run it.

XLA's `cost_analysis` counts a loop's body once. Here the module is walked from its entry,
a loop's body as often as it is run, and each operation is given

* operations of matrix products and of vector units, counted from shapes;
* bytes it reads from and writes to HBM (what lies on the chip itself is not among them,
  and of an array of which it takes a slice only the slice is);
* seconds: the longest of matrix units, vector units and memory at the chip's full rate, as
  if the other two were hidden below it. The compiler's own `optimal_seconds` is that, too;
* cycles, where the TPU compiler wrote beside it what it reckons with when it chooses tiles:
  the matrix units' waste on narrow products is in it, and for what is bound by memory
  several times what the memory needs.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping

from hypert5_jax.parallel.mesh import SLICE
from hypert5_jax.planning.chips import Chip
from hypert5_jax.planning.collectives import Mesh, Sent, kind_of, sent
from hypert5_jax.planning.flops import operations, product_flops, vector_operations
from hypert5_jax.planning.hlo import Instruction, Module, trip_count
from hypert5_jax.planning.traffic import traffic

# Run what they call instead of being an operation.
_CALLS = ("call", "conditional", "async-start", "custom-call")
_STARTS = "AsyncCollectiveStart"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One line of the module that does something, for one device.

    Attributes:
      name: of the instruction.
      kind: its opcode.
      source: the operation of the Python program.
      times: how often loops run it.
      product_flops, vector_operations, hbm_bytes, cycles: of all its runs.
      sent: what it sends, if it is a collective; of one run.
      early: it is started early and waited for later: the others hide it.
      seconds: of all its runs, at the chip's full rates.
      slow_seconds: the same, or the compiler's cycles if they are more.
    """

    name: str
    kind: str
    source: str
    times: int
    product_flops: int
    vector_operations: int
    hbm_bytes: int
    cycles: int
    sent: Sent | None
    early: bool
    seconds: float
    slow_seconds: float


@dataclasses.dataclass(frozen=True)
class Costs:
    """All operations of a step.

    Attributes:
      operations: each once, in the module's order.
      unknown_loops: names of loops that were counted once, their trip count unknown.
      unknown_kernels: names of kernels whose author does not say what they compute, which
        were counted as memory traffic alone.
    """

    operations: tuple[Operation, ...]
    unknown_loops: tuple[str, ...]
    unknown_kernels: tuple[str, ...]

    def total(self, name: str) -> int:
        """Sum of an attribute over all operations."""
        return sum(getattr(one, name) for one in self.operations)

    @property
    def flops(self) -> int:
        """Of matrix products."""
        return self.total("product_flops")

    @property
    def sent(self) -> dict[tuple[str, tuple[str, ...]], tuple[int, int]]:
        """{(kind, axes crossed): (times, bytes that each device sends)}."""
        found: dict[tuple[str, tuple[str, ...]], tuple[int, int]] = {}
        for one in self.operations:
            if one.sent is not None and one.sent.nbytes:
                key = one.sent.kind, one.sent.axes
                times, nbytes = found.get(key, (0, 0))
                found[key] = times + one.times, nbytes + one.times * one.sent.nbytes
        return found

    def _sum(self, name: str, early: bool, collectives: bool) -> float:
        return sum(
            getattr(one, name)
            for one in self.operations
            if one.early == early and (one.sent is not None) == collectives
        )

    @property
    def compute_seconds(self) -> float:
        """Of everything that is no collective and not started early."""
        return self._sum("seconds", early=False, collectives=False)

    @property
    def collective_seconds(self) -> tuple[float, float]:
        """(of those that stop the rest, of those that are started early)."""
        stop, early = (self._sum("seconds", e, collectives=True) for e in (False, True))
        return stop, early

    def memory_seconds(self, chip: Chip) -> float:
        """Of all bytes from and to HBM, those fetched early too."""
        return self.total("hbm_bytes") / chip.hbm_bandwidth

    def seconds(self, chip: Chip, name: str = "seconds") -> float:
        """Of the step: operations one after another, as the compiler scheduled them;
        what was started early costs what the others do not hide.

        Args:
          chip: that it runs on.
          name: "seconds", or "slow_seconds" with the compiler's cycles.
        """
        stops, early = self.collective_seconds
        compute = self._sum(name, early=False, collectives=False)
        busy = max(compute, self.memory_seconds(chip))
        return max(busy, early) + stops

    def least_seconds(self, chip: Chip) -> float:
        """If everything hid everything else: the busiest of the chip's parts."""
        return max(
            self.flops / chip.peak_flops,
            self.memory_seconds(chip),
            sum(self.collective_seconds),
        )


def cost(module: Module, chip: Chip, mesh: Mesh) -> Costs:
    """The costs of one device's run of a module.

    Args:
      module: of `hlo.parse`.
      chip: what it runs on.
      mesh: whose axes collectives cross, and whose links.
    """
    unknown: list[str] = []
    found = tuple(_walk(module, module.entry, 1, chip, mesh, unknown))
    kernels = {
        one.name
        for around in module.computations.values()
        for one in around.values()
        if one.kernel and one.kernel_estimate("flops") is None
    }
    return Costs(found, tuple(unknown), tuple(sorted(kernels)))


def _walk(
    module: Module,
    computation: str,
    times: int,
    chip: Chip,
    mesh: Mesh,
    unknown: list[str],
) -> Iterator[Operation]:
    around = module.computations[computation]
    for one in around.values():
        if one.opcode == "while":
            trips = trip_count(module, computation, one)
            if trips is None:
                unknown.append(one.name)
            for name in one.called:
                yield from _walk(
                    module, name, times * (trips or 1), chip, mesh, unknown
                )
        elif one.opcode in _CALLS and one.called:
            for name in one.called:
                yield from _walk(module, name, times, chip, mesh, unknown)
        else:
            yield from _operations(module, one, around, times, chip, mesh)


def _operations(
    module: Module,
    one: Instruction,
    around: Mapping[str, Instruction],
    times: int,
    chip: Chip,
    mesh: Mesh,
) -> Iterator[Operation]:
    """Nothing for what takes no time: parameters, tuples, the ends of early starts."""
    if kind_of(one) is not None:
        yield _collective(one, around, times, chip, mesh)
        return
    if one.opcode == "fusion":
        yield from _sent_inside(module, one, times, chip, mesh)
        products, vectors = operations(module, one.called[0])
    else:
        products = product_flops(one, around)
        vectors = vector_operations(one, around)
    nbytes = traffic(module, one, around)
    cycles = one.estimated_cycles
    if not (products or vectors or nbytes or cycles):
        return
    seconds = max(
        products / chip.peak_flops,
        vectors / chip.vector_rate,
        nbytes / chip.hbm_bandwidth,
    )
    yield Operation(
        name=one.name,
        kind=one.opcode,
        source=one.source,
        times=times,
        product_flops=times * products,
        vector_operations=times * vectors,
        hbm_bytes=times * nbytes,
        cycles=times * cycles,
        sent=None,
        early=one.opcode.endswith("-start"),
        seconds=times * seconds,
        slow_seconds=times * max(seconds, cycles / chip.clock),
    )


def _sent_inside(
    module: Module, fusion: Instruction, times: int, chip: Chip, mesh: Mesh
) -> Iterator[Operation]:
    """The collectives of a fusion, which TPUs have.

    One that is started early goes through several fusions that compute meanwhile, and
    stands in each of them: it is counted where it starts.
    """
    inner = module.computations[fusion.called[0]]
    starts = any(one.called_target == _STARTS for one in inner.values())
    for one in inner.values():
        if kind_of(one) is None:
            continue
        found = _collective(one, inner, times, chip, mesh, fused=True)
        if starts:
            yield dataclasses.replace(found, early=True)
        elif one.attribute("channel_id") not in _started(module):
            yield found


@functools.lru_cache(maxsize=1)
def _started(module: Module) -> frozenset[str]:
    """Channels of the collectives that a fusion starts early."""
    return frozenset(
        one.attribute("channel_id")
        for inner in module.computations.values()
        if any(one.called_target == _STARTS for one in inner.values())
        for one in inner.values()
        if kind_of(one) is not None
    )


def _collective(
    one: Instruction,
    around: Mapping[str, Instruction],
    times: int,
    chip: Chip,
    mesh: Mesh,
    fused: bool = False,
) -> Operation:
    what = sent(one, around, mesh, fused)
    if SLICE in what.axes:
        seconds = times * what.nbytes / chip.network_bandwidth
    else:
        seconds = times * mesh.grid.seconds(what.kind, what.groups, what.nbytes)
    return Operation(
        name=one.name,
        kind=what.kind,
        source=one.source,
        times=times,
        product_flops=0,
        vector_operations=0,
        hbm_bytes=0,
        cycles=0,
        sent=what,
        early=what.overlaps,
        seconds=seconds,
        slow_seconds=seconds,
    )
