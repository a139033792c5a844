"""What benchmarks of whole answers share: a T5-small that never ends, runs that
alternate, a line for each."""

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.core import trees
from hypert5_jax.inference.decoding import EOS
from hypert5_jax.t5.config import SIZES, T5Config
from hypert5_jax.t5.stacking import stack_layers
from tests.t5 import hf_weights

SMALL = dataclasses.replace(SIZES["small"], dtype="float32", remat="none")
# Ids that answers and inputs are drawn from: T5's pieces, without the special ones.
_FIRST, _LAST = 3, 32000


def weights(cfg: T5Config = SMALL) -> dict[str, np.ndarray]:
    """Random weights by Hugging Face's names, of a trained model's magnitude. EOS has a
    logit of 0, which is never the largest: every answer is as long as it may be."""
    made = hf_weights.random_hf_weights(cfg)
    made["lm_head.weight"][EOS] = 0.0
    return made


def ours(made: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The same weights as our T5's parameters, on the device."""
    tree = stack_layers(trees.unflatten(hf_weights.to_ours(dict(made))))
    return jax.tree.map(jnp.asarray, tree)


def hugging_face(made: Mapping[str, np.ndarray], cfg: T5Config = SMALL) -> Any:
    """The same weights as Hugging Face's T5, read from a checkpoint of theirs."""
    from tests.t5 import huggingface

    with tempfile.TemporaryDirectory() as folder:
        return huggingface.load(cfg, dict(made), Path(folder)).eval()


def answers(model: Any, inputs: np.ndarray, tokens: int) -> np.ndarray:
    """What Hugging Face's `generate` says, greedily and with its cache:
    int64 [b, tokens]."""
    import torch

    ids = torch.from_numpy(inputs).long()
    with torch.inference_mode():
        said = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            use_cache=True,
        )
    return said[:, 1:].numpy()


def draw(seed: int, *shape: int) -> np.ndarray:
    """Random ids, int32."""
    rng = np.random.default_rng(seed)
    return rng.integers(_FIRST, _LAST, shape, dtype=np.int32)


def alternate(
    runs: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """{name: seconds of each repeat}. Every run is made once before any counts; then
    they take turns, so that a busy machine is busy for all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def report(times: Mapping[str, list[float]], reference: str) -> dict[str, float]:
    """Prints a line for each run and returns the medians in seconds."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    width = max(len(name) for name in times)
    for name, seconds in times.items():
        print(
            f"  {name:{width}s}  median {medians[name]:7.3f} s  "
            f"({min(seconds):.3f} … {max(seconds):.3f})  "
            f"{medians[name] / medians[reference]:6.2f} times `{reference}`"
        )
    return medians


def machine() -> str:
    """Cores, and how busy they were before this benchmark."""
    load = os.getloadavg()[0]
    words = "quiet" if load < 0.5 else "busy with other work: ratios alone say much"
    return f"{os.cpu_count()} cores, load {load:.2f} at the start ({words})"
