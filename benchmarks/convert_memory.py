"""Peak memory of converting a T5 against the size of its arrays, in every direction.

    python -m benchmarks.convert_memory [--size base]

Random weights are written as a T5X directory; each conversion then runs in a process of
its own, and what its memory (peak resident set, from /proc) grew by after the imports
is printed beside the size of all arrays and of the largest one. The last line reads the
whole T5 as `train` and `evaluate` do, for comparison.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hypert5_jax.checkpoints import t5x
from hypert5_jax.checkpoints.lazy import FLOATS, Lazy
from hypert5_jax.checkpoints.t5_arrays import t5_arrays
from hypert5_jax.t5.config import SIZES, T5Config

# Prints KiB: memory when everything is imported, and the peak of the work. (getrusage's
# peak of a process begins with that of the process that started it.)
MEASURED = """
import re, sys
from pathlib import Path
from hypert5_jax import convert
from hypert5_jax.checkpoints import any_t5
from hypert5_jax.config import cli, convert_t5
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports
before = status("VmRSS")
if sys.argv[1] == "--load":
    params = any_t5.load_any_t5(sys.argv[2])
else:
    sys.stdout, out = open("/dev/null", "w"), sys.stdout
    assert cli.exit_code(convert.main, sys.argv[1:]) == 0
    sys.stdout = out
print(before, status("VmHWM"))
"""


def random_arrays(config: T5Config) -> dict[str, Lazy]:
    """Weights of a T5, each made when it is read."""
    f32 = FLOATS["float32"]

    def one(number: int, shape: tuple[int, ...]) -> Lazy:
        def read() -> np.ndarray:
            rng = np.random.default_rng(number)
            return rng.standard_normal(shape, np.float32)

        return Lazy(shape, f32, read)

    return {a.path: one(i, a.shape) for i, a in enumerate(t5_arrays(config))}


def measure(*arguments: str) -> tuple[int, int, float]:
    """(bytes after the imports, at the peak of the work; seconds) of one process."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    before, after = (1024 * int(kib) for kib in done.stdout.split())
    return before, after, time.perf_counter() - start


def main() -> None:
    """Prints a line for each direction."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="base", choices=sorted(SIZES))
    size = parser.parse_args().size
    arrays = random_arrays(SIZES[size])
    total = sum(array.nbytes for array in arrays.values())
    largest = max(array.nbytes for array in arrays.values())
    mib = 1 << 20
    print(
        f"T5-{size}: arrays {total / mib:.0f} MiB, the largest {largest / mib:.0f} MiB"
    )
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        t5x.write_directory(str(at / "start"), arrays, 0, {})
        steps = (
            ("T5X directory -> Hugging Face", "start", "huggingface", "hf"),
            ("Hugging Face -> T5X directory", "hf", "t5x", "directory"),
            ("Hugging Face -> T5X single file", "hf", "t5x-file", "file"),
            ("T5X single file -> Hugging Face", "file", "huggingface", "hf2"),
        )
        for name, source, to, target in steps:
            before, after, seconds = measure(
                f"--input={at / source}", f"--to={to}", f"--output={at / target}"
            )
            _say(name, before, after, total, seconds)
        before, after, seconds = measure("--load", str(at / "hf"))
        _say("Hugging Face, all in memory", before, after, total, seconds)


def _say(name: str, before: int, after: int, total: int, seconds: float) -> None:
    mib = 1 << 20
    print(
        f"{name:32} imports {before / mib:5.0f} MiB, grew by "
        f"{(after - before) / mib:6.0f} MiB = {(after - before) / total:.3f} of the "
        f"arrays; {seconds:.0f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
