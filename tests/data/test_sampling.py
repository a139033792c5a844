"""Keyed permutations and the schedule of tasks."""

from itertools import permutations

import numpy as np
import pytest

from hypert5_jax.data.sampling import Schedule, hash_of, permute, uniform


@pytest.mark.parametrize("size", [1, 2, 3, 17, 100, 4097])
def test_a_permutation_is_one(size):
    found = permute(np.arange(size), np.int64(size), hash_of(7, size))
    assert sorted(found.tolist()) == list(range(size))


def test_sizes_and_keys_of_rows_may_differ():
    sizes = np.array([[3], [50], [1000]])
    keys = hash_of(np.arange(3))[:, None]
    found = permute(np.broadcast_to(np.arange(3), (3, 3)), sizes, keys)
    for row, size, key in zip(found, sizes[:, 0], keys[:, 0], strict=True):
        assert row.tolist() == permute(np.arange(3), size, key).tolist()


def test_every_permutation_is_about_equally_likely():
    keys = hash_of(np.arange(6000))[:, None]
    found = permute(np.broadcast_to(np.arange(3), (6000, 3)), np.int64(3), keys)
    for wanted in permutations(range(3)):
        share = np.mean((found == wanted).all(axis=1))
        assert share == pytest.approx(1 / 6, abs=0.03)


def test_draws_are_those_of_the_first_release():
    # A change here would change every run's data: refuse it, or say so in CHANGELOG.
    assert hash_of(1, 2, 3).item() == 15020427595393229491
    assert permute(np.arange(5), np.int64(5), hash_of(1)).tolist() == [2, 1, 3, 4, 0]


def test_uniform_draws_fill_the_unit_interval():
    found = uniform(0, np.arange(10_000))
    assert 0 <= found.min() and found.max() < 1
    assert found.mean() == pytest.approx(0.5, abs=0.02)


def test_turns_of_a_task_count_up_over_periods():
    schedule = Schedule(np.array([1.0, 2.0, 5.0]), seed=4, period=64)
    tasks, turns = schedule(np.arange(640))
    for task in range(3):
        mine = turns[tasks == task].tolist()
        assert mine == list(range(len(mine)))
    assert np.bincount(tasks).tolist() == [80, 160, 400]


def test_positions_may_be_asked_for_in_any_order():
    schedule = Schedule(np.array([1.0, 2.0, 5.0]), seed=4, period=64)
    tasks, turns = schedule(np.arange(640))
    order = np.random.default_rng(0).permutation(640)
    again, turns_again = Schedule(np.array([1.0, 2.0, 5.0]), 4, period=64)(order)
    assert (again == tasks[order]).all() and (turns_again == turns[order]).all()


def test_a_rare_task_still_has_its_turn_and_rate_zero_has_none():
    schedule = Schedule(np.array([1e-9, 1.0, 0.0]), seed=0, period=256)
    assert schedule.turns.tolist() == [1, 255, 0]
