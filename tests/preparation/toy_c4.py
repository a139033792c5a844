"""CACLM over the .json.gz files of `$HYPERT5_DATA/c4/en`, with bytes for tokens."""

import os
import time

import seqio

from hypert5_jax.preparation.caclm import Segments, register
from hypert5_jax.preparation.documents import JsonLines

DELAY = "TOY_C4_DELAY"


class SlowBytes(seqio.ByteVocabulary):
    """Bytes, at a speed the test that kills can rely on."""

    def encode(self, s):
        """The ids of a text."""
        time.sleep(float(os.environ.get(DELAY, "0")))
        return super().encode(s)


_FILES = "$HYPERT5_DATA/c4/en/c4-{}.*.json.gz"
register(
    "toy_c4",
    JsonLines(_FILES.format("train"), _FILES.format("validation")),
    Segments(a=12, b=4, c=8, d=12, cuts="offset"),
    SlowBytes(extra_ids=10),
)
