"""A recipe on the GPUs of a SLURM cluster: python launch/slurm.py VERB --gin_file=…

setup   install into the checkout's .venv, on the login node
submit  queue launch/slurm_job.sh
state   where it stands
follow  its log as it grows
stop    cancel the job

The checkout lies on a file system that login node and compute nodes share.
"""

import argparse
import re
from collections.abc import Sequence

import request as requests
from request import CHECKOUT, UsersMistake
from shell import Shell

_LOGS = "runs/launch"


def main(argv: Sequence[str]) -> int:
    """Does what the verb says; returns the exit code."""
    args, request = requests.parse(_parser(), argv)
    shell = Shell(args.dry_run)
    log = str(CHECKOUT / _LOGS / f"{request.name}.log")
    match args.verb:
        case "setup":
            return shell.run(["bash", str(CHECKOUT / "launch/install.sh"), "cuda"])
        case "submit":
            if "" in args.sbatch_flag:
                raise UsersMistake("--sbatch_flag is empty; expected a flag of sbatch")
            for file in request.gin_files():
                if not (CHECKOUT / file).is_file():
                    raise UsersMistake(f"--gin_file={file}: no such file")
            if not args.dry_run:
                (CHECKOUT / _LOGS).mkdir(parents=True, exist_ok=True)
            flags = [
                f"--job-name={request.name}",
                # Jobs of one name share a log, and most likely a MODEL_DIR.
                "--dependency=singleton",
                f"--chdir={CHECKOUT}",
                f"--output={log}",
                f"--nodes={args.nodes}",
                f"--gpus-per-node={args.gpus_per_node}",
                f"--time={args.time}",
                *args.sbatch_flag,
            ]
            command = ["env", *request.env, *request.command(".venv/bin/python")]
            script = str(CHECKOUT / "launch" / "slurm_job.sh")
            return shell.run(["sbatch", *flags, script, *command])
        case "state":
            return shell.run(["squeue", "--me", f"--name={request.name}"])
        case "follow":
            return shell.run(["tail", "-n", "200", "-F", log])
    return shell.run(["scancel", "--me", f"--name={request.name}"])


def _parser() -> argparse.ArgumentParser:
    parser = requests.new_parser(__doc__)
    parser.add_argument(
        "verb", choices=re.findall(r"^(\w+)  ", __doc__ or "", re.MULTILINE)
    )
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus_per_node", default="8")
    parser.add_argument("--time", default="24:00:00", help="limit; requeued at its end")
    parser.add_argument(
        "--sbatch_flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="handed to sbatch, such as --sbatch_flag=--partition=gpu",
    )
    return parser


if __name__ == "__main__":
    requests.end(main)
