"""The laws of the stream of batches, on mixtures of numbered examples."""

import numpy as np
import pytest

from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.sampler import Sampler
from hypert5_jax.data.stream import batches
from hypert5_jax.preparation.writer import Item
from tests.data.toy_mixture import EOS, numbered, plain, shots_of, write_mixture

LENGTHS = {"hyper_inputs": 64, "inputs": 8, "targets": 4}
ROW = RowFormat(lengths=LENGTHS, max_shots=6)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> PreparedMixture:
    tasks = plain([9, 40, 300])
    # A task of many equal texts: 60 examples, 12 different inputs.
    tasks["twins"] = [
        Item(None, numbered(3, i % 12, targets=[3500 + i])) for i in range(60)
    ]
    return write_mixture(tmp_path_factory.mktemp("mixture") / "toy", tasks)


def take(mixture, row, count, batch_size=16, seed=3, **kwargs):
    stream = batches(mixture, row, batch_size, seed, **kwargs)
    return [next(stream) for _ in range(count)]


def equal(left, right) -> bool:
    names = ("hyper_inputs", "inputs", "targets", "weights")
    return all(
        np.array_equal(getattr(a, n), getattr(b, n))
        for a, b in zip(left, right, strict=True)
        for n in names
    )


@pytest.mark.parametrize("shared", [1, 3])
def test_an_example_never_appears_among_its_own_shots(mixture, shared):
    row = RowFormat(lengths=LENGTHS, max_shots=6, targets_per_context=shared)
    seen = 0
    for batch in take(mixture, row, 40, batch_size=24):
        for i, one_input in enumerate(batch.inputs):
            shots = shots_of(batch.hyper_inputs[i // shared])
            inputs = [tuple(x) for x, _ in shots]
            assert len(inputs) == 6
            assert len(set(inputs)) == 6  # draws are distinct, also as texts
            assert tuple(int(i) for i in one_input if i) not in inputs
            # All shots are of the target's own task.
            assert {x[0] // 1000 for x in inputs} == {int(one_input[0]) // 1000}
            seen += 1
    assert seen == 40 * 24


def test_targets_that_share_a_context_are_different_examples(mixture):
    row = RowFormat(lengths=LENGTHS, max_shots=4, targets_per_context=4)
    draw = Sampler(mixture, row, seed=1).draw(np.arange(500))
    assert all(len(set(targets)) == 4 for targets in draw.targets.tolist())


def test_the_same_seed_gives_the_same_batches_also_after_a_restart(mixture):
    straight = take(mixture, ROW, 7)
    again = open_mixture(mixture.directory.parent, "train")
    assert equal(straight, take(again, ROW, 7))
    assert equal(straight[4:], take(again, ROW, 3, start_step=4))
    assert not equal(straight, take(mixture, ROW, 7, seed=4))


def test_processes_make_the_batches_that_threads_make(mixture):
    processes = take(mixture, ROW, 3, start_step=2, num_workers=1)
    assert equal(take(mixture, ROW, 3, start_step=2), processes)


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("shared", [1, 2])
def test_hosts_together_read_exactly_the_global_batches(mixture, hosts, shared):
    row = RowFormat(lengths=LENGTHS, max_shots=6, targets_per_context=shared)
    whole = take(mixture, row, 3, start_step=11)
    parts = [
        take(mixture, row, 3, start_step=11, parts=(h,), ways=hosts)
        for h in range(hosts)
    ]
    for step, batch in enumerate(whole):
        for name in ("hyper_inputs", "inputs", "targets", "weights"):
            joined = np.concatenate([getattr(part[step], name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(batch, name))


def test_a_host_reads_the_records_of_its_own_rows_only(mixture, monkeypatch):
    """Its rows need not lie side by side: that is for the devices to say."""
    (mine,) = take(mixture, ROW, 1, start_step=5, parts=(1, 3), ways=4)
    (whole,) = take(mixture, ROW, 1, start_step=5)
    rows = np.array([4, 5, 6, 7, 12, 13, 14, 15])
    np.testing.assert_array_equal(mine.hyper_inputs, whole.hyper_inputs[rows])
    np.testing.assert_array_equal(mine.targets, whole.targets[rows])

    mixture = open_mixture(mixture.directory.parent, "train")
    read: list[int] = []
    original = mixture.reader.read
    monkeypatch.setattr(
        mixture.reader, "read", lambda some: read.extend(some) or original(some)
    )
    sampler = Sampler(mixture, ROW, seed=3)
    arrays = sampler.arrays(5 * 16 + rows)
    np.testing.assert_array_equal(arrays[0], mine.hyper_inputs)
    drawn = sampler.draw(5 * 16 + rows)
    records = mixture.index["record"]
    wanted = np.concatenate([drawn.targets.ravel(), *drawn.shots])
    assert set(records[drawn.targets.ravel()]) <= set(read) <= set(records[wanted])


@pytest.mark.parametrize("step", [10, 90_000, 10**9])
def test_a_far_step_is_reached_without_the_steps_before_it(mixture, step, monkeypatch):
    mixture = open_mixture(mixture.directory.parent, "train")
    read, original = [], mixture.reader.read
    monkeypatch.setattr(
        mixture.reader, "read", lambda rows: read.append(len(rows)) or original(rows)
    )
    sampler = Sampler(mixture, ROW, seed=0)
    sampler.arrays(np.arange(16) + step * 16)
    # One read of the rows' own records and one table of task order: at any step.
    assert len(read) == 1 and read[0] <= 16 * 7
    assert sampler._schedule._table.cache_info().misses == 1


@pytest.mark.parametrize("count, shared", [(40, 1), (40, 4), (9, 1)])
def test_an_epoch_visits_every_example_once(tmp_path, count, shared):
    mixture = write_mixture(tmp_path / "one", plain([count]))
    row = RowFormat(lengths=LENGTHS, max_shots=2, targets_per_context=shared)
    sampler = Sampler(mixture, row, seed=5)
    contexts = count // shared
    orders = []
    for epoch in range(3):
        targets = sampler.draw(np.arange(contexts) + epoch * contexts).targets
        assert sorted(targets.ravel().tolist()) == list(range(count))
        orders.append(targets.ravel().tolist())
    assert orders[0] != orders[1] != orders[2]


def test_tasks_are_mixed_by_their_rates(tmp_path):
    tasks = plain([20, 20])
    # One seqio task of two logical tasks, 30 and 10 examples.
    tasks["both"] = [
        Item("large" if i % 4 else "small", numbered(2, i)) for i in range(40)
    ]
    rates = {"t0": 1.0, "t1": 3.0, "both": 4.0}
    mixture = write_mixture(tmp_path / "rated", tasks, rates)
    names = [task.name for task in mixture.tasks]
    assert sorted(names) == ["large", "small", "t0", "t1"]

    def shares(cap):
        row = RowFormat(lengths=LENGTHS, max_shots=2, task_cap=cap)
        sampler = Sampler(mixture, row, seed=2)
        tasks = sampler.draw(np.arange(65536)).tasks
        return dict(zip(names, np.bincount(tasks, minlength=4) / 65536, strict=True))

    expected = {"t0": 1 / 8, "t1": 3 / 8, "large": 3 / 8, "small": 1 / 8}
    assert shares(None) == pytest.approx(expected, abs=1e-4)
    alike = {"t0": 1 / 8, "t1": 3 / 8, "large": 1 / 4, "small": 1 / 4}
    assert shares(1) == pytest.approx(alike, abs=1e-4)


def test_label_words_are_drawn_anew_and_agree_within_a_context(tmp_path):
    pool = tuple((15_000 + k, 16_000 + k) for k in range(8))
    items = [
        Item("label", Example([100 + i], [-1 - i % 2, EOS]), pool) for i in range(30)
    ]
    mixture = write_mixture(tmp_path / "labels", {"label": items})
    row = RowFormat(lengths=LENGTHS, max_shots=8)
    words = set()
    for batch in take(mixture, row, 10, batch_size=8):
        assert batch.hyper_inputs.min() >= 0 and batch.targets.min() >= 0
        for context, one, target in zip(
            batch.hyper_inputs, batch.inputs, batch.targets, strict=True
        ):
            pairs = [(x[0], tuple(y)) for x, y in shots_of(context)]
            pairs.append((int(one[0]), tuple(int(i) for i in target if i > 1)))
            word = {x % 2: y for x, y in pairs}
            assert all(word[x % 2] == y for x, y in pairs)
            assert set(word.values()) <= set(pool) and len(set(word.values())) == 2
            words.add(tuple(sorted(word.items())))
    assert len(words) > 20  # of 56 ordered pairs


def test_some_contexts_are_empty_and_the_number_of_shots_varies(mixture):
    row = RowFormat(lengths=LENGTHS, max_shots=6, min_shots=2, empty_context_rate=0.25)
    counts = [
        len(shots_of(context))
        for batch in take(mixture, row, 40)
        for context in batch.hyper_inputs
    ]
    share = counts.count(0) / len(counts)
    assert 0.2 < share < 0.3
    assert set(counts) == {0, 2, 3, 4, 5, 6}
