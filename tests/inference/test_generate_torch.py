"""Our greedy and beam search against Hugging Face's `generate`, same random weights."""

import dataclasses

import jax
import numpy as np
import pytest

from hypert5_jax.core import trees
from hypert5_jax.inference import decoding
from hypert5_jax.t5 import stacking
from tests.t5 import hf_weights, huggingface, parity

pytestmark = pytest.mark.parity
LENGTH = 12
SETTINGS = {
    "greedy": {"num_beams": 1},
    # Their penalty divides by tokens ** length_penalty, ours by T5X's: 0 is the one
    # exponent at which both are the plain log-probability.
    "beams": {"num_beams": 4, "length_penalty": 0.0, "early_stopping": "never"},
}


@pytest.mark.parametrize("name", list(SETTINGS))
def test_answers_are_hugging_face_s(name, tmp_path):
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    pytest.importorskip("transformers", reason="needs the extra `parity`")
    case = parity.CASES["tiny"]
    # generate() of transformers 5 sizes its cache by the encoder's depth.
    config = dataclasses.replace(case.config, num_decoder_layers=2)
    weights = hf_weights.random_hf_weights(config)
    model = huggingface.load(config, weights, tmp_path)
    inputs = np.concatenate([case.batch()[0], case.batch()[0][:, ::-1]])
    inputs = np.where(inputs[:, :1] == 0, np.roll(inputs, 1, axis=1), inputs)
    ids = torch.from_numpy(np.ascontiguousarray(inputs)).long()
    with torch.no_grad():
        said = model.generate(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            max_new_tokens=LENGTH,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=decoding.EOS,
            **SETTINGS[name],
        ).numpy()[:, 1:]
    expected = np.zeros((len(inputs), LENGTH), np.int64)
    expected[:, : said.shape[1]] = said
    # Their beams repeat EOS behind the first one.
    after = np.cumsum(expected == decoding.EOS, 1) - (expected == decoding.EOS) > 0
    expected[after] = 0

    params = stacking.stack_layers(trees.unflatten(hf_weights.to_ours(weights)))
    settings = decoding.Decoding(LENGTH, SETTINGS[name]["num_beams"], alpha=0.0)
    found = jax.jit(lambda p, i: decoding.decode(config, p, i, settings))
    found = np.asarray(found(params, inputs))
    if name == "beams":
        # At the last step they let beams that never ended compete, T5X and we do not.
        ended = (expected == decoding.EOS).any(1)
        assert ended.sum() >= 2
        found, expected = found[ended], expected[ended]
    np.testing.assert_array_equal(found, expected)
