"""Cached decoding is the uncached network asked again and again.

Judges: a NumPy greedy and beam search over full, uncached logits, and for tiny
vocabularies every possible answer written out.
"""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import decoding
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.t5.network import T5
from tests.models import TINY, random_params

EOS = decoding.EOS
LENGTH = 6
VARIANTS = {
    "prefix": Variant(prefix=PrefixSpec(length=3)),
    "lora": Variant(adaptation="lora", lora=LoRASpec(rank=2)),
}


def setting(name, vocab=TINY.vocab_size, scan=True):
    """(config, params, φ of batch 3, inputs of 6 rows), large enough to disagree."""
    sizes = dataclasses.replace(TINY, vocab_size=vocab, scan_layers=scan)
    reader = dataclasses.replace(TINY, vocab_size=TINY.vocab_size)
    system = System(sizes, VARIANTS[name], hypermodel=reader)
    params = jax.tree.map(lambda leaf: 2.0 * leaf, random_params(system, seed=3))
    rng = np.random.default_rng(0)
    contexts = rng.integers(3, TINY.vocab_size, (3, 5)).astype(np.int32)
    phi = jax.jit(system.make_phi)(params, contexts)
    inputs = rng.integers(2, vocab, (6, 7)).astype(np.int32)
    inputs[1, 4:] = 0
    inputs[4, 2:] = 0
    return sizes, params["downstream"], phi, inputs


def log_probs(config, params, phi, inputs):
    """prefixes int [b, q] -> float64 [b, vocab]: what comes next, from the whole text."""
    logits_of = jax.jit(
        lambda targets: T5(config).apply({"params": params}, inputs, targets, phi)
    )

    def of(prefixes):
        prefixes = np.asarray(prefixes, np.int32)
        length = LENGTH + 1
        padded = np.zeros((len(prefixes), length), np.int32)
        padded[:, : prefixes.shape[1]] = prefixes
        logits = np.asarray(logits_of(padded), np.float64)[:, prefixes.shape[1]]
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    return of


def greedy_by_hand(next_log_probs, rows):
    answers = np.zeros((rows, 0), np.int64)
    done = np.zeros(rows, bool)
    for _ in range(LENGTH):
        best = next_log_probs(answers).argmax(-1)
        best[done] = 0
        answers = np.concatenate([answers, best[:, None]], 1)
        done |= best == EOS
    return answers


def part(phi, groups):
    """φ of batch 1, of 3, or none."""
    if groups == 0:
        return None
    return jax.tree.map(lambda leaf: leaf[:, :groups], phi)


@pytest.mark.parametrize(
    ("name", "groups", "scan"),
    [
        ("prefix", 0, True),
        ("prefix", 1, True),
        ("prefix", 3, True),
        ("prefix", 1, False),
        ("lora", 1, True),
        ("lora", 3, True),
    ],
)
def test_greedy_is_argmax_of_uncached_logits(name, groups, scan):
    config, params, phi, inputs = setting(name, scan=scan)
    phi = part(phi, groups)
    run = jax.jit(lambda p, i, f: decoding.greedy(config, p, i, LENGTH, f))
    found = np.asarray(run(params, inputs, phi))
    expected = greedy_by_hand(log_probs(config, params, phi, inputs), len(inputs))
    np.testing.assert_array_equal(found, expected)


def test_an_answer_ends_with_eos_and_fillers_say_nothing():
    config, params, _, inputs = setting("prefix", vocab=4)
    active = np.array([True, False, True, True, False, True])
    found = np.asarray(decoding.greedy(config, params, inputs, 4, active=active))
    everybody = np.asarray(decoding.greedy(config, params, inputs, 4))
    np.testing.assert_array_equal(found[active], everybody[active])
    assert not found[~active].any()
    ended = [np.flatnonzero(row == EOS) for row in everybody]
    assert any(len(at) for at in ended)
    for row, at in zip(everybody, ended):
        assert len(at) <= 1 and (not len(at) or not row[at[0] + 1 :].any())


def beam_by_hand(next_log_probs, row, rows, beams, alpha):
    """Lists of (tokens, sum); no cache, no arrays of fixed size."""

    def penalty(length):
        return ((5 + length) / 6) ** alpha

    live, done = [((), 0.0)], []
    for length in range(1, LENGTH + 1):
        grown = []
        for tokens, total in live:
            batch = np.tile(np.array(tokens, np.int64), (rows, 1))
            step = next_log_probs(batch)[row]
            grown += [((*tokens, i), total + s) for i, s in enumerate(step)]
        grown = sorted(grown, key=lambda h: -h[1])[: 2 * beams]
        done += [(t, s / penalty(length)) for t, s in grown if t[-1] == EOS]
        done = sorted(done, key=lambda h: -h[1])[:beams]
        live = [h for h in grown if h[0][-1] != EOS][:beams]
        bound = live[0][1] / penalty(LENGTH)
        if len(done) == beams and done[-1][1] >= bound:
            break
    return done or [(t, s / penalty(LENGTH)) for t, s in live]


@pytest.mark.parametrize(("alpha", "groups"), [(0.6, 1), (0.0, 3), (1.5, 0)])
def test_beams_are_those_of_a_list_based_search(alpha, groups):
    config, params, phi, inputs = setting("prefix", vocab=9)
    phi = part(phi, groups)
    settings = decoding.Decoding(LENGTH, beams=3, alpha=alpha)
    run = jax.jit(lambda p, i, f: decoding.beam(config, p, i, settings, f))
    found = run(params, inputs, phi)
    judge = log_probs(config, params, phi, inputs)
    for row in range(len(inputs)):
        expected = beam_by_hand(judge, row, len(inputs), 3, alpha)
        for place, (tokens, score) in enumerate(expected):
            said = np.trim_zeros(np.asarray(found.tokens)[row, place], "b")
            # An answer may hold id 0 inside; only its end is padding.
            assert tuple(said) == tuple(np.trim_zeros(np.array(tokens), "b"))
            np.testing.assert_allclose(found.scores[row, place], score, rtol=1e-4)


def test_as_many_beams_as_answers_find_the_best_of_all_answers():
    """Exhaustive: 4 ids, at most 3 tokens; every answer that ends is written out."""
    vocab, length, alpha = 4, 3, 0.6
    config, params, _, inputs = setting("lora", vocab=vocab)
    settings = decoding.Decoding(length, beams=vocab**2, alpha=alpha)
    run = jax.jit(lambda p, i: decoding.beam(config, p, i, settings))
    found = run(params, inputs)
    judge = log_probs(config, params, None, inputs)
    rows = len(inputs)
    scores: dict[tuple[int, ...], np.ndarray] = {}
    others = [i for i in range(vocab) if i != EOS]
    for size in range(length):
        for start in itertools.product(others, repeat=size):
            answer, total = (*start, EOS), np.zeros(rows)
            for at, token in enumerate(answer):
                before = np.tile(np.array(answer[:at], np.int64), (rows, 1))
                total = total + judge(before)[:, token]
            scores[answer] = total / ((5 + len(answer)) / 6) ** alpha
    for row in range(rows):
        best = max(scores, key=lambda answer: scores[answer][row])
        said = np.asarray(found.tokens)[row, 0]
        assert tuple(said[: len(best)]) == best and not said[len(best) :].any()
        np.testing.assert_allclose(found.scores[row, 0], scores[best][row], rtol=1e-4)


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"beams": 0}, {"alpha": -1.0}], ids=str
)
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(UserError, match="Decoding"):
        decoding.Decoding(**wrong)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"temperature": -0.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 1.0, "top_k": -1}, "top_k"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p"),
        ({"temperature": 1.0, "top_p": 1.5}, "top_p"),
        ({"temperature": 1.0, "seed": -1}, "seed"),
        ({"temperature": 1.0, "seed": 2**32}, "seed"),
        ({"temperature": 1.0, "beams": 2}, "drawn or searched"),
        ({"temperature": 1.0, "seed": 1.5}, "seed=1.5: expected a whole number"),
        ({"temperature": 1.0, "top_k": "5"}, "top_k='5': expected a whole number"),
        ({"temperature": None}, "temperature=None: expected a number"),
        ({"top_k": 5}, "nothing is drawn"),
        ({"top_p": 0.5}, "nothing is drawn"),
    ],
    ids=str,
)
def test_settings_of_drawing_without_meaning_are_refused(wrong, word):
    with pytest.raises(UserError, match=word):
        decoding.Decoding(**wrong)


def test_numbers_of_numpy_are_numbers():
    same = decoding.Decoding(np.int64(7), temperature=np.float32(0.5), seed=np.int32(3))
    assert same == decoding.Decoding(7, temperature=0.5, seed=3)


def test_results_tell_of_drawing_only_where_answers_are_drawn():
    """Results of older runs, which know of no drawing, stay comparable."""
    searched = {"max_tokens": 7, "beams": 2, "alpha": 0.6}
    assert decoding.Decoding(7, beams=2).described() == searched
    drawn = decoding.Decoding(7, temperature=0.5, seed=3).described()
    assert drawn["temperature"] == 0.5 and drawn["seed"] == 3
