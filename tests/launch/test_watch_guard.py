"""What the watch deletes, keeps and refuses, so that nothing costs or is lost unseen."""

import signal
import time
from collections.abc import Sequence

import pytest

from tests.launch.conftest import NAME, RECIPE, Fakes
from tests.launch.watching import (
    ABSENT,
    BUCKET,
    MACHINE,
    NODE,
    STATUS,
    WATCH,
    digest,
    said,
    watch,
    watch_with,
)


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


def test_a_run_that_fails_late_is_not_started_for_ever(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, *[said("idle"), said("failed 1")] * 12, said("done"))
    code, out, _ = watch_with(fakes, "until_done._LONG_SECONDS = 0.0")
    assert code == 1
    assert "given up after 10 attempts" in out
    assert len(fakes.calls("on_worker.sh start")) == 10


def test_all_slices_are_stopped_whatever_one_of_them_says(fakes: Fakes) -> None:
    fakes.answer("gcloud*on_worker.sh stop*", "exit 255", "exit 0")
    assert fakes.run("tpu.py", "stop", *WATCH[1:3], "--slices=3")[0] == 255
    assert len(fakes.calls("on_worker.sh stop")) == 3


def test_the_logs_of_an_earlier_watch_are_kept(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, *[said("idle"), said("done")] * 2)
    assert watch(fakes)[0] == 0
    (fakes.place / "runs" / "launch" / NAME / "attempt_9").mkdir()
    assert watch(fakes)[0] == 0
    folders = [call.split("attempt_")[1] for call in fakes.calls("on_worker.sh log")]
    assert folders == [f"1/{NAME}", f"10/{NAME}"]


def test_logs_without_a_place_are_told_before_anything_is_rented(fakes: Fakes) -> None:
    (fakes.place / "file").touch()
    code, _, err = watch(fakes, "--logs=file")
    assert code == 2 and "--logs" in err and "Traceback" not in err
    assert len(fakes.calls()) == 1  # for the project


def test_logs_that_cannot_be_written_keep_no_machine(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    folder = f'"$FAKE/runs/launch/{NAME}"'
    blocked = f"rm -r {folder}; touch {folder}; "
    fakes.answer(STATUS, said("idle"), blocked + said("done"))
    code, out, _ = watch(fakes)
    assert code == 0 and "warning: no logs" in out
    assert len(fakes.calls(" delete ")) == 1


def test_whatever_goes_wrong_in_the_watch_the_machine_is_deleted(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    code, out, _ = watch_with(
        fakes, "tpu_machine.Machine.statuses = lambda self: 1 / 0"
    )
    assert code == 1 and "ZeroDivisionError" in out
    assert len(fakes.calls(" delete ")) == 1


def test_a_watch_whose_terminal_is_gone_goes_on(fakes: Fakes) -> None:
    fakes.answer(MACHINE, ABSENT, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    odd = "printf 't1v-w-0: \\377\\n'"  # no UTF-8
    fakes.answer(STATUS, said("idle"), odd, said("running"), said("done"))
    process = fakes.start("tpu.py", *WATCH)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    process.wait(timeout=30)
    assert len(fakes.calls(" delete ")) == 1
    assert len(fakes.calls("on_worker.sh status")) == 4


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_control_c_leaves_the_run_alone_and_says_what_it_costs(
    fakes: Fakes, number: signal.Signals
) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"))
    process = fakes.start("tpu.py", *WATCH)
    fakes.until("on_worker.sh status", 3)
    process.send_signal(number)
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


@pytest.mark.parametrize("hangs", ["*on_worker.sh status*", "*setup*", "*describe*"])
def test_time_is_up_for_what_hangs_too(fakes: Fakes, hangs: str) -> None:
    fakes.answer(f"gcloud{hangs}", "exec sleep 25")
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("idle"))
    began = time.monotonic()
    code, out, _ = watch(fakes, "--max_hours=0.0003")
    assert code == 1 and "--max_hours" in out
    assert len(fakes.calls(" delete ")) == 1
    assert time.monotonic() - began < 15


def test_a_question_that_hangs_is_asked_again(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "exec sleep 25", "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, said("running"), "exec sleep 25", said("done"))
    code, out, err = watch_with(fakes, "tpu_machine._ANSWER_SECONDS = 1.0")
    assert code == 0, out + err
    assert len(fakes.calls("on_worker.sh status")) == 3
    assert not fakes.calls(" create ") and not fakes.calls("on_worker.sh stop")


def test_a_gcloud_that_is_gone_leaves_no_machine_in_silence(fakes: Fakes) -> None:
    fakes.answer(MACHINE, "echo ACTIVE")
    fakes.answer(NODE, "echo READY")
    fakes.answer(STATUS, f'{said("running")}; rm "$FAKE/bin/gcloud"')
    code, out, err = watch(fakes)
    assert code == 2 and "COULD NOT BE DELETED" in out and "Traceback" not in err


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
