"""Workers that make batches end with the process they make them for, and not before."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.data.toy_mixture import plain, write_mixture

ROOT = Path(__file__).parents[2]
READS = """
import multiprocessing, pathlib, signal, sys
from hypert5_jax.data.prepared import open_mixture
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.stream import batches

for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None)
mixture = open_mixture(pathlib.Path(sys.argv[1]), "train")
row = RowFormat(lengths={"hyper_inputs": 64, "inputs": 8, "targets": 4}, max_shots=6)
stream = batches(mixture, row, 16, seed=3, num_workers=1)
print("begins", flush=True)
next(stream)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
for line in sys.stdin:
    next(stream)
    print("read", flush=True)
stream.close()
print("done", flush=True)
"""


@pytest.fixture
def reader(tmp_path):
    """A process that reads a batch, with its worker in a process group of their own, and
    one more for each line it is told."""
    write_mixture(tmp_path / "toy", plain([9, 40, 300]))
    process = subprocess.Popen(
        [sys.executable, "-c", READS, str(tmp_path / "toy")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begins\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_signals_to_all_processes_of_a_run_leave_it_its_workers(reader):
    """What srun and schedulers do with SIGTERM, and terminals with SIGINT."""
    stop = threading.Event()

    def signals():
        while not stop.wait(0.1):
            os.killpg(reader.pid, signal.SIGTERM)
            os.killpg(reader.pid, signal.SIGINT)

    # From before the worker begins until after its first batches.
    sender = threading.Thread(target=signals)
    sender.start()
    try:
        assert reader.stdout.readline().split()
        for _ in range(5):
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "read\n"
    finally:
        stop.set()
        sender.join()
    reader.stdin.close()
    assert reader.stdout.readline() == "done\n" and reader.wait(timeout=30) == 0


def test_workers_of_a_run_that_is_killed_end_too(reader):
    workers = [int(number) for number in reader.stdout.readline().split()]
    assert workers
    reader.kill()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(number):
    """Not a process that has ended and whose end nobody has asked for."""
    try:
        return " Z " not in Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
