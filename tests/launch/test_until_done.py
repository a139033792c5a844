"""The watch over a machine that may be taken away, seen from the commands it gives."""

import hashlib
import signal
import sys
from collections.abc import Sequence

import pytest

from tests.launch.conftest import NAME, RECIPE, Fakes

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


@pytest.mark.parametrize("state", ["STOPPING", "STOPPED"])
def test_a_machine_that_was_stopped_is_kept(fakes: Fakes, state: str) -> None:
    fakes.answer(NODE, f"echo {state}", ABSENT)
    code, out, _ = watch(fakes, "--kind=vm")
    assert code == 2
    assert f"tpus tpu-vm start {NAME} --zone=us-east5-b" in out
    assert not fakes.calls(" delete ") and not fakes.calls(" create ")


@pytest.mark.parametrize("broken", ["exit 127", "exit 1", "exit 0"])
def test_a_gcloud_that_names_no_project_ends_the_watch_before_it_begins(
    fakes: Fakes, broken: str
) -> None:
    rule = fakes.place / "rules" / "00" / "1"
    rule.write_text(f"echo 'exec: python: not found' >&2; {broken}\n")
    code, _, err = watch(fakes)
    assert code == 2 and "--project" in err and "python: not found" in err
    assert len(fakes.calls()) == 1


def test_only_the_clouds_own_word_says_that_there_is_no_machine(fakes: Fakes) -> None:
    broken = "echo 'exec: python: not found' >&2; exit"
    fakes.answer(MACHINE, f"{broken} 127", f"{broken} 1", "echo ACTIVE")
    fakes.answer(NODE, "echo NOT_FOUND >&2; exit 127", "echo READY")
    fakes.answer(STATUS, said("running"), said("done"))
    assert watch(fakes)[0] == 0
    assert not fakes.calls(" create ") and len(fakes.calls(" delete ")) == 1


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


@pytest.mark.parametrize("word", ["running", "done", "failed 1", "halted", "lost"])
@pytest.mark.parametrize("other", [digest("--gin.SEED=2"), ""])
def test_a_machine_of_another_run_is_left_alone(
    fakes: Fakes, word: str, other: str
) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said(word, "running", of=other), said("done", of=other))
    code, out, _ = watch(fakes)
    assert code == 2 and "choose another --name" in out
    assert not fakes.calls(" delete ") and not fakes.calls("on_worker.sh stop")
    assert not fakes.calls("on_worker.sh start")


def test_a_run_that_takes_our_machine_meanwhile_is_left_alone(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    other = said("mistake", of=digest("--gin.SEED=2"))
    fakes.answer(STATUS, said("idle"), said("running"), other)
    code, out, _ = watch(fakes)
    assert code == 2 and "choose another --name" in out
    assert not fakes.calls(" delete ")


def test_a_mistake_is_mended_on_the_machine_that_was_kept(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    wrong = said("mistake", "halted", of=digest("--gin.SEED=x"))
    fakes.answer(STATUS, wrong, said("running", "running"), said("done", "done"))
    assert watch(fakes, "--keep")[0] == 0
    assert len(fakes.calls("on_worker.sh start")) == 1


def test_a_machine_that_does_not_answer_is_not_taken_for_lost(fakes: Fakes) -> None:
    answers = ("echo ACTIVE", "echo ACTIVE", "exit 1", "echo", "echo ACTIVE")
    fakes.answer(MACHINE, *answers)
    fakes.answer(NODE, "echo READY")
    unreachable = f"{said('running')}; exit 255"
    fakes.answer(STATUS, said("running"), unreachable, unreachable, said("done"))
    assert watch(fakes)[0] == 0
    assert len(fakes.calls(" delete ")) == 1 and not fakes.calls("on_worker.sh stop")


@pytest.mark.parametrize("made", [True, False])
def test_a_machine_never_reached_is_deleted_only_if_we_made_it(
    fakes: Fakes, made: bool
) -> None:
    fakes.answer(MACHINE, *[ABSENT] * made, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, "exit 255")
    code, out, _ = watch(fakes)
    assert code == 1 and "ssh does not reach it" in out
    assert len(fakes.calls("on_worker.sh status")) == 15
    assert len(fakes.calls(" delete ")) == made
    assert not fakes.calls("on_worker.sh start")


def test_control_c_leaves_the_run_alone_and_says_what_it_costs(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"))
    process = fakes.start("tpu.py", *WATCH)
    fakes.until("on_worker.sh status", 3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "tpu.py delete" in out and "costs" in out
    assert not fakes.calls(" delete ") and not fakes.calls("on_worker.sh stop")


def test_control_c_while_deleting_says_what_is_left(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"), said("done"))
    fakes.answer("gcloud* delete *", "exec sleep 20")
    process = fakes.start("tpu.py", *WATCH)
    fakes.until(" delete ", 1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "tpu.py delete" in out and "costs" in out


def test_time_that_is_up_stops_and_deletes(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"))
    code, out, _ = watch(fakes, "--max_hours=0.0001")
    assert code == 1 and "--max_hours" in out
    assert len(fakes.calls("on_worker.sh stop")) == 1
    assert len(fakes.calls(" delete ")) == 1


def test_a_machine_that_cannot_be_deleted_is_shouted_about(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"), said("done"))
    fakes.answer("gcloud* delete *", "echo 'ERROR: INTERNAL' >&2; exit 1")
    code, out, _ = watch(fakes)
    assert code == 1
    assert len(fakes.calls(" delete ")) == 3 and "COULD NOT BE DELETED" in out


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ((), "MODEL_DIR=gs://"),
        # The scores alone: the checkpoints would be lost.
        (("--gin.OUTPUT_DIR=gs://b/scores",), "MODEL_DIR=gs://"),
        ((BUCKET, "--gin.OUTPUT_DIR=scores"), "--gin.OUTPUT_DIR=scores"),
        ((BUCKET, "--gin.MODEL_DIR=runs/x"), "--gin.MODEL_DIR=runs/x"),
        ((BUCKET, "--gin.TrainRun.model_dir='x'"), "TrainRun.model_dir"),
        (("--front_door=tune", "--gin.OUTPUT_DIR=gs://b/x"), "tune writes"),
        (("--front_door=evaluate",), "OUTPUT_DIR=gs://"),
    ],
)
def test_results_on_a_disk_that_will_be_deleted_are_refused(
    fakes: Fakes, run: Sequence[str], says: str
) -> None:
    code, _, err = fakes.run("tpu.py", "until_done", "--zone=z", RECIPE, *run)
    assert code == 2 and says in err and "--keep" in err
    assert not fakes.calls()


@pytest.mark.parametrize(
    "run",
    [
        (BUCKET,),
        ("--gin.TrainRun.model_dir='gs://b/x'",),
        ("--gin.MODEL_DIR=runs/x", BUCKET),
        ("--gin.TrainSweep.output_dir=gs://b/x",),
        ("--front_door=evaluate", "--gin.OUTPUT_DIR=gs://b/x"),
        ("--front_door=evaluate", BUCKET),
        ("--front_door=tune", "--keep"),
        ("--keep",),
    ],
)
def test_results_in_a_bucket_or_on_a_disk_that_stays_are_accepted(
    fakes: Fakes, run: Sequence[str]
) -> None:
    dry = ("until_done", "--zone=z", RECIPE, "--dry_run")
    assert fakes.run("tpu.py", *dry, *run)[0] == 0


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
