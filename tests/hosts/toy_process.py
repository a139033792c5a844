"""One of several processes that train the toy system: what tests say of it is read back.

    python -m tests.hosts.toy_process JOBS.json [flags of parallel/hosts.py]

JOBS is a list of runs, done one after another: {"directory": …, "steps": …, "mesh": {…}}
and perhaps "kill_at": [process, step]. Process 0 writes {directory}/params.npz and, for each
process, {directory}/rows-K.json: which rows of which steps it was asked for.
"""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.config import cli
from hypert5_jax.config.hosts_arguments import add_hosts, read_hosts
from hypert5_jax.core import trees
from hypert5_jax.parallel import feed, global_arrays, hosts
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.reporting.writers import JsonlWriter
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.schedules import ScheduleConfig
from tests.training import toy

SYSTEM = toy.ToySystem(trainable=("hypermodel", "downstream"))


def run(job, devices=None):
    """Trains as a job says, over the devices of all processes."""
    directory = Path(job["directory"])
    config = TrainConfig(
        steps=job["steps"],
        log_every=1,
        schedule=ScheduleConfig(name="constant", learning_rate=1e-2),
        mesh=MeshConfig(**job["mesh"]),
        checkpoints=CheckpointConfig(every=3),
    )
    own = global_arrays.share(feed.batch_sharding(make_mesh(config.mesh, devices)))
    asked = []

    def batches(start):
        for step in range(start, 1000):
            if job.get("kill_at") == [jax.process_index(), step]:
                os.kill(os.getpid(), signal.SIGKILL)
            asked.append([step, list(own.parts), own.ways])
            yield jax.tree.map(lambda rows: part_of(rows, own), toy.batch_at(step))

    result = train(
        SYSTEM,
        config,
        batches,
        toy.initial(SYSTEM),
        directory=directory,
        writers=[JsonlWriter(directory / "metrics.jsonl")] if hosts.is_writer() else [],
        devices=devices,
    )
    params = jax.tree.map(global_arrays.to_host, result.params)
    if hosts.is_writer():
        np.savez(directory / "params.npz", **trees.flatten(params))
    rows = directory / f"rows-{jax.process_index()}.json"
    rows.write_text(json.dumps(asked))
    return result


def part_of(rows, own):
    """A process's rows of a whole batch."""
    return np.concatenate([np.split(rows, own.ways)[part] for part in own.parts])


def _add_own_number(file):
    with file.open("a") as lines:
        lines.write(f"{jax.process_index()}\n")


def main(argv):
    parser = argparse.ArgumentParser()
    parser.add_argument("jobs")
    add_hosts(parser)
    args = parser.parse_args(argv)
    hosts.start(read_hosts(args))
    jobs = Path(args.jobs)
    hosts.writer_first(lambda: _add_own_number(jobs.with_name("order")))
    for job in json.loads(jobs.read_text()):
        run(job)
        hosts.say(f"done {job['directory']}")
    return 0


if __name__ == "__main__":
    cli.run(main, sys.argv[1:])
