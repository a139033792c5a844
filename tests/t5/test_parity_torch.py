"""Our T5 against Hugging Face's, with the same random weights, both run here."""

import json

import numpy as np
import pytest

from tests.t5 import expected, hf_weights, huggingface, parity

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=sorted(parity.CASES))
def both(request, tmp_path_factory):
    """(case name, our outcome, their outcome), in float32."""
    pytest.importorskip("torch", reason="needs the extra `parity`")
    pytest.importorskip("transformers", reason="needs the extra `parity`")
    case = parity.CASES[request.param]
    weights = hf_weights.random_hf_weights(case.config)
    model = huggingface.load(case.config, weights, tmp_path_factory.mktemp("hf"))
    theirs = huggingface.theirs(case, model)
    return request.param, parity.ours(case, weights), theirs


def test_logits_and_loss_agree(both):
    _, ours, theirs = both
    assert parity.difference(ours.logits, theirs.logits) <= parity.TOLERANCE
    assert ours.loss == pytest.approx(theirs.loss, rel=parity.TOLERANCE)


def test_every_parameter_gradient_agrees(both):
    _, ours, theirs = both
    assert set(ours.gradients) == set(theirs.gradients)
    wrong = {
        name: difference
        for name, x in theirs.gradients.items()
        if (difference := parity.difference(ours.gradients[name], x)) > parity.TOLERANCE
    }
    assert not wrong


def test_the_stored_numbers_are_what_hugging_face_gives(both):
    name, _, theirs = both
    kept = json.loads(expected.golden(name).read_text())
    assert theirs.loss == pytest.approx(kept["loss"], rel=parity.TOLERANCE)
    arrays = {"logits": theirs.logits, **theirs.gradients}
    digests = {"logits": kept["logits"], **kept["gradients"]}
    for path, x in arrays.items():
        difference = expected.digest_difference(path, x, digests[path])
        assert difference <= parity.TOLERANCE, path


def relative_error(a: np.ndarray, b: np.ndarray) -> float:
    """|a - b| / |b| in the Euclidean norm."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_our_bfloat16_is_as_near_to_float32_as_hugging_face_s(tmp_path):
    """Errors of bfloat16 against their float32: ours below 1.2 times theirs, in the
    logits and on average over the gradients. Printed with -s."""
    pytest.importorskip("torch", reason="needs the extra `parity`")
    case = parity.CASES["tiny"]
    weights = hf_weights.random_hf_weights(case.config)
    model = huggingface.load(case.config, weights, tmp_path)
    exact = huggingface.theirs(case, model)
    ours = parity.ours(case, weights, dtype="bfloat16")
    theirs = huggingface.theirs(case, model, "bfloat16")

    def errors(outcome: parity.Outcome) -> tuple[float, float]:
        gradients = [
            relative_error(outcome.gradients[name], x)
            for name, x in exact.gradients.items()
        ]
        return relative_error(outcome.logits, exact.logits), float(np.mean(gradients))

    print("bfloat16 against float32 (logits, gradients):", errors(ours), errors(theirs))
    for mine, other in zip(errors(ours), errors(theirs), strict=True):
        assert mine <= 1.2 * other
