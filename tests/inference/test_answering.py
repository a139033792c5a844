"""Answers do not depend on batching, chunks of options, or devices; φ is made once."""

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference import answering
from hypert5_jax.inference.answering import Answerer, Question
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.phi.spec import PrefixSpec
from tests.models import TINY, random_params

SYSTEM = System(TINY, Variant(prefix=PrefixSpec(length=3)))
RNG = np.random.default_rng(0)


def ids(least, most):
    return RNG.integers(3, TINY.vocab_size, RNG.integers(least, most)).tolist()


# Different lengths, different numbers of options, one with a single one.
QUESTIONS = [
    Question(ids(1, 70), tuple([*ids(1, 5), 1] for _ in range(1 + i % 5)), i)
    for i in range(21)
]
CONTEXTS = [ids(3, 20) for _ in QUESTIONS]


def answerer(batch_size=8, mesh=None, **settings):
    params = random_params(SYSTEM, seed=2)
    return Answerer(
        SYSTEM,
        params,
        batch_size=batch_size,
        hyper_length=24,
        input_length=70,
        target_length=8,
        settings=Decoding(max_tokens=5, **settings),
        mesh=mesh,
    )


def ranked(machine, contexts=CONTEXTS[:1], rule="sum"):
    found = dict(machine.rank(QUESTIONS, contexts, rule))
    assert sorted(found) == list(range(len(QUESTIONS)))
    return [found[i] for i in range(len(QUESTIONS))]


def said(machine, contexts=CONTEXTS[:1]):
    return [text for _, text in sorted(machine.generate(QUESTIONS, contexts))]


@pytest.fixture(scope="module")
def plain():
    machine = answerer()
    return ranked(machine), said(machine), machine.phis_made


def assert_same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-4, atol=1e-5)
        assert mine.option == theirs.option == int(np.argmax(theirs.scores))


def test_phi_is_made_once_for_a_task(plain):
    assert plain[2] == 2  # once by each of the two calls, of three batches each


def test_one_question_at_a_time_is_the_same(plain):
    machine = answerer(batch_size=1)
    assert_same(ranked(machine), plain[0])
    assert said(machine) == plain[1]


def test_options_in_chunks_are_the_same(plain, monkeypatch):
    monkeypatch.setattr(answering, "_LOGIT_TOKENS", 8 * 8 * 2)
    machine = answerer()
    assert machine._chunk(5, 8) == 2
    assert_same(ranked(machine), plain[0])


@pytest.mark.parametrize(
    "config", [MeshConfig(fsdp=4), MeshConfig(slice=2, fsdp=2, model=2)], ids=str
)
def test_eight_devices_say_what_one_says(config, plain):
    machine = answerer(mesh=make_mesh(config))
    assert_same(ranked(machine), plain[0])
    assert said(machine) == plain[1]


def test_a_context_for_each_question_is_its_own(plain):
    """Each question alone with its context, against all of them together."""
    together, alone = answerer(), answerer(batch_size=1)
    found = ranked(together, CONTEXTS)
    for i in (0, 7, 20):
        question = Question(QUESTIONS[i].inputs, QUESTIONS[i].options)
        (_, expected), *_ = alone.rank([question], [CONTEXTS[i]], "sum")
        assert_same([found[i]], [expected])
    assert any(
        not np.allclose(mine.scores, other.scores, rtol=1e-3)
        for mine, other in zip(found[1:], plain[0][1:])
    )


def test_beams_are_asked_for_by_a_setting(plain):
    texts = said(answerer(beams=3))
    assert len(texts) == len(QUESTIONS) and texts != plain[1]


def test_groups_hold_every_question_once_and_are_full_but_one():
    lengths = [40, 3, 65, 12, 70, 33, 1]
    groups = answering.grouped(lengths, rows=3, most=70)
    assert sorted(p for g in groups for p in g.places) == list(range(7))
    assert [len(g.places) for g in groups] == [3, 3, 1]
    assert [g.length for g in groups] == [32, 70, 70]
    for group in groups:
        assert all(lengths[place] <= group.length for place in group.places)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch of 6 does not divide over 8 devices"):
        answerer(batch_size=6, mesh=make_mesh(MeshConfig()))
