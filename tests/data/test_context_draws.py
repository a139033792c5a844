"""Draws that are kept and used again, random contexts, and who lends a context."""

import dataclasses

import numpy as np
import pytest

from hypert5_jax.data import contexts
from hypert5_jax.data.contexts import ALL_KINDS, draw_examples, evaluation_rows
from hypert5_jax.data.rows import RowFormat
from tests.data.toy_mixture import VOCABULARY, X, Y, plain, shots_of, write_mixture

ROW = RowFormat(lengths={"hyper_inputs": 64, "inputs": 8, "targets": 4}, max_shots=4)


@pytest.fixture
def mixture(tmp_path):
    return write_mixture(tmp_path / "toy", plain([30, 20, 25]))


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_draw_used_again_gives_what_drawing_gives(mixture, kind):
    drawn = draw_examples(mixture, "t0", ROW, seed=3, limit=7, other=True)
    assert len(drawn.targets) == 7 and len(drawn.shots) == len(drawn.lender_shots) == 4
    again = evaluation_rows(mixture, "t0", ROW, 3, kind, draw=drawn)
    first = evaluation_rows(mixture, "t0", ROW, 3, kind, limit=7)
    assert again.contexts == first.contexts
    assert again.inputs == first.inputs and again.targets == first.targets


def test_the_draw_decides_not_the_seed(mixture):
    """Shots 5, 6, 7 in this order, as somebody wrote them down."""
    draw = contexts.ContextDraw((1, 2), (7, 5, 6), "t2", (0, 1))
    rows = evaluation_rows(mixture, "t0", ROW, seed=99, draw=draw)
    assert [x for x, _ in shots_of(rows.contexts[0])] == [[17, 5], [15, 5], [16, 5]]
    assert rows.inputs == [[11, 5], [12, 5]]
    other = evaluation_rows(mixture, "t0", ROW, seed=99, kind="other", draw=draw)
    assert [x for x, _ in shots_of(other.contexts[0])] == [[2010, 5], [2011, 5]]


def test_a_random_context_keeps_the_markers_and_nothing_else(mixture):
    real, fake = (
        np.array(evaluation_rows(mixture, "t0", ROW, 1, kind).contexts[0])
        for kind in ("right", "random")
    )
    marker = np.isin(real, [X, Y])
    np.testing.assert_array_equal(fake[marker], real[marker])
    first, end = VOCABULARY.ordinary_ids
    assert ((fake[~marker] >= first) & (fake[~marker] < end)).all()
    assert (fake[~marker] != real[~marker]).mean() > 0.9
    # Uniform over 20,000 - 10 - 3 ids: both halves occur among a dozen.
    assert fake[~marker].min() < 10_000 < fake[~marker].max()


def test_a_context_is_borrowed_from_another_group(mixture):
    groups = ["a", "a", "b"]
    tasks = tuple(
        dataclasses.replace(task, group=group)
        for task, group in zip(mixture.tasks, groups)
    )
    grouped = dataclasses.replace(mixture, tasks=tasks)
    for seed in range(5):
        assert draw_examples(grouped, "t0", ROW, seed, other=True).lender == "t2"
    lenders = {
        draw_examples(mixture, "t0", ROW, seed, other=True).lender for seed in range(9)
    }
    assert lenders == {"t1", "t2"}
