"""A training killed at random moments and started again ends as if nothing had been.

The default run makes a handful of them; a hundred, every kind of moment among them:

    python -m tests.faults.inject --runs=100
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def inject(runs, home, timeout):
    """In a process of its own: lives are forked, from one without threads."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.faults.inject"),
            *(f"--runs={runs}", "--seed=1", f"--home={home}"),
        ],
        cwd=ROOT,
        env=env,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{runs} of {runs} runs" in done.stdout
    return {
        name: int(kills)
        for name, kills in re.findall(r"(?m)^(.*\S) +(\d+)$", done.stdout)
    }


def test_a_handful_of_killed_runs_end_like_one_that_was_not(tmp_path):
    assert sum(inject(4, tmp_path, timeout=400).values()) >= 4


@pytest.mark.slow
def test_a_hundred_killed_runs_end_like_one_that_was_not(tmp_path):
    struck = inject(100, tmp_path, timeout=7200)
    del struck["between these"]
    assert all(struck.values()), struck


@pytest.mark.slow
def test_a_thousand_steps_need_no_more_memory_and_get_no_slower(tmp_path):
    command = (sys.executable, "benchmarks/long_run.py", "--steps=1000")
    done = subprocess.run(
        [*command, f"--json={tmp_path / 'rows.json'}"],
        cwd=ROOT,
        check=True,
        timeout=1800,
    )
    assert done.returncode == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    # The held-out loss is compiled at step 500.
    warm = [row["rss_mib"] for row in rows if row["step"] >= 600]
    assert max(warm) - warm[0] < 10, rows
    speeds = [row["steps_per_second"] for row in rows]
    # Other work on the machine comes and goes: the fastest of each half count.
    assert max(speeds[5:]) > 0.7 * max(speeds[:5]), rows
