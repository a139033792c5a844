"""Rows per second of the training stream, read from prepared files.

    python benchmarks/data.py [--form shots --workers 2 --cores 2 --seconds 10 --repeats 3]

Writes prepared mixtures of invented ids of realistic lengths (one seqio task, and so one
file, per task; the same number of examples in all), and reads each as training does. The
form is that of a kind of recipe: "shots" draws 16 shots for a hypermodel's context of
1024, input 384, target 128 (HyperT5 on P3, MetaICL, S-NI); "fewshot" puts them before the
input; "alone" has none; "own" reads contexts of 354 tokens that stand with their examples
(CACLM), input 32, target 128. For every number of tasks and every first step
a new stream with new worker processes is opened; its first batches are not counted. The
settings take turns, so that a busy machine is busy for all; medians count. The processor
time of a row, of all processes together, tells them apart on a busy machine, too.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a script, this file's folder stands there

from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.rows import RowFormat
from hypert5_jax.data.stream import batches
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit

# The sizes of the paper: T5's vocabulary, 16 shots, 1024/384/128 tokens; CACLM's of
# gin/tasks/c4_caclm.gin.
VOCABULARY = Vocabulary("opaque", size=32_100, extra_ids=100, fingerprint="invented")
OWN = "own"
FORMS = {
    "shots": RowFormat(),
    "fewshot": RowFormat(context="downstream"),
    "alone": RowFormat(context="none"),
    OWN: RowFormat({"hyper_inputs": 384, "inputs": 32, "targets": 128}),
}
OWN_CONTEXT = 354
WANTED_ROWS, WANTED_GIB = 600, 1.5


@dataclass
class Setting:
    """One line of the table and what was measured for it."""

    tasks: int
    step: int
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    opening: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def lengths(rng: np.random.Generator, count: int, median: int, most: int) -> np.ndarray:
    """Log-normal lengths: many short texts and some very long ones."""
    drawn = median * rng.lognormal(0.0, 0.8, count)
    return np.clip(drawn.astype(np.int64), 1, most)


def write_mixture(home: Path, form: str, tasks: int, examples: int) -> PreparedMixture:
    """Prepares so many tasks of equal size with `examples` examples together."""
    directory = home / "train"
    directory.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sources = []
    for task in range(tasks):
        count = examples // tasks
        if form == OWN:
            inputs, targets = np.full(count, 32), np.full(count, 127)
        else:
            # About 64 + 2 + 8 tokens a shot: 16 of them just about fill 1024.
            inputs, targets = lengths(rng, count, 46, 2000), lengths(rng, count, 6, 400)
        own = OWN_CONTEXT if form == OWN else 0
        total = int(inputs.sum() + targets.sum()) + count * own
        ids = rng.integers(3, 32_000, total).tolist()
        items, start = [], 0
        for x, y in zip(inputs.tolist(), targets.tolist()):
            middle, end = start + x, start + x + y
            context = ids[end : end + own] or None
            example = Example(ids[start:middle], [*ids[middle:end], 1], context)
            items.append(Item(None, example))
            start = end + own
        name, unit = f"task_{task}", f"task_{task}-00000-of-00001"
        write_unit(directory, unit, items, default_task=name)
        sources.append(Source(name, float(count), (), (unit,)))
    write_manifest(directory, home.name, "train", sources, VOCABULARY)
    return open_mixture(home, "train")


def memory() -> float:
    """Resident GiB of the largest process: a worker at its peak, or this one now."""

    def gib(process: str, name: str) -> float:
        status = Path(f"/proc/{process}/status").read_text()
        found = [line for line in status.splitlines() if line.startswith(name)]
        return int(found[0].split()[1]) / 2**20 if found else 0.0

    # This one's own peak was when it wrote the data.
    return max([gib("self", "VmRSS"), *(gib(child, "VmHWM") for child in workers())])


def workers() -> list[str]:
    """The ids of the processes this one started."""
    threads = Path("/proc/self/task").iterdir()
    return [c for t in threads for c in (t / "children").read_text().split()]


def cpu_seconds() -> float:
    """What this process and its workers have computed, whatever else the machine does."""

    def spent(process: str) -> float:
        # Fields 14 and 15; the name before them may hold blanks.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    return spent("self") + sum(map(spent, workers()))


def measure(
    mixture: PreparedMixture, setting: Setting, args: argparse.Namespace
) -> None:
    """Opens the stream at the setting's step and reads for a while."""
    start = time.perf_counter()
    stream = batches(
        *(mixture, FORMS[args.form], args.batch, 0, setting.step),
        num_workers=args.workers,
    )
    next(stream)
    setting.opening.append(time.perf_counter() - start)
    # What was made ahead while the workers started is not the steady speed.
    for _ in range(6 * max(args.workers, 1)):
        next(stream)
    count, start, computed = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() < start + args.seconds:
        count += len(next(stream).inputs)
    setting.rates.append(count / (time.perf_counter() - start))
    setting.cpu.append(1e3 * (cpu_seconds() - computed) / count)
    setting.memory.append(memory())
    stream.close()


def main() -> None:
    """Prints the table, the ratios and whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--form", choices=FORMS, default="shots")
    parser.add_argument("--tasks", type=int, nargs="+", default=[8, 241, 756])
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 90_000])
    parser.add_argument("--examples", type=int, default=75_600)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    with tempfile.TemporaryDirectory() as folder:
        mixtures = {
            tasks: write_mixture(
                Path(folder) / f"of_{tasks}", args.form, tasks, args.examples
            )
            for tasks in args.tasks
        }
        row = FORMS[args.form]
        first = next(batches(mixtures[args.tasks[0]], row, args.batch, 0))
        context = first.inputs if row.context == "downstream" else first.hyper_inputs
        filled = np.count_nonzero(context) / args.batch
        shots = np.count_nonzero(context == VOCABULARY.y_id) / args.batch
        print(
            f"{args.workers} workers on {len(os.sched_getaffinity(0))} cores, batches of "
            f"{args.batch} rows; a context has {filled:.0f} tokens, "
            f"{shots:.1f} shots; load of the machine {os.getloadavg()[0]:.1f}"
        )
        settings = [Setting(tasks, step) for tasks in args.tasks for step in args.steps]
        for _ in range(args.repeats):
            for setting in settings:
                measure(mixtures[setting.tasks], setting, args)
    print_table(settings)


def print_table(settings: list[Setting]) -> None:
    """One line per setting, each beside the first."""
    print(
        f"{'tasks':>6s} {'step':>7s} {'rows/s':>8s} {'(least … most)':>18s} "
        f"{'ratio':>6s} {'CPU/row':>8s} {'ratio':>6s} {'first batch':>12s} "
        f"{'memory':>9s}"
    )
    reference = statistics.median(settings[0].rates)
    cpu_reference = statistics.median(settings[0].cpu)
    for s in settings:
        rate = statistics.median(s.rates)
        cpu = statistics.median(s.cpu)
        spread = f"({min(s.rates):,.0f} … {max(s.rates):,.0f})"
        print(
            f"{s.tasks:6d} {s.step:7,d} {rate:8,.0f} {spread:>18s} "
            f"{rate / reference:6.2f} {cpu:5.2f} ms {cpu / cpu_reference:6.2f} "
            f"{statistics.median(s.opening):10.1f} s "
            f"{max(s.memory):5.2f} GiB"
        )
    least = min(statistics.median(s.rates) for s in settings)
    most = max(max(s.memory) for s in settings)
    print(
        f"least {least:,.0f} rows/s (wanted {WANTED_ROWS}), "
        f"largest process {most:.2f} GiB (wanted at most {WANTED_GIB})"
    )


if __name__ == "__main__":
    main()
