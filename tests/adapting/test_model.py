"""A model reads text as its rows say, one task or many; judged by the system itself on ids
made by hand, and by NumPy."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from hypert5_jax.adapting.model import Model
from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.inference.answering import padded
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.phi import types
from tests.adapting.tiny import EOS, EXAMPLES, LORA, PREFIX, X, Y, ids, model, shots

INPUTS = ["ab", "xyzxyz", "q", "longer than twelve bytes"]


@functools.cache
def compiled(tiny, name):
    """A function of the system, compiled once for all tests."""
    return jax.jit(getattr(tiny.system, name))


def by_hand(tiny, context):
    """φ of a context in ids, by the system."""
    made = compiled(tiny, "make_phi")(tiny.params, padded([context], 48, 1))
    return dict(types.named_arrays(made))


def assert_same(phi, expected, rtol=1e-4):
    found = dict(types.named_arrays(phi))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol, 1e-5)


def logits_of(tiny, inputs, targets, phi):
    """Teacher-forced float64 [q, vocab] of one row, without a cache."""
    batch = Batch(
        np.zeros((1, 0), np.int32),
        padded([inputs], 13, 1),
        padded([targets], 7, 1),
        np.ones((1, 7), np.float32),
    )
    logits = compiled(tiny, "logits")(tiny.params, batch, phi=phi)
    return np.asarray(logits, np.float64)[0, : len(targets)]


def log_prob(tiny, inputs, targets, phi):
    """Sum over a target's tokens."""
    logits = logits_of(tiny, inputs, targets, phi)
    chosen = logits[np.arange(len(targets)), targets]
    most = logits.max(-1)
    return float((chosen - most - np.log(np.exp(logits - most[:, None]).sum(-1))).sum())


@pytest.fixture(scope="module", params=[PREFIX, LORA], ids=["prefix", "lora"])
def tiny(request):
    return model(request.param)


@pytest.fixture(scope="module")
def phis():
    return model().adapt([EXAMPLES, EXAMPLES[:1], EXAMPLES[1:]])


def test_phi_is_what_the_system_makes_of_the_format(tiny):
    phi = tiny.adapt(EXAMPLES)
    assert_same(phi.phi, by_hand(tiny, shots(EXAMPLES)))
    assert phi.header.base_model == tiny.base_model
    assert "3 of 3 examples; contexts: 1" in phi.header.origin


def test_an_instruction_comes_first_and_may_be_all_there_is():
    tiny = model()
    plan = tiny.contexts(EXAMPLES[:2], " say it ")
    assert list(plan.ids[0]) == [X, *ids("say it"), *shots(EXAMPLES[:2])]
    assert list(tiny.contexts([], "say it").ids[0]) == [X, *ids("say it")]
    dicts = [{"input": a, "target": b} for a, b in EXAMPLES[:2]]
    assert tiny.contexts(dicts, "say it") == plan


def test_many_tasks_in_one_call_are_each_alone(tiny):
    tasks = [EXAMPLES, EXAMPLES[:1], EXAMPLES[1:]]
    for task, phi in zip(tasks, tiny.adapt(tasks), strict=True):
        assert_same(phi.phi, by_hand(tiny, shots(task)))
    said = tiny.adapt([EXAMPLES[:1], []], ["", "say it"])
    assert_same(said[1].phi, by_hand(tiny, [X, *ids("say it")]))


def test_what_does_not_fit_is_left_out_or_read_in_further_contexts():
    tiny = model()
    twelve = [(c, c) for c in "abcdefghijkl"]  # 4 tokens each: ten in a context of 40
    plan = tiny.contexts(twelve)
    assert plan.used == (tuple(range(10)),) and plan.left_out == (10, 11)
    assert list(plan.ids[0]) == shots(twelve[:10])
    parts = tiny.contexts(twelve, combine="mean")
    assert [len(used) for used in parts.used] == [6, 6] and not parts.left_out
    uneven = tiny.contexts([*twelve[:9], ("m" * 20, "n")], combine="mean")
    assert [len(used) for used in uneven.used] == [5, 5]
    one = tiny.contexts([("a" * 50, "b")])
    assert one.cut == ("example 1",) and len(one.ids[0]) == 40
    full = tiny.contexts(twelve, "i" * 60, "mean")
    assert full.cut == ("the instruction",) and full.left_out == tuple(range(12))

    short = Model(
        *(tiny.system, tiny.params, tiny.vocabulary),
        dataclasses.replace(tiny.row, shot_length=5),
        tiny.base_model,
    )
    plan = short.contexts([("ab", "c"), ("abcdef", "g")])
    assert plan.cut == ("example 2",)
    assert list(plan.ids[0]) == shots([("ab", "c"), ("ab", "g")])

    halves = [by_hand(tiny, shots(half)) for half in (twelve[:6], twelve[6:])]
    mean = {name: (array + halves[1][name]) / 2 for name, array in halves[0].items()}
    assert_same(tiny.adapt(twelve, combine="mean").phi, mean)
    joined = {
        name: np.concatenate([array, halves[1][name]], 2)
        for name, array in halves[0].items()
    }
    assert_same(tiny.adapt(twelve, combine="concatenate").phi, joined)


def test_greedy_answers_are_the_likeliest_tokens_without_a_cache(phis):
    tiny = model()
    answer = tiny.generate(["ab"], phis[0])[0]
    said: list[int] = []
    while len(said) < tiny.row.target_length and EOS not in said:
        logits = logits_of(tiny, ids("ab"), [*said, 0], phis[0].phi)
        said.append(int(logits[-1].argmax()))
    assert answer == tiny.text(said)


@pytest.mark.parametrize(
    "decoding", [None, Decoding(6, temperature=1.0, seed=3)], ids=["greedy", "drawn"]
)
def test_one_mixed_batch_says_what_each_input_gets_alone(phis, decoding):
    tiny = model()
    order = [phis[2], phis[0], phis[2], phis[1]]
    mixed = tiny.generate(INPUTS, order, decoding)
    for i, phi in enumerate(order):
        assert tiny.generate(INPUTS, phi, decoding)[i] == mixed[i]
    assert len({*mixed}) > 1
    # The numbers of inputs that are answered change nothing of the others.
    later = dict(tiny.answers(INPUTS, order, decoding, batch_size=2, done=[0, 2]))
    assert {**dict(enumerate(mixed)), **later} == dict(enumerate(mixed))
    assert 3 in later


def test_rank_chooses_by_log_probabilities_without_a_cache(phis):
    tiny, options = model(), ["a", "bcd", "e"]
    for rule, divide in (("sum", False), ("mean", True)):
        found = dict(tiny.choices(INPUTS[:2], options, phis[0], rule))
        for i, text in enumerate(INPUTS[:2]):
            targets = [[*ids(option), EOS] for option in options]
            expected = [log_prob(tiny, ids(text), t, phis[0].phi) for t in targets]
            if divide:
                expected = [e / len(t) for e, t in zip(expected, targets, strict=True)]
            np.testing.assert_allclose(found[i].scores, expected, rtol=1e-4)
            assert found[i].option == int(np.argmax(expected))
    own = [options, options[::-1]]
    ranked = tiny.rank(INPUTS[:2], own, phis[0])
    assert ranked[1] == 2 - dict(tiny.choices(INPUTS[:2], options, phis[0]))[1].option


def test_the_loss_is_nats_per_target_token_of_all_examples(phis):
    tiny = model()
    many = [(a, b) for a, b in EXAMPLES * 6]  # more than one batch
    for phi in (phis[0], None):
        arrays = types.Phi() if phi is None else phi.phi
        sums = [log_prob(tiny, ids(a), [*ids(b), EOS], arrays) for a, b in EXAMPLES]
        tokens = sum(len(b) + 1 for _, b in EXAMPLES)
        assert tiny.loss(many, phi) == pytest.approx(-sum(sums) / tokens, rel=1e-5)


def test_inputs_are_cut_and_markers_are_none_of_the_users_business():
    tiny = model()
    assert tiny.input_ids("longer than twelve bytes") == ids("longer than ")
    assert tiny.target_ids("fg") == [*ids("fg"), EOS]
    assert tiny.text([*ids("ab"), EOS, 5, 0]) == "ab"
    assert Y not in tiny.input_ids("<y>")
    assert tiny.generate([]) == [] and tiny.rank([], ["a"]) == []
    assert tiny.generate([], []) == []


def test_phi_of_another_t5_is_refused(phis):
    tiny = model()
    header = dataclasses.replace(phis[0].header, base_model="f" * 64)
    other = dataclasses.replace(phis[0], header=header)
    with pytest.raises(UserError, match="ffffffff.*other weights"):
        tiny.generate(["a"], other)
    with pytest.raises(UserError, match="φ 2 was made for"):
        tiny.generate(["a", "b"], [phis[0], other])
    with pytest.raises(UserError, match="1 φ for 2 inputs"):
        tiny.generate(["a", "b"], [phis[0]])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("ab", "inputs is the text 'ab'; put it in a list"),
        (["a", 3], "inputs: entry 2 is 3, which is no text"),
        (["a \ud800"], "half a character"),
    ],
)
def test_inputs_that_are_no_texts_are_refused(inputs, message):
    tiny = model()
    with pytest.raises(UserError, match=message):
        tiny.generate(inputs)
    with pytest.raises(UserError, match=message):
        tiny.rank(inputs, ["a", "b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ab", "options is the text 'ab'"),
        (["ab", ["c"]], "the options of input 1 is the text 'ab'"),
        ([["a"], []], "options for 1 of 2 inputs"),
    ],
)
def test_options_that_are_no_lists_of_texts_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        model().rank(["a", "b"], options)


@pytest.mark.parametrize(
    "name", ["a file's path", "a list with None", "φ without its header", "nothing"]
)
def test_what_is_no_phi_is_refused(phis, name):
    wrong, message = {
        "a file's path": ("/some/phi.safetensors", "φ is '/some/phi.safetensors'"),
        "a list with None": ([phis[0], None], "φ is None"),
        "φ without its header": (phis[0].phi, "φ is Phi;.*hypert5_jax.Phi.load"),
        "nothing": ([], "0 φ for 2 inputs"),
    }[name]
    with pytest.raises(UserError, match=message):
        model().generate(["a", "b"], wrong)


@pytest.mark.parametrize("size", [0, -3])
def test_a_batch_of_nothing_is_refused(phis, size):
    with pytest.raises(UserError, match=f"batch_size is {size}; expected 1 or more"):
        model().generate(["a"], phis[0], batch_size=size)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([],), "nothing to adapt to"),
        (
            ([("a", "b"), ("a", "seven")],),
            "example 2: the target has 6 tokens.*5 at most",
        ),
        (([("a", "")],), "example 1: the target is empty"),
        (([("a", "b"), {"input": "a"}],), "example 2 has no field `target`"),
        (([("a", "b"), "c"],), "example 2 is 'c'"),
        ((EXAMPLES, "", "sum"), "combine is 'sum'"),
        (([EXAMPLES, EXAMPLES], ["a"]), "1 instructions for 2 tasks"),
    ],
)
def test_what_cannot_be_adapted_to_is_refused(given, message):
    tiny = model()
    tiny = Model(
        *(tiny.system, tiny.params, tiny.vocabulary),
        dataclasses.replace(tiny.row, lengths={**tiny.row.lengths, "targets": 5}),
        tiny.base_model,
    )
    with pytest.raises(UserError, match=message):
        tiny.adapt(*given)


def test_a_system_without_a_hypermodel_adapts_nothing_but_answers():
    learned = Variant(source="learned", trainable=("phi",), context="none")
    tiny = model(dataclasses.replace(learned, prefix=PREFIX.prefix))
    with pytest.raises(UserError, match="no hypermodel"):
        tiny.adapt(EXAMPLES)
    # With the φ it learned.
    phi = tiny.system.make_phi(tiny.params, np.zeros((1, 0), np.int32))
    expected = -log_prob(tiny, ids("ab"), [*ids("c"), EOS], phi) / 2
    assert tiny.loss(EXAMPLES[:1]) == pytest.approx(expected, rel=1e-5)
