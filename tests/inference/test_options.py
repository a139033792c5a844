"""One encoder pass for all options says what scoring each option alone says."""

import jax
import numpy as np
import pytest

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import options
from hypert5_jax.inference.scoring import score_targets
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from tests.models import TINY, random_batch, random_params

VARIANTS = {
    "prefix": Variant(prefix=PrefixSpec(length=3)),
    "lora": Variant(adaptation="lora", lora=LoRASpec(rank=2)),
}


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_shared_encoder_pass_equals_scoring_each_option_alone(name, groups):
    system = System(TINY, VARIANTS[name])
    params = random_params(system)
    batch = random_batch(rows=4, contexts=groups)
    many = [random_batch(rows=4, seed=seed).targets for seed in (5, 6, 7)]
    many[1][2] = 0  # an option that is not there
    phi = jax.jit(system.make_phi)(params, batch.hyper_inputs)

    @jax.jit
    def together(params, inputs, answers, phi):
        downstream = params["downstream"]
        cache = options.read_inputs(TINY, downstream, inputs, answers.shape[2], phi)
        return options.score_options(TINY, downstream, cache, answers, phi)

    found = together(params, batch.inputs, np.stack(many, 1), phi)
    alone = jax.jit(lambda p, b, f: score_targets(system, p, b, f))
    for place, targets in enumerate(many):
        weights = (targets > 0).astype(np.float32)
        row = Batch(batch.hyper_inputs, batch.inputs, targets, weights)
        expected = alone(params, row, phi)
        np.testing.assert_allclose(
            found.log_prob[:, place], expected.log_prob, rtol=1e-5, atol=1e-5
        )
        np.testing.assert_array_equal(found.tokens[:, place], expected.tokens)


def scores(log_prob, tokens):
    return options.OptionScores(np.array(log_prob), np.array(tokens))


def test_the_two_rankings_by_hand():
    """-4 over 1 token against -6 over 3: the sum prefers the first, the mean (-4, -2)
    the second; a place without an option never wins."""
    given = scores([[-4.0, -6.0, 0.0]], [[1, 3, 0]])
    assert options.choose(given, "sum").tolist() == [0]
    assert options.choose(given, "mean").tolist() == [1]
    np.testing.assert_array_equal(
        options.ranking(given, "mean"), [[-4.0, -2.0, -np.inf]]
    )


def test_the_first_of_equal_options_wins():
    given = scores([[-3.0, -2.0, -2.0]], [[1, 1, 1]])
    assert options.choose(given, "sum").tolist() == [1]
