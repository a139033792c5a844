"""A front door started in a process of its own and killed in the middle of its work."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def kill_when(
    begun: Callable[[], bool],
    module: str,
    arguments: Sequence[str],
    env: Mapping[str, str] | None = None,
) -> None:
    """Runs `python -m module arguments` until begun() and kills it with SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    try:
        while not begun():
            if process.poll() is not None:
                raise AssertionError(f"ended before it was killed: {_said(process)}")
            assert time.monotonic() < deadline, "did not begin in two minutes"
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.read()


def contents(folder: Path) -> dict[str, bytes]:
    """{name: bytes} of all files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
