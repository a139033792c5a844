"""Rule tables: which logical axis of an array lies along which axis of the mesh.

Data parallel, FSDP and tensor parallel are this one table over meshes whose other axes
have size 1; nothing else in the code asks which of them is in use.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypert5_jax.core import axes
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import per_device
from hypert5_jax.parallel.mesh import BATCH_AXES, COPY_AXES, FSDP, MODEL, SLICE

Tree = Any
Rules = tuple[tuple[str, Any], ...]

# In order of precedence: one array uses a mesh axis once, the first rule wins. `batch`
# leads so that activations [batch, length, embed] split fsdp over the batch while
# parameters, which have no batch axis, split it over embed.
RULES: Rules = (
    (axes.BATCH, BATCH_AXES),
    # A head's output kernel lies over model and fsdp both and is never gathered: what it
    # is multiplied with comes to it from all along fsdp, and the products go back to
    # their rows, where the second rule is left for them. model leads, so that going back
    # is one exchange along fsdp.
    (axes.COPY_BATCH, COPY_AXES),
    (axes.PHI_OUT, (MODEL, FSDP)),
    (axes.PHI_OUT, MODEL),
    (axes.VOCAB, MODEL),
    (axes.MLP, MODEL),
    (axes.HEADS, MODEL),
    (axes.JOINED_KV, MODEL),
    (axes.HEAD_HIDDEN, MODEL),
    (axes.EMBED, FSDP),
)
# Between slices only parts of gradients are added up, and of position biases, which are
# as large as scores, only the gradient of their table. Within one slice compilers choose
# the best sum by themselves (t5/layers.py, `gathered`), and sooner.
_BETWEEN_SLICES: Rules = (
    (axes.SUMMED_EMBED, FSDP),
    (axes.BATCH_COPIES, BATCH_AXES),
)


def partition_spec(names: tuple[str | None, ...] | None) -> PartitionSpec:
    """The mesh axes of one array from its logical axis names; None replicates it."""
    if names is None or {axes.EMBED} <= set(names) <= {axes.EMBED, axes.LAYERS}:
        # A norm's scale: to gather it costs more than its memory is worth.
        return PartitionSpec()
    return nn.logical_to_mesh_axes(names, _total(RULES))


def _total(rules: Rules) -> Rules:
    named = {name for name, _ in rules}
    return rules + tuple((name, None) for name in axes.ALL if name not in named)


def activate():
    """Context in which the models' logical constraints follow these rules.

    To be entered within jax.set_mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    several = not mesh.empty and mesh.shape[SLICE] > 1
    return nn.logical_axis_rules(_total(RULES + (_BETWEEN_SLICES if several else ())))


def inactive():
    """Context in which they say nothing: inside shard_map a device sees its own part."""
    return nn.logical_axis_rules(())


def param_shardings(mesh: Mesh, shapes: Tree, logical: Tree) -> Tree:
    """A NamedSharding for every parameter.

    Args:
      mesh: of make_mesh.
      shapes: tree of arrays or ShapeDtypeStructs.
      logical: tree like it, of tuples of logical axis names (or None) at its leaves.

    Raises:
      UserError: a parameter's axis does not divide by the mesh axes it lies along;
        the message names the parameter, both axes and both sizes, and the sizes of the
        mesh axis that divide every parameter.
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    specs, divided = [], []
    for (path, leaf), names in zip(
        paths_and_leaves, structure.flatten_up_to(logical), strict=True
    ):
        spec = partition_spec(names)
        specs.append(NamedSharding(mesh, spec))
        for size, name, along in zip(leaf.shape, names or (), spec):
            divided.append(_Divided(path, str(name), size, _ways(mesh, along)[0]))
    for one in divided:
        if one.size % math.prod(mesh.shape[axis] for axis in one.along):
            raise UserError(_refusal(mesh, one, divided))
    return structure.unflatten(specs)


class _Divided(NamedTuple):
    """One axis of one parameter, and the mesh axes it lies along."""

    path: Any
    name: str
    size: int
    along: tuple[str, ...]


def _refusal(mesh: Mesh, wrong: _Divided, divided: Sequence[_Divided]) -> str:
    parameter = "/".join(str(getattr(key, "key", key)) for key in wrong.path)
    sizes = " x ".join(f"{axis} {mesh.shape[axis]}" for axis in wrong.along)
    found = (axis for axis in wrong.along if mesh.shape[axis] > 1)
    choices = " or ".join(_choices(mesh, axis, divided) for axis in found)
    return (
        f"the mesh does not divide {parameter}: its axis {wrong.name!r} has size "
        f"{wrong.size}, the mesh has {sizes}; choose {choices}"
    )


def _choices(mesh: Mesh, axis: str, divided: Sequence[_Divided]) -> str:
    """The sizes of a mesh axis that divide all that lies along it, the others kept."""

    def fits(count: int) -> bool:
        ways = {**mesh.shape, axis: count}
        return all(
            one.size % math.prod(ways[along] for along in one.along) == 0
            for one in divided
            if axis in one.along
        )

    counts = [n for n in range(1, mesh.size + 1) if mesh.size % n == 0 and fits(n)]
    if not counts:
        return f"another {axis} together with other mesh axes"
    return f"{axis} {listed(counts)}"


def listed(numbers: Sequence[int]) -> str:
    """ "1, 2 or 4" """
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}" if most else last


def _ways(mesh: Mesh, along: Any) -> tuple[tuple[str, ...], int]:
    """The mesh axes one entry of a PartitionSpec names, and their devices."""
    names = (along,) if isinstance(along, str) else tuple(along or ())
    return names, math.prod(mesh.shape[axis] for axis in names)


def _where_it_divides(
    mesh: Mesh, shape: tuple[int, ...], spec: PartitionSpec
) -> PartitionSpec:
    """`spec` without the mesh axes that do not divide this shape."""
    return PartitionSpec(
        *(
            None if size % _ways(mesh, along)[1] else along
            for size, along in zip(shape, spec)
        )
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def like_params(mesh: Mesh, tree: Tree, params: Tree, shardings: Tree) -> Tree:
    """Shardings of an optimiser state: what mirrors a parameter lies as it does.

    Args:
      tree: ShapeDtypeStructs of the state, in which dicts with the keys of `params`
        hold at each parameter's place an array or a small tree of arrays.
      params: {group: tree} of ShapeDtypeStructs of the trainable parameters.
      shardings: tree like params.

    Returns:
      tree like `tree`. Arrays with as many axes as their parameter lie as it does, but
      for axes that do not divide (the scales of quantised blocks are fewer than what
      they scale); other arrays are replicated, what is PerDevice along slice and data.
    """
    structure = jax.tree.structure(params)
    leaves, layouts = jax.tree.leaves(params), jax.tree.leaves(shardings)
    everywhere = replicated(mesh)

    def is_mirror(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == params.keys()

    def place_one(node: Any, param: Any, at: NamedSharding) -> Any:
        if per_device.is_per_device(node):
            spec = per_device.spec(node.values)
            return per_device.PerDevice(NamedSharding(mesh, spec))
        if len(node.shape) != len(param.shape):
            return everywhere
        return NamedSharding(mesh, _where_it_divides(mesh, node.shape, at.spec))

    def place(node: Any) -> Any:
        if not is_mirror(node):
            return everywhere
        placed = [
            jax.tree.map(
                lambda leaf, p=p, at=at: place_one(leaf, p, at),
                sub,
                is_leaf=per_device.is_per_device,
            )
            for sub, p, at in zip(structure.flatten_up_to(node), leaves, layouts)
        ]
        return structure.unflatten(placed)

    return jax.tree.map(place, tree, is_leaf=is_mirror)
