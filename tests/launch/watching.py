"""A watch of until_done, and what the faked machine and its workers answer it."""

import hashlib

from tests.launch.conftest import RECIPE, ROOT, Fakes

BUCKET = "--gin.MODEL_DIR=gs://bucket/runs/prefix"
WATCH = (
    "until_done",
    "--zone=us-east5-b",
    RECIPE,
    BUCKET,
    "--poll_seconds=0.001",
)
MACHINE = "gcloud*queued-resources describe*(state.state)*"
NODE = "gcloud*tpu-vm describe*"
STATUS = "gcloud*on_worker.sh status*"
ABSENT = "echo 'ERROR: NOT_FOUND: Resource was not found' >&2; exit 1"


def digest(*more: str) -> str:
    """The name of a run with these further arguments, 12 hexadecimal digits."""
    command = ["env", ".venv/bin/python", "-m", "hypert5_jax.train"]
    words = "".join(f"{word}\0" for word in (*command, RECIPE, BUCKET, *more))
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def said(*words: str, of: str | None = None) -> str:
    """What the workers of one slice answer when asked how the run stands."""
    run = digest() if of is None else of
    lines = [word if word == "idle" else f"{word} {run}".strip() for word in words]
    return "; ".join(f"echo 't1v-w-{i}: {line}'" for i, line in enumerate(lines))


def watch(fakes: Fakes, *more: str) -> tuple[int, str, str]:
    return fakes.run("tpu.py", *WATCH, *more)


def watch_with(fakes: Fakes, change: str) -> tuple[int, str, str]:
    """A watch in whose process something is changed beforehand."""
    script = fakes.place / "changed.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'launch')!r})\n"
        f"import request, shell, tpu, tpu_machine, until_done\n{change}\n"
        "request.end(tpu.main)\n"
    )
    return fakes.run(str(script), *WATCH)
