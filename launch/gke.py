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
from collections.abc import Sequence

import request as requests
from request import CHECKOUT, Request, UsersMistake
from shell import Shell

# In the image: the container's entry point, and its Python.
_ATTEMPT = ["python", "launch/attempt.py"]


def main(argv: Sequence[str]) -> int:
    """Does what the verb says; returns the exit code."""
    args, request = requests.parse(_parser(), argv)
    for file in request.gin_files():
        if not (CHECKOUT / file).is_file() or file.startswith("/"):
            raise UsersMistake(
                f"--gin_file={file} is not in the image; write it relative to {CHECKOUT}"
            )
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
            first = "batch.kubernetes.io/job-completion-index=0"
            of = ["--container=run", f"--selector={pods},{first}"]
            return shell.run(["kubectl", "logs", "--follow", "--tail=200", *of])
    return shell.run(["kubectl", "delete", "jobset", request.name])


def _parser() -> argparse.ArgumentParser:
    parser = requests.new_parser(__doc__)
    parser.add_argument(
        "verb", choices=re.findall(r"^(\w+)  ", __doc__ or "", re.MULTILINE)
    )
    parser.add_argument("--image", help="REGISTRY/NAME:TAG")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--max_restarts", type=int, default=50)
    jobset = parser.add_argument_group("jobset")
    jobset.add_argument("--tpu", default="tpu-v6e-slice", help="GKE's name of the TPU")
    jobset.add_argument("--topology", default="2x4", help="of one slice")
    jobset.add_argument("--chips_per_host", type=int, default=8)
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
    chips = math.prod(int(side) for side in re.findall(r"\d+", args.topology))
    if chips % args.chips_per_host:
        raise UsersMistake(
            f"--topology={args.topology} has {chips} chips, not a multiple of "
            f"--chips_per_host={args.chips_per_host}"
        )
    env = [pair.partition("=") for pair in request.env]
    template = (CHECKOUT / "launch" / "jobset.yaml").read_text()
    return string.Template(template).substitute(
        name=request.name,
        image=json.dumps(args.image),
        command=json.dumps([*_ATTEMPT, *request.command("python")]),
        env=json.dumps([{"name": n, "value": value} for n, _, value in env]),
        slices=args.slices,
        hosts=chips // args.chips_per_host,
        chips=args.chips_per_host,
        tpu=json.dumps(args.tpu),
        topology=json.dumps(args.topology),
        max_restarts=args.max_restarts,
        bucket=json.dumps(args.data_bucket),
        service_account=json.dumps(args.service_account),
    )


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
        # Without it xpk takes every end of the command for a success.
        "--restart-on-user-code-failure",
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
