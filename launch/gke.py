"""A recipe on GKE: python launch/gke.py VERB --gin_file=… [--gin.…]

image   build the image from the checkout (launch/Dockerfile) and push it
jobset  start a JobSet (launch/jobset.yaml) with kubectl
xpk     start the same as a workload of xpk
state   where it stands
follow  the first worker's log as it grows
delete  delete the JobSet

The cluster is the one kubectl's current context names; for xpk, --cluster.
"""

import argparse
import json
import math
import re
import shlex
import string
from collections.abc import Callable, Sequence
from pathlib import Path

import request as requests
from request import CHECKOUT, Request, UsersMistake
from shell import Shell

# In the image: the container's entry point, and its Python.
_ATTEMPT = ["python", "launch/attempt.py"]
# As launch/jobset.yaml calls it.
_CONTAINER = "run"
# Axes of the torus of GKE's TPUs, where their names are known here.
_AXES = {
    "tpu-v4-podslice": 3,
    "tpu-v5-lite-podslice": 2,
    "tpu-v5p-slice": 3,
    "tpu-v6e-slice": 2,
}


def main(argv: Sequence[str]) -> int:
    """Does what the verb says; returns the exit code."""
    args, request = requests.parse(_parser(), argv)
    for file in request.gin_files():
        _require_in_image(file)
    if args.verb in ("image", "jobset", "xpk") and not args.image:
        raise UsersMistake(f"{args.verb} needs --image=REGISTRY/NAME:TAG")
    shell = Shell(args.dry_run)
    pods = f"jobset.sigs.k8s.io/jobset-name={request.name}"
    match args.verb:
        case "image":
            return _image(shell, args)
        case "jobset":
            return shell.run(["kubectl", "apply", "-f", "-"], _manifest(args, request))
        case "xpk":
            return shell.run(_xpk(args, request))
        case "state":
            return shell.run(["kubectl", "get", "jobset", request.name]) or shell.run(
                ["kubectl", "get", "pods", f"--selector={pods}"]
            )
        case "follow":
            # Of the first slice's job: each slice has one, and in it an index 0.
            first = "jobset.sigs.k8s.io/job-index=0,"
            first += "batch.kubernetes.io/job-completion-index=0"
            of = [f"--container={_CONTAINER}", f"--selector={pods},{first}"]
            return shell.run(["kubectl", "logs", "--follow", "--tail=200", *of])
    return shell.run(["kubectl", "delete", "jobset", request.name])


def _parser() -> argparse.ArgumentParser:
    parser = requests.new_parser(__doc__)
    parser.add_argument(
        "verb", choices=re.findall(r"^(\w+)  ", __doc__ or "", re.MULTILINE)
    )
    parser.add_argument("--image", help="REGISTRY/NAME:TAG")
    parser.add_argument("--slices", type=_at_least(1), default=1)
    parser.add_argument("--max_restarts", type=_at_least(0), default=50)
    jobset = parser.add_argument_group("jobset")
    jobset.add_argument("--tpu", default="tpu-v6e-slice", help="GKE's name of the TPU")
    jobset.add_argument("--topology", default="2x4", help="of one slice")
    jobset.add_argument(
        "--chips_per_host",
        type=_at_least(1),
        help="of the node pool's machines; as the topology has them if absent",
    )
    jobset.add_argument("--data_bucket", help="mounted, to be read, at /data")
    jobset.add_argument(
        "--service_account", default="default", help="of Kubernetes; may use the bucket"
    )
    xpk = parser.add_argument_group("xpk")
    xpk.add_argument("--cluster")
    xpk.add_argument("--zone")
    xpk.add_argument("--project")
    xpk.add_argument("--tpu_type", default="v6e-8", help="of one slice")
    return parser


def _at_least(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number, {least} or more"
            )
        return int(text)

    return read


def _require_in_image(file: str) -> None:
    ignored = (CHECKOUT / "launch" / "Dockerfile.dockerignore").read_text()
    held = re.findall(r"(?m)^!(.+)$", ignored)
    parts = Path(file).parts
    inside = bool(parts) and parts[0] in held and ".." not in parts
    if not inside or not (CHECKOUT / file).is_file():
        raise UsersMistake(
            f"--gin_file={file} is not in the image, which holds {', '.join(held)}; put "
            f"it there and write it relative to {CHECKOUT}"
        )


def _image(shell: Shell, args: argparse.Namespace) -> int:
    file = str(CHECKOUT / "launch" / "Dockerfile")
    build = ["docker", "build", "--platform=linux/amd64", f"--file={file}"]
    return shell.run([*build, f"--tag={args.image}", str(CHECKOUT)]) or shell.run(
        ["docker", "push", args.image]
    )


def _manifest(args: argparse.Namespace, request: Request) -> str:
    """launch/jobset.yaml, filled in. JSON values are YAML."""
    if not args.data_bucket:
        raise UsersMistake("jobset needs --data_bucket, which is mounted at /data")
    hosts, each = _hosts(args)
    env = [pair.partition("=") for pair in request.env]
    template = (CHECKOUT / "launch" / "jobset.yaml").read_text()
    return string.Template(template).substitute(
        name=request.name,
        image=json.dumps(args.image),
        command=json.dumps([*_ATTEMPT, *request.command("python")]),
        env=json.dumps([{"name": n, "value": value} for n, _, value in env]),
        slices=args.slices,
        hosts=hosts,
        chips=each,
        tpu=json.dumps(args.tpu),
        topology=json.dumps(args.topology),
        max_restarts=args.max_restarts,
        bucket=json.dumps(args.data_bucket),
        service_account=json.dumps(args.service_account),
    )


def _hosts(args: argparse.Namespace) -> tuple[int, int]:
    """(hosts of a slice, chips of each): as Google hands out slices, up to 8 chips of v5e
    and v6e come with one host, and others have one for every 4."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", args.topology):
        raise UsersMistake(
            f"--topology={args.topology}: expected chips along each axis, such as 2x4 "
            "or 2x2x2"
        )
    sides = [int(side) for side in args.topology.split("x")]
    axes = _AXES.get(args.tpu, len(sides))
    if len(sides) != axes:
        raise UsersMistake(
            f"--topology={args.topology} has {len(sides)} axes; a {args.tpu} has {axes}"
        )
    chips = math.prod(sides)
    each = args.chips_per_host or (chips if axes == 2 and chips <= 8 else min(chips, 4))
    if chips % each:
        raise UsersMistake(
            f"--topology={args.topology} has {chips} chips, not a multiple of "
            f"{each} chips of a host; say how many with --chips_per_host"
        )
    return chips // each, each


def _xpk(args: argparse.Namespace, request: Request) -> list[str]:
    if not args.cluster:
        raise UsersMistake("xpk needs --cluster")
    command = shlex.join([*_ATTEMPT, *request.command("python")])
    flags = [
        f"--workload={request.name}",
        f"--cluster={args.cluster}",
        f"--tpu-type={args.tpu_type}",
        f"--num-slices={args.slices}",
        f"--docker-image={args.image}",
        f"--max-restarts={args.max_restarts}",
        "--termination-grace-period-seconds=300",
        # A failure and a lost process; of itself xpk starts again after 42 and 127 to
        # 255, and not after a mistake of the user's, 2.
        "--restart-on-exit-codes=1,75",
        f"--docker-name={_CONTAINER}",
        f"--command={command}",
        *(f"--env={pair}" for pair in request.env),
    ]
    if args.zone:
        flags.append(f"--zone={args.zone}")
    if args.project:
        flags.append(f"--project={args.project}")
    return ["xpk", "workload", "create", *flags]


if __name__ == "__main__":
    requests.end(main)
