"""How a front door ends when nobody reads what it prints."""

import subprocess
import sys

import pytest

TALKS = """
import sys
from hypert5_jax.config import cli

def main(argv):
    while True:
        print("one more line", flush=True)

cli.run(main, sys.argv[2:], only_prints=sys.argv[1] == "prints")
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("works",), 1), (("prints",), 0), (("works", "--dry_run"), 0)],
)
def test_a_closed_output_is_a_failure_unless_printing_is_all(arguments, code):
    """Or a launcher would take a run for done, and delete its machine."""
    talks = subprocess.Popen(
        [sys.executable, "-c", TALKS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert talks.stdout is not None and talks.stderr is not None
    assert talks.stdout.readline() == "one more line\n"
    talks.stdout.close()
    said = talks.stderr.read()
    assert talks.wait(timeout=60) == code
    assert ("error: ended before it was done" in said) == (code == 1)
    assert "Traceback" not in said
