"""The watch over a machine that may be taken away, seen from the commands it gives."""

import sys

from tests.launch.conftest import NAME, RECIPE, Fakes
from tests.launch.watching import (
    ABSENT,
    BUCKET,
    MACHINE,
    NODE,
    STATUS,
    WATCH,
    said,
    watch,
)


def test_a_run_is_created_started_watched_and_deleted(fakes: Fakes) -> None:
    fakes.answer(MACHINE, ABSENT, "echo WAITING_FOR_RESOURCES", "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(
        STATUS,
        said("idle", "idle"),
        said("running", "running"),
        said("running", "done"),
        said("done", "done"),
    )
    code, out, err = watch(fakes, "--spot")
    assert code == 0, out + err
    first, *calls = fakes.calls()
    assert first == "gcloud config get-value project"
    assert all("--project=my-project" in call for call in calls)
    steps = [call for call in calls if "describe" not in call]
    assert [step.split(NAME)[0].split()[3:5] for step in steps] == [
        ["queued-resources", "create"],
        ["tpu-vm", "ssh"],  # is a run there already?
        ["tpu-vm", "scp"],
        ["tpu-vm", "ssh"],  # unpack
        ["tpu-vm", "ssh"],  # setup
        ["tpu-vm", "ssh"],  # start
        *[["tpu-vm", "ssh"]] * 3,  # status
        ["tpu-vm", "ssh"],  # log
        ["queued-resources", "delete"],
    ]
    assert "--spot" in steps[0] and "--accelerator-type=v6e-8" in steps[0]
    assert f"{RECIPE} {BUCKET}" in fakes.calls("on_worker.sh start")[0]
    assert "--worker=all" in fakes.calls("on_worker.sh start")[0]
    assert "--force" in steps[-1]


def test_a_quota_is_not_asked_for_twice(fakes: Fakes) -> None:
    fakes.answer(MACHINE, ABSENT)
    fakes.answer(
        "gcloud*create*",
        "echo \"ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV6E' exceeded\" >&2; exit 1",
    )
    code, out, _ = watch(fakes)
    assert code == 2
    assert len(fakes.calls(" create ")) == 1
    assert "docs/tpu.md" in out and "TPUV6E" in out


def test_too_many_requests_a_minute_are_no_missing_quota(fakes: Fakes) -> None:
    fakes.answer(MACHINE, ABSENT, ABSENT, "echo ACTIVE")
    fakes.answer(
        "gcloud*create*",
        "echo \"ERROR: RESOURCE_EXHAUSTED: Quota exceeded for quota metric 'Write "
        "requests' and limit 'Write requests per minute'\" >&2; exit 1",
        "exit 0",
    )
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("idle"), said("done"))
    assert watch(fakes)[0] == 0
    assert len(fakes.calls(" create ")) == 2


def test_a_zone_that_is_full_is_asked_again_and_not_for_ever(fakes: Fakes) -> None:
    fakes.answer(MACHINE, ABSENT)
    fakes.answer("gcloud*create*", "echo 'There is no more capacity' >&2; exit 1")
    code, out, _ = watch(fakes)
    assert code == 1
    assert len(fakes.calls(" create ")) == 10
    assert "try another zone" in out


def test_preempted_twice_a_run_still_finishes(fakes: Fakes) -> None:
    fakes.answer(
        MACHINE,
        *[ABSENT, "echo ACTIVE", "echo ACTIVE", "echo SUSPENDED"] * 2,
        *[ABSENT, "echo ACTIVE"],
    )
    fakes.answer(NODE, "echo READY")
    run = said("idle"), said("running")
    fakes.answer(STATUS, *run, *run, *run, said("done"))
    code, out, err = watch(fakes)
    assert code == 0, out + err
    assert len(fakes.calls(" create ")) == 3
    starts = fakes.calls("on_worker.sh start")
    assert len(starts) == 3 and len(set(starts)) == 1  # the very same command
    assert len(fakes.calls(" delete ")) == 3
    assert "2 preemptions" in out


def test_a_slice_preempted_before_its_queued_resource_says_so(fakes: Fakes) -> None:
    fakes.answer(MACHINE, *["echo ACTIVE"] * 3, ABSENT, "echo ACTIVE")
    fakes.answer(f"{NODE}-0 *", "echo READY")
    fakes.answer(
        f"{NODE}-1 *", "echo READY", "echo READY", "echo PREEMPTED", "echo READY"
    )
    idle, running = (said("idle"),) * 2, (said("running"),) * 2
    fakes.answer(STATUS, *idle, *running, *idle, *running, said("done"))
    code, out, err = watch(fakes, "--slices=2")
    assert code == 0, out + err
    assert "1 preemptions" in out
    (create,) = fakes.calls(" create ")
    assert "--node-count=2" in create and f"--node-prefix={NAME}" in create
    assert len(fakes.calls("on_worker.sh start")) == 4  # two slices, twice


def test_a_users_mistake_is_not_started_again(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("idle"), said("mistake", "running"))
    code, out, _ = watch(fakes)
    assert code == 2
    assert len(fakes.calls("on_worker.sh start")) == 1
    assert len(fakes.calls("on_worker.sh log")) == 1
    # Not all of them have ended, and perhaps the machine is kept.
    assert len(fakes.calls("on_worker.sh stop")) == 1
    assert len(fakes.calls(" delete ")) == 1  # nothing stays behind and costs
    assert "refuses its settings" in out


def test_a_run_that_fails_three_times_is_given_up(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    idle = said("idle", "idle")
    # A worker that hangs when another one failed is stopped before the next attempt.
    fakes.answer(STATUS, *[idle, said("running", "failed 134")] * 2, idle, said("lost"))
    code, out, _ = watch(fakes)
    assert code == 1
    assert "given up after 3 attempts" in out
    assert len(fakes.calls("on_worker.sh start")) == 3
    assert len(fakes.calls("on_worker.sh stop")) == 3
    assert len(fakes.calls("on_worker.sh log")) == 3
    assert len(fakes.calls(" delete ")) == 1


def test_a_setup_that_is_refused_is_not_repeated(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("idle"))
    fakes.answer("gcloud*on_worker.sh setup*", "exit 2")
    assert watch(fakes)[0] == 2
    assert len(fakes.calls("on_worker.sh setup")) == 1
    assert len(fakes.calls(" delete ")) == 1


def test_a_stopped_run_goes_on_on_a_machine_that_stays(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    idle = said("idle", "idle")
    fakes.answer(STATUS, idle, said("stopped", "done"), idle, said("done", "done"))
    code, out, err = watch(fakes)
    assert code == 0, out + err
    assert len(fakes.calls("on_worker.sh start")) == 2
    assert not fakes.calls(" create ")


def test_stop_ends_the_watch_too(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("idle"), said("halted"))
    code, out, _ = watch(fakes, "--keep")
    assert code == 1
    assert "stopped by tpu.py stop" in out
    assert len(fakes.calls("on_worker.sh start")) == 1
    assert not fakes.calls(" delete ") and "costs until it is deleted" in out


def test_a_run_that_is_there_already_is_only_watched(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"), said("done"))
    assert watch(fakes)[0] == 0
    assert not fakes.calls("on_worker.sh start") and not fakes.calls("scp")


def test_a_machine_that_does_not_answer_is_not_taken_for_lost(fakes: Fakes) -> None:
    answers = ("echo ACTIVE", "echo ACTIVE", "exit 1", "echo", "echo ACTIVE")
    fakes.answer(MACHINE, *answers)
    fakes.answer(NODE, "echo READY")
    unreachable = f"{said('running')}; exit 255"
    fakes.answer(STATUS, said("running"), unreachable, unreachable, said("done"))
    assert watch(fakes)[0] == 0
    assert len(fakes.calls(" delete ")) == 1 and not fakes.calls("on_worker.sh stop")


# A worker whose interpreter installs nothing, and whose training is two lines of shell: it
# is preempted in its first attempt, and done in the second.
PYTHON = f"""#!/bin/sh
case "$*" in
  *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  *choose.py) echo constraints.txt ;;
  "-m pip --version") ;;
  "-m pip"*) echo "$*" >>"$FAKE/pip" ;;
  launch/attempt.py*) exec {sys.executable} -S "$@" ;;
  "-m hypert5_jax.train"*)
    echo "$*" >>"$FAKE/trained"
    if [ -e "$FAKE/preempted" ]; then
      echo "done: 5 of 5 steps"
      exit 0
    fi
    sleep 60
    ;;
esac
"""
SSH = """
export HOME="$FAKE/home/$5"
mkdir -p "$HOME"
cd "$HOME" || exit
for argument in "$@"; do
  case $argument in
    --command=*) command=${argument#--command=} ;;
    --output-directory=*) exec >"$FAKE/${argument#--output-directory=}/0.log" ;;
  esac
done
sh -c "$command"
"""


def test_the_whole_way_with_workers_that_really_run(fakes: Fakes) -> None:
    fakes.program("python3.11", PYTHON)
    fakes.answer(
        MACHINE,
        *[ABSENT, "echo ACTIVE", "echo ACTIVE", "echo SUSPENDED"],
        *[ABSENT, "echo ACTIVE"],
    )
    fakes.answer(NODE, "echo READY")
    fakes.answer("gcloud*tpu-vm ssh*", SSH)
    fakes.answer(
        "gcloud*tpu-vm scp*",
        'mkdir -p "$FAKE/home/$NAME" && cp "$8" "$FAKE/home/$NAME/hypert5.tar.gz"',
    )
    fakes.answer(
        "gcloud* delete *",
        'kill -KILL "-$(cat "$FAKE/home/$NAME/hypert5_run/pid")" 2>/dev/null; '
        'rm -rf "$FAKE/home/$NAME"; touch "$FAKE/preempted"',
    )
    fakes.env["NAME"] = NAME
    code, out, err = fakes.run(
        "tpu.py", *WATCH[:-1], "--poll_seconds=0.2", "--data=gs://bucket/p3_train"
    )
    assert code == 0, out + err
    trained = (fakes.place / "trained").read_text().splitlines()
    assert set(trained) == {f"-m hypert5_jax.train {RECIPE} {BUCKET}"}
    pip = (fakes.place / "pip").read_text().splitlines()
    assert "--constraint constraints.txt --editable .[tpu]" in pip[0]
    assert (
        len(fakes.calls("gcloud storage rsync --recursive gs://bucket/p3_train")) == 2
    )
    (log,) = fakes.place.glob("runs/launch/*/attempt_2/*/0.log")
    assert log.read_text() == "done: 5 of 5 steps\n"
    assert not (fakes.place / "home" / NAME).exists()
