"""Contexts for evaluation: kinds differ in the context and in nothing else."""

from collections import Counter

import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.contexts import KINDS, evaluation_rows
from hypert5_jax.data.records import SHOTS_SLOT, Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampling import hash_of
from hypert5_jax.data.task_draw import changed_about
from hypert5_jax.preparation.writer import Item
from tests.data.toy_mixture import EOS, X, Y, numbered, plain, shots_of, write_mixture

ROW = RowFormat(lengths={"hyper_inputs": 64, "inputs": 8, "targets": 4}, max_shots=6)


@pytest.fixture
def mixture(tmp_path):
    tasks = plain([30, 20])
    options = ([501, EOS], [502, EOS])
    tasks["choice"] = [
        Item(None, Example([2000 + i], options[i % 2], None, options))
        for i in range(20)
    ]
    pool = tuple((15_000 + k,) for k in range(9))
    tasks["label"] = [
        Item(None, Example([3000 + i], [-1 - i % 2, EOS], None, ([-1], [-2])), pool)
        for i in range(20)
    ]
    return write_mixture(tmp_path / "toy", tasks)


@pytest.mark.parametrize("per", ["task", "example"])
@pytest.mark.parametrize("task", ["t0", "choice", "label"])
def test_kinds_differ_in_the_context_only(mixture, task, per):
    made = {k: evaluation_rows(mixture, task, ROW, 1, k, per) for k in KINDS}
    right = made["right"]
    assert len(right.contexts) == (1 if per == "task" else len(right))
    for kind, rows in made.items():
        assert rows.inputs == right.inputs and rows.targets == right.targets
        assert rows.options == right.options
        assert rows.hyper_inputs().shape == right.hyper_inputs().shape
        if kind != "right" and not (task == "t0" and kind == "shuffled_targets"):
            assert all(a != b for a, b in zip(rows.contexts, right.contexts))
    assert made["empty"].contexts[0] == []


@pytest.mark.parametrize("per", ["task", "example"])
def test_a_target_is_not_among_its_shots(mixture, per):
    rows = evaluation_rows(mixture, "t0", ROW, seed=0, per=per)
    assert len(rows) == (24 if per == "task" else 30)
    for inputs, number in zip(rows.inputs, rows.context_of, strict=True):
        shown = [x for x, _ in shots_of(rows.contexts[number])]
        assert len(shown) == 6 and inputs not in shown


def test_shots_of_another_split_leave_all_targets(tmp_path):
    home = tmp_path / "toy"
    train = write_mixture(home, plain([30]))
    items = [Item(None, numbered(0, i)) for i in range(25, 45)]
    test = write_mixture(home, {"t0": items}, split="test")
    rows = evaluation_rows(test, "t0", ROW, seed=0, support=train)
    shown = [x for x, _ in shots_of(rows.contexts[0])]
    # Equal texts of both splits are not judged with themselves in view.
    assert all(x not in shown for x in rows.inputs)
    assert len(rows) == 20 - sum(x[0] >= 35 for x in shown)
    assert len(evaluation_rows(test, "t0", ROW, 0, limit=5, support=train)) == 5


def test_shuffled_targets_belong_to_no_shot_of_theirs(mixture):
    right = evaluation_rows(mixture, "choice", ROW, 2, "right", "example")
    other = evaluation_rows(mixture, "choice", ROW, 2, "shuffled_targets", "example")
    for a, b in zip(right.contexts, other.contexts, strict=True):
        pairs, changed = shots_of(a), shots_of(b)
        assert [x for x, _ in pairs] == [x for x, _ in changed]
        count = Counter(tuple(y) for _, y in pairs)
        assert count == Counter(tuple(y) for _, y in changed)
        kept = sum(y == z for (_, y), (_, z) in zip(pairs, changed, strict=True))
        assert kept == max(0, 2 * max(count.values()) - len(pairs))


def test_shots_show_their_own_targets_and_shuffling_moves_what_they_show(tmp_path):
    def item(i):
        target, shown = [4000 + i, 501 + i % 2, EOS], [501 + i % 2, EOS]
        return Item(None, Example([4000 + i], target, shot_targets=shown))

    mixture = write_mixture(tmp_path / "toy", {"shows": [item(i) for i in range(20)]})
    made = {
        kind: evaluation_rows(mixture, "shows", ROW, 2, kind)
        for kind in ("right", "shuffled_targets")
    }
    for rows in made.values():
        for x, y in zip(rows.inputs, rows.targets, strict=True):
            assert y == [x[0], 501 + x[0] % 2, EOS]
    right, other = (shots_of(rows.contexts[0]) for rows in made.values())
    assert [y for _, y in right] == [[501 + x[0] % 2] for x, _ in right]
    assert [x for x, _ in right] == [x for x, _ in other]
    words = [[y[0] for _, y in shots] for shots in (right, other)]
    assert Counter(words[0]) == Counter(words[1])
    kept = sum(a == b for a, b in zip(*words, strict=True))
    assert kept == max(0, 2 * max(Counter(words[0]).values()) - len(right)) < len(right)


@pytest.mark.parametrize("values", ["", "a", "ab", "aab", "aabb", "aaab", "abcabc"])
def test_as_few_targets_as_possible_keep_their_place(values):
    order = changed_about([[ord(v)] for v in values], hash_of(3))
    assert sorted(order) == list(range(len(values)))
    kept = sum(values[i] == values[j] for i, j in enumerate(order))
    largest = max(Counter(values).values(), default=0)
    assert kept == max(0, 2 * largest - len(values))


def test_label_words_agree_between_context_target_and_options(mixture):
    for per in ("task", "example"):
        rows = evaluation_rows(mixture, "label", ROW, seed=3, per=per)
        for i, number in enumerate(rows.context_of):
            word = {x[0] % 2: y for x, y in shots_of(rows.contexts[number])}
            wanted = rows.targets[i][0]
            assert [wanted] == word[rows.inputs[i][0] % 2]
            assert rows.options[i][rows.inputs[i][0] % 2] == [wanted]


def test_the_other_context_comes_from_the_task_that_is_named(mixture):
    rows = evaluation_rows(mixture, "t0", ROW, seed=0, kind="other", other="t1")
    assert {x[0] // 1000 for x, _ in shots_of(rows.contexts[0])} == {1}
    drawn = evaluation_rows(mixture, "t0", ROW, seed=0, kind="other")
    assert all(x[0] >= 1000 for x, _ in shots_of(drawn.contexts[0]))


def test_own_contexts_are_lent_by_other_examples(tmp_path):
    items = [Item(None, Example([5, i + 9], [6, EOS], [X, i + 9])) for i in range(9)]
    mixture = write_mixture(tmp_path / "toy", {"own": items})
    right = evaluation_rows(mixture, "own", ROW, seed=0)
    assert [c[1] for c in right.contexts] == [i[1] for i in right.inputs]
    other = evaluation_rows(mixture, "own", ROW, seed=0, kind="other")
    assert all(a != b for a, b in zip(right.contexts, other.contexts, strict=True))
    assert evaluation_rows(mixture, "own", ROW, 0, "empty").contexts == [[]] * 9
    with pytest.raises(UserError, match="no targets to shuffle"):
        evaluation_rows(mixture, "own", ROW, seed=0, kind="shuffled_targets")


def test_a_definition_stays_while_its_shots_change(tmp_path):
    own = [X, 7, SHOTS_SLOT]
    items = [Item(None, Example([i + 9], [600 + i], own)) for i in range(20)]
    mixture = write_mixture(tmp_path / "toy", {"defined": items})
    right = evaluation_rows(mixture, "defined", ROW, seed=0)
    (context,) = evaluation_rows(
        mixture, "defined", ROW, seed=0, kind="shuffled_targets"
    ).contexts
    assert context[:3] == [X, 7, X] and context.count(Y) == 6
    assert context != right.contexts[0] and len(right) == 14


def test_batches_hold_every_row_once_and_fill_up_with_weight_zero(mixture):
    for per, contexts in (("task", 1), ("example", 8)):
        rows = evaluation_rows(mixture, "t1", ROW, seed=0, per=per)
        batches = list(rows.batches(8))
        assert {b.hyper_inputs.shape for b in batches} == {(contexts, 64)}
        assert {b.inputs.shape for b in batches} == {(8, 8)}
        real = np.concatenate([b.inputs[b.weights.any(axis=1)] for b in batches])
        assert [r[r > 0].tolist() for r in real] == rows.inputs
        assert all(b.targets_per_context == 8 // contexts for b in batches)


def test_what_cannot_be_made_is_refused(mixture, tmp_path):
    with pytest.raises(UserError, match="kind is 'wrong'"):
        evaluation_rows(mixture, "t0", ROW, 0, kind="wrong")
    few = RowFormat(lengths=ROW.lengths, max_shots=30)
    with pytest.raises(UserError, match="'t1' has 20 different examples for 30 shots"):
        evaluation_rows(mixture, "t1", few, 0)
    alone = write_mixture(tmp_path / "alone", plain([9]))
    with pytest.raises(UserError, match="one task only"):
        evaluation_rows(alone, "t0", ROW, 0, kind="other")
