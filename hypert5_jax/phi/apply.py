"""The single place where φ meets activations.

φ's batch n divides the activations' batch b: 1 is one φ for all rows (an ordinary matrix
product), b is one per row, and in between b // n consecutive rows share one φ. All are
one code path: rows that share a φ are folded into its length axis, never copied.
Einsum letters: n φ batch, b batch, q/k positions, d embed, h heads, c head dim,
p prefix, r rank.
"""

import jax
import jax.numpy as jnp
from jax import Array

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.spec import DECODER_CROSS, DECODER_SELF, ENCODER_SELF
from hypert5_jax.phi.types import MAPS, LowRank, Phi, Prefix, SitePhi

# Site -> (stack, T5X's name of the attention block there).
BLOCKS = {
    ENCODER_SELF: ("encoder", "attention"),
    DECODER_SELF: ("decoder", "self_attention"),
    DECODER_CROSS: ("decoder", "encoder_decoder_attention"),
}


def _fold(x: Array, n: int) -> Array:
    """[b, q, ...] -> [n, (b // n) * q, ...], rows that share a φ side by side."""
    b, q = x.shape[:2]
    if n == 0 or b % n:
        raise UserError(
            f"a φ of batch {n} met activations of batch {b}: expected 1 or a divisor of "
            f"{b} (targets_per_context consecutive rows share one φ)"
        )
    return x.reshape(n, (b // n) * q, *x.shape[2:])


def low_rank(x: Array, pair: LowRank | None) -> Array | None:
    """(x @ a) @ b for one layer, or None where there is nothing to add.

    Args:
      x: [b, q, in], activations.
      pair: a [n, in, rank], b [n, rank, out]; cast to x's dtype.

    Returns:
      [b, q, out]. Never builds a full weight: at T5-Large, batch 256, bf16 those would
      take about 77 GB where rank-8 factors take 1.2 GB.
    """
    if pair is None:
        return None
    folded = _fold(x, pair.a.shape[0])
    narrow = jnp.einsum("nqd,ndr->nqr", folded, pair.a.astype(x.dtype))
    wide = jnp.einsum("nqr,nre->nqe", narrow, pair.b.astype(x.dtype))
    return wide.reshape(*x.shape[:2], wide.shape[-1])


def prefix_scores(query: Array, prefix: Prefix) -> Array:
    """Unmasked, unbiased attention scores of the prefix columns, in float32.

    Prefix columns are always visible and carry zero relative-position bias: no bucket
    exists for a column that has no position (A9).

    Args:
      query: [b, q, heads, head_dim].
      prefix: keys [n, prefix, heads, head_dim].

    Returns:
      float32 [b, heads, q, prefix].
    """
    b, q, h, _ = query.shape
    folded = _fold(query, prefix.keys.shape[0])
    # In float32, not only summed up in it: for a CPU, XLA (jax 0.10) has no product of
    # this form that takes bfloat16 and gives float32. What the casts add is exact, and a
    # TPU multiplies float32 as bfloat16 unless told otherwise.
    scores = jnp.einsum(
        "nqhc,nphc->nqhp",
        folded.astype(jnp.float32),
        prefix.keys.astype(query.dtype).astype(jnp.float32),
    )
    return scores.reshape(b, q, h, prefix.keys.shape[1]).swapaxes(1, 2)


def prefix_values(weights: Array, prefix: Prefix) -> Array:
    """What attention takes from the prefix columns.

    Args:
      weights: [b, heads, q, prefix], attention weights of those columns.
      prefix: values [n, prefix, heads, head_dim].

    Returns:
      [b, q, heads, head_dim] in the weights' dtype.
    """
    b, h, q, _ = weights.shape
    folded = _fold(weights.swapaxes(1, 2), prefix.values.shape[0])
    taken = jnp.einsum("nqhp,nphc->nqhc", folded, prefix.values.astype(weights.dtype))
    return taken.reshape(b, q, h, prefix.values.shape[-1])


def visible_prefix(site: SitePhi | None) -> Prefix | None:
    """The site's prefix, or None if absent or of length zero (then φ is a no-op)."""
    if site is None or site.prefix is None or site.prefix.keys.shape[-3] == 0:
        return None
    return site.prefix


def merge(params: dict, phi: Phi) -> dict:
    """Downstream parameters with an unbatched LoRA φ added into their kernels.

    Args:
      params: the downstream T5's tree with stacked layers,
        {stack: {"layers": {block: {map: {"kernel": [layers, in, out]}}}}}.
      phi: LoRA factors of batch 1, no prefix.

    Raises:
      UserError: φ holds a prefix or more than one φ: neither is a change of weights.
    """
    merged = jax.tree.map(lambda leaf: leaf, params)
    for path, (stack, block) in BLOCKS.items():
        site_name = path.removeprefix(f"{stack}/")
        stack_phi = getattr(phi, stack)
        site = getattr(stack_phi, site_name) if stack_phi is not None else None
        if site is None:
            continue
        if site.prefix is not None:
            raise UserError(f"{stack}/{site_name} of φ is a prefix: only LoRA merges")
        for name in MAPS:
            pair = getattr(site, name)
            if pair is None:
                continue
            if pair.a.shape[1] != 1:
                raise UserError(
                    f"φ holds {pair.a.shape[1]} adaptations: pick one to merge"
                )
            kernel = merged[stack]["layers"][block][name]["kernel"]
            delta = jnp.einsum("ldr,lre->lde", pair.a[:, 0], pair.b[:, 0])
            merged[stack]["layers"][block][name]["kernel"] = kernel + delta.astype(
                kernel.dtype
            )
    return merged
