"""Kills a training again and again and compares its end with one that nobody killed.

    python -m tests.faults.inject --runs=100 --seed=0

Each run begins from nothing, is killed at a drawn moment, some again after that, and is
started again until it is done. Then its checkpoints, array by array, its metrics, row by
row, and its scores, file by file, must be those of the uninterrupted run, bit by bit.
Exit code 0 only if all are, and if every phase was struck that --runs leaves room for.
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Before jax is imported: one device, tiny programs compiled fast and once.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

# A run is killed by the clock, at no named point, this often.
BY_THE_CLOCK = 0.15
# A life that goes on from a checkpoint is killed too, this often.
AGAIN = 0.25
# A kill in a phase comes at its first line this often; else while it goes on.
AT_ONCE = 0.3


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the runs; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.faults.inject", description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="where to work; default a new folder")
    args = parser.parse_args(argv)
    home = args.home or Path(tempfile.mkdtemp(prefix="faults-"))
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(home / "compiled"))
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    print(f"seed {args.seed}, in {home}", flush=True)
    code = Injection(home, args.runs, args.seed).run()
    if code == 0 and args.home is None:
        shutil.rmtree(home)
    return code


class Injection:
    """One series of runs."""

    def __init__(self, home: Path, runs: int, seed: int):
        import grain  # noqa: F401 (imported by the first life otherwise, and by each)

        from tests.faults import lives, world

        self._lives, self._world = lives, world
        self._home, self._runs = home, runs
        self._rng = np.random.default_rng(seed)
        self._kills = 0
        self._struck: collections.Counter[str] = collections.Counter()
        self._began = time.monotonic()

    def run(self) -> int:
        if self._lives.apart(lambda: self._world.make(self._home)):
            return 1
        self._compile_all()
        self._clear()
        self._straight = self._life("straight.log", None)
        if self._straight.outcome is None:
            print((self._home / "straight.log").read_text(), file=sys.stderr)
            return 1
        self._resumed = self._restarted_half_way()
        failed = []
        for number in range(1, self._runs + 1):
            if trouble := self._case(number):
                failed.append(number)
                print(f"run {number} FAILED: {trouble}", flush=True)
        return self._report(failed)

    def _compile_all(self) -> None:
        life = self._life("compile.log", None)
        print(f"a life with everything to compile: {life.lasted:.1f} s", flush=True)

    def _restarted_half_way(self):
        """How often what begins, and how long it takes, in a life that goes on."""
        lives = self._lives
        self._clear()
        middle = self._straight.entries["sealing"] // 2 + 1
        self._life("half.log", lives.Moment("step", 3 * middle, None))
        return self._life("half.log", None)

    def _case(self, number: int) -> str:
        """Kills and starts again until it is done; what is wrong at the end, or ""."""
        self._clear()
        log = f"run_{number}.log"
        said: list[str] = []
        again = True
        while again:
            moment = self._draw(self._resumed if said else self._straight)
            life = self._life(log, moment)
            if not life.killed and said:
                break  # what it was to be struck in was done before
            if life.killed:
                self._kills += 1
                self._struck.update(life.phases)
                said.append(f"{moment} ({', '.join(life.phases)})")
                again = self._rng.random() < AGAIN
            else:  # by the clock, and it was quicker
                self._clear()
        if life.killed:
            life = self._life(log, None)
        print(f"run {number}: killed at {'; '.join(said)}", flush=True)
        if life.outcome is None:
            text = (self._home / log).read_text()[-3000:]
            return f"ended with code {life.code}\n{text}"
        return _difference(self._straight.outcome, life.outcome)

    def _draw(self, kind):
        """A moment in a life of that kind: by the clock, or in the least struck phase."""
        rng, moment = self._rng, self._lives.Moment
        if rng.random() < BY_THE_CLOCK:
            return moment("", 1, float(rng.uniform(0.0, kind.lasted)))
        phases = [name for name, n in kind.entries.items() if n]
        # Those that were struck least first, so that a handful strikes a handful.
        least = min(self._struck[name] for name in phases)
        phases = [name for name in phases if self._struck[name] == least]
        phase = phases[int(rng.integers(len(phases)))]
        count = int(rng.integers(1, kind.entries[phase] + 1))
        if rng.random() < AT_ONCE:
            return moment(phase, count, None)
        length = kind.seconds[phase] / kind.entries[phase] or 0.5
        return moment(phase, count, float(rng.uniform(0.0, length)))

    def _life(self, log: str, moment):
        return self._lives.live(self._home, self._home / log, moment)

    def _clear(self) -> None:
        shutil.rmtree(self._home / self._world.RUN, ignore_errors=True)
        (self._home / "outcome.json").unlink(missing_ok=True)

    def _report(self, failed: list[int]) -> int:
        print(f"\n{'struck while':28} kills")
        names = (*self._lives.PHASES, "between these")
        for name in names:
            print(f"{name:28} {self._struck[name]:5}")
        missed = [n for n in self._lives.PHASES if not self._struck[n]]
        enough = self._runs >= 4 * len(self._lives.PHASES)
        minutes = (time.monotonic() - self._began) / 60
        print(
            f"\n{self._runs - len(failed)} of {self._runs} runs, killed {self._kills} times and "
            f"started again, ended like the uninterrupted one, bit by bit "
            f"({len(self._straight.outcome)} arrays and files compared); "
            f"{minutes:.1f} minutes"
        )
        if missed and enough:
            print(f"never struck: {', '.join(missed)}")
        return 1 if failed or (missed and enough) else 0


def _difference(expected: dict[str, str], found: dict[str, str]) -> str:
    names = sorted({*expected, *found})
    different = [n for n in names if expected.get(n) != found.get(n)]
    say = {None: "absent"}
    return "; ".join(
        f"{n}: {say.get(expected.get(n), 'there')} before, "
        f"{'another' if n in found and n in expected else say.get(found.get(n), 'there')}"
        for n in different[:8]
    )


if __name__ == "__main__":
    sys.exit(main())
