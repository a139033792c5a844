"""Logical axis names, T5X's letter for letter, plus the few φ adds.

`parallel/rules.py` maps these names to mesh axes; nothing else gives them a meaning.
"""

BATCH = "batch"
# The batch axis where rows come together at one copy of a parameter that stays where it
# lies, for a product with it.
COPY_BATCH = "copy_batch"
# Copies of what all rows of a batch share, one for the rows of each device.
BATCH_COPIES = "batch_copies"
LENGTH = "length"
EMBED = "embed"
# The same axis of a gradient that the devices are about to add up.
SUMMED_EMBED = "summed_embed"
VOCAB = "vocab"
MLP = "mlp"
HEADS = "heads"
KV = "kv"
JOINED_KV = "joined_kv"
RELPOS_BUCKETS = "relpos_buckets"
LAYERS = "layers"

# What φ adds. A generating head's output kernel is [embed, layers * heads * head_dim]
# and is by far the largest new array: its last axis has a name of its own.
PREFIX = "prefix"
RANK = "rank"
SLOTS = "slots"
HEAD_HIDDEN = "head_hidden"
PHI_OUT = "phi_out"

ALL = (
    BATCH,
    COPY_BATCH,
    BATCH_COPIES,
    LENGTH,
    EMBED,
    SUMMED_EMBED,
    VOCAB,
    MLP,
    HEADS,
    KV,
    JOINED_KV,
    RELPOS_BUCKETS,
    LAYERS,
    PREFIX,
    RANK,
    SLOTS,
    HEAD_HIDDEN,
    PHI_OUT,
)
