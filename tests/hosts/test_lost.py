"""A process that fails ends all of them, with its exit code and a word why."""

import os
import signal
import sys
from pathlib import Path

from tests.hosts.processes import Run

FAILS = """
import argparse, sys, time
import jax
from hypert5_jax.config import cli
from hypert5_jax.config.hosts_arguments import add_hosts, read_hosts
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts

def main(argv):
    parser = argparse.ArgumentParser()
    add_hosts(parser)
    hosts.start(read_hosts(parser.parse_args(argv)))
    own = jax.process_index()
    if {who}:
        raise {error}
    print("waits", flush=True)
    if own == 1:
        hosts.barrier("where process 0 never comes")
    time.sleep(60)

cli.run(main)
"""
FULL = "UserError('the disk is full')"


def ended(who, error):
    return Run(["-c", FAILS.format(who=who, error=error), "--lost_after=10"], 2).ended()


def test_a_mistake_one_process_sees_ends_all_with_code_2():
    first, second = ended("own == 1", FULL)
    assert (first.code, second.code) == (2, 2)
    assert second.err == "error: the disk is full\n"
    assert first.err == "process 1 of 2 ended: error: the disk is full\n"


def test_a_mistake_all_of_them_see_is_said_without_a_stack_trace():
    both = ended("True", FULL)
    assert [one.code for one in both] == [2, 2]
    said = "".join(one.err for one in both)
    assert "error: the disk is full\n" in said and "stack trace" not in said
    assert said.count("error") <= 2


def test_a_defect_of_ours_has_its_traceback_where_it_is():
    first, second = ended("own == 0", "TypeError('no such thing')")
    assert (first.code, second.code) == (1, 1)
    assert "Traceback" in first.err and "no such thing" in first.err
    assert second.err == "process 0 of 2 ended: error: TypeError: no such thing\n"


def test_where_process_0_is_killed_the_others_end_at_once():
    """JAX ends them; launch/attempt.py makes a message and an exit code of that."""
    script = FAILS.format(who="False", error="None")
    argv = ["-c", script]
    run = Run(["launch/attempt.py", sys.executable, *argv], 2)
    for process in run.processes:
        assert process.stdout is not None and process.stdout.readline() == "waits\n"
    # Signals to attempt.py are handed on; its child is what has to go.
    children = Path(
        f"/proc/{run.processes[0].pid}/task/{run.processes[0].pid}/children"
    )
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    first, second = run.ended(timeout=60)
    assert (first.code, second.code) == (128 + signal.SIGKILL, 75), second
    assert "error: process 0 of the run was killed" in second.out
