"""A server in a process of its own: callers at random, and how it ends."""

import asyncio
import json
import os
import socket
import subprocess
import sys

import pytest

from tests.serving import soak, world
from tests.serving.process import ROOT, Caller, serving

SMALL = ("--batch_size=3", "--adapt_batch_size=2", "--seats=5")


@pytest.fixture(scope="module")
def model():
    return world.model()


def test_no_request_is_lost_or_answered_with_anothers_phi(model, tmp_path):
    """16 callers for two seconds, one in six actions a disconnect; then SIGTERM while
    requests run. `python -m benchmarks.serve --soak` is the same for a minute."""
    model.save(str(tmp_path / "model"))
    right = soak.known(model, tasks=7, inputs=12, longest=39)
    with serving(
        f"--checkpoint={tmp_path / 'model'}",
        f"--bank={tmp_path / 'bank'}",
        "--max_queue=20",
        *SMALL,
    ) as server:
        found = asyncio.run(soak.soak(server.port, right, callers=16, seconds=2))
        assert not found.wrong, found.wrong[:5]
        assert found.counts["POST generate: 200"] > 50
        assert found.counts["POST adapt: 201"] > 10
        assert found.counts["left half-way"] > 10
        status, said, _ = asyncio.run(_ask_and_end(server, right))
        assert (status, said["outputs"]) == (200, [right.answers[1][0]] * 20)
        code, said = server.process.wait(60), server.process.stdout.read()
    assert code == 0 and said.endswith("done: all requests were answered\n"), said
    left = [p.name for p in (tmp_path / "bank").iterdir()]
    assert all(name.endswith(".safetensors") and name[0] != "." for name in left)


async def _ask_and_end(server, right):
    """SIGTERM comes while 20 inputs wait for their turns, three at a time."""
    caller, watcher = Caller(server.port), Caller(server.port)
    body = {"task": "shared1", "inputs": [right.inputs[0]] * 20}
    while True:
        asking = asyncio.ensure_future(caller.ask("POST", "/generate", body))
        while not asking.done():
            _, measured, _ = await watcher.ask("GET", "/metrics")
            if "hypert5_queue_rows 0.0" not in measured:
                server.process.terminate()
                return await asking


def run(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "hypert5_jax.serve", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_another_machine_is_not_let_in_without_a_token(tmp_path):
    done = run("--checkpoint=x", f"--bank={tmp_path / 'bank'}", "--host=0.0.0.0")
    assert done.returncode == 2 and "HYPERT5_TOKEN" in done.stderr
    assert not (tmp_path / "bank").exists()


def test_an_address_that_is_taken_is_said_before_anything_is_loaded(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("--checkpoint=x", f"--bank={tmp_path / 'bank'}", f"--port={port}")
    assert done.returncode == 2 and f"127.0.0.1:{port}" in done.stderr
    assert not (tmp_path / "bank").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path):
    hide = "import sys; sys.modules['fastapi'] = None; "
    code = (
        f"{hide}from hypert5_jax import serve; from hypert5_jax.config import cli; "
        f"cli.run(serve.main, ['--checkpoint=x', '--bank={tmp_path}'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, json.dumps(done.stderr)
    assert "pip install 'hypert5-jax[serve]'" in done.stderr
