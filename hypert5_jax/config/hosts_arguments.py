"""Arguments of the front doors that run over several processes.

    --coordinator_address=HOST:PORT --num_processes=N --process_id=K
    --lost_after=SECONDS

On TPUs, in GKE and under srun nothing of this is needed: parallel/hosts.py.
"""

import argparse

from hypert5_jax.parallel.hosts import HostsConfig


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """Adds them to a front door's parser."""
    group = parser.add_argument_group(
        "several processes", "found by themselves on TPUs, in GKE and under srun"
    )
    group.add_argument(
        "--coordinator_address", metavar="HOST:PORT", help="where process 0 listens"
    )
    group.add_argument(
        "--num_processes", type=int, metavar="N", help="1: alone, wherever this is"
    )
    group.add_argument("--process_id", type=int, metavar="K", help="from 0")
    group.add_argument(
        "--lost_after",
        type=float,
        default=HostsConfig().lost_after,
        metavar="SECONDS",
        help="without a sign of life, after which a process is taken for dead and the "
        "others end (default %(default)g)",
    )


def read_hosts(args: argparse.Namespace) -> HostsConfig:
    """What was given of them.

    Raises:
      UserError: one without the others, or values that cannot be.
    """
    return HostsConfig(
        args.coordinator_address, args.num_processes, args.process_id, args.lost_after
    )
