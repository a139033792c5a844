"""Bytes that one instruction moves from and to HBM.

A fusion reads of a parameter no more than the slices it takes of it, and writes of an
array that it updates in place no more than the part that changes.
"""

from collections.abc import Mapping

from hypert5_jax.planning.hlo import Instruction, Module

# They name what is there already, or wait for what something else moves.
_FREE = frozenset(
    {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call"}
    | {"conditional", "after-all", "partition-id", "replica-id", "iota", "domain"}
    | {"add-dependency", "opt-barrier", "async-update"}
)
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATES = ("dynamic-update-slice", "scatter")


def traffic(module: Module, one: Instruction, around: Mapping[str, Instruction]) -> int:
    """Bytes of one run.

    Args:
      module: of the instruction.
      one: the instruction.
      around: its computation.
    """
    if one.opcode in _FREE or one.opcode.endswith("-done"):
        return 0
    if one.opcode == "custom-call":
        if not one.kernel:
            return 0  # hints and names: AllocateBuffer, AssumeGatherIndicesInBound
        known = one.kernel_estimate("bytes_accessed")
        if known is not None:
            return known
    if one.opcode in ("copy-start", "slice-start"):
        # The result holds the new place and the old one, and a semaphore.
        places = [s for s in one.shapes if s.dims or len(one.shapes) < 3]
        size = min((shape.nbytes for shape in places), default=0)
        return size * max(sum(shape.in_hbm for shape in places), 1)
    read = 0
    for number, name in enumerate(one.operands):
        operand = around.get(name)
        if operand is None or not any(shape.in_hbm for shape in operand.shapes):
            continue
        read += _read(module, one, number, operand)
    return read + _written(module, one, around)


def _read(module: Module, user: Instruction, number: int, value: Instruction) -> int:
    """Bytes that `user` reads of its operand `number`, which is `value`."""
    if user.opcode in _SLICES:
        return user.nbytes if number == 0 else 0
    if user.opcode in _UPDATES and number == 0:
        return 0
    if user.opcode == "fusion":
        inner = module.computations[user.called[0]]
        named = next(
            (
                i
                for i in inner.values()
                if i.opcode == "parameter" and i.inside == str(number)
            ),
            None,
        )
        return 0 if named is None else _read_inside(module, inner, named)
    return value.nbytes


def _read_inside(
    module: Module, inner: Mapping[str, Instruction], value: Instruction
) -> int:
    total = 0
    for user in inner.values():
        for number, name in enumerate(user.operands):
            if name != value.name:
                continue
            if user.opcode in ("bitcast", "reshape", "copy"):
                total += _read_inside(module, inner, user)
            elif user.opcode != "tuple":
                total += _read(module, user, number, value)
    return min(total, value.nbytes)


def _written(
    module: Module, one: Instruction, around: Mapping[str, Instruction]
) -> int:
    if one.opcode == "fusion":
        inner = module.computations[one.called[0]]
        root = module.root(one.called[0])
        parts = [inner[n] for n in root.operands] if root.opcode == "tuple" else [root]
        if len(parts) == len(one.shapes):
            return sum(
                _changed(part, inner)
                for part, shape in zip(parts, one.shapes)
                if shape.in_hbm
            )
    if one.opcode in _UPDATES:
        return _changed(one, around) if one.shapes[0].in_hbm else 0
    return sum(shape.nbytes for shape in one.shapes if shape.in_hbm)


def _changed(part: Instruction, inner: Mapping[str, Instruction]) -> int:
    """Bytes of a result that are new."""
    while part.opcode == "bitcast" and part.operands[0] in inner:
        part = inner[part.operands[0]]
    if part.opcode in _UPDATES:
        return inner[part.operands[1 if part.opcode == _UPDATES[0] else 2]].nbytes
    return part.nbytes
