"""One host of a toy run: python -m tests.faults.one_host PORT HOST HOSTS DIRECTORY."""

import logging
import sys
import time
from collections.abc import Iterator

import jax

from hypert5_jax.checkpoints.store import CheckpointConfig
from hypert5_jax.core.batch import Batch
from hypert5_jax.training.loop import TrainConfig, train
from hypert5_jax.training.schedules import ScheduleConfig
from tests.training import toy

STEPS = 300
SYSTEM = toy.ToySystem()
CONFIG = TrainConfig(
    steps=STEPS,
    schedule=ScheduleConfig(learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=5),
)


def main(port: str, host: str, hosts: str, directory: str) -> None:
    """Trains this host's rows and says how it ended."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", int(hosts), int(host))

    def batches(start: int) -> Iterator[Batch]:
        share = 1 / int(hosts)
        for batch in toy.batches(start):
            time.sleep(0.01)  # so that the signal comes long before the end
            yield jax.tree.map(lambda rows: part(rows, int(host), share), batch)

    def part(rows, index: int, share: float):
        size = int(len(rows) * share)
        return rows[index * size : (index + 1) * size]

    result = train(SYSTEM, CONFIG, batches, toy.initial(SYSTEM), directory=directory)
    print(f"{'stopped' if result.stopped else 'done'} at {result.step}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
