"""One of two hosts is told to go: both save the same step and stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from hypert5_jax.checkpoints import store
from hypert5_jax.training.interruption import Interruption
from tests.faults import one_host

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def start(directory, hosts=2):
    """The processes of a run, all on this machine."""
    port = str(free_port())
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.faults.one_host"),
                *(port, str(host), str(hosts), str(directory)),
            ],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in range(hosts)
    ]


def test_sigterm_on_one_host_stops_both_at_the_same_saved_step(tmp_path):
    processes = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "checkpoints" / "5").exists():
            assert all(process.poll() is None for process in processes)
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=30)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    steps = [
        int(re.search(r"^stopped at (\d+)$", text, re.MULTILINE)[1]) for text in said
    ]
    assert steps[0] == steps[1] and 5 < steps[0] < one_host.STEPS
    saved = store.newest(tmp_path)
    assert saved.name == str(steps[0])


def test_sigterm_outlives_the_inner_of_two_who_ask():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as outer:
        with Interruption() as inner:
            assert not inner.asked()
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.asked()
        assert outer.asked()
        with Interruption() as later:
            assert later.asked()
    assert signal.getsignal(signal.SIGTERM) == before
    with Interruption() as anew:
        assert not anew.asked()
