"""What devices send one another: kind, bytes, and which axes of the mesh it crosses."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from hypert5_jax.parallel.mesh import SLICE
from hypert5_jax.planning.hlo import Instruction
from hypert5_jax.planning.links import Grid, Group

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


# Between slices a TPU's compiler hands arrays to the hosts, whose network carries out the
# collective that the attribute names: `send` begins it, `recv-done` waits for its end.
_BETWEEN_SLICES = re.compile(r'_xla_megascale_transfer_type="(\w+)"')


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The mesh as the compiler's partition numbers see it: numbers in row-major order.

    Attributes:
      axes: names.
      sizes: devices along each.
      grid: of chips, and where in it the devices lie.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    grid: Grid

    def crossed(self, groups: Sequence[Sequence[int]]) -> tuple[str, ...]:
        """Names of the axes along which the members of a group differ."""
        found: set[int] = set()
        for group in groups:
            places = np.array(np.unravel_index(list(group), self.sizes))
            found |= set(np.nonzero((places != places[:, :1]).any(axis=1))[0].tolist())
        return tuple(self.axes[axis] for axis in sorted(found))


@dataclasses.dataclass(frozen=True)
class Sent:
    """One collective.

    Attributes:
      kind: of KINDS.
      axes: of the mesh, that it crosses.
      devices: of one group.
      nbytes: that each device sends.
      overlaps: whether the compiler starts it early and waits for it later.
      groups: of devices that talk to one another; none where hosts carry it out.
    """

    kind: str
    axes: tuple[str, ...]
    devices: int
    nbytes: int
    overlaps: bool
    groups: tuple[Group, ...] = ()


def kind_of(one: Instruction) -> str | None:
    """Its kind, or None where it is no collective; the end of one that was started
    is none."""
    if one.opcode == "send":
        between = _BETWEEN_SLICES.search(one.attributes)
        named = between[1].lower().replace("_", "-") if between else None
        return named if named is None or named in KINDS else "collective-permute"
    opcode = one.opcode.removesuffix("-start")
    return opcode if opcode in KINDS else None


def sent(
    one: Instruction,
    around: Mapping[str, Instruction],
    mesh: Mesh,
    fused: bool = False,
) -> Sent:
    """What each device sends for a collective.

    In a ring of n devices an all-gather sends (n - 1) / n of its result, a
    reduce-scatter as much of its operand, an all-reduce both.

    Args:
      one: the collective.
      around: the computation it stands in, by name.
      mesh: whose axes it crosses.
      fused: that computation is a fusion, run as one operation.
    """
    kind = kind_of(one)
    assert kind is not None
    if kind == "all-reduce" and fused and _keeps_slices(one, around):
        # How TPUs write a reduce-scatter: an all-reduce fused with what takes its parts.
        kind = "reduce-scatter"
    if one.opcode == "send":
        slices = mesh.sizes[mesh.axes.index(SLICE)]
        nbytes = _ring(kind, around[one.operands[0]].nbytes, slices)
        # The compiler begins those of gradients when all are there: nothing hides them.
        return Sent(kind, (SLICE,), slices, nbytes, overlaps=False)
    groups = _groups(one, mesh)
    pairs = kind == "collective-permute"
    n = 2 if pairs else max((len(group) for group in groups), default=1)
    given = sum(around[name].nbytes for name in one.operands if name in around)
    if pairs:
        # The results of a start hold places for the operand and for two semaphores.
        given = sum(around[name].nbytes for name in one.operands[:1])
    nbytes = _ring(kind, given, n)
    moving = tuple(tuple(group) for group in groups if len(set(group)) > 1)
    overlaps = one.opcode.endswith("-start")
    nbytes = nbytes if moving else 0
    return Sent(kind, mesh.crossed(moving), n, nbytes, overlaps, moving)


def _keeps_slices(one: Instruction, around: Mapping[str, Instruction]) -> bool:
    """Whether nothing but slices is taken of a result."""
    users = [other for other in around.values() if one.name in other.operands]
    return bool(users) and all(
        _keeps_slices(user, around)
        if user.opcode == "get-tuple-element"
        else user.opcode == "dynamic-slice"
        for user in users
    )


def _ring(kind: str, given: int, n: int) -> int:
    """Bytes that each of n devices sends for a collective over operands of so many."""
    if kind == "collective-permute":
        return given
    if kind == "all-gather":
        return given * (n - 1)
    return (2 if kind == "all-reduce" else 1) * given * (n - 1) // n


def _groups(one: Instruction, mesh: Mesh) -> list[list[int]]:
    """Partitions that talk to one another; one group of all where nothing is said."""
    total = int(np.prod(mesh.sizes))
    pairs = re.search(r"source_target_pairs=\{(.*?\})\}", one.attributes)
    if pairs:
        return _lists(pairs[1])
    if "replica_groups=mesh[" in one.attributes:
        return _groups_of_axes(one.attributes, total)
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", one.attributes
    )
    if iota:
        shape, dims = ([int(n) for n in iota[i].split(",")] for i in (1, 2))
        numbers = np.arange(np.prod(dims)).reshape(dims)
        if iota[3]:
            numbers = numbers.transpose([int(n) for n in iota[3].split(",")])
        return numbers.reshape(shape).tolist()
    written = re.search(r"replica_groups=\{(.*?\})\}", one.attributes)
    return _lists(written[1]) if written else [list(range(total))]


def _groups_of_axes(text: str, total: int) -> list[list[int]]:
    """Groups along axes of a mesh that the compiler made up.

    replica_groups=mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}: the devices in that
    order, reshaped to 4 x 2; a group differs in `a`. `'a':(2)4` is the part of `a` of
    size 4 whose places are 2 apart from the left.
    """
    found = re.search(
        r"mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))?"
        r" \{([^}]*)\}",
        text,
    )
    assert found is not None, text[:200]
    names = re.findall(r"'([^']+)'=(\d+)", found[1])
    order = np.arange(total)
    if found[2]:
        order = order.reshape([int(n) for n in found[2].split(",")])
        if found[3]:
            order = order.transpose([int(n) for n in found[3].split(",")])
    sizes: list[int] = []
    along: list[int] = []
    for name, size in names:
        # An axis taken in part is three: what is left of the part, it, and the rest.
        part = re.search(rf"'{re.escape(name)}'(?::\((\d+)\)(\d+))?", found[4])
        before = int(part[1] or 1) if part else 1
        here = int(part[2] or size) if part else 1
        along += [len(sizes) + 1] if part else []
        sizes += [before, here, int(size) // (before * here)]
    numbers = order.reshape(sizes)
    others = [axis for axis in range(len(sizes)) if axis not in along]
    members = int(np.prod([sizes[axis] for axis in along], dtype=int))
    return numbers.transpose(others + along).reshape(-1, members).tolist()


def _lists(text: str) -> list[list[int]]:
    found = re.findall(r"\{([\d,]+)\}", text)
    return [[int(n) for n in group.split(",")] for group in found]
