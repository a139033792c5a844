"""The core imports on a bare accelerator machine: no TensorFlow, seqio, torch, gin, clu.

The lint rule TID251 (pyproject.toml) reads imports; this runs them, lazy ones of other
packages included, in a process where the banned names cannot be imported.
"""

import pkgutil
import subprocess
import sys
from pathlib import Path

import hypert5_jax

ROOT = Path(__file__).resolve().parents[2]
CORE = (
    "adapting",
    "checkpoints",
    "core",
    "data",
    "evaluation",
    "hyper",
    "inference",
    "parallel",
    "phi",
    "planning",
    "reporting",
    "serving",
    "t5",
    "training",
)
# For users of PyTorch: nothing here imports it.
OUTSIDE = "hypert5_jax.checkpoints.hf_runtime"
# matplotlib is a dependency, but only drawing a figure may load it.
BANNED = (
    "clu",
    "gin",
    "matplotlib",
    "seqio",
    "t5",
    "tensorflow",
    "tensorflow_datasets",
    "tensorflow_text",
    "torch",
    "transformers",
)
SCRIPT = """
import importlib, sys

class Fence:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BANNED:
            raise ModuleNotFoundError(f"{name} is behind the fence", name=name)

BANNED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Fence())
for name in sys.argv[2].split(","):
    importlib.import_module(name)
"""


def core_modules() -> list[str]:
    """Names of all modules of the rooms above the fence."""
    names = ["hypert5_jax"]
    for module in pkgutil.walk_packages(hypert5_jax.__path__, "hypert5_jax."):
        parts = module.name.split(".")
        if module.name == OUTSIDE:
            continue
        if parts[1] in CORE and (module.ispkg or len(parts) > 2):
            names.append(module.name)
    return names


def test_every_core_module_imports_without_the_banned_packages():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, ",".join(BANNED), ",".join(core_modules())],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
