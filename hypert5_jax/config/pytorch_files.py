"""Weights in PyTorch's own files: tensors only, whatever else is pickled in them."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hypert5_jax.checkpoints.lazy import FLOATS, Lazy
from hypert5_jax.core.errors import UserError


def read_pytorch(file: Path) -> Mapping[str, Lazy]:
    """The tensors of a file such as pytorch_model.bin, memory-mapped where it can be.

    Args:
      file: written by `torch.save` of a dict of tensors.

    Raises:
      UserError: torch is not installed, or the file holds anything but tensors.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{file} is PyTorch's, and torch is not installed; install it (pip install "
            "torch), or download the model as safetensors"
        ) from error
    try:
        with file.open("rb") as opened:
            mapped = opened.read(4) == b"PK\x03\x04"
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        AttributeError,
        OSError,
    ) as error:
        reason = (str(error) or repr(error)).splitlines()[0][:200]
        raise UserError(
            f"{file} is not a whole file of tensors alone, and nothing else in it is "
            f"ever run: {reason}"
        ) from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file} holds a {type(content).__name__}, expected tensors")
    wrong = [name for name, x in content.items() if not isinstance(x, torch.Tensor)]
    if wrong:
        raise UserError(f"{file}: {wrong[0]} is no tensor")
    return {str(name): _lazy(tensor) for name, tensor in content.items()}


def _lazy(tensor) -> Lazy:
    name = str(tensor.dtype).removeprefix("torch.")

    def read() -> np.ndarray:
        if name == "bfloat16":  # NumPy knows it by another package
            import torch

            bits = tensor.contiguous().view(torch.int16).numpy()
            return bits.view(FLOATS["bfloat16"])
        return tensor.numpy()

    return Lazy(
        tuple(tensor.shape), FLOATS[name] if name in FLOATS else np.dtype(name), read
    )
