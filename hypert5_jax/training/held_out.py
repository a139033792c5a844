"""The loss on rows that are not trained on, while training."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import jax

from hypert5_jax.core.batch import Batch
from hypert5_jax.parallel import feed
from hypert5_jax.training.state import Params


def held_out_loss(
    system: Any, batches: Callable[[], Iterator[Batch]], count: int
) -> Callable[[Params, int], Mapping[str, float]]:
    """What `train(evaluate=…)` takes: means over the same batches every time.

    Args:
      system: with `loss(params, batch) -> LossSums`; dropout is off.
      batches: this host's rows of the held-out batches, from the first on.
      count: how many of them are read.

    Returns:
      (params, step) -> {"held_out/loss": nats per target token, "held_out/accuracy": of
      target tokens}, to be called under the mesh of the run.
    """
    sums_of = jax.jit(lambda params, batch: system.loss(params, batch)._asdict())

    def evaluate(params: Params, step: int) -> Mapping[str, float]:
        sharding = feed.batch_sharding(jax.sharding.get_mesh())
        total: dict[str, float] = {}
        rows = batches()
        try:
            for batch in feed.prefetch(islice(rows, count), sharding):
                sums = jax.device_get(sums_of(params, batch))
                for name, value in sums.items():
                    total[name] = total.get(name, 0.0) + float(value)
        finally:
            # Ends their workers here: Ctrl-C would be lost while the collection of garbage
            # waits for them.
            if hasattr(rows, "close"):
                rows.close()
        weight = max(total["weight"], 1.0)
        return {
            "held_out/loss": total["loss"] / weight,
            "held_out/accuracy": total["correct"] / weight,
        }

    return evaluate
