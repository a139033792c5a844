"""Options under several φ at once are what each φ by itself makes of them."""

import jax
import numpy as np
import pytest

from hypert5_jax.hyper import learned
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import answering, side_by_side
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.phi.spec import PrefixSpec
from tests.models import TINY, random_params, random_tree

SYSTEM = System(
    TINY,
    Variant(
        source="learned",
        trainable=("phi",),
        context="none",
        prefix=PrefixSpec(length=3),
    ),
)
RNG = np.random.default_rng(0)
OPTIONS = (1, 3, 2, 3, 1)


def wording(longest):
    """Questions of the same numbers of options, in words drawn anew."""

    def ids(most):
        return RNG.integers(3, TINY.vocab_size, RNG.integers(1, most)).tolist()

    return [
        Question(ids(longest), tuple([*ids(4), 1] for _ in range(count)))
        for count in OPTIONS
    ]


@pytest.mark.parametrize("own_words", [False, True])
def test_several_phi_rank_as_each_by_itself(own_words, monkeypatch):
    # So few logits at a time that options go one by one.
    monkeypatch.setattr(answering, "_LOGIT_TOKENS", 16)
    base = random_params(SYSTEM)
    learned_ones = [random_tree(base["phi"], seed, scale=2.0) for seed in (1, 2)]
    same = wording(40)
    wordings = [wording(40), wording(70)] if own_words else [same]
    sheets = side_by_side.lay_out(
        wordings, phis=2, rows=4, input_length=64, target_length=8
    )
    assert [len(sheet.places) for sheet in sheets] == [2, 2, 1]
    params = learned.stack_runs(learned_ones)
    phi = learned.phi_of_runs(params, TINY, SYSTEM.variant)
    found = side_by_side.rank(TINY, base["downstream"], sheets, phi, "mean")
    assert found.shape == (2, 5, 3)
    for number, one in enumerate(learned_ones):
        alone = Answerer(
            SYSTEM,
            jax.tree.map(np.asarray, {**base, "phi": one}),
            batch_size=4,
            hyper_length=0,
            input_length=64,
            target_length=8,
        )
        questions = wordings[number % len(wordings)]
        for place, choice in alone.rank(questions, [[]], "mean"):
            count = OPTIONS[place]
            np.testing.assert_allclose(
                found[number, place, :count], choice.scores, rtol=1e-5
            )
            assert np.all(np.isneginf(found[number, place, count:]))
    if not own_words:
        assert np.abs(found[0, :, 0] - found[1, :, 0]).min() > 1e-3
