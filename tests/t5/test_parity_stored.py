"""Our T5 gives the numbers Hugging Face's gave, kept in tests/goldens."""

import json

import numpy as np
import pytest

from hypert5_jax.t5 import position_bias
from tests.t5 import expected, hf_weights, parity


@pytest.fixture(scope="module", params=sorted(parity.CASES))
def compared(request):
    """Our float32 outcome of a case, and what is kept of theirs."""
    case = parity.CASES[request.param]
    weights = hf_weights.random_hf_weights(case.config)
    kept = json.loads(expected.golden(request.param).read_text())
    return parity.ours(case, weights), kept


def test_logits_and_loss_are_those_of_hugging_face(compared):
    outcome, kept = compared
    assert outcome.loss == pytest.approx(kept["loss"], rel=parity.TOLERANCE)
    difference = expected.digest_difference("logits", outcome.logits, kept["logits"])
    assert difference <= parity.TOLERANCE


def test_every_parameter_gradient_is_that_of_hugging_face(compared):
    outcome, kept = compared
    assert set(outcome.gradients) == set(kept["gradients"])
    wrong = {
        name: difference
        for name, digest in kept["gradients"].items()
        if (
            difference := expected.digest_difference(
                name, outcome.gradients[name], digest
            )
        )
        > parity.TOLERANCE
    }
    assert not wrong


def test_bfloat16_activations_stay_near_the_float32_numbers():
    case = parity.CASES["tiny"]
    weights = hf_weights.random_hf_weights(case.config)
    kept = json.loads(expected.golden("tiny").read_text())
    outcome = parity.ours(case, weights, dtype="bfloat16")
    assert outcome.logits.dtype == np.float32
    assert outcome.loss == pytest.approx(kept["loss"], rel=parity.BF16_LOSS)
    difference = expected.digest_difference("logits", outcome.logits, kept["logits"])
    assert difference <= parity.BF16_LOGITS


def hugging_face_bucket(relative: int, bidirectional: bool) -> int:
    """The bucket of one offset as transformers computes it, in plain float32 steps."""
    buckets, bucket = 32, 0
    if bidirectional:
        buckets = 16
        bucket = 16 if relative > 0 else 0
        relative = abs(relative)
    else:
        relative = max(-relative, 0)
    exact = buckets // 2
    if relative < exact:
        return bucket + relative
    ratio = np.log(np.float32(relative) / np.float32(exact), dtype=np.float32)
    steps = ratio / np.float32(np.log(128 / exact)) * np.float32(buckets - exact)
    return bucket + min(exact + int(steps), buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_relative_positions_fall_into_hugging_face_s_buckets(bidirectional):
    offsets = np.arange(-1500, 1501)
    ours = position_bias.relative_position_bucket(offsets, bidirectional, 32, 128)
    theirs = [hugging_face_bucket(int(x), bidirectional) for x in offsets]
    np.testing.assert_array_equal(ours, theirs)
