"""The batcher: every row's result reaches that row's caller, in batches of known shapes."""

import random
import threading
import time
from concurrent.futures import CancelledError

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.serving.batcher import Batcher, Closed, Full, Kind, Late


class Runner:
    """Squares numbers; stops at a gate, and remembers its batches."""

    def __init__(self, held=False):
        self.batches = []
        self.gate = threading.Event()
        self.begun = threading.Event()
        if not held:
            self.gate.set()

    def __call__(self, length, rows, payloads):
        self.batches.append((length, rows, list(payloads)))
        self.begun.set()
        assert self.gate.wait(10)
        if 13 in payloads:
            raise RuntimeError("a defect")
        return [UserError("seven") if p == 7 else p * p for p in payloads]


def make(runner, rows=(1, 4), lengths=(8, 16), max_queue=100, wait=0.0):
    return Batcher({"square": Kind(runner, lengths, rows)}, max_queue, wait)


def submit(batcher, *payloads, length=8, timeout=10.0):
    return batcher.submit("square", [(length, p) for p in payloads], timeout)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def held_batcher(**kwargs):
    """A batcher whose worker is busy with row 0 until the gate opens."""
    runner = Runner(held=True)
    batcher = make(runner, **kwargs)
    (first,) = submit(batcher, 0)
    assert runner.begun.wait(10)
    return runner, batcher, first


def test_32_callers_get_their_own_answers_though_half_go_away():
    runner = Runner()
    batcher = make(runner, rows=(1, 2, 8), wait=0.001)
    wrong, answered, gone = [], [], []

    def caller(seed):
        rng = random.Random(seed)
        for _ in range(40):
            numbers = [rng.randrange(20, 10**6) for _ in range(rng.randrange(1, 5))]
            rows = [(rng.randrange(1, 17), n) for n in numbers]
            futures = batcher.submit("square", rows, 10)
            if rng.random() < 0.5:
                leaving = rng.choice(futures)
                gone.append(leaving.cancel())
            for number, future in zip(numbers, futures):
                try:
                    if future.result(10) != number * number:
                        wrong.append(number)
                    answered.append(number)
                except CancelledError:
                    assert future is leaving

    threads = [threading.Thread(target=caller, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batcher.close()
    assert not wrong and len(answered) > 32 * 40
    counts = batcher.counts
    assert counts.rows["square"] == len(answered)
    assert counts.cancelled == sum(gone) > 0
    assert {(length, rows) for length, rows, _ in runner.batches} <= {
        (length, rows) for length in (8, 16) for rows in (1, 2, 8)
    }
    assert all(len(payloads) <= rows for _, rows, payloads in runner.batches)


def test_rows_that_wait_are_run_together_the_longest_shape_deciding():
    runner, batcher, first = held_batcher()
    short = submit(batcher, 2)
    long = submit(batcher, 3, 4, length=9)
    runner.gate.set()
    assert [f.result(10) for f in [first, *short, *long]] == [0, 4, 9, 16]
    # The oldest first; a batch of its length does not take longer rows along.
    assert runner.batches[1:] == [(8, 1, [2]), (16, 4, [3, 4])]


def test_shorter_rows_fill_a_longer_batch_up():
    runner, batcher, _ = held_batcher()
    futures = submit(batcher, 2, length=16) + submit(batcher, 3, length=1)
    runner.gate.set()
    assert [f.result(10) for f in futures] == [4, 9]
    assert runner.batches[1:] == [(16, 4, [2, 3])]


def test_a_lone_row_waits_for_company_but_not_for_long():
    runner = Runner()
    batcher = make(runner, wait=0.05)
    begun = time.monotonic()
    assert submit(batcher, 3)[0].result(10) == 9
    assert 0.04 < time.monotonic() - begun < 5
    begun = time.monotonic()
    assert [f.result(10) for f in submit(batcher, 2, 3, 4, 5)] == [4, 9, 16, 25]
    assert time.monotonic() - begun < 0.04  # full: nobody to wait for


def test_cancelled_and_late_rows_never_reach_a_batch():
    runner, batcher, first = held_batcher()
    kept, cancelled = submit(batcher, 2, 3)
    (late,) = submit(batcher, 4, timeout=0.01)
    assert cancelled.cancel()
    time.sleep(0.02)
    runner.gate.set()
    assert kept.result(10) == 4
    with pytest.raises(Late):
        late.result(10)
    assert runner.batches[1:] == [(8, 1, [2])]
    assert (batcher.counts.cancelled, batcher.counts.late) == (1, 1)
    assert not first.cancel()  # what has begun is finished


def test_a_full_queue_refuses_whole_requests_and_forgets_who_left():
    runner, batcher, _ = held_batcher(max_queue=3)
    waiting = submit(batcher, 1, 2)
    with pytest.raises(Full) as refusal:
        submit(batcher, 3, 4)
    assert refusal.value.seconds >= 1
    assert batcher.waiting == 2
    waiting[0].cancel()
    futures = submit(batcher, 5, 6)
    runner.gate.set()
    assert [f.result(10) for f in [waiting[1], *futures]] == [4, 25, 36]


def test_closing_finishes_what_waits_and_takes_nothing_more():
    runner, batcher, _ = held_batcher()
    futures = submit(batcher, *range(20, 29))
    closing = threading.Thread(target=batcher.close)
    closing.start()
    wait_until(lambda: batcher._closed)
    with pytest.raises(Closed):
        submit(batcher, 1)
    runner.gate.set()
    closing.join(10)
    assert [f.result(0) for f in futures] == [n * n for n in range(20, 29)]


def test_a_row_that_fails_fails_alone_and_a_defect_only_its_batch():
    runner, batcher, _ = held_batcher()
    futures = submit(batcher, 6, 7)
    runner.gate.set()
    assert futures[0].result(10) == 36
    with pytest.raises(UserError, match="seven"):
        futures[1].result(10)
    with pytest.raises(RuntimeError, match="a defect"):
        submit(batcher, 13)[0].result(10)
    assert submit(batcher, 5)[0].result(10) == 25


def test_kinds_do_not_share_batches():
    runner, other = Runner(held=True), Runner()
    kinds = {"a": Kind(runner, (8,), (4,)), "b": Kind(other, (8,), (4,))}
    batcher = Batcher(kinds, 100, 0.0)
    first = batcher.submit("a", [(1, 0)], 10)
    assert runner.begun.wait(10)
    futures = []
    for number in range(3):
        futures += batcher.submit("a", [(1, number)], 10)
        futures += batcher.submit("b", [(1, number + 50)], 10)
    runner.gate.set()
    for future in first + futures:
        future.result(10)
    assert runner.batches[1:] == [(8, 4, [0, 1, 2])]
    assert other.batches == [(8, 4, [50, 51, 52])]


def test_sizes_must_ascend():
    with pytest.raises(UserError, match="rows"):
        Kind(Runner(), (8,), (4, 1))
    with pytest.raises(UserError, match="lengths"):
        Kind(Runner(), (), (1,))
