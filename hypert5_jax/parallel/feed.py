"""From host batches to arrays sharded over the mesh, a few steps ahead of their use."""

import collections
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import global_arrays
from hypert5_jax.parallel.mesh import BATCH_AXES, batch_ways
from hypert5_jax.parallel.rules import listed


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch, contexts and target examples alike, over slice, data and fsdp."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(mesh: Mesh, contexts: int, targets: int, microbatches: int) -> None:
    """Refuses a global batch the mesh and the microbatches do not divide.

    Raises:
      UserError: naming which of the two counts does not divide.
    """
    ways = batch_ways(mesh) * microbatches
    for what, size in (("contexts", contexts), ("target examples", targets)):
        if size % ways:
            fits = [n for n in range(1, ways) if ways % n == size % n == 0]
            raise UserError(
                f"a batch of {size} {what} does not divide into {microbatches} "
                f"microbatches on {batch_ways(mesh)} devices (slice x data x fsdp); make "
                f"it a multiple of {ways}, or choose {listed(fits)} for the product of "
                "microbatches and those devices"
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
