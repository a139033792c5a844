"""How rows are put together and cut."""

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data import rows
from hypert5_jax.data.records import SHOTS_SLOT, Example, label_slot
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import Sampler
from hypert5_jax.data.stream import batches
from hypert5_jax.preparation.writer import Item
from tests.data.toy_mixture import EOS, VOCABULARY, X, Y, plain, shots_of, write_mixture

LENGTHS = {"hyper_inputs": 20, "inputs": 6, "targets": 4}
A = Example([11, 12], [13, EOS])
B = Example([21, 22, 23], [24, 25, EOS])


@pytest.mark.parametrize(
    "room, expected",
    [
        (12, [X, 11, 12, Y, 13, X, 21, 22, 23, Y, 24, 25]),
        (11, [X, 11, 12, Y, 13]),  # a whole shot is dropped, none is cut
        (5, [X, 11, 12, Y, 13]),
        (4, [X, 11, 12, Y]),  # but for the very first
        (0, []),
    ],
)
def test_whole_shots_are_dropped_before_any_is_cut(room, expected):
    assert rows.fit_shots([A, B], VOCABULARY, room) == expected


@pytest.mark.parametrize(
    "each, expected",
    [
        (None, [X, 21, 22, 23, Y, 24, 25]),
        (7, [X, 21, 22, 23, Y, 24, 25]),
        (6, [X, 21, 22, Y, 24, 25]),  # the input goes first, from its end
        (4, [X, Y, 24, 25]),
    ],
)
def test_a_shot_is_cut_to_its_own_length_before_any_is_dropped(each, expected):
    assert rows.shot_ids(B, VOCABULARY, each) == expected
    assert rows.fit_shots([B, B], VOCABULARY, 14, each) == expected * 2
    own = [7, SHOTS_SLOT]
    assert rows.context_ids(own, [B], VOCABULARY, 9, each) == [7, *expected]


def test_the_longest_target_leaves_no_input_in_its_shot():
    long = Example([21], [31, 32, 33, 34, EOS])
    assert rows.shot_ids(long, VOCABULARY, 5) == [X, Y, 31, 32, 33]


def test_the_row_format_limits_each_shot_that_training_reads(tmp_path):
    mixture = write_mixture(tmp_path / "toy", plain([30]))
    lengths = {"hyper_inputs": 40, "inputs": 6, "targets": 4}
    for each, most in ((None, 5), (4, 4)):
        row = RowFormat(lengths=lengths, max_shots=3, shot_length=each)
        for context in next(batches(mixture, row, 4, seed=0)).hyper_inputs:
            starts = np.append(np.flatnonzero(context == X), np.count_nonzero(context))
            assert np.diff(starts).tolist() == [most] * 3
    with pytest.raises(UserError, match="shot_length is 3; expected 4 or more"):
        RowFormat(lengths=lengths, shot_length=3)


def test_shots_go_where_the_own_context_says():
    own = [X, 7, SHOTS_SLOT, 8]
    shot = [X, 11, 12, Y, 13]
    assert rows.context_ids(own, [A, B], VOCABULARY, 8) == [X, 7, *shot, 8]
    assert rows.context_ids(own, [], VOCABULARY, 8) == [X, 7, 8]
    assert rows.context_ids([X, 7, 8], [A], VOCABULARY, 2) == [X, 7]


@pytest.mark.parametrize(
    "targets, expected",
    [
        ([5, 6, EOS], [5, 6, EOS]),
        ([5, 6, 7, 8, 9, EOS], [5, 6, 7, EOS]),
        ([5, 6, 7, 8, 9], [5, 6, 7, 8]),  # a cut document: no EOS to keep
    ],
)
def test_a_target_that_is_cut_keeps_its_eos(targets, expected):
    row = RowFormat(lengths=LENGTHS)
    assert rows.target_ids(targets, row, VOCABULARY) == expected


def test_eos_settings():
    row = RowFormat(lengths=LENGTHS, inputs_eos=True, targets_eos=False)
    long = Example([31, 32, 33, 34, 35, 36, 37], [5, EOS])
    ids = rows.input_ids(long, [], row, VOCABULARY)
    assert ids == [31, 32, 33, 34, 35, EOS]
    assert rows.target_ids(long.targets, row, VOCABULARY) == [5]


def test_the_few_shot_baseline_never_cuts_x_by_its_context(tmp_path):
    mixture = write_mixture(tmp_path / "toy", plain([30]))
    row = RowFormat(lengths=LENGTHS, max_shots=9, context="downstream")
    batch = next(batches(mixture, row, 4, seed=0))
    assert batch.hyper_inputs.shape == (4, 0)
    assert batch.inputs.shape == (4, 20 + 6 + 2)
    plain_row = RowFormat(lengths={"inputs": 6, "targets": 4}, context="none")
    alone = next(batches(mixture, plain_row, 4, seed=0))
    for joined, x in zip(batch.inputs, alone.inputs, strict=True):
        ids = joined[joined > 0].tolist()
        assert ids[-4:] == [X, *x[x > 0].tolist(), Y]
        assert len(shots_of(ids[:-4])) == 4  # 5 ids each, 20 fit


def test_weights_are_one_on_target_tokens_only(tmp_path):
    mixture = write_mixture(tmp_path / "toy", plain([30]))
    batch = next(batches(mixture, RowFormat(lengths=LENGTHS, max_shots=2), 4, seed=0))
    np.testing.assert_array_equal(batch.weights, (batch.targets != 0).astype("f4"))
    assert batch.weights.dtype == np.float32 and batch.inputs.dtype == np.int32


def test_label_slots_are_filled_in_every_part():
    slot = label_slot(1)
    example = Example([5, slot], [slot, EOS], [slot], ([slot, EOS],), [slot])
    words = [(100,), (201, 202)]
    assert rows.relabel(example, words) == Example(
        [5, 201, 202], [201, 202, EOS], [201, 202], ([201, 202, EOS],), [201, 202]
    )
    with pytest.raises(UserError, match="label_pool of at least 3 words"):
        rows.fill_labels([label_slot(2)], words)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"lengths": {"inputs": 4, "targets": 4}}, "hyper_inputs"),
        ({"lengths": {**LENGTHS, "input": 4}}, "lengths names input"),
        ({"lengths": {**LENGTHS, "targets": 0}}, "positive"),
        ({"lengths": {**LENGTHS, "inputs": 5.5}}, "whole positive number.*inputs"),
        ({"lengths": {**LENGTHS, "inputs": "5"}}, "whole positive number.*inputs"),
        ({"lengths": {**LENGTHS, "hyper_inputs": 3}}, "shortest shot"),
        ({"context": "encoder"}, "hypermodel"),
        ({"max_shots": 2, "min_shots": 3}, "min_shots"),
        ({"empty_context_rate": 1.5}, "empty_context_rate"),
        ({"targets_per_context": 0}, "targets_per_context"),
        ({"too_few": "ignore"}, "too_few"),
    ],
)
def test_a_format_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        RowFormat(**({"lengths": LENGTHS} | settings))


def test_as_many_shots_are_read_as_what_they_show_leaves_room_for(tmp_path):
    def item(i):
        return Item(None, Example([300 + i], [7] * 30 + [EOS], shot_targets=[8, EOS]))

    mixture = write_mixture(tmp_path / "toy", {"shows": [item(i) for i in range(20)]})
    row = RowFormat(lengths=LENGTHS, max_shots=9)
    for context in next(batches(mixture, row, 4, seed=0)).hyper_inputs:
        shots = shots_of(context[context > 0].tolist())
        assert len(shots) == LENGTHS["hyper_inputs"] // 4
        assert all(y == [8] for _, y in shots)


def test_a_task_with_too_few_examples_is_named_skipped_or_served(tmp_path):
    mixture = write_mixture(tmp_path / "toy", plain([4, 30]))

    def sampler(**settings):
        return Sampler(mixture, RowFormat(lengths=LENGTHS, **settings), seed=0)

    with pytest.raises(UserError, match="'t0' has 4 different examples"):
        sampler(max_shots=4)
    assert [t.name for t in sampler(max_shots=4, too_few="skip").tasks] == ["t1"]
    fewer = sampler(max_shots=4, too_few="fewer")
    draw = fewer.draw(np.arange(50))
    assert {len(s) for s, t in zip(draw.shots, draw.tasks, strict=True) if t == 0} == {
        3
    }
    assert len(sampler(max_shots=3).tasks) == 2
    with pytest.raises(UserError, match="no task of 'toy'"):
        sampler(max_shots=100, too_few="skip")


def test_contexts_of_single_examples_are_not_shared(tmp_path):
    items = [Item(None, Example([5, i + 9], [6, EOS], [X, i + 9])) for i in range(9)]
    mixture = write_mixture(tmp_path / "toy", {"own": items})
    with pytest.raises(UserError, match="'own' brings a context for each example"):
        Sampler(mixture, RowFormat(lengths=LENGTHS, targets_per_context=2), seed=0)
    batch = next(batches(mixture, RowFormat(lengths=LENGTHS), 4, seed=0))
    np.testing.assert_array_equal(batch.hyper_inputs[:, 1], batch.inputs[:, 1])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": 6, "ways": 4}, "batch_size 6"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": 4, "ways": 2, "parts": (0, 2)}, "below 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(tmp_path, settings, message):
    mixture = write_mixture(tmp_path / "toy", plain([30]))
    with pytest.raises(UserError, match=message):
        batches(mixture, RowFormat(lengths=LENGTHS), seed=0, **settings)
