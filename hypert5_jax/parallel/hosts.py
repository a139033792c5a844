"""One run over several processes: who they are, how they meet, who writes.

Each process drives the devices of its host; all of them run the same program on global
arrays. They are found, in this order:

    --coordinator_address=HOST:PORT --num_processes=N --process_id=K     said
    SLURM_STEP_NUM_TASKS, SLURM_PROCID, SLURM_STEP_NODELIST, …           srun
    TPU_WORKER_HOSTNAMES, MEGASCALE_NUM_SLICES, …                        GKE
    the metadata server                                                  TPU VM

One process is none of this: nothing is started, and every function here costs nothing.
"""

import collections
import dataclasses
import errno
import json
import logging
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import jax

from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import lost

Value = TypeVar("Value")
# Waiting for another process has no end of its own: lost.py ends it if that one is gone.
_LONG = 7 * 24 * 3600
_ALONE = "--num_processes=1 runs this process alone"


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """How the processes of a run find each other; nothing set is automatic.

    Attributes:
      coordinator_address: HOST:PORT where process 0 listens.
      num_processes: of the run; 1 is this one alone, wherever it is.
      process_id: of this one, from 0.
      lost_after: seconds without a sign of life after which a process is taken for dead
        and the others end.
      join_timeout: seconds all processes have to come together.
    """

    coordinator_address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    lost_after: float = 60.0
    join_timeout: int = 300

    def __post_init__(self) -> None:
        count, own = self.num_processes, self.process_id
        if count is not None and count < 1:
            raise UserError(f"--num_processes={count}; expected 1 or more")
        if not 0 < self.lost_after <= _LONG:
            raise UserError(
                f"--lost_after={self.lost_after}; expected seconds, more than 0 and at "
                f"most {_LONG} (a week)"
            )
        if count == 1 or (count, own, self.coordinator_address) == (None, None, None):
            return
        if count is None or own is None or self.coordinator_address is None:
            raise UserError(
                f"--coordinator_address={self.coordinator_address} --num_processes="
                f"{count} --process_id={own}: of several processes each needs all three"
            )
        if not 0 <= own < count:
            raise UserError(
                f"--process_id={own} of --num_processes={count}; expected 0 to "
                f"{count - 1}, another one for each process"
            )
        found = re.fullmatch(r".+:(\d{1,5})", self.coordinator_address)
        if found is None or not 0 < int(found[1]) < 2**16:
            raise UserError(
                f"--coordinator_address={self.coordinator_address}; expected HOST:PORT "
                "of process 0, the port (1 to 65535) free there"
            )


@dataclasses.dataclass(frozen=True)
class Company:
    """The processes of a run, and which of them this is.

    Attributes:
      found: what says so, for messages.
      count: of processes.
      index: of this one.
      address: HOST:PORT of process 0; None where JAX knows it by itself.
      local_devices: the only devices of the host this process may use, or None for all.
    """

    found: str
    count: int
    index: int
    address: str | None = None
    local_devices: tuple[int, ...] | None = None


def company(
    config: HostsConfig, environ: Mapping[str, str] = os.environ
) -> Company | None:
    """The processes this one belongs to; None if it is alone. Touches no device.

    Raises:
      UserError: SLURM names a host that cannot be found; a TPU's hosts cannot be counted.
    """
    if config.num_processes is not None:
        if config.num_processes == 1:
            return None
        assert config.process_id is not None
        address = config.coordinator_address
        return Company("flags", config.num_processes, config.process_id, address)
    return _slurm(environ) or _tpu(environ)


def _slurm(environ: Mapping[str, str]) -> Company | None:
    """The tasks of an srun. Variables of a job without a step, as in the shell that
    salloc opens, say nothing of this process."""
    needed = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if not all(name in environ for name in needed):
        return None
    count = environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", "1"))
    if not count.isdigit() or int(count) < 2:
        return None
    nodes = environ["SLURM_STEP_NODELIST"]
    # node7 | node7,other | node[007-010,012] | node[007,009],other
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    assert first is not None, nodes
    host = first[1] + (first[2] or "")
    try:
        socket.gethostbyname(host)
    except OSError as error:
        raise UserError(
            f"SLURM's variables say this is one of {count} tasks on {nodes}, but {host} "
            f"cannot be found from here ({error}); if this is no task of srun, {_ALONE}"
        ) from error
    # A port above those that systems hand out, the same for all tasks of the job.
    port = environ.get(
        "JAX_COORDINATOR_PORT", 61440 + int(environ["SLURM_JOB_ID"]) % 4096
    )
    nodes_used = int(environ.get("SLURM_STEP_NUM_NODES", count))
    own = None if nodes_used == int(count) else (int(environ["SLURM_LOCALID"]),)
    index = int(environ["SLURM_PROCID"])
    return Company("SLURM", int(count), index, f"{host}:{port}", own)


def _tpu(environ: Mapping[str, str]) -> Company | None:
    """The hosts of a TPU, over all its slices, as JAX reads them where there are chips."""
    if "tpu" not in (environ.get("JAX_PLATFORMS") or "tpu"):
        return None
    from jax._src.clusters import GceTpuCluster, GkeTpuCluster

    try:
        if GkeTpuCluster.is_env_present():
            # What GKE sets, without asking the metadata server for what it does not set.
            slices = int(environ.get("MEGASCALE_NUM_SLICES", "1"))
            count = slices * len(GkeTpuCluster._get_worker_list_in_slice())
            return _of_tpu("GKE", count, GkeTpuCluster)
        if GceTpuCluster.is_env_present():
            count = GceTpuCluster.get_process_count()
            return _of_tpu("the TPU VM", count, GceTpuCluster)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"here are TPU chips, but how many hosts they belong to cannot be found out "
            f"({error}); say it with --coordinator_address, --num_processes and "
            f"--process_id. {_ALONE}"
        ) from error
    return None


def _of_tpu(found: str, count: int, cluster: Any) -> Company | None:
    return Company(found, count, cluster.get_process_id()) if count > 1 else None


def start(config: HostsConfig) -> None:
    """Joins the other processes of the run, if there are any.

    To be called once, before any device is touched; every front door that may run over
    several processes does. From then on `lost.py` watches over all of them.

    Raises:
      UserError: as `company`. Where they do not come together, or not in time, the process
        ends with a message and exit code lost.LOST: the next try may succeed.
    """
    those = company(config)
    if those is None or jax.distributed.is_initialized():
        return
    _require_port(those)
    try:
        with _waiting(those, config.join_timeout):
            jax.distributed.initialize(
                those.address,
                those.count,
                those.index,
                local_device_ids=those.local_devices,
                cluster_detection_method="deactivate" if those.address else None,
                # Both stand behind what we do ourselves: they abort with a stack trace.
                initialization_timeout=config.join_timeout + 30,
                heartbeat_timeout_seconds=int(config.lost_after) + 30,
                shutdown_timeout_seconds=60,
            )
    except jax.errors.JaxRuntimeError as error:
        lost.exit_now(
            lost.LOST,
            f"error: {_named(those)} cannot join the others ({error}). {_ALONE}",
        )
    lost.watch(those.index, those.count, config.lost_after)
    if not is_writer():
        # What all of them would say process 0 says.
        logging.getLogger().setLevel(logging.ERROR)


def _named(those: Company) -> str:
    place = f" at {those.address}" if those.address else ""
    return f"process {those.index} of {those.count} (by {those.found}){place}"


def _require_port(those: Company) -> None:
    """Ends process 0 with a message where the port it is to listen at is taken: JAX says
    no more than that it failed, and now and then crashes."""
    if those.index or those.address is None:
        return
    both = socket.has_dualstack_ipv6()
    try:
        with socket.socket(socket.AF_INET6 if both else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", int(those.address.rpartition(":")[2])))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            return  # Of the probe, perhaps, and not of the port.
        lost.exit_now(
            lost.LOST,
            f"error: {_named(those)} cannot listen for the others ({error.strerror}): if "
            "another process holds the port, such as one of an earlier run that has not "
            "ended yet, try again, or give all processes another port "
            f"(--coordinator_address; under srun JAX_COORDINATOR_PORT). {_ALONE}",
        )


@contextmanager
def _waiting(those: Company, seconds: int) -> Iterator[None]:
    """Says what is waited for if it takes long, and ends the process if it takes longer."""

    def tell() -> None:
        print(f"{_named(those)} waits for the others, at most {seconds} s", flush=True)

    def give_up() -> None:
        lost.exit_now(
            lost.LOST,
            f"error: {_named(those)} has not met the others within {seconds} s; start "
            f"all {those.count}, so that each reaches that address. {_ALONE}",
        )

    timers = [threading.Timer(10.0, tell), threading.Timer(seconds, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def alone() -> bool:
    """Whether this process met no others."""
    return not jax.distributed.is_initialized()


def require_alone(config: HostsConfig, what: str) -> None:
    """Refuses several processes where the work is one process's.

    Raises:
      UserError: saying how to run it.
    """
    those = company(config)
    if those is not None:
        raise UserError(
            f"{what} was started as {_named(those)}; it runs in one process, on all "
            f"devices of one host. {_ALONE}"
        )


def is_writer() -> bool:
    """Whether this is the one process that writes files and says what it does."""
    return alone() or jax.process_index() == 0


def say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_writer():
        print(text, flush=True)


_numbers: dict[str, int] = collections.defaultdict(int)


def _numbered(name: str) -> str:
    """A name of its own for each use; uses come in the same order in all processes."""
    _numbers[name] += 1
    return f"hypert5/{name}/{_numbers[name]}"


def barrier(name: str, timeout_s: float = _LONG) -> None:
    """Returns when every process has come here; touches no device.

    Args:
      name: what is waited for; in one thread of each process at a time.
      timeout_s: after which it raises jax.errors.JaxRuntimeError in all of them.
    """
    if not alone():
        lost.client().wait_at_barrier(_numbered(name), int(timeout_s * 1000))


def told(make: Callable[[], Value]) -> Value:
    """What `make` returns in process 0, in every process; make is called there only.

    Of values JSON can say. Called by every process, in the same order, in its main
    thread: so that what was read from a file decides the same everywhere.
    """
    if alone():
        return make()
    name = _numbered("told")
    if is_writer():
        lost.client().key_value_set(name, json.dumps(make()))
    said: Any = lost.client().blocking_key_value_get(name, _LONG * 1000)
    return json.loads(said)


def writer_first(action: Callable[[], Value]) -> Value:
    """Calls `action` in process 0, and in the others once it is done there.

    For what is made at first use and read by all: files prepared, draws kept.
    """
    if not is_writer():
        told(lambda: None)
        return action()
    value = action()
    told(lambda: None)
    return value
