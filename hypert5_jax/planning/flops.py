"""Operations of one instruction: those of matrix products, and those of vector units.

A product of matrices is a `dot`, or on a TPU a `convolution`, whose window may be padded:
only positions inside the array are multiplied, as XLA's own HloCostAnalysis counts them.
"""

import math
import re
from collections.abc import Mapping

from hypert5_jax.planning.hlo import Instruction, Module, Shape

# What a vector unit does for every element; what is not here moves data or is free.
# Transcendental functions and divisions take it several operations each.
_SIMPLE = frozenset(
    {"add", "and", "ceil", "clamp", "compare", "convert", "abs", "floor", "maximum"}
    | {"minimum", "multiply", "negate", "not", "or", "reduce", "reduce-window", "xor"}
    | {"select", "shift-left", "shift-right-arithmetic", "shift-right-logical", "sign"}
    | {"round-nearest-even", "subtract"}
)
_LONG = frozenset(
    {"cosine", "divide", "erf", "exponential", "exponential-minus-one", "log"}
    | {
        "log-plus-one",
        "logistic",
        "power",
        "remainder",
        "rsqrt",
        "sine",
        "sqrt",
        "tanh",
    }
)
_LONG_WEIGHT = 8


def product_flops(one: Instruction, around: Mapping[str, Instruction]) -> int:
    """Operations of a `dot`, a `convolution` or a kernel, 2 for a multiplication and its addition.

    Args:
      one: the instruction; any other kind has 0.
      around: its computation, where the operands' shapes are.
    """
    if one.opcode == "dot":
        left = around[one.operands[0]].shapes[0]
        axes = _numbers(one, "lhs_contracting_dims")
        return 2 * one.shapes[0].elements * math.prod(left.dims[a] for a in axes)
    if one.opcode == "convolution":
        left, right = (around[name].shapes[0] for name in one.operands[:2])
        return _convolution(one, left, right)
    if one.kernel:
        return one.kernel_estimate("flops") or 0
    return 0


def _numbers(one: Instruction, name: str) -> tuple[int, ...]:
    found = re.search(rf"\b{name}=\{{([\d,]*)\}}", one.attributes)
    return tuple(int(n) for n in found[1].split(",") if n) if found else ()


def _convolution(one: Instruction, left: Shape, right: Shape) -> int:
    labels = one.attribute("dim_labels")
    inputs, rest = labels.split("_")
    kernel, outputs = rest.split("->")
    spatial = sorted(c for c in kernel if c.isdigit())
    window = _window(one, len(spatial))
    positions = 1
    for number, axis in enumerate(spatial):
        positions *= _inside(
            size=left.dims[inputs.index(axis)],
            results=one.shapes[0].dims[outputs.index(axis)],
            **{name: values[number] for name, values in window.items()},
        )
    # The kernel's input features are those of one group of features.
    features = right.dims[kernel.index("i")]
    result = one.shapes[0].dims
    rows, columns = result[outputs.index("b")], result[outputs.index("f")]
    groups = int(one.attribute("batch_group_count") or 1)
    # With batch groups, `left`'s batch is spread over the output's features.
    batch = left.dims[inputs.index("b")] // groups
    assert rows == batch, (rows, batch, one.name)
    return 2 * features * rows * columns * positions


def _window(one: Instruction, count: int) -> dict[str, list[int]]:
    """Size, stride, padding and dilation of a window along each spatial axis."""
    found = re.search(r"window=\{([^}]*)\}", one.attributes)
    given = dict(part.split("=") for part in found[1].split()) if found else {}

    def each(name: str, default: int) -> list[int]:
        return (
            [int(x) for x in given[name].split("x")]
            if name in given
            else [default] * count
        )

    pads = given["pad"].split("x") if "pad" in given else ["0_0"] * count
    return {
        "window": each("size", 1),
        "stride": each("stride", 1),
        "before": [int(pad.split("_")[0]) for pad in pads],
        "base": each("lhs_dilate", 1),
        "dilation": each("rhs_dilate", 1),
    }


def _inside(
    *,
    size: int,
    results: int,
    window: int,
    stride: int,
    before: int,
    base: int,
    dilation: int,
) -> int:
    """Pairs of (result, place in the window) along one axis that meet an element."""
    count = 0
    for place in range(window):
        # Positions along the axis that this place of the window visits.
        first = place * dilation - before
        if base == 1 and stride == 1:
            low, high = max(0, -first), min(results, size - first)
            count += max(high - low, 0)
            continue
        for result in range(results):
            at = first + result * stride
            count += at % base == 0 and 0 <= at // base < size
    return count


def vector_operations(one: Instruction, around: Mapping[str, Instruction]) -> int:
    """Operations of a vector unit for an instruction that is no matrix product."""
    if one.opcode not in _SIMPLE | _LONG:
        return 0
    if one.opcode in ("reduce", "reduce-window"):
        inputs = around[one.operands[0]].shapes
        return sum(shape.elements for shape in inputs)
    weight = _LONG_WEIGHT if one.opcode in _LONG else 1
    return weight * sum(shape.elements for shape in one.shapes)


def operations(module: Module, computation: str) -> tuple[int, int]:
    """(of matrix products, of vector units) of a fused computation, those it calls too."""
    products = vectors = 0
    around = module.computations[computation]
    for one in around.values():
        products += product_flops(one, around)
        vectors += vector_operations(one, around)
        if one.opcode in ("fusion", "call"):
            for name in one.called:
                more = operations(module, name)
                products, vectors = products + more[0], vectors + more[1]
    return products, vectors
