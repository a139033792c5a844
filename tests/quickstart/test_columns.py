"""Judging cases: padding is invisible, options are chosen by likelihood."""

import jax
import numpy as np
import pytest

from hypert5_jax.evaluation.context_columns import (
    Case,
    Shape,
    Tally,
    judge,
    slice_phi,
)
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference.scoring import Scorer
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.head_start import head_start

CONFIG = T5Config(
    vocab_size=32, emb_dim=16, num_heads=2, head_dim=8, mlp_dim=16,
    num_encoder_layers=1, num_decoder_layers=1, dtype="float32", remat="none",
)  # fmt: skip


@pytest.fixture(scope="module")
def scorer():
    system = System(CONFIG, Variant(prefix=PrefixSpec(2)))
    return Scorer(system, system.init(jax.random.key(0)))


def case(number):
    options = ([5, 1], [6, 7, 1])
    return Case("t", [9, 4 + number], [[3, 4], [8]], [[5, 1], [6, 7, 1]], [options] * 2)


def shape(cases):
    return Shape(cases, examples=2, options=3, hyper_inputs=6, inputs=4, targets=4)


def test_cases_do_not_depend_on_what_they_are_judged_with(scorer):
    cases = [case(i) for i in range(3)]
    many = judge(scorer, cases, shape(4), lambda ids, _: scorer.phi(ids))
    one = judge(scorer, cases, shape(1), lambda ids, _: scorer.phi(ids))
    for a, b in zip(many, one, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)
        assert (a.tokens, a.examples, a.asked) == (5.0, 2, 2) == (
            b.tokens, b.examples, b.asked
        )  # fmt: skip
        assert (a.exact, a.chosen) == (b.exact, b.chosen)


def test_a_phi_given_by_case_is_the_phi_of_that_case(scorer):
    cases = [case(i) for i in range(3)]
    made = judge(scorer, cases, shape(2), lambda ids, _: scorer.phi(ids))
    contexts = np.zeros((3, 6), np.int32)
    for i, one in enumerate(cases):
        contexts[i, :2] = one.context
    phi = scorer.phi(contexts)
    given = judge(scorer, cases, shape(2), lambda _, start: slice_phi(phi, start, 2))
    for a, b in zip(made, given, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=1e-5)


def test_tallies_add_and_divide():
    total = Tally(2.0, 4.0, 2, 1, 2, 1) + Tally(1.0, 2.0, 2, 2)
    assert total.scores() == {
        "loss": 0.5,
        "exact_match": 0.75,
        "option_accuracy": 0.5,
    }
    assert "option_accuracy" not in Tally(1.0, 1.0, 1).scores()


def test_a_head_start_keeps_shapes_and_starts_as_copies():
    system = System(CONFIG, Variant("none", "none", trainable=(), context="none"))
    params = jax.jit(system.init)(jax.random.key(0))["downstream"]
    bent = head_start(params, CONFIG, neighbour_bias=3.0)
    assert jax.tree.map(np.shape, bent) == jax.tree.map(np.shape, params)
    before, after = (p["encoder"] for p in (params, bent))
    attention = after["layers"]["attention"]
    np.testing.assert_allclose(
        attention["key"]["kernel"], attention["query"]["kernel"] * 8**0.5
    )
    added = (
        after["relpos_bias"]["rel_embedding"] - before["relpos_bias"]["rel_embedding"]
    )
    # Buckets of the word before and the word after: T5 counts back from 0 and ahead
    # from half of the buckets.
    half = CONFIG.relative_attention_num_buckets // 2
    assert np.flatnonzero(added[0]).tolist() == [1]
    assert np.flatnonzero(added[1]).tolist() == [half + 1]
    assert added[0, 1] == pytest.approx(3.0, rel=1e-6)
    np.testing.assert_allclose(
        bent["decoder"]["logits_dense"]["kernel"],
        bent["token_embedder"]["embedding"].T / CONFIG.emb_dim**0.5,
    )
