"""A compiled module's text, read: computations, instructions, shapes, trip counts.

The text of XLA's optimised HLO is one instruction a line,

    %fusion.3 = bf16[32,1024]{1,0:T(8,128)} fusion(%a, %b), kind=kOutput, calls=%c, …

and all that is known of a loop is in it: `known_trip_count` where the compiler wrote it
down, else the loop's own counter, bound and stride.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

_SHAPE = re.compile(r"([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
_CALLED = re.compile(r"(?:calls|body|condition|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
_BITS: Mapping[str, int] = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128}
# Instructions that pass a scalar on as it is.
_SAME = ("copy", "convert", "bitcast", "reshape", "copy-done", "bitcast-convert")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its element type, dimensions, and whether it lies in HBM.

    A TPU's layouts name the memory space: S(1) and others are on the chip itself.
    """

    dtype: str
    dims: tuple[int, ...]
    in_hbm: bool = True

    @property
    def elements(self) -> int:
        """How many numbers."""
        return math.prod(self.dims)

    @property
    def nbytes(self) -> int:
        """Bytes, without a layout's padding."""
        return (self.elements * _bits(self.dtype) + 7) // 8


def _bits(dtype: str) -> int:
    if dtype in _BITS:
        return _BITS[dtype]
    found = re.search(r"\d+", dtype)
    return int(found[0]) if found else 32


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name: without its %.
      opcode: "fusion", "dot", "while" …
      shapes: of its result; several for a tuple.
      operands: names.
      inside: the text between the operands' parentheses (a constant's value).
      attributes: the rest of the line.
      root: whether it is its computation's result.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    inside: str
    attributes: str
    root: bool

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations it runs."""
        found = _CALLED.findall(self.attributes)
        for group in _BRANCHES.findall(self.attributes):
            found += _NAME.findall(group)
        return tuple(found)

    def attribute(self, name: str) -> str:
        """Value of `name=…` up to the next comma or brace, "" if absent."""
        found = re.search(rf"\b{name}=\{{?([^,}}\s]*)", self.attributes)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """The operation of the Python program it comes from, "" if nobody says."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def estimated_cycles(self) -> int:
        """What the TPU compiler says it takes, 0 where it says nothing."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0

    @property
    def called_target(self) -> str:
        """What a custom call calls."""
        return self.attribute("custom_call_target").strip('"')

    @property
    def kernel(self) -> bool:
        """Whether it is one that somebody wrote by hand (Pallas)."""
        return self.called_target == "tpu_custom_call"

    def kernel_estimate(self, what: str) -> int | None:
        """What a kernel's author says it takes: "flops" or "bytes_accessed"."""
        found = re.search(
            rf'"cost_estimate":\{{[^}}]*"{what}":"(\d+)"', self.attributes
        )
        return int(found[1]) if found else None

    @property
    def nbytes(self) -> int:
        """Bytes of the result."""
        return sum(shape.nbytes for shape in self.shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class Module:
    """A whole module.

    Attributes:
      computations: {name: {instruction's name: instruction}}, in the text's order.
      entry: name of the computation that runs.
    """

    computations: Mapping[str, Mapping[str, Instruction]]
    entry: str

    def root(self, computation: str) -> Instruction:
        """The result of a computation."""
        return next(i for i in self.computations[computation].values() if i.root)


def parse(text: str) -> Module:
    """The module of `jax.stages.Compiled.as_text()`.

    Raises:
      ValueError: it has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    here: dict[str, Instruction] = {}
    entry = ""
    for line in text.splitlines():
        begins = _COMPUTATION.match(line)
        if begins:
            here = computations.setdefault(begins[2], {})
            entry = begins[2] if begins[1] else entry
        elif _INSTRUCTION.match(line):
            one = _instruction(line)
            here[one.name] = one
    if not entry:
        raise ValueError("no ENTRY computation in this text; expected optimised HLO")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    head = _INSTRUCTION.match(line)
    assert head is not None
    rest = re.sub(r"/\*[^*]*\*/", "", line[head.end() :])
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shapes(rest[:end]))
    rest = rest[end:].lstrip()
    opens = rest.index("(")
    closes = _closing(rest, opens)
    inside = rest[opens + 1 : closes]
    return Instruction(
        name=head[2],
        opcode=rest[:opens],
        shapes=shapes,
        operands=tuple(_NAME.findall(inside)),
        inside=inside,
        attributes=rest[closes + 1 :],
        root=head[1] is not None,
    )


def _closing(text: str, opens: int) -> int:
    """Place of the parenthesis that closes the one at `opens`."""
    depth = 0
    for place in range(opens, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"a parenthesis is not closed: {text[:80]}")


def _shapes(text: str) -> list[Shape]:
    found = []
    for dtype, dims, layout in _SHAPE.findall(text):
        sizes = tuple(int(d.removeprefix("<=")) for d in dims.split(",") if d)
        space = re.search(r"S\((\d+)\)", layout)
        found.append(Shape(dtype, sizes, space is None or space[1] == "0"))
    return found


@dataclasses.dataclass(frozen=True)
class _Place:
    """An instruction, and what the parameters around it stand for.

    `caller` are the places of the operands that the computation was called with; None
    for a loop's body and condition, whose one parameter is what the loop carries.
    """

    computation: str
    name: str
    caller: tuple["_Place", ...] | None = None


def trip_count(module: Module, computation: str, loop: Instruction) -> int | None:
    """How often a `while` runs its body, at most; None where the text does not tell.

    Args:
      module: the module.
      computation: name of the one that holds the loop.
      loop: the `while`.
    """
    written = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if written:
        return int(written[1])
    condition, body = loop.attribute("condition")[1:], loop.attribute("body")[1:]
    for compare in _compares(module, _Place(condition, module.root(condition).name)):
        found = _counted(module, computation, loop, body, compare)
        if found is not None:
            return found
    return None


def _compares(module: Module, place: _Place) -> list[tuple[Instruction, _Place]]:
    """Comparisons that must all hold for `place` to be true."""
    one = module.computations[place.computation][place.name]
    if one.opcode == "compare":
        return [(one, place)]
    if one.opcode == "fusion":
        inner = one.called[0]
        outer = tuple(dataclasses.replace(place, name=n) for n in one.operands)
        return _compares(module, _Place(inner, module.root(inner).name, outer))
    if one.opcode in ("and", *_SAME):
        return [
            found
            for name in one.operands
            for found in _compares(module, dataclasses.replace(place, name=name))
        ]
    return []


def _counted(
    module: Module,
    computation: str,
    loop: Instruction,
    body: str,
    compared: tuple[Instruction, _Place],
) -> int | None:
    compare, place = compared
    sides = [
        _value(module, dataclasses.replace(place, name=name))
        for name in compare.operands
    ]
    direction = compare.attribute("direction")
    if isinstance(sides[1], _Carried) and not isinstance(sides[0], _Carried):
        sides.reverse()
        direction = {"LT": "GT", "LE": "GE", "GT": "LT", "GE": "LE"}.get(
            direction, direction
        )
    counter, bound = sides
    if not isinstance(counter, _Carried):
        return None

    def carried_in(which: "_Carried") -> "int | _Carried | None":
        start = module.computations[computation][loop.operands[0]]
        if start.opcode != "tuple" or which.offset:
            return None
        return _value(module, _Place(computation, start.operands[which.index]))

    if isinstance(bound, _Carried):
        bound = carried_in(bound)
    begin = carried_in(dataclasses.replace(counter, offset=0))
    after = module.root(body)
    if after.opcode != "tuple":
        return None
    changed = _value(module, _Place(body, after.operands[counter.index]))
    if not (
        isinstance(bound, int)
        and isinstance(begin, int)
        and isinstance(changed, _Carried)
        and changed.index == counter.index
        and changed.offset
    ):
        return None
    stride = changed.offset
    distance = bound - begin - counter.offset
    distance += {"LE": 1, "GE": -1}.get(direction, 0)
    if direction not in ("LT", "LE", "GT", "GE", "NE"):
        return None
    return max(math.ceil(distance / stride), 0)


@dataclasses.dataclass(frozen=True)
class _Carried:
    """Element `index` of what a loop carries, plus a constant."""

    index: int
    offset: int = 0


def _value(module: Module, place: _Place) -> int | _Carried | None:
    """A scalar: a constant, an element of what a loop carries, or who knows."""
    one = module.computations[place.computation].get(place.name)
    if one is None:
        return None

    def operand(number: int) -> int | _Carried | None:
        return _value(module, dataclasses.replace(place, name=one.operands[number]))

    if one.opcode == "constant":
        return int(one.inside) if re.fullmatch(r"-?\d+", one.inside) else None
    if one.opcode in _SAME:
        return operand(0)
    if one.opcode == "copy-start":
        return operand(0)
    if one.opcode == "parameter" and place.caller is not None:
        return _value(module, place.caller[int(one.inside)])
    if one.opcode == "get-tuple-element":
        return _element(module, place, one)
    if one.opcode == "fusion":
        inner = one.called[0]
        outer = tuple(dataclasses.replace(place, name=n) for n in one.operands)
        return _value(module, _Place(inner, module.root(inner).name, outer))
    if one.opcode in ("add", "subtract"):
        left, right = operand(0), operand(1)
        sign = 1 if one.opcode == "add" else -1
        if isinstance(left, int) and isinstance(right, _Carried) and sign == 1:
            left, right = right, left
        if isinstance(right, int):
            if isinstance(left, int):
                return left + sign * right
            if isinstance(left, _Carried):
                return dataclasses.replace(left, offset=left.offset + sign * right)
    return None


def _element(module: Module, place: _Place, one: Instruction) -> int | _Carried | None:
    """The value of a get-tuple-element."""
    index = int(one.attribute("index"))
    of = module.computations[place.computation].get(one.operands[0])
    if of is None:
        return None
    if of.opcode == "parameter" and place.caller is None:
        return _Carried(index)
    if of.opcode == "tuple":
        return _value(module, dataclasses.replace(place, name=of.operands[index]))
    if of.opcode == "fusion":
        inner = of.called[0]
        root = module.root(inner)
        outer = tuple(dataclasses.replace(place, name=n) for n in of.operands)
        if root.opcode == "tuple":
            return _value(module, _Place(inner, root.operands[index], outer))
    return None
