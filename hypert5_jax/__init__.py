"""HyperTuning in JAX: a hypermodel writes the parameters that adapt a frozen T5.

The names below are imported at first use, so that `import hypert5_jax` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_API = {
    "Phi": "hypert5_jax.phi.types",
    "PrefixSpec": "hypert5_jax.phi.spec",
    "LoRASpec": "hypert5_jax.phi.spec",
    "load_phi": "hypert5_jax.phi.files",
    "save_phi": "hypert5_jax.phi.files",
    "T5Config": "hypert5_jax.t5.config",
    "Variant": "hypert5_jax.hyper.variants",
    "System": "hypert5_jax.hyper.system",
    "UserError": "hypert5_jax.core.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _API:
        raise AttributeError(f"module 'hypert5_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_API[name]), name)


def __dir__() -> list[str]:
    return [*_API, "__version__"]
