"""What stands in a jaxpr and in all that it calls."""

from collections.abc import Iterator
from typing import Any

import jax


def equations(jaxpr: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every equation, and how often it runs: loops with a known length multiplied out."""
    for equation in jaxpr.eqns:
        yield equation, times
        scan = equation.primitive.name == "scan"
        each = times * (equation.params["length"] if scan else 1)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(value):
                yield from equations(getattr(value, "jaxpr", value), each)


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")
