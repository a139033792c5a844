"""A base T5's head start is what its settings say, and nothing without them."""

import dataclasses

import numpy as np
import pytest

from hypert5_jax.checkpoints import t5x
from hypert5_jax.checkpoints.lazy import in_memory
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi import types
from hypert5_jax.phi.files import PhiHeader, save_phi
from hypert5_jax.phi.spec import LoRASpec, phi_shapes
from hypert5_jax.t5.stacking import unstack_layers
from hypert5_jax.training.initial import (
    InitialConfig,
    check_t5,
    initial_params,
    load_adaptation,
)
from tests.models import TINY, random_tree

SYSTEM = System(
    TINY, Variant("none", "none", trainable=("downstream",), context="none")
)


def begun(**settings):
    begin = initial_params(SYSTEM, InitialConfig(allow_random=True, **settings), seed=3)
    return begin.origins["downstream"], trees.flatten(begin.params["downstream"])


def test_a_head_start_ties_the_output_to_the_embeddings_and_looks_one_word_back():
    plain_origin, plain = begun()
    origin, helped = begun(neighbour_bias=4.0)
    words = np.asarray(helped["token_embedder/embedding"])
    np.testing.assert_array_equal(words, plain["token_embedder/embedding"])
    np.testing.assert_allclose(
        helped["decoder/logits_dense/kernel"], words.T / 32**0.5, rtol=1e-6
    )
    # Bidirectional buckets: offset -1 is bucket 1 of the encoder's first head.
    table = "encoder/relpos_bias/rel_embedding"
    moved = np.asarray(helped[table]) - np.asarray(plain[table])
    assert moved[0, 1] == pytest.approx(4.0) and moved[0].sum() == pytest.approx(4.0)
    assert origin == f"{plain_origin}, neighbour_bias 4.0"


def test_a_head_start_of_a_given_t5_is_refused():
    with pytest.raises(UserError, match="neighbour_bias"):
        InitialConfig(checkpoint_path="runs/base", neighbour_bias=4.0)


@pytest.mark.parametrize("write", [t5x.write_file, t5x.write_directory])
def test_a_t5_of_other_sizes_is_known_by_its_headers(tmp_path, monkeypatch, write):
    arrays = unstack_layers(random_tree(SYSTEM.abstract_params(), 0)["downstream"])
    flat = {name: in_memory(array) for name, array in trees.flatten(arrays).items()}
    path = str(tmp_path / "t5")
    write(path, flat, 0, {})
    monkeypatch.setattr("hypert5_jax.training.initial.any_t5.read_all", None)
    check_t5(SYSTEM, path)
    wide = dataclasses.replace(TINY, mlp_dim=TINY.mlp_dim + 1)
    with pytest.raises(UserError, match="of other sizes: mlp_dim is 40, expected 41"):
        check_t5(System(wide, SYSTEM.variant), path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError):
        check_t5(SYSTEM, str(tmp_path / "none"))


def test_a_learned_phi_starts_as_the_one_in_a_file(tmp_path):
    spec = LoRASpec(2, alpha=4.0, maps=("query", "out"))
    phi = random_tree(phi_shapes(spec, TINY.sites, 1), 0)
    path = str(tmp_path / "phi")
    save_phi(path, phi, PhiHeader(spec, TINY.sites, "a" * 64, "a test"))
    variant = Variant("lora", "learned", trainable=("phi",), context="none", lora=spec)
    name, group, beside = load_adaptation(System(TINY, variant), path)
    found = dict(types.named_arrays(learned.phi_of(group, TINY, variant)))
    expected = dict(types.named_arrays(phi))
    assert name == "phi" and found.keys() == expected.keys()
    for part, array in expected.items():
        np.testing.assert_allclose(found[part], array, rtol=1e-6)
    beside.require("here", ["a" * 64])
    with pytest.raises(UserError, match="beside another downstream T5"):
        beside.require("here", ["b" * 64])
    wide = dataclasses.replace(variant, lora=LoRASpec(3, maps=spec.maps))
    with pytest.raises(UserError, match="has shape .*, this variant needs"):
        load_adaptation(System(TINY, wide), path)
    with pytest.raises(UserError, match="only a learned φ can start as one"):
        load_adaptation(System(TINY, Variant("lora", "generated", lora=spec)), path)
