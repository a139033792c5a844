"""HyperTuning in JAX: a hypermodel writes the parameters that adapt a frozen T5.

The names below are imported at first use, so that `import hypert5_jax` costs nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_API = {
    "load": "hypert5_jax.adapting.model",
    "Model": "hypert5_jax.adapting.model",
    "Phi": "hypert5_jax.phi.task_phi:TaskPhi",
    "Decoding": "hypert5_jax.inference.decoding",
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
    module, _, own_name = _API[name].partition(":")
    return getattr(importlib.import_module(module), own_name or name)


def __dir__() -> list[str]:
    return [*_API, "__version__"]
