"""How a process finds the others of its run, and that one alone looks for nobody."""

import math
import os
import socket
import subprocess
import sys
import time

import jax
import pytest
from jax._src.clusters import cloud_tpu_cluster

from hypert5_jax import tune
from hypert5_jax.config import cli
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts
from hypert5_jax.parallel.hosts import Company, HostsConfig, company
from tests.hosts.processes import ROOT

STEP = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


def test_flags_say_it_all_or_nothing():
    those = company(HostsConfig("10.0.0.1:1234", 4, 3), {})
    assert those == Company("flags", 4, 3, "10.0.0.1:1234")
    assert company(HostsConfig(num_processes=1), STEP) is None
    assert company(HostsConfig(), {}) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "each needs all three"),
        (("host:1", None, None), "each needs all three"),
        (("host:1", 2, 2), "expected 0 to 1"),
        (("host", 2, 0), "expected HOST:PORT"),
        (("host:99999", 2, 0), "1 to 65535"),
        (("host:0", 2, 0), "1 to 65535"),
        ((None, 0, None), "expected 1 or more"),
        ((None, None, None, 0.0), "more than 0 and at most 604800"),
        ((None, None, None, math.inf), "--lost_after=inf; expected seconds"),
        ((None, None, None, math.nan), "--lost_after=nan; expected seconds"),
    ],
)
def test_flags_that_cannot_be_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        HostsConfig(*given)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node7", "node7"),
        ("node7,node9", "node7"),
        ("node[007-010,012]", "node007"),
        ("node[007,009],other[1-2]", "node007"),
        ("a-b3[1-2]", "a-b31"),
    ],
)
def test_the_first_node_of_a_step_is_where_tasks_meet(monkeypatch, nodes, first):
    asked = []
    monkeypatch.setattr("socket.gethostbyname", asked.append)
    those = company(HostsConfig(), STEP | {"SLURM_STEP_NODELIST": nodes})
    assert those == Company("SLURM", 2, 1, f"{first}:61441") and asked == [first]


def test_a_task_among_several_of_a_node_has_one_device_of_it():
    alone_on_its_node = company(HostsConfig(), STEP)
    assert alone_on_its_node and alone_on_its_node.local_devices is None
    beside = STEP | {"SLURM_STEP_NUM_NODES": "1", "SLURM_LOCALID": "1"}
    those = company(HostsConfig(), beside)
    assert those and those.local_devices == (1,)


@pytest.mark.parametrize(
    "environ",
    [
        # The shell that salloc opens for four tasks; that of a batch script; one task.
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"},
        {k: v for k, v in STEP.items() if "STEP" not in k},
        STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"},
    ],
)
def test_variables_of_a_job_do_not_make_a_task(environ):
    assert company(HostsConfig(), environ) is None


def test_a_node_that_is_nowhere_is_said_at_once():
    with pytest.raises(
        UserError, match="nowhere.invalid cannot be found.*num_processes=1"
    ):
        company(HostsConfig(), STEP | {"SLURM_STEP_NODELIST": "nowhere.invalid"})


@pytest.mark.parametrize(("slices", "count", "index"), [(None, 2, 1), ("3", 6, 5)])
def test_gke_says_how_many_hosts_and_slices(monkeypatch, slices, count, index):
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("JAX_PLATFORMS", "tpu,cpu")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "a.local,b.local")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("MEGASCALE_SLICE_ID", "2" if slices else "0")
    if slices:
        monkeypatch.setenv("MEGASCALE_NUM_SLICES", slices)
    assert company(HostsConfig()) == Company("GKE", count, index)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost")
    monkeypatch.delenv("MEGASCALE_NUM_SLICES", raising=False)
    assert company(HostsConfig()) is None


def test_a_tpu_vm_asks_the_metadata_server_and_says_if_it_is_silent(monkeypatch):
    said = {
        "agent-worker-number": "1",
        "worker-network-endpoints": "x:y:10.0.0.2,x:y:10.0.0.3",
        "tpu-env": "ZONE: 'z'",
    }
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
    monkeypatch.setenv("JAX_PLATFORMS", "")
    for name in ("TPU_WORKER_HOSTNAMES", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (said[key], 200))
    assert company(HostsConfig()) == Company("the TPU VM", 2, 1)

    def silent(key):
        raise ConnectionError("no route")

    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", silent)
    with pytest.raises(UserError, match="here are TPU chips.*no route"):
        company(HostsConfig())


def test_one_process_starts_nothing():
    hosts.start(HostsConfig())
    assert hosts.alone() and hosts.is_writer() and not jax.distributed.is_initialized()
    assert hosts.told(lambda: (1, 2)) == (1, 2)
    hosts.barrier("alone")


STRAY = """
from hypert5_jax.config import cli
from hypert5_jax.parallel import hosts
cli.run(lambda argv: hosts.start(hosts.HostsConfig(join_timeout=2)))
"""


def test_stray_variables_of_slurm_end_with_a_message_in_bounded_time():
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STRAY],
        check=False,
        cwd=ROOT,
        env={**os.environ, **STEP},
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert done.returncode == 75 and time.monotonic() - begun < 60
    assert "process 1 of 2 (by SLURM) at localhost:61441 has not met" in done.stderr
    assert "--num_processes=1" in done.stderr and "stack trace" not in done.stderr


FIRST = """
import sys
from hypert5_jax.config import cli
from hypert5_jax.parallel import hosts
those = hosts.HostsConfig(sys.argv[1], num_processes=2, process_id=0, join_timeout=60)
cli.run(lambda argv: hosts.start(those))
"""


def test_a_port_that_another_process_holds_is_said_and_may_be_tried_again():
    """One of a run before that has not ended yet may hold it: launchers start again."""
    with socket.create_server(
        ("", 0), family=socket.AF_INET6, dualstack_ipv6=True
    ) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", FIRST, address],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=90,
        )
    assert done.returncode == 75 and "Traceback" not in done.stderr
    assert f"at {address} cannot listen for the others" in done.stderr
    assert "another port (--coordinator_address" in done.stderr


def test_tuning_is_one_process_s_work(tmp_path, capsys):
    flags = ["--coordinator_address=localhost:1", "--num_processes=2", "--process_id=0"]
    argv = ["--gin_file=gin/recipes/small/tune.gin", *flags]
    assert cli.exit_code(tune.main, argv) == 2
    assert "tuning was started as process 0 of 2" in capsys.readouterr().err
