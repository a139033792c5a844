"""Front doors started in several real processes, which meet on loopback."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# As in conftest, less the fake devices: compiling takes most of the time.
_FLAGS = [
    flag
    for flag in os.environ.get("XLA_FLAGS", "").split()
    if "device_count" not in flag
]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (-n for signal n), and what it said."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Run:
    """`python MODULE … ` in several processes, each with some CPU devices.

    Args:
      argv: after the interpreter: "-m", a module, its arguments; or "-c", a program.
      processes: how many.
      devices: of each.
      slurm: they find each other as tasks of one srun do, instead of by flags.
      own: {process: arguments that it alone is given}.
    """

    def __init__(
        self,
        argv: Sequence[str],
        processes: int,
        devices: int = 1,
        *,
        slurm: bool = False,
        own: Mapping[int, Sequence[str]] | None = None,
    ):
        port = free_port()
        xla = [*_FLAGS, f"--xla_force_host_platform_device_count={devices}"]
        self.processes = []
        for index in range(processes):
            flags = [
                f"--coordinator_address=127.0.0.1:{port}",
                f"--num_processes={processes}",
                f"--process_id={index}",
            ]
            step = {
                "JAX_COORDINATOR_PORT": str(port),
                "SLURM_JOB_ID": "1",
                "SLURM_STEP_NODELIST": "localhost",
                "SLURM_STEP_NUM_TASKS": str(processes),
                "SLURM_STEP_NUM_NODES": "1",
                "SLURM_PROCID": str(index),
                "SLURM_LOCALID": str(index),
            }
            alone = processes == 1
            said = [*([] if slurm or alone else flags), *(own or {}).get(index, ())]
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, *argv, *said],
                    cwd=ROOT,
                    env={
                        **os.environ,
                        "XLA_FLAGS": " ".join(xla),
                        **(step if slurm else {}),
                    },
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def kill(self, index: int, number: int = signal.SIGKILL) -> None:
        """Sends one process a signal."""
        self.processes[index].send_signal(number)

    def ended(self, timeout: float = 600) -> list[Ended]:
        """Waits for all of them; kills what is left when the time is over."""
        deadline = time.monotonic() + timeout
        found = []
        try:
            for process in self.processes:
                left = max(deadline - time.monotonic(), 0.1)
                out, err = process.communicate(timeout=left)
                found.append(Ended(process.returncode, out, err))
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.communicate()
        return found


def front_door(name: str, arguments: Sequence[str], *args, **kwargs) -> list[Ended]:
    """python -m hypert5_jax.{name} in several processes, to its end."""
    run = Run(["-m", f"hypert5_jax.{name}", *arguments], *args, **kwargs)
    return run.ended()
