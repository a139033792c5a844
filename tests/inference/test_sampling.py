"""Drawn answers: which tokens stay, how often each is drawn, and whose they are.

Judges: cases computed by hand, the softmax of uncached logits by Pearson's chi-square,
and (parity) Hugging Face's logits processors.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import decoding, sampling
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.inference.decoding import EOS, Decoding
from hypert5_jax.t5.network import T5
from tests.models import TINY, random_params

PLAIN = Variant("none", source="none", trainable=(), context="none")
# 2, 4, 1, 8, 1 sixteenths.
LOGITS = np.log(np.array([[2.0, 4.0, 1.0, 8.0, 1.0]]) / 16)


def stays(logits):
    return np.isfinite(np.asarray(logits)).tolist()[0]


def test_temperature_divides_logits():
    found = sampling.tempered(jnp.array([[1.0, -2.0, 3.0]]), 0.5)
    np.testing.assert_array_equal(found, [[2.0, -4.0, 6.0]])


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [False, False, False, True, False]),
        (3, [True, True, False, True, False]),
        (4, [True] * 5),  # the two of 1/16 are equal: neither goes before the other
        (5, [True] * 5),
        (9, [True] * 5),
    ],
)
def test_top_k_by_hand(count, expected):
    found = sampling.most_likely(jnp.array(LOGITS), count)
    assert stays(found) == expected
    np.testing.assert_allclose(
        np.asarray(found)[0, expected], LOGITS[0, expected], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("mass", "expected"),
    [
        (1e-6, [False, False, False, True, False]),
        (0.49, [False, False, False, True, False]),
        (0.51, [False, True, False, True, False]),
        (0.74, [False, True, False, True, False]),
        (0.76, [True, True, False, True, False]),
        (0.88, [True] * 5),
        (1.0, [True] * 5),
    ],
)
def test_top_p_by_hand(mass, expected):
    assert stays(sampling.nucleus(jnp.array(LOGITS), mass)) == expected


def test_top_p_is_of_what_temperature_and_top_k_left():
    """At temperature 0.5 the 4 sixteenths are 16/86 and 8 are 64/86; among the best two
    16/80 and 64/80."""
    logits = jnp.array(LOGITS)
    both = [False, True, False, True, False]
    one = [False, False, False, True, False]
    assert stays(sampling.candidates(logits, 0.5, 0, 0.77)) == both
    assert stays(sampling.candidates(logits, 0.5, 2, 0.77)) == one
    assert stays(sampling.candidates(logits, 1.0, 2, 0.77)) == both


def tiny_t5(vocab):
    """(config, parameters, inputs of 4 rows)."""
    sizes = dataclasses.replace(TINY, vocab_size=vocab)
    system = System(sizes, PLAIN)
    params = jax.tree.map(lambda leaf: 2.0 * leaf, random_params(system, seed=5))
    inputs = np.random.default_rng(1).integers(2, vocab, (4, 6)).astype(np.int32)
    inputs[2, 3:] = 0
    return sizes, params["downstream"], inputs


def chi_square(counts, probabilities):
    """Pearson's statistic; cells expected less than 5 times are put together."""
    expected = probabilities * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], max(expected[rare].sum(), 1e-9))
    return float(((counts - expected) ** 2 / expected).sum()), len(counts) - 1


def test_answers_are_drawn_as_often_as_the_softmax_says():
    """Two tokens over a vocabulary of 5: all 21 answers, 4000 times drawn."""
    vocab, times, temperature = 5, 4000, 0.7
    config, params, inputs = tiny_t5(vocab)
    settings = Decoding(2, temperature=temperature)
    rows = np.tile(inputs[:1], (times, 1))
    run = jax.jit(lambda p, i: decoding.decode(config, p, i, settings))
    drawn = np.asarray(run(params, rows))

    first = np.arange(vocab, dtype=np.int32)
    targets = np.stack([first, np.zeros_like(first)], 1)
    logits = T5(config).apply(
        {"params": params}, np.tile(inputs[:1], (vocab, 1)), targets
    )
    logits = np.asarray(logits, np.float64) / temperature
    each = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    answers, probabilities = [], []
    for one, two in itertools.product(range(vocab), repeat=2):
        if one != EOS:
            answers.append((one, two))
            probabilities.append(each[0, 0, one] * each[one, 1, two])
    answers.append((EOS, 0))
    probabilities.append(each[0, 0, EOS])
    assert np.isclose(sum(probabilities), 1.0)
    counts = np.array([(drawn == answer).all(1).sum() for answer in answers])
    assert counts.sum() == times
    statistic, freedom = chi_square(counts, np.array(probabilities))
    # Mean and deviation of chi-square are n and sqrt(2n): five deviations.
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    # And the judge tells another temperature's answers from these.
    other = np.array(probabilities) ** (1 / 1.5)
    statistic, freedom = chi_square(counts, other / other.sum())
    assert statistic > freedom + 5 * (2 * freedom) ** 0.5


def test_the_likeliest_token_alone_is_greedy():
    config, params, inputs = tiny_t5(48)
    expected = decoding.greedy(config, params, inputs, 6)
    for settings in (
        Decoding(6, temperature=5.0, top_k=1),
        Decoding(6, temperature=1e-5),
    ):
        found = decoding.decode(config, params, inputs, settings)
        np.testing.assert_array_equal(found, expected)


def test_a_row_draws_the_same_whatever_batch_it_is_in():
    config, params, inputs = tiny_t5(48)
    settings = Decoding(6, temperature=2.0, seed=4)
    keys = sampling.row_keys(4, jnp.arange(4))
    run = jax.jit(lambda p, i, r: decoding.decode(config, p, i, settings, rng=r))
    together = np.asarray(run(params, inputs, keys))
    places = np.array([2, 0])
    np.testing.assert_array_equal(
        run(params, inputs[places], keys[places]), together[places]
    )
    without = jax.jit(lambda p, i: decoding.decode(config, p, i, settings))
    np.testing.assert_array_equal(without(params, inputs), together)
    other = np.asarray(run(params, inputs, sampling.row_keys(5, jnp.arange(4))))
    assert (other != together).any(1).all()
    # One input asked twice gets answers of its own.
    twice = np.asarray(run(params, inputs[[0, 0]], keys[:2]))
    assert (twice[0] != twice[1]).any()


def test_drawn_answers_end_with_eos_and_fillers_say_nothing():
    config, params, inputs = tiny_t5(5)
    settings = Decoding(8, temperature=1.5)
    active = np.array([True, False, True, True])
    found = np.asarray(decoding.decode(config, params, inputs, settings, active=active))
    assert not found[1].any()
    assert (found == EOS).any(1).sum() >= 2
    for row in found:
        at = np.flatnonzero(row == EOS)
        assert len(at) <= 1 and (not len(at) or not row[at[0] + 1 :].any())


def test_a_question_draws_the_same_in_batches_of_any_size():
    system = System(TINY, PLAIN)
    rng = np.random.default_rng(0)
    questions = [
        Question(rng.integers(3, TINY.vocab_size, size).tolist())
        for size in (5, 40, 3, 7, 60)
    ]

    def said(batch_size):
        answerer = Answerer(
            system,
            random_params(system, seed=2),
            batch_size=batch_size,
            hyper_length=1,
            input_length=64,
            target_length=8,
            settings=Decoding(5, temperature=1.0, seed=9),
        )
        return sorted(answerer.generate(questions, [[]]))

    assert said(1) == said(3)


@pytest.mark.parity
def test_logits_processors_are_hugging_face_s():
    torch = pytest.importorskip("torch", reason="needs the extra `parity`")
    transformers = pytest.importorskip("transformers")
    logits = np.random.default_rng(0).normal(size=(6, 300)).astype(np.float32) * 3
    for temperature, top_k, top_p in [
        (0.7, 0, 1.0),
        (1.3, 20, 1.0),
        (1.0, 0, 0.9),
        (0.4, 50, 0.5),
        (2.0, 7, 0.99),
        (1.0, 1000, 0.01),
    ]:
        chain = [transformers.TemperatureLogitsWarper(temperature)]
        if top_k:
            chain.append(transformers.TopKLogitsWarper(top_k))
        if top_p < 1:
            chain.append(transformers.TopPLogitsWarper(top_p))
        expected = torch.from_numpy(logits)
        for warper in chain:
            expected = warper(None, expected)
        found = sampling.candidates(jnp.array(logits), temperature, top_k, top_p)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected.numpy()))
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
