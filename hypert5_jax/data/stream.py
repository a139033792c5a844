"""The stream of training batches: a pure function of (seed, step).

Step s holds the contexts s * C … s * C + C - 1 of an endless numbered sequence, and
everything about context g (its task, its target examples, its shots, its label words)
is a hash of (seed, g). A host computes its own contexts only, so the global batch does
not depend on the number of hosts, and starting at step 90,000 costs what starting at
step 10 does.
"""

import functools
import itertools
import os
import pickle
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker

import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.parent import follow_parent
from hypert5_jax.data.prepared import PreparedMixture
from hypert5_jax.data.rows import Arrays, RowFormat
from hypert5_jax.data.sampler import Sampler

# Steps are numbered below this; Grain wants a length.
_ENDLESS = 2**40


class _Steps:
    """A Grain source whose item s is one host's share of the batch of step s.

    Packed, the arrays are one bytes object: Grain would move arrays between processes
    through shared memory, and leave those behind that were made ahead at the end.
    """

    def __init__(
        self, sampler: Sampler, contexts: int, share: np.ndarray, packed: bool
    ):
        self._sampler = sampler
        self._contexts, self._share = contexts, share
        self._packed = packed

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, step: int) -> Arrays | bytes:
        arrays = self._sampler.arrays(int(step) * self._contexts + self._share)
        return pickle.dumps(arrays) if self._packed else arrays


def batches(
    mixture: PreparedMixture,
    row_format: RowFormat,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    parts: Sequence[int] = (0,),
    ways: int = 1,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Endless batches from `start_step` on, as NumPy arrays.

    Args:
      mixture: the prepared mixture.
      row_format: what a row holds.
      batch_size: B, target examples of the global batch.
      seed: decides everything that is drawn.
      start_step: the step of the first batch returned.
      parts: which of the equal parts of each batch are returned, one after another;
        nothing of the others is read.
      ways: how many parts there are.
      num_workers: processes that make batches ahead; 0 uses two threads.

    Returns:
      An iterator of Batch with batch_size x len(parts) / ways target examples.

    Raises:
      UserError: sizes that do not divide, or a mixture that cannot serve the format.
    """
    shared = row_format.targets_per_context
    if batch_size < 1 or batch_size % (shared * ways):
        raise UserError(
            f"batch_size {batch_size} is not a positive multiple of "
            f"targets_per_context x parts = {shared} x {ways}"
        )
    if not all(0 <= part < ways for part in parts):
        raise UserError(f"parts {tuple(parts)} are not all below {ways}")
    import grain  # here, so that formats and errors do not wait for it

    sampler = Sampler(mixture, row_format, seed)
    contexts = batch_size // shared
    share = np.arange(contexts).reshape(ways, -1)[list(parts)].reshape(-1)
    steps = _Steps(sampler, contexts, share, num_workers > 0)
    threads = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    if num_workers:
        threads = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    data = grain.MapDataset.source(steps)[start_step:].to_iter_dataset(threads)
    if num_workers:
        _let_grain_start_processes()
        data = data.mp_prefetch(
            grain.MultiprocessingOptions(
                num_workers=num_workers, per_worker_buffer_size=2
            ),
            worker_init_fn=functools.partial(_begin_worker, os.getpid()),
        )
    return _read(data, by_workers=num_workers > 0)


def _read(data: Iterable[Arrays | bytes], by_workers: bool) -> Iterator[Batch]:
    """Makes batches of what threads or workers hand over: arrays, nothing of JAX."""
    arrays = iter(data)
    try:
        first = [_first(arrays)] if by_workers else []
        for one in itertools.chain(first, arrays):
            yield Batch(*(pickle.loads(one) if isinstance(one, bytes) else one))
    finally:
        # Ends the workers now, not when the interpreter takes itself apart.
        if hasattr(arrays, "close"):
            arrays.close()


def _first(arrays: Iterator[Arrays | bytes]) -> Arrays | bytes:
    """The first item, for which Grain starts its workers: deaf to SIGTERM and SIGINT.

    srun and schedulers send SIGTERM to every process of a run, terminals SIGINT; a run
    that saves and stops needs its workers until then, and ends them itself. A process
    inherits what its parent's thread blocks, and is deaf from its very start, which takes
    seconds.
    """
    # Unblocks both in the thread that starts it.
    resource_tracker.ensure_running()
    blocked = (signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    with ThreadPoolExecutor(
        1, "starts workers", signal.pthread_sigmask, blocked
    ) as one:
        return one.submit(next, arrays).result()


def _begin_worker(parent: int, index: int, count: int) -> None:
    """What a worker does first; Grain says which of how many it is."""
    follow_parent(parent)


def _let_grain_start_processes() -> None:
    """Grain's workers ask for absl flags, which only an absl program has parsed.

    Grain has imported absl itself; marking its flags as parsed leaves their defaults.
    """
    flags = sys.modules["absl.flags"].FLAGS
    if not flags.is_parsed():
        flags.mark_as_parsed()
