"""Rule tables: which logical axis of an array lies along which axis of the mesh.

Data parallel, FSDP and tensor parallel are this one table over meshes whose other axes
have size 1; nothing else in the code asks which of them is in use.
"""

import math
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypert5_jax.core import axes
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel.mesh import DATA, FSDP, MODEL

Tree = Any
Rules = tuple[tuple[str, Any], ...]

# In order of precedence: one array uses a mesh axis once, the first rule wins. `batch`
# leads so that activations [batch, length, embed] split fsdp over the batch while
# parameters, which have no batch axis, split it over embed.
RULES: Rules = (
    (axes.BATCH, (DATA, FSDP)),
    (axes.VOCAB, MODEL),
    (axes.MLP, MODEL),
    (axes.HEADS, MODEL),
    (axes.JOINED_KV, MODEL),
    (axes.PHI_OUT, MODEL),
    (axes.EMBED, FSDP),
    # A head's output map has no embed axis, and is by far the largest of what is new.
    (axes.HEAD_HIDDEN, FSDP),
)


def partition_spec(names: tuple[str | None, ...] | None) -> PartitionSpec:
    """The mesh axes of one array from its logical axis names; None replicates it."""
    if names is None:
        return PartitionSpec()
    return nn.logical_to_mesh_axes(names, _total(RULES))


def _total(rules: Rules) -> Rules:
    named = {name for name, _ in rules}
    return rules + tuple((name, None) for name in axes.ALL if name not in named)


def activate():
    """Context in which the models' logical constraints follow these rules."""
    return nn.logical_axis_rules(_total(RULES))


def param_shardings(mesh: Mesh, shapes: Tree, logical: Tree) -> Tree:
    """A NamedSharding for every parameter.

    Args:
      mesh: with axes data, fsdp and model.
      shapes: tree of arrays or ShapeDtypeStructs.
      logical: tree like it, of tuples of logical axis names (or None) at its leaves.

    Raises:
      UserError: a parameter's axis does not divide by the mesh axes it lies along;
        the message names the parameter, both axes and both sizes.
    """
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
    shardings = []
    for (path, leaf), names in zip(
        paths_and_leaves, structure.flatten_up_to(logical), strict=True
    ):
        spec = partition_spec(names)
        _check_divides(mesh, path, leaf.shape, names, spec)
        shardings.append(NamedSharding(mesh, spec))
    return structure.unflatten(shardings)


def _check_divides(mesh, path, shape, names, spec) -> None:
    for size, name, along in zip(shape, names or (), spec):
        along = (along,) if isinstance(along, str) else (along or ())
        ways = math.prod(mesh.shape[axis] for axis in along)
        if size % ways:
            parameter = "/".join(str(getattr(key, "key", key)) for key in path)
            raise UserError(
                f"the mesh does not divide {parameter}: its axis {name!r} has size "
                f"{size}, mesh axis {'+'.join(along)} has {ways} devices; choose a "
                f"mesh size that divides {size}"
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
      tree like `tree`; arrays of another shape than their parameter are replicated.
    """
    structure = jax.tree.structure(params)
    leaves, layouts = jax.tree.leaves(params), jax.tree.leaves(shardings)
    everywhere = replicated(mesh)

    def is_mirror(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == params.keys()

    def place(node: Any) -> Any:
        if not is_mirror(node):
            return everywhere
        placed = [
            jax.tree.map(
                lambda s, p=p, at=at: at if s.shape == p.shape else everywhere, sub
            )
            for sub, p, at in zip(structure.flatten_up_to(node), leaves, layouts)
        ]
        return structure.unflatten(placed)

    return jax.tree.map(place, tree, is_leaf=is_mirror)
