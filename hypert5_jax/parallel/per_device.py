"""Arrays of which every copy of the model holds one of its own: errors that stay where
they were made."""

from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

from hypert5_jax.parallel.mesh import COPY_AXES

Tree = Any


class PerDevice(NamedTuple):
    """One array for each device along the slice and data axes.

    values: [..., devices, a, b], the third axis from the end along mesh axes
      slice and data; leading axes, such as that of layers, may come and go. Or what is said of one:
      its sharding.
    """

    values: Any


def is_per_device(node: Any) -> bool:
    """Whether a node of a tree is a PerDevice."""
    return isinstance(node, PerDevice)


def spec(values: Any) -> PartitionSpec:
    """Where the array inside a PerDevice lies."""
    return PartitionSpec(*[None] * (values.ndim - 3), COPY_AXES, None, None)


def specs(tree: Tree) -> Tree:
    """PartitionSpecs like `tree`: arrays are whole on every device but for PerDevices."""

    def one(node: Any) -> Any:
        return PerDevice(spec(node.values)) if is_per_device(node) else PartitionSpec()

    return jax.tree.map(one, tree, is_leaf=is_per_device)
