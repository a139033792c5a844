"""A recipe on a Cloud TPU: python launch/tpu.py VERB --zone=… --gin_file=… [--gin.…]

create      ask for a queued resource (or, --kind=vm, a TPU VM)
state       where the machine and the run on it stand
setup       bring the checkout to all workers, install it, copy prepared data
run         setup, and start the run on all workers; it outlives the connection
follow      the first worker's log as it grows (Ctrl-C ends only the looking)
logs        every worker's newest log, to --logs
stop        SIGTERM to the run on all workers: it saves and ends
delete      delete the machine
until_done  all of it: create, run, watch, start again after a preemption, delete

Every verb takes the same arguments, so that the machine's name comes from the recipe.
docs/tpu.md is the way from an empty project to results.
"""

import argparse
import math
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import checkout
import request as requests
from request import Request, UsersMistake
from shell import Shell
from tpu_machine import QUEUED, VM, Machine, State, digest
from until_done import SECONDS_TO_SAVE, Watch


def main(argv: Sequence[str]) -> int:
    """Does what the verb says; returns the exit code."""
    args, request = requests.parse(_parser(), argv)
    machine = Machine(
        shell=Shell(args.dry_run),
        name=request.name,
        zone=args.zone,
        project=args.project,
        accelerator=args.accelerator,
        slices=args.slices,
        kind=args.kind,
        spot=args.spot,
        runtime=args.runtime_version,
        service_account=args.service_account,
        create_flags=tuple(args.create_flag),
    )
    logs = Path(args.logs) / request.name
    match args.verb:
        case "state":
            return _state(machine)
        case "follow":
            return machine.script("follow", worker="0")
        case "logs":
            return machine.gather_logs(logs)
        case "stop":
            return machine.stop(SECONDS_TO_SAVE)
        case "delete":
            return machine.delete()
    return _begin(machine, request, args, logs)


def _begin(
    machine: Machine, request: Request, args: argparse.Namespace, logs: Path
) -> int:
    """The verbs that lead to a run; all that can be refused is, before they do."""
    _check(request, args)
    bring = _bringer(request, args)

    def setup(machine: Machine) -> int:
        return bring(machine) or machine.script("setup", "tpu", *args.data)

    def run(machine: Machine) -> int:
        return setup(machine) or machine.script("start", *_environment(request))

    if args.verb == "create":
        return machine.create().code
    if args.verb == "until_done":
        machine = machine.pinned()
        watch = Watch(
            machine=machine,
            start=run,
            digest=digest(_environment(request)),
            logs=logs,
            poll_seconds=args.poll_seconds,
            max_hours=args.max_hours,
            keep=args.keep,
        )
        if args.dry_run:
            return _rehearse(watch)
        _end_like_control_c()
        return watch.run()
    if any(status.word == "running" for status in machine.statuses() or []):
        raise UsersMistake(
            f"a run is on {machine.name} already; `tpu.py stop` it before its code is "
            "replaced, or choose another --name"
        )
    return setup(machine) if args.verb == "setup" else run(machine)


def _parser() -> argparse.ArgumentParser:
    parser = requests.new_parser(__doc__)
    parser.add_argument(
        "verb", choices=re.findall(r"^(\w+)  ", __doc__ or "", re.MULTILINE)
    )
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="gcloud's own if absent")
    parser.add_argument("--accelerator", default="v6e-8", help="of one slice")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--kind", default=QUEUED, choices=[QUEUED, VM])
    parser.add_argument("--spot", action="store_true")
    parser.add_argument("--runtime_version", default="", help="if not the usual one")
    parser.add_argument("--service_account", default="")
    parser.add_argument(
        "--create_flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="handed to gcloud's create, such as --create_flag=--network=mine",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="gs://…/MIXTURE",
        help="copied to prepared/MIXTURE on every worker",
    )
    parser.add_argument("--git_ref", help="pulled by the workers, not copied from here")
    parser.add_argument("--git_url", help="where from; the checkout's origin if absent")
    parser.add_argument("--logs", default="runs/launch", metavar="DIR")
    parser.add_argument("--poll_seconds", type=float, default=60.0)
    parser.add_argument(
        "--max_hours", type=float, help="stop and delete after watching so long"
    )
    parser.add_argument("--keep", action="store_true", help="do not delete at the end")
    return parser


def _check(request: Request, args: argparse.Namespace) -> None:
    """Refuses what would only fail, or lose the results, on a machine that costs."""
    for name in ("poll_seconds", "max_hours"):
        value = getattr(args, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsersMistake(f"--{name}={value}: expected a number above 0")
    for place in args.data:
        if not re.fullmatch(r"gs://.+/[^/]+", place):
            raise UsersMistake(f"--data={place}: expected gs://BUCKET/…/MIXTURE")
    if args.verb == "until_done" and not args.keep:
        request.require_results_in_bucket()


def _bringer(request: Request, args: argparse.Namespace) -> Callable[[Machine], int]:
    """How the code comes to a machine: the same at each attempt, whatever changes here."""
    if args.git_ref is None:
        requests.require_in_checkout(request.gin_files(), checkout.tracked_files())
        commit = checkout.as_it_stands()
        return lambda machine: machine.copy_checkout(commit)
    url = checkout.address(args.git_url)
    if not args.dry_run:
        checkout.require_ref(url, args.git_ref)
    return lambda machine: machine.pull_checkout(url, args.git_ref)


def _environment(request: Request) -> list[str]:
    """The run's command line in the checkout on a worker, with its environment."""
    return ["env", *request.env, *request.command(".venv/bin/python")]


def _state(machine: Machine) -> int:
    state = machine.state()
    if not machine.shell.dry_run:
        print(f"{machine.name}: {state.value}")
    if state is State.READY or machine.shell.dry_run:
        return machine.script("status")
    return 0


def _end_like_control_c() -> None:
    """Lets SIGTERM and a closed terminal say, too, that the machine is left and costs."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not under nohup
            signal.signal(number, signal.default_int_handler)


def _rehearse(watch: Watch) -> int:
    """Prints the commands of one attempt, in order."""
    watch.machine.state()
    watch.machine.create()
    watch.start(watch.machine)
    watch.machine.statuses()
    watch.machine.gather_logs(watch.logs / "attempt_1")
    if not watch.keep:
        watch.machine.delete()
    return 0


if __name__ == "__main__":
    requests.end(main)
