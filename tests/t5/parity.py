"""The cases in which our T5 meets Hugging Face's, and our side of each."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.core import trees
from hypert5_jax.t5 import loss, network, stacking, stacks
from hypert5_jax.t5.config import SIZES, T5Config
from tests.t5 import hf_weights

# The bound of every comparison in float32: max |a - b| over max |b|, for each array.
TOLERANCE = 1e-4

# bfloat16 activations against float32, of the tiny case, by the same measure. Weights are
# drawn large here, and an error of one layer grows through the next; Hugging Face's own
# bfloat16 is as far off (test_parity_torch.py).
BF16_LOSS = 5e-3
BF16_LOGITS = 0.1

# Heads unlike the width, stacks of different depth, an odd vocabulary.
TINY = T5Config(
    vocab_size=97,
    emb_dim=24,
    num_heads=4,
    head_dim=8,
    mlp_dim=40,
    num_encoder_layers=2,
    num_decoder_layers=3,
    dtype="float32",
)
# 6 heads of 64 beside a width of 512.
SMALL = dataclasses.replace(SIZES["small"], dtype="float32")


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and a padded batch; everything follows from these numbers.

    Attributes:
      input_lengths, target_lengths: tokens of each row; rows are padded to the longest.
        More than 128 inputs reach the last bucket of relative positions.
    """

    config: T5Config
    input_lengths: tuple[int, ...]
    target_lengths: tuple[int, ...]

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs int32 [b, k] and targets int32 [b, q], padded with 0."""

        def ids(name: str, lengths: tuple[int, ...]) -> np.ndarray:
            rows = np.zeros((len(lengths), max(lengths)), np.int32)
            for i, length in enumerate(lengths):
                noise = hf_weights.noise(f"{name} {i}", (length,)) / 12**0.5 + 0.5
                rows[i, :length] = 2 + noise * (self.config.vocab_size - 2)
            return rows

        return ids("inputs", self.input_lengths), ids("targets", self.target_lengths)


CASES = {
    "tiny": Case(TINY, (150, 9, 61), (40, 3, 17)),
    "small": Case(SMALL, (23, 11), (7, 12)),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What is compared: float32 logits [b, q, v] at all positions, the mean loss over
    target tokens, and its gradients by Hugging Face's names."""

    logits: np.ndarray
    loss: float
    gradients: dict[str, np.ndarray]


def ours(case: Case, weights: dict[str, np.ndarray], **changes: Any) -> Outcome:
    """Our T5 with these weights; `changes` are fields of T5Config."""
    cfg = dataclasses.replace(case.config, **changes)
    params = trees.unflatten(hf_weights.to_ours(weights))
    if cfg.scan_layers:
        params = stacking.stack_layers(params)
    inputs, targets = case.batch()

    @partial(jax.value_and_grad, has_aux=True)
    def mean_loss(params: Any) -> tuple[jax.Array, jax.Array]:
        logits = network.T5(cfg).apply({"params": params}, inputs, targets)
        mask = (targets != stacks.PAD).astype(jnp.float32)
        sums = loss.cross_entropy(logits, targets, mask)
        return sums.total / sums.weight, logits

    (value, logits), gradients = jax.jit(mean_loss)(params)
    flat = trees.flatten(stacking.unstack_layers(jax.device_get(gradients)))
    return Outcome(
        np.asarray(logits), float(value), hf_weights.to_hf(flat, case.config)
    )


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """max |a - b| / max |b|."""
    return float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
