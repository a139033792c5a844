"""A tiny model that reads bytes, and the ids of its rows by hand."""

import dataclasses
import functools

from hypert5_jax.adapting.model import Model
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.training.state import fingerprints
from tests.models import TINY, random_params

BYTES = Vocabulary("bytes", 259, 0, "b" * 64)
X, Y, EOS = 259, 260, 1
SIZES = dataclasses.replace(
    TINY, vocab_size=264, num_encoder_layers=1, num_decoder_layers=2
)
ROW = RowFormat(lengths={"hyper_inputs": 40, "inputs": 12, "targets": 6}, max_shots=4)
PREFIX = Variant(prefix=PrefixSpec(3))
LORA = Variant(adaptation="lora", lora=LoRASpec(2))
EXAMPLES = [("ab", "c"), ("de", "fg"), ("hij", "k")]


@functools.cache
def model(variant: Variant = PREFIX, seed: int = 0) -> Model:
    """One of random parameters."""
    system = System(SIZES, variant)
    params = random_params(system, seed)
    base = fingerprints({"downstream": params["downstream"]})["downstream"]
    return Model(system, params, BYTES, ROW, base, "tiny")


def ids(text: str) -> list[int]:
    """Bytes as ids, by hand: three special ids come first."""
    return [byte + 3 for byte in text.encode()]


def shots(pairs: list[tuple[str, str]]) -> list[int]:
    """`<x> input <y> target …`."""
    return [i for a, b in pairs for i in (X, *ids(a), Y, *ids(b))]
