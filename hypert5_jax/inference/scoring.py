"""How likely a system finds given targets, with a φ that is already there."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hypert5_jax.core.batch import Batch
from hypert5_jax.hyper.system import Params, System
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.loss import token_log_probs


@struct.dataclass
class TargetScores:
    """What a T5 says of target texts, one entry per row b of a batch.

    Attributes:
      log_prob: float32 [b], the sum over the target's tokens; 0 for an empty row.
      tokens: float32 [b], how many tokens that sums over.
      exact: bool [b], greedy decoding would give the target: every token, EOS included,
        is the most likely one after those before it.
    """

    log_prob: Array
    tokens: Array
    exact: Array


def score_targets(
    system: System, params: Params, batch: Batch, phi: Phi | None = None
) -> TargetScores:
    """Scores a batch's targets in one teacher-forced pass.

    Args:
      system: whose downstream T5 is asked.
      params: its groups.
      batch: B rows; hyper_inputs are read only where the variant generates φ and none
        is given.
      phi: of batch C with B = C * T, or of batch 1. Without it, what the variant says.
    """
    logits = system.logits(params, batch, phi=phi)
    log_probs, _ = token_log_probs(logits, batch.targets)
    weighed = batch.weights > 0
    right = jnp.argmax(logits, axis=-1) == batch.targets
    return TargetScores(
        log_prob=jnp.sum(log_probs * batch.weights, axis=-1),
        tokens=jnp.sum(batch.weights, axis=-1),
        exact=jnp.all(right | ~weighed, axis=-1) & jnp.any(weighed, axis=-1),
    )


class Scorer:
    """`score_targets` and `make_phi` compiled once, for batches of equal shapes."""

    def __init__(self, system: System, params: Params):
        self._params: Any = params
        self._score = jax.jit(
            lambda params, batch, phi: score_targets(system, params, batch, phi)
        )
        self._phi = jax.jit(system.make_phi)

    def phi(self, hyper_inputs: Array | np.ndarray) -> Phi | None:
        """φ for contexts int32 [C, k]."""
        return self._phi(self._params, hyper_inputs)

    def __call__(self, batch: Batch, phi: Phi | None = None) -> TargetScores:
        """The scores of a batch's targets."""
        return self._score(self._params, batch, phi)
