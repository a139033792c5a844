"""From host batches to arrays sharded over the mesh, a few steps ahead of their use."""

import collections
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import global_arrays
from hypert5_jax.parallel.mesh import DATA, FSDP, batch_ways


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch, contexts and target examples alike, over data and fsdp."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def check_batch(mesh: Mesh, contexts: int, targets: int, microbatches: int) -> None:
    """Refuses a global batch the mesh and the microbatches do not divide.

    Raises:
      UserError: naming which of the two counts does not divide.
    """
    ways = batch_ways(mesh) * microbatches
    for what, size in (("contexts", contexts), ("target examples", targets)):
        if size % ways:
            raise UserError(
                f"a batch of {size} {what} does not divide into {microbatches} "
                f"microbatches on {batch_ways(mesh)} devices (data x fsdp); make it a "
                f"multiple of {ways}"
            )


def to_mesh(batch: Batch, sharding: NamedSharding) -> Batch:
    """This host's rows -> one global array per field."""

    return jax.tree.map(lambda rows: global_arrays.from_share(rows, sharding), batch)


def prefetch(
    batches: Iterator[Batch], sharding: NamedSharding, depth: int = 2
) -> Iterator[Batch]:
    """Yields the batches in order, `depth` of them already on their way to devices."""
    ahead: collections.deque[Batch] = collections.deque()
    for batch in batches:
        ahead.append(to_mesh(batch, sharding))
        if len(ahead) > depth:
            yield ahead.popleft()
    yield from ahead
