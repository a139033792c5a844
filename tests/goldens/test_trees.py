"""Parameter names, dtypes, sizes and axes are a contract; the goldens hold it."""

import difflib

import pytest

from hypert5_jax.core import trees as core_trees
from hypert5_jax.hyper.system import System
from hypert5_jax.t5.config import SIZES
from tests.goldens import trees

# Parameters of the public T5 1.1 checkpoints (T5X docs/models.md): all, the encoder
# stack, the decoder stack without the output layer, and embedding = output layer.
PUBLISHED = {
    "small": (76_961_152, 18_883_264, 25_178_816, 16_449_536),
    "base": (247_577_856, 84_954_240, 113_275_008, 24_674_304),
    "large": (783_150_080, 308_332_032, 409_019_904, 32_899_072),
    "xl": (2_849_757_184, 1_157_729_280, 1_560_431_616, 65_798_144),
    "xxl": (11_135_332_352, 4_630_714_368, 6_241_425_408, 131_596_288),
}


@pytest.mark.parametrize("size", SIZES)
def test_trees_are_the_goldens(size):
    stored = trees.sections(size)
    assert set(stored) == set(trees.ADAPTATIONS)
    for name in trees.ADAPTATIONS:
        now = trees.described(size, name)
        difference = "\n".join(
            difflib.unified_diff(
                stored[name].splitlines(), now.splitlines(), "golden", "now", "", "", 0
            )
        )
        assert now == stored[name], (
            f"{trees.golden(size).name} [{name}] differs:\n{difference}\n"
            f"If that is meant, paste this (or run python -m tests.goldens.trees):\n"
            f"{now}"
        )


@pytest.mark.parametrize("size", PUBLISHED)
def test_parameters_are_as_many_as_published(size):
    system = System(SIZES[size], trees.ADAPTATIONS["none"])
    t5 = system.abstract_params()["downstream"]
    head = core_trees.count(t5["decoder"]["logits_dense"])
    assert (
        core_trees.count(t5),
        core_trees.count(t5["encoder"]),
        core_trees.count(t5["decoder"]) - head,
        head,
    ) == PUBLISHED[size]
    assert core_trees.count(t5["token_embedder"]) == head
