"""A TPU machine by gcloud: a queued resource of one or more slices, or one TPU VM.

Commands and states are those of gcloud 528 (`gcloud compute tpus …`, API v2).
"""

import dataclasses
import enum
import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from request import CHECKOUT, UsersMistake
from shell import Result, Shell

QUEUED = "queued"
VM = "vm"
# How long gcloud may take to say how something stands; to make or delete a machine, for
# which it waits. One that hangs has not answered.
_ANSWER_SECONDS = 300.0
_OPERATION_SECONDS = 1800.0
# Where the checkout lies on a worker, below the home folder.
_THERE = "hypert5"
_RUNTIMES = {
    "v6e": "v2-alpha-tpuv6e",
    "v5p": "v2-alpha-tpuv5",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v4": "tpu-ubuntu2204-base",
}
# What on_worker.sh says of a run, one line for each worker.
_STATUS = re.compile(
    r"^\S+: (idle|running|done|stopped|halted|mistake|failed \d+|lost)"
    r"(?: ([0-9a-f]{12}))?\r?$",
    re.MULTILINE,
)


class Status(NamedTuple):
    """What a worker says of its run.

    Attributes:
      word: idle, running, done, …
      digest: of the run's command line; empty if there was none.
    """

    word: str
    digest: str


class State(enum.Enum):
    """Where a machine stands, for one who waits for it."""

    ABSENT = "there is none"
    COMING = "waiting for it"
    READY = "ready"
    STOPPED = "stopped by somebody, with all that is on its disk"
    GONE = "preempted or failed: nothing runs on it any more"
    UNKNOWN = "gcloud does not say"


_STATES = {
    "READY": State.READY,
    "CREATING": State.COMING,
    "STARTING": State.COMING,
    "RESTARTING": State.COMING,
    "REIMAGING": State.COMING,
    "REPAIRING": State.COMING,
    "ACTIVE": State.READY,
    "ACCEPTED": State.COMING,
    "PROVISIONING": State.COMING,
    "WAITING_FOR_RESOURCES": State.COMING,
    "STOPPING": State.STOPPED,
    "STOPPED": State.STOPPED,
    # All others: PREEMPTED, TERMINATED, SUSPENDED, FAILED, …, and their …ING.
}


@dataclasses.dataclass(frozen=True)
class Machine:
    """One queued resource or TPU VM, there or not.

    Attributes:
      shell: runs the commands.
      name: of the queued resource or VM.
      zone, project: where; an empty project is gcloud's own.
      accelerator: such as v6e-8, of one slice.
      slices: of a queued resource.
      kind: QUEUED or VM.
      spot: cheaper, and may be taken away at any time.
      runtime: version of the VM's software; empty for the accelerator's usual one.
      service_account: what the workers act as; empty for the project's default.
      create_flags: further flags of gcloud's `create`.
    """

    shell: Shell
    name: str
    zone: str
    project: str
    accelerator: str
    slices: int = 1
    kind: str = QUEUED
    spot: bool = False
    runtime: str = ""
    service_account: str = ""
    create_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.slices < 1 or (self.slices > 1 and self.kind == VM):
            raise UsersMistake(
                f"--slices={self.slices}: one or more, and more than one only of a "
                "queued resource"
            )

    def pinned(self) -> "Machine":
        """This machine in the project that is gcloud's own now.

        One who watches for days must not look into another project, and find no machine
        there, because somebody called `gcloud config set project` meanwhile.

        Raises:
          UsersMistake: there is no such project, or no gcloud that says so.
        """
        if self.project or self.shell.dry_run:
            return self
        answer = self.shell.ask(["gcloud", "config", "get-value", "project"])
        project = answer.out.strip()
        if answer.code or not project:
            raise UsersMistake(
                "gcloud names no project; pass --project, or call `gcloud config set "
                f"project …`:\n{answer.err.strip()}"
            )
        return dataclasses.replace(self, project=project)

    def until(self, deadline: float | None) -> "Machine":
        """This machine, whose commands are given up at a time.time(), if there is one."""
        return dataclasses.replace(
            self, shell=dataclasses.replace(self.shell, deadline=deadline)
        )

    def nodes(self) -> list[str]:
        """Names of the TPU VMs, one for each slice."""
        if self.slices == 1:
            return [self.name]
        return [f"{self.name}-{number}" for number in range(self.slices)]

    def create(self) -> Result:
        """Asks for the machine; a queued resource is not there yet when this returns."""
        software = self.runtime or self._usual_runtime()
        flags = [f"--accelerator-type={self.accelerator}"]
        if self.kind == VM:
            flags.append(f"--version={software}")
        elif self.slices == 1:
            flags += [f"--runtime-version={software}", f"--node-id={self.name}"]
        else:
            flags += [
                f"--runtime-version={software}",
                f"--node-count={self.slices}",
                f"--node-prefix={self.name}",
            ]
        if self.spot:
            flags.append("--spot")
        if self.service_account:
            flags.append(f"--service-account={self.service_account}")
        return self.shell.ask(
            [*self._gcloud("create", self.name), *flags, *self.create_flags],
            aloud=True,
            seconds=_OPERATION_SECONDS,
        )

    def delete(self) -> int:
        """Deletes the machine with all that is on it; returns gcloud's exit code."""
        force = ["--force"] if self.kind == QUEUED else []
        return self.shell.run(
            [*self._gcloud("delete", self.name), *force], seconds=_OPERATION_SECONDS
        )

    def state(self) -> State:
        """Where the machine stands, all its slices together."""
        if self.kind == QUEUED:
            state = self._described(
                self._gcloud("describe", self.name), "value(state.state)"
            )
            if state is not State.READY:
                return state
        # A preempted slice shows in its node before the queued resource notices.
        states = {
            self._described(self._vm("describe", node), "value(state)")
            for node in self.nodes()
        }
        if self.kind == QUEUED and State.ABSENT in states:
            return State.GONE
        for state in (
            *(State.STOPPED, State.GONE, State.ABSENT),
            *(State.UNKNOWN, State.COMING),
        ):
            if state in states:
                return state
        return State.READY

    def how_to_start(self) -> str:
        """The commands that start a machine which was stopped."""
        return "; ".join(shlex.join(self._vm("start", node)) for node in self.nodes())

    def trouble(self) -> str:
        """What a failed queued resource says of itself."""
        if self.kind == VM:
            return ""
        described = self.shell.ask(
            [
                *self._gcloud("describe", self.name),
                "--format=value(state.failedData.error.message)",
            ],
            seconds=_ANSWER_SECONDS,
        )
        return described.out.strip()

    def copy_checkout(self, commit: str) -> int:
        """Brings the files of a commit of this checkout to all workers."""
        archive = str(Path(tempfile.gettempdir()) / f"{_THERE}-{self.name}.tar.gz")
        command = ["git", "-C", str(CHECKOUT), "archive", "--format=tar.gz"]
        if code := self.shell.run([*command, f"--output={archive}", commit]):
            return code
        for node in self.nodes():
            there = f"{node}:{_THERE}.tar.gz"
            scp = [*self._vm("scp"), archive, there, "--worker=all"]
            if code := self.shell.run(scp):
                return code
        # tar's code for a transfer cut short is the one of a user's mistake.
        return self.on_workers(
            f"(mkdir -p {_THERE} && tar -xzf {_THERE}.tar.gz -C {_THERE}) || exit 1"
        )

    def pull_checkout(self, url: str, ref: str) -> int:
        """Lets all workers fetch a branch, tag or commit."""
        where, what = shlex.quote(url), shlex.quote(ref)
        # Over files that were copied there before, too, which a clone refuses.
        return self.on_workers(
            f"git init --quiet {_THERE} && "
            f"git -C {_THERE} fetch --quiet {where} {what} && "
            f"git -C {_THERE} checkout --quiet --force --detach FETCH_HEAD"
        )

    def on_workers(self, command: str, worker: str = "all") -> int:
        """Runs a command on the workers, of all slices or (a number) of the first."""
        nodes = self.nodes() if worker == "all" else self.nodes()[:1]
        for node in nodes:
            if code := self.shell.run(self._ssh(node, command, worker)):
                return code
        return 0

    def script(self, *words: str, worker: str = "all") -> int:
        """Runs launch/on_worker.sh with these words on the workers."""
        return self.on_workers(_script(*words), worker)

    def stop(self, seconds: int) -> int:
        """Lets the run on all workers save and end, and kills it after some seconds.

        Returns:
          an exit code, not 0 if any worker's is not.
        """
        worst = 0
        for node in self.nodes():
            command = self._ssh(node, _script("stop", str(seconds)))
            code = self.shell.run(command, seconds=seconds + _ANSWER_SECONDS)
            worst = code or worst
        return worst

    def statuses(self) -> list[Status] | None:
        """What each worker says of its run; None where one cannot be reached."""
        statuses = []
        # A new machine has no checkout yet, which is not the same as no answer.
        script = f"{_THERE}/launch/on_worker.sh"
        command = (
            f"if test -e {script}; then {_script('status')}; else echo new: idle; fi"
        )
        for node in self.nodes():
            answer = self.shell.ask(self._ssh(node, command), seconds=_ANSWER_SECONDS)
            if answer.code:
                return None
            statuses += [Status(*found) for found in _STATUS.findall(answer.out)]
        return statuses or None

    def gather_logs(self, folder: Path) -> int:
        """Writes each worker's newest log to FOLDER/NODE/WORKER.log.

        Returns:
          an exit code, not 0 if one could not be read or written.
        """
        worst = 0
        for node in self.nodes():
            into = folder / node
            try:
                if not self.shell.dry_run:
                    into.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                print(f"warning: no logs in {into}: {error.strerror}", flush=True)
                worst = 1
                continue
            command = [*self._ssh(node, _script("log")), f"--output-directory={into}"]
            worst = self.shell.run(command, seconds=_ANSWER_SECONDS) or worst
        return worst

    def _described(self, command: Sequence[str], form: str) -> State:
        answer = self.shell.ask([*command, f"--format={form}"], seconds=_ANSWER_SECONDS)
        if answer.code:
            # As gcloud repeats the API's errors; a shell may not find a program, too.
            absent = answer.code == 1 and "NOT_FOUND" in answer.err
            return State.ABSENT if absent else State.UNKNOWN
        word = answer.out.strip()
        return _STATES.get(word, State.GONE) if word else State.UNKNOWN

    def _usual_runtime(self) -> str:
        for generation, software in _RUNTIMES.items():
            if self.accelerator.startswith(f"{generation}-"):
                return software
        raise UsersMistake(
            f"--accelerator={self.accelerator}: no usual software is known for it (of "
            f"{', '.join(_RUNTIMES)} it is); pass --runtime_version"
        )

    def _ssh(self, node: str, command: str, worker: str = "all") -> list[str]:
        where = [f"--worker={worker}", f"--command={command}"]
        return [*self._vm("ssh", node), *where]

    def _gcloud(self, verb: str, *names: str) -> list[str]:
        if self.kind == VM:
            return self._vm(verb, *names)
        return self._command("queued-resources", verb, *names)

    def _vm(self, verb: str, *names: str) -> list[str]:
        return self._command("tpu-vm", verb, *names)

    def _command(self, group: str, verb: str, *names: str) -> list[str]:
        flags = [f"--zone={self.zone}", "--quiet"]
        if self.project:
            flags.append(f"--project={self.project}")
        return ["gcloud", "compute", "tpus", group, verb, *names, *flags]


def digest(command: Sequence[str]) -> str:
    """By what on_worker.sh names a run: a digest of its command line."""
    words = "".join(f"{word}\0" for word in command)
    return hashlib.sha256(os.fsencode(words)).hexdigest()[:12]


def _script(*words: str) -> str:
    return shlex.join(["bash", f"{_THERE}/launch/on_worker.sh", *words])
