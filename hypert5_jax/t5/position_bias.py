"""T5's relative position bias: one table per stack, added to the scores of all layers.

Parameter names and axes are T5X's (t5x/examples/t5/layers.py).
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hypert5_jax.core import axes
from hypert5_jax.t5.config import T5Config

relpos_init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def relative_position_bucket(
    relative_position: Array, bidirectional: bool, num_buckets: int, max_distance: int
) -> Array:
    """T5's buckets: half for exact small offsets, half logarithmic up to max_distance.

    Args:
      relative_position: int32, key position minus query position.
      bidirectional: spend half of the buckets on keys after the query; otherwise all
        of those fall in bucket 0.

    Returns:
      int32 bucket numbers of the same shape.
    """
    bucket = jnp.zeros_like(relative_position)
    distance = -relative_position
    if bidirectional:
        num_buckets //= 2
        bucket += (distance < 0).astype(jnp.int32) * num_buckets
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(distance, 0)
    exact = num_buckets // 2
    logarithmic = exact + (
        jnp.log(distance.astype(jnp.float32) / exact + np.finfo(np.float32).eps)
        / np.log(max_distance / exact)
        * (num_buckets - exact)
    ).astype(jnp.int32)
    logarithmic = jnp.minimum(logarithmic, num_buckets - 1)
    return bucket + jnp.where(distance < exact, distance, logarithmic)


class RelativePositionBias(nn.Module):
    """One table per stack: rel_embedding [heads, buckets]."""

    config: T5Config

    @nn.compact
    def __call__(
        self,
        query_positions: Array,
        key_positions: Array,
        bidirectional: bool,
        parts: int = 1,
    ) -> Array:
        """float32 [parts, heads, q, k] for int32 positions [q] and [k].

        With the parts of `batch_parts`, each part of the batch has a copy of its own, all
        the same: layers then add up the gradient of each copy, and what devices add up
        in the end is the gradient of the table.
        """
        cfg = self.config
        table = self.param(
            "rel_embedding",
            nn.with_logical_partitioning(
                relpos_init, (axes.HEADS, axes.RELPOS_BUCKETS)
            ),
            (cfg.num_heads, cfg.relative_attention_num_buckets),
            jnp.float32,
        )
        buckets = relative_position_bucket(
            key_positions[None, :] - query_positions[:, None],
            bidirectional,
            cfg.relative_attention_num_buckets,
            cfg.relative_attention_max_distance,
        )
        # T5X computes the bias in the activations' dtype; so do we, then widen.
        table = table.astype(cfg.dtype)
        if parts == 1:
            return jnp.take(table, buckets, axis=1)[None].astype(jnp.float32)
        tables = nn.with_logical_constraint(
            jnp.broadcast_to(table, (parts, *table.shape)),
            (axes.BATCH_COPIES, axes.HEADS, axes.RELPOS_BUCKETS),
        )
        bias = jnp.take(tables, buckets, axis=2).astype(jnp.float32)
        return nn.with_logical_constraint(
            bias, (axes.BATCH_COPIES, axes.HEADS, None, None)
        )


def batch_parts(rows: int) -> int:
    """Copies of what a batch of so many rows shares: as many as the rules have devices
    along BATCH_COPIES, where these divide the rows; else 1."""
    along = dict(nn.get_logical_axis_rules()).get(axes.BATCH_COPIES) or ()
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not along:
        return 1
    parts = math.prod(mesh.shape[axis] for axis in along)
    return parts if rows % parts == 0 else 1
