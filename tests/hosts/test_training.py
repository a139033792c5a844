"""Training over two and four real processes: the numbers of one process with as many
devices, from the first step or from a checkpoint that other processes on another mesh wrote.

Bit by bit where every sum has two parts. Over four the processes add in another order than
one process does: then a loss differs by a few units in the last place (float32: 1.2e-7 of
it), and a parameter, after n steps of Adam, by that much of n learning rates; the bounds
below leave room for a few dozen units.
"""

import json
import signal
import time

import jax
import numpy as np
import pytest

from hypert5_jax.checkpoints.store import load_params
from hypert5_jax.t5.stacking import unstack_layers
from tests.hosts import toy_process
from tests.hosts.processes import Run

LOSS, PARAMETER = 5e-6, 1e-6
STEPS = 6
FOUR = {
    "data": {"data": 4},
    "both": {"fsdp": 2, "model": 2},
}


def job(place, name, mesh, steps=STEPS, **more):
    return {"directory": str(place / name), "steps": steps, "mesh": mesh, **more}


def here(place, name, mesh, steps=STEPS):
    """The same in this process, on as many of its devices."""
    devices = int(np.prod(list(mesh.values())))
    one = job(place, name, mesh, steps)
    return toy_process.run(one, jax.devices()[:devices])


def start(place, jobs, processes, *flags, slurm=False):
    place.mkdir()
    (place / "jobs.json").write_text(json.dumps(jobs))
    argv = ["-m", "tests.hosts.toy_process", str(place / "jobs.json"), *flags]
    return Run(argv, processes, slurm=slurm)


def params(folder):
    return dict(np.load(folder / "params.npz"))


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["train/loss"] for row in rows}


def assert_same(one, other):
    a, b = params(one), params(other)
    assert a.keys() == b.keys() and losses(one) == losses(other)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def assert_close(one, other):
    a, b = params(one), params(other)
    assert a.keys() == b.keys() and losses(one).keys() == losses(other).keys()
    for step, loss in losses(one).items():
        assert losses(other)[step] == pytest.approx(loss, rel=LOSS)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=PARAMETER)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture(scope="module")
def four(place):
    """What four processes trained: anew, and on from what this one process began."""
    here(place, "one_to_four", {"data": 1}, steps=3)
    here(place, "fsdp_to_tensor", {"fsdp": 4}, steps=3)
    jobs = [job(place, f"four_{name}", mesh) for name, mesh in FOUR.items()]
    jobs += [
        job(place, "one_to_four", {"data": 2, "fsdp": 2}),
        job(place, "fsdp_to_tensor", {"model": 4}),
        job(place, "four_to_one", {"fsdp": 4}, steps=3),
    ]
    ended = start(place / "four", jobs, 4).ended()
    assert [one.code for one in ended] == [0] * 4, [one.err for one in ended]
    return ended


@pytest.mark.parametrize("name", FOUR)
def test_four_processes_train_what_four_devices_of_one_do(place, four, name):
    here(place, f"one_{name}", FOUR[name])
    assert_close(place / f"one_{name}", place / f"four_{name}")


def test_each_process_reads_its_rows_only_and_one_writes(place, four):
    asked = {
        name: [
            json.loads((place / f"four_{name}/rows-{k}.json").read_text())
            for k in range(4)
        ]
        for name in FOUR
    }
    for k in range(4):
        # All steps, and those few that were fetched ahead; of each a quarter.
        steps = [step for step, _, _ in asked["data"][k]]
        assert steps == list(range(len(steps))) and STEPS <= len(steps) <= STEPS + 3
        assert all(own == [[k], 4] for _, *own in asked["data"][k])
        # Two processes that compute one example together read it both.
        assert all(own == [[k // 2], 2] for _, *own in asked["both"][k])
    assert [one.out.count("done ") for one in four] == [5, 0, 0, 0]
    assert all(not one.err for one in four[1:])
    rows = (place / "four_data/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == list(range(1, STEPS + 1))


def test_what_is_made_at_first_use_process_0_makes(place, four):
    order = (place / "four" / "order").read_text().split()
    assert order[0] == "0" and sorted(order) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "mesh"),
    [("one_to_four", {"data": 2, "fsdp": 2}), ("fsdp_to_tensor", {"model": 4})],
)
def test_other_processes_and_another_mesh_go_on_from_a_checkpoint(
    place, four, name, mesh
):
    straight = f"straight_{name}"
    here(place, straight, mesh)
    assert_close(place / straight, place / name)
    first = json.loads((place / name / "rows-0.json").read_text())[0][0]
    assert first == 3


def test_one_process_goes_on_from_what_four_wrote(place, four):
    saved, _ = load_params(place / "four_to_one")
    # Nothing is left to do: what is held is what was read.
    found = here(place, "four_to_one", {"data": 1}, steps=3).params
    jax.tree.map(np.testing.assert_array_equal, unstacked(found), saved)
    here(place, "four_to_one", {"data": 1})
    assert_close(place / "one_data", place / "four_to_one")


def unstacked(found):
    return {group: unstack_layers(tree) for group, tree in found.items()}


@pytest.fixture(scope="module")
def killed(place):
    """Two processes, one of them killed; how they ended, and after how long."""
    run = start(
        place / "jobs",
        [
            job(place, "two", {"fsdp": 2}),
            job(place, "killed", {"fsdp": 2}, steps=20, kill_at=[1, 9]),
        ],
        2,
        "--lost_after=5",
        slurm=True,
    )
    assert run.processes[1].wait(timeout=180) == -signal.SIGKILL
    gone = time.monotonic()
    ended = run.ended()
    return ended, time.monotonic() - gone


def test_two_processes_train_bit_by_bit_what_two_devices_of_one_do(place, killed):
    here(place, "one_of_two", {"fsdp": 2})
    assert_same(place / "one_of_two", place / "two")


def test_a_killed_process_ends_the_others_with_a_word_and_the_run_goes_on(
    place, killed
):
    (first, _), seconds = killed
    assert first.code == 75
    assert (
        "error: process 1 of 2, on " in first.err
        and "no sign of life for 5 s" in first.err
    )
    assert "Traceback" not in first.err
    assert (
        seconds < 5 + 3 * 5 / 6 + 10
    )  # lost_after, when it is looked for, a busy machine
    assert load_params(place / "killed")[1].name in ("3", "6")
    here(place, "killed", {"fsdp": 2}, steps=20)
    here(place, "never_killed", {"fsdp": 2}, steps=20)
    assert_same(place / "never_killed", place / "killed")
