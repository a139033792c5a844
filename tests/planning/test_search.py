"""The largest batch, found among memories that are made up; meshes; estimates."""

import dataclasses

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.planning import report
from hypert5_jax.planning.compiled import refused
from hypert5_jax.planning.estimates import estimate
from hypert5_jax.planning.search import largest_batch, meshes


class Device:
    """A batch of n takes `fixed` + n * `each` bytes of `limit`."""

    def __init__(self, fixed, each, limit, tells=True):
        self.fixed, self.each, self.limit, self.tells = fixed, each, limit, tells
        self.asked = []

    def __call__(self, batch):
        assert batch > 0 and batch not in self.asked, "compiled twice"
        self.asked.append(batch)
        used = self.fixed + batch * self.each
        if not self.tells:
            return used <= self.limit, None, None
        return used <= self.limit, used, self.limit


@pytest.mark.parametrize("start", [8, 64, 256, 2048])
@pytest.mark.parametrize("tells", [True, False])
def test_the_largest_batch_is_found(start, tells):
    device = Device(fixed=1000, each=7, limit=3500, tells=tells)  # 357.1
    assert largest_batch(device, start, unit=8, most_tries=12) == (352, 360)
    assert len(device.asked) <= (6 if tells else 12)


def test_a_straight_line_saves_compilations():
    device = Device(fixed=10, each=1, limit=100_000)
    assert largest_batch(device, 256, unit=16, most_tries=14) == (99_984, 100_000)
    assert len(device.asked) <= 8


def test_a_search_that_ends_early_says_between_which_batches():
    device = Device(fixed=0, each=1, limit=1000, tells=False)
    assert largest_batch(device, 256, unit=8, most_tries=4) == (768, 1024)
    assert device.asked == [256, 512, 1024, 768]
    endless = Device(fixed=0, each=1, limit=10**9, tells=False)
    assert largest_batch(endless, 8, unit=8, most_tries=2) == (16, None)


def test_what_never_fits_is_said():
    with pytest.raises(UserError, match="not even a batch of 8 fits"):
        largest_batch(Device(fixed=10, each=1, limit=5), 64, unit=8, most_tries=12)


def test_meshes_are_all_that_divide_and_no_more():
    found = [(m["fsdp"], m["model"]) for m in meshes(4)]
    assert found == [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (1, 4)]
    # No axis but data crosses from one slice to another.
    assert max(m["fsdp"] * m["model"] for m in meshes(16, slices=2)) == 8


MEASURED = {
    "program": "train",
    "topology": "v5e:2x2",
    "chips": 4,
    "mesh": {"data": 2, "fsdp": 2, "model": 1},
    "compiler": "by hand",
    "compile_seconds": 1.0,
    "held": {"parameters": 2**30},
    "kept": 0,
    "model_flops": 4 * 197e12,
    "tokens": 8000,
    "rows": 16,
    "fits": True,
    "memory": {"peak": 3 * 2**30},
    "costs": {
        "flops": 300e12,
        "seconds": 2.0,
        "least_seconds": 1.0,
        "slow_seconds": 4.0,
        "parts": {},
        "sent": [{"kind": "all-gather", "axes": ["fsdp"], "times": 3, "bytes": 10**9}],
        "operations": [],
        "unknown_loops": [],
        "unknown_kernels": [],
    },
}


def test_estimates_are_those_of_a_case_by_hand():
    found = estimate(MEASURED, steps=1800, prices={"v5e": 1.5})
    # 1800 steps of 2 s are an hour; the peak would do the model's FLOPs in 1 s.
    assert dataclasses.astuple(found) == (
        pytest.approx((2.0, 1200 / 788, 0.5, 4.0, 0.25, 1000, 8.0, 1.0, 4.0, 6.0))
    )
    text = report.program_text(MEASURED, found, 1800)
    for part in ("MFU 50.0%", "4 chip-hours", "$6", "fits", "x 1.52", "over fsdp"):
        assert part in text
    row = report.table_row(MEASURED, found)
    assert len(row) == len(report.COLUMNS)
    assert row[:5] == ("v5e:2x2", "data 2 x fsdp 2", "4", "3.0", "yes")


def test_what_does_not_fit_has_no_time():
    refused = {**MEASURED, "fits": False, "costs": None, "memory": {"peak": 2**36}}
    refused["memory"] = {"peak": 2**35, "limit": 2**34}
    assert estimate(refused, 10, {}) is None
    assert "DOES NOT FIT" in report.program_text(refused, None, 10)
    assert len(report.table_row(refused, None)) == len(report.COLUMNS)


@pytest.mark.parametrize(
    "sizes",
    [
        "in memory space hbm. Used 17.20G of 15.75G hbm. Exceeded hbm capacity by 1.45G.",
        "on HBM, the total required for temporaries (17.20G) exceeds available HBM (15.75G).",
    ],
)
def test_a_refusal_for_memory_says_by_how_much(sizes):
    found = refused(f"RESOURCE_EXHAUSTED: Ran out of memory {sizes}")
    assert found == {"peak": round(17.2 * 2**30), "limit": round(15.75 * 2**30)}
    assert refused("RESOURCE_EXHAUSTED: no sizes here") == {}
