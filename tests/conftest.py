"""Fake devices before jax is imported anywhere, and what tests of several rooms share."""

import importlib.metadata
import os
from pathlib import Path

# Compiling tiny models takes most of the tests' time, and most of that is LLVM making
# them fast. The laws hold without; OPTIMISED=1 (make parity) compiles as users do.
_FLAGS = ["--xla_force_host_platform_device_count=8"]
if not os.environ.get("OPTIMISED"):
    _FLAGS.append("--xla_backend_optimization_level=0")
    if importlib.metadata.version("jax").startswith("0.10."):  # later ones know it not
        _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*os.environ.get("XLA_FLAGS", "").split(), *_FLAGS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference material and public data beside a developer's checkout."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip("../shared, with the public data this test reads, is not here")
    return path
