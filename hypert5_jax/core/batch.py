"""One training or evaluation batch: static shapes, ids of one vocabulary, 0 is padding."""

import numpy as np
from flax import struct
from jax import Array


@struct.dataclass
class Batch:
    """Rows for one step; C contexts, each shared by T consecutive target examples.

    Attributes:
      hyper_inputs: int32 [C, hyper_length], what the hypermodel reads; a length of 0
        where the variant has no context for it.
      inputs: int32 [B, input_length] with B = C * T, rows c * T ... c * T + T - 1 use
        context c; what the downstream encoder reads.
      targets: int32 [B, target_length], what the downstream decoder must produce.
      weights: float32 [B, target_length], weight of each target token in the loss; 0
        on padding and on rows that only fill up the batch.
    """

    hyper_inputs: Array | np.ndarray
    inputs: Array | np.ndarray
    targets: Array | np.ndarray
    weights: Array | np.ndarray

    @property
    def targets_per_context(self) -> int:
        """T, how many target examples share one context."""
        return self.inputs.shape[0] // max(self.hyper_inputs.shape[0], 1)
