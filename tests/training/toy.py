"""A system small enough to compile in a blink, with the methods of hyper.System.

downstream ─ embedding [v, d], encoder/layers/kernel [l, d, d], head [d, v]
hypermodel ─ embedding [v, d], out [d, d]
"""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.core.batch import Batch
from hypert5_jax.t5.loss import LossSums
from hypert5_jax.training.state import random_params

VOCAB, EMBED, LAYERS = 16, 8, 2


@dataclasses.dataclass(frozen=True)
class ToySystem:
    """The hypermodel shifts the downstream's hidden states by what it read."""

    trainable: tuple[str, ...] = ("hypermodel",)
    scan_layers: bool = True
    width: int = EMBED
    dropout_rate: float = 0.5

    @property
    def variant(self):
        return types.SimpleNamespace(trainable=self.trainable, learned_batch=1)

    def init(self, rng):
        a, b, c, d, e = jax.random.split(rng, 5)
        draw, width = jax.random.normal, self.width
        kernel = 0.3 * draw(c, (LAYERS, width, width))
        if self.scan_layers:
            layers = {"layers": {"kernel": kernel}}
        else:
            layers = {f"layers_{i}": {"kernel": kernel[i]} for i in range(LAYERS)}
        return {
            "downstream": {
                "embedding": draw(a, (VOCAB, width)),
                "encoder": layers,
                "head": draw(b, (width, VOCAB)),
            },
            "hypermodel": {
                "embedding": draw(d, (VOCAB, width)),
                "out": 0.1 * draw(e, (width, width)),
            },
        }

    def logical_axes(self):
        kernel = ("embed", "mlp")
        if self.scan_layers:
            layers = {"layers": {"kernel": ("layers", *kernel)}}
        else:
            layers = {f"layers_{i}": {"kernel": kernel} for i in range(LAYERS)}
        return {
            "downstream": {
                "embedding": ("vocab", "embed"),
                "encoder": layers,
                "head": ("embed", "vocab"),
            },
            "hypermodel": {"embedding": ("vocab", "embed"), "out": ("embed", "mlp")},
        }

    def loss(self, params, batch, *, dropout_rng=None, z_loss=0.0):
        hyper, down = params["hypermodel"], params["downstream"]
        context = hyper["embedding"][batch.hyper_inputs].mean(1) @ hyper["out"]
        context = jnp.repeat(context, batch.targets_per_context, axis=0)
        x = down["embedding"].astype(jnp.float32)[batch.inputs].mean(1) + context
        if dropout_rng is not None and self.dropout_rate:
            keep = jax.random.bernoulli(dropout_rng, 1 - self.dropout_rate, x.shape)
            x = jnp.where(keep, x / (1 - self.dropout_rate), 0.0)
        encoder = down["encoder"]
        for i in range(LAYERS):
            if self.scan_layers:
                kernel = encoder["layers"]["kernel"][i]
            else:
                kernel = encoder[f"layers_{i}"]["kernel"]
            x = x + jnp.tanh(x @ kernel.astype(jnp.float32))
        logits = (x @ down["head"].astype(jnp.float32))[:, None, :]
        log_z = jax.nn.logsumexp(logits, axis=-1)
        picked = jnp.take_along_axis(
            jnp.broadcast_to(logits, (*batch.targets.shape, VOCAB)),
            batch.targets[..., None],
            axis=-1,
        )[..., 0]
        loss_sum = jnp.sum((log_z - picked) * batch.weights)
        z_sum = z_loss * jnp.sum(log_z**2 * batch.weights)
        correct = jnp.argmax(logits, -1) == batch.targets
        weight, correct = jnp.sum(batch.weights), jnp.sum(correct * batch.weights)
        return LossSums(loss_sum + z_sum, loss_sum, z_sum, weight, correct)


@functools.cache
def initial(system, seed=0):
    """Random parameters; made once, since `train` leaves the caller's arrays alone."""
    return random_params(system, seed)


def batch_at(step, contexts=8, per_context=2, seed=0):
    """The batch of one step: a pure function of (seed, step)."""
    rng = np.random.default_rng((seed, step))
    rows = contexts * per_context
    return Batch(
        hyper_inputs=rng.integers(1, VOCAB, (contexts, 5), dtype=np.int32),
        inputs=rng.integers(1, VOCAB, (rows, 4), dtype=np.int32),
        targets=rng.integers(1, VOCAB, (rows, 3), dtype=np.int32),
        weights=rng.integers(0, 2, (rows, 3)).astype(np.float32),
    )


def batches(start_step):
    """An endless stream from `start_step` on."""
    step = start_step
    while True:
        yield batch_at(step)
        step += 1
