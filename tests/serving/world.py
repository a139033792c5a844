"""A tiny model whose answers tell which φ gave them, and tasks for it."""

import dataclasses
import random
import string
from collections.abc import Sequence

import jax

from hypert5_jax.adapting.model import Model
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.serving.engine import Sizes
from tests.models import TINY, random_params

BASE = "b" * 64
TOKEN = "a-s3cret"
SIZES = Sizes(batch=3, adapt_batch=2, seats=5)
WORDS = Vocabulary(kind="bytes", size=259, extra_ids=0, fingerprint="bytes")
ROW = RowFormat(
    lengths={"hyper_inputs": 60, "inputs": 40, "targets": 6},
    max_shots=4,
    too_few="fewer",
)


def model(variant: Variant | None = None, seed: int = 3) -> Model:
    """Random parameters, large enough for φ to decide every answer."""
    sizes = dataclasses.replace(TINY, vocab_size=262)
    system = System(sizes, variant or Variant(prefix=PrefixSpec(length=3)))
    params = jax.tree.map(lambda leaf: 2.5 * leaf, random_params(system, seed))
    return Model(system, params, WORDS, ROW, BASE, "a tiny model")


def words(rng: random.Random, most: int = 12) -> str:
    """Letters."""
    return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, most)))


def examples(task: int, count: int = 3) -> list[tuple[str, str]]:
    """Examples of a task: letters of its own."""
    rng = random.Random(1000 + task)
    return [(words(rng, 9), words(rng, 4)) for _ in range(count)]


def bodies(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Examples as a request has them."""
    return [{"input": one, "target": other} for one, other in pairs]
