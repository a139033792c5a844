"""How likely each of several answers is, with one encoder pass for all of them.

The encoder and the decoder's cross-attention keys and values are computed once per
example; the options are decoder rows beside each other that read them.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from hypert5_jax.inference.decoding import repeat_rows
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.loss import token_log_probs
from hypert5_jax.t5.network import T5, shift_right
from hypert5_jax.t5.stacks import PAD, DecoderCache

RANKINGS = ("sum", "mean")


@struct.dataclass
class OptionScores:
    """What a T5 says of the options of b examples.

    Attributes:
      log_prob: float32 [b, o], summed over an option's tokens, EOS included where the
        option has one.
      tokens: int32 [b, o], how many tokens that sums over; 0 where there is no option.
    """

    log_prob: Any
    tokens: Any


def read_inputs(
    config: T5Config,
    params: Any,
    inputs: Array,
    option_length: int,
    phi: Phi | None = None,
) -> DecoderCache:
    """The part that all options of an example share.

    Args:
      config, params: the downstream T5.
      inputs: int32 [b, k].
      option_length: tokens of the options that will be scored.
      phi: of batch 1 or a divisor of b.
    """
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, inputs, phi, method="encode")
    return model.apply(
        variables, encoded, inputs, option_length, phi, method="start_decoding"
    )


def score_options(
    config: T5Config,
    params: Any,
    cache: DecoderCache,
    options: Array,
    phi: Phi | None = None,
) -> OptionScores:
    """Log-probabilities of options int32 [b, o, option_length], padded with 0.

    Args:
      config, params, phi: as `read_inputs` was given.
      cache: from `read_inputs`; stays as it is and serves further options.
    """
    b, o, length = options.shape
    rows = options.reshape(b * o, length)
    logits, _ = T5(config).apply(
        {"params": params},
        shift_right(rows),
        repeat_rows(cache, o),
        phi,
        method="decode_next",
    )
    log_probs, _ = token_log_probs(logits, rows)
    here = rows != PAD
    return OptionScores(
        log_prob=jnp.where(here, log_probs, 0.0).sum(-1).reshape(b, o),
        tokens=here.sum(-1).reshape(b, o),
    )


def ranking(scores: OptionScores, rule: str) -> np.ndarray:
    """What options are ranked by: float64 [b, o], -inf where there is none.

    Args:
      scores: NumPy arrays.
      rule: "sum" of log-probabilities (T0, P3), or their "mean" over the option's
        tokens (MetaICL).
    """
    total = np.asarray(scores.log_prob, np.float64)
    tokens = np.asarray(scores.tokens)
    if rule == "mean":
        total = total / np.maximum(tokens, 1)
    return np.where(tokens > 0, total, -np.inf)


def choose(scores: OptionScores, rule: str) -> np.ndarray:
    """The best option of every example, int64 [b]; of equal ones the first."""
    return np.argmax(ranking(scores, rule), axis=-1)
