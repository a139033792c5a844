"""The server on loopback beside the library called directly; or a soak of it.

    python -m benchmarks.serve [--seconds 5]
    python -m benchmarks.serve --soak [--seconds 60]

A quickstart-size T5 with random parameters and a bytes vocabulary. The library answers
one input after another, each with its task's φ, as a program with one caller would; and
once as mixed batches of all inputs, the best it can do. The server is a process of its
own; 1, 8 and 32 callers ask it for one input at a time over connections they keep. Prints
requests/s, p50 and p99 of each, and their ratios to the library's.

--soak: 32 callers adapt, generate, replace, delete and disconnect half-way at random;
every answer is compared with what the library said alone. Exits with 1 if one was lost
or wrong.
"""

import argparse
import asyncio
import dataclasses
import gc
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hypert5_jax.adapting.model import Model
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import PrefixSpec
from hypert5_jax.phi.task_phi import TaskPhi
from hypert5_jax.t5.config import T5Config
from tests.models import random_params
from tests.serving import soak, world
from tests.serving.process import Caller, serving

# As in gin/quickstart.gin, but for the vocabulary.
SIZES = T5Config(
    vocab_size=262,
    emb_dim=64,
    num_heads=4,
    head_dim=16,
    mlp_dim=128,
    num_encoder_layers=2,
    num_decoder_layers=2,
    dtype="float32",
    remat="none",
)
LENGTHS = {"hyper_inputs": 64, "inputs": 32, "targets": 16}
CROWDS = (1, 8, 32)
TASKS = 48


def make_model() -> Model:
    """Random parameters, large enough for φ to decide every answer."""
    prefix = PrefixSpec(length=24, cross_attention="own")
    system = System(SIZES, Variant(prefix=prefix))
    params = random_params(system, seed=0)
    row = RowFormat(lengths=LENGTHS, max_shots=4, too_few="fewer")
    return Model(system, params, world.WORDS, row, world.BASE, "a benchmark")


@dataclasses.dataclass(frozen=True)
class Took:
    """Seconds of every request, and of all of them."""

    each: list[float]
    total: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.each) / self.total

    def __str__(self) -> str:
        p50, p99 = 1e3 * np.percentile(self.each, [50, 99])
        return f"{self.rate:7.1f} requests/s   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms"


def library_alone(model: Model, phis: list[TaskPhi], seconds: float) -> Took:
    """One input after another."""
    rng, each = random.Random(0), []
    end = time.monotonic() + seconds
    begun = time.monotonic()
    while time.monotonic() < end:
        text, phi = world.words(rng, 30), rng.choice(phis)
        start = time.monotonic()
        model.generate([text], phi, batch_size=1)
        each.append(time.monotonic() - start)
    return Took(each, time.monotonic() - begun)


def library_together(model: Model, phis: list[TaskPhi], seconds: float) -> float:
    """Inputs per second in one call with a φ for each."""
    rng, count = random.Random(1), 0
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        texts = [world.words(rng, 30) for _ in range(256)]
        model.generate(texts, rng.choices(phis, k=256), batch_size=32)
        count += 256
    return count / (time.monotonic() - begun)


async def crowd(port: int, callers: int, seconds: float) -> Took:
    """So many callers, each asking as soon as it is answered."""
    each: list[float] = []
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        caller, rng = Caller(port), random.Random(number)
        while time.monotonic() < end:
            name = f"shared{rng.randrange(TASKS)}"
            body = {"task": name, "inputs": [world.words(rng, 30)]}
            start = time.monotonic()
            status, said, _ = await caller.ask("POST", "/generate", body)
            if status != 200:
                raise SystemExit(f"{status}: {said}")
            each.append(time.monotonic() - start)
        caller.leave()

    begun = time.monotonic()
    await asyncio.gather(*(one(number) for number in range(callers)))
    return Took(each, time.monotonic() - begun)


async def adapt_all(port: int) -> None:
    """Fills the bank."""
    caller = Caller(port)
    for task in range(TASKS):
        body = {
            "name": f"shared{task}",
            "examples": world.bodies(world.examples(task)),
        }
        status, said, _ = await caller.ask("POST", "/adapt", body)
        if status != 201:
            raise SystemExit(f"{status}: {said}")


def load() -> str:
    """Processes that wanted a core in the last minute, and the cores there are."""
    return f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def measure(home: Path, seconds: float, options: list[str]) -> None:
    """Prints requests/s and latencies, and ratios to the library's."""
    model = make_model()
    model.save(str(home / "model"))
    phis = model.adapt([world.examples(task) for task in range(TASKS)])
    library_alone(model, phis, 1.0)  # compiles
    library_together(model, phis, 0.1)
    print(f"load before: {load()}", flush=True)
    alone = library_alone(model, phis, seconds)
    print(f"library, one by one:      {alone}", flush=True)
    together = library_together(model, phis, seconds)
    print(
        f"library, mixed batches:   {together:7.1f} inputs/s, "
        f"{together / alone.rate:.1f} times one by one",
        flush=True,
    )
    p50 = float(np.percentile(alone.each, 50))
    # The callers' own pauses are not the server's.
    gc.collect()
    gc.freeze()
    folders = (f"--checkpoint={home / 'model'}", f"--bank={home / 'bank'}")
    with serving(*folders, *options) as server:
        asyncio.run(adapt_all(server.port))
        asyncio.run(crowd(server.port, 8, 1.0))
        for callers in CROWDS:
            found = asyncio.run(crowd(server.port, callers, seconds))
            slower = float(np.percentile(found.each, 50)) / p50
            print(
                f"server, {callers:2} callers:       {found}   "
                f"{found.rate / alone.rate:.2f} times one by one, "
                f"p50 {slower:.1f} times",
                flush=True,
            )
    print(f"load after: {load()}")


def soak_it(home: Path, seconds: float, options: list[str]) -> int:
    """The soak; 1 if a request was lost or answered wrongly."""
    model = make_model()
    model.save(str(home / "model"))
    right = soak.known(model, tasks=24, inputs=32, longest=30)
    folders = (f"--checkpoint={home / 'model'}", f"--bank={home / 'bank'}")
    # Fewer seats than tasks, so that φ come and go; a queue that is full at times.
    small = ("--batch_size=16", "--seats=18", "--max_queue=48")
    with serving(*folders, *small, *options) as server:
        found = asyncio.run(soak.soak(server.port, right, 32, seconds))
        _, measured, _ = asyncio.run(Caller(server.port).ask("GET", "/metrics"))
        code, _ = server.end()
    for what, count in sorted(found.counts.items()):
        print(f"{what:24} {count:7,}")
    for line in measured.splitlines():
        if line.startswith(("hypert5_rows_dropped", "hypert5_phi", "hypert5_batch")):
            print(line)
    print(f"lost or wrong: {len(found.wrong)}; the server ended with {code}")
    for line in found.wrong[:20]:
        print(line)
    return int(bool(found.wrong) or code != 0)


def main() -> int:
    """Parses arguments and runs one of the two."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--soak", action="store_true")
    parser.add_argument("--seconds", type=float, help="5 for each measure, or 60")
    args, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.soak:
            return soak_it(Path(folder), args.seconds or 60.0, options)
        measure(Path(folder), args.seconds or 5.0, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
