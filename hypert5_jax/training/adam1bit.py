"""1-bit Adam (Tang et al., 2021): momentum crosses devices as signs.

    step 1 … T_w    Adam: gradients are averaged over devices in float32
    afterwards      each device adds its own gradient to the common momentum,
                        m_i = β₁ m + (1 - β₁) g_i
                    the momenta are averaged by parallel/sign_mean.py, and
                        x ← x - γ (m / (1 - β₁^t)) / (√(v / (1 - β₂^T_w)) + ε)
                    with v as the last full step left it

The paper writes Adam without the two corrections of its start; with them the first T_w
steps are the optimiser "adam", and nothing jumps at T_w. A number whose gradient was 0 in
all of those steps has v = 0 and takes no part from then on: one bit cannot say 0, and a
scale divided by √0 + ε would be no step at all.

An update runs on every device along the slice and data axes, inside shard_map, and is
given that device's gradient; training/step.py sees to it. All of them send each other
signs, within a slice as between slices: how many slices the devices lie in changes no
number and no state.
"""

import dataclasses
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from hypert5_jax.core.axes import LAYERS
from hypert5_jax.parallel.mesh import COPY_AXES
from hypert5_jax.parallel.per_device import PerDevice
from hypert5_jax.parallel.sign_mean import sign_mean
from hypert5_jax.parallel.sketch import mean_norm

Tree = Any


class PerDeviceOptimiser(optax.GradientTransformation):
    """An optax transformation that averages gradients over devices by itself.

    Its update takes the gradients of one device, inside shard_map over the mesh; their
    mean over devices is the batch's.

    Attributes:
      mesh: of which the slice and data axes are meant.
    """

    mesh: Mesh

    def __new__(cls, inner: optax.GradientTransformation, mesh: Mesh) -> Self:
        """`inner`, known to be such a one."""
        self = super().__new__(cls, inner.init, inner.update)
        self.mesh = mesh
        return self


class Adam1bitState(NamedTuple):
    """step: int32 scalar, updates made; mu, nu: float32 trees like the parameters;
    error, server_error: such trees of PerDevice, what compression lost:
    [layers?, devices, blocks, block] and [layers?, devices, blocks / devices, block].
    """

    step: Array
    mu: Tree
    nu: Tree
    error: Tree
    server_error: Tree


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How one array is divided into blocks, none of which spans two layers.

    Attributes:
      layers: its leading axis if that is of layers, else None.
      size: numbers in one layer.
      count: blocks of one layer, a multiple of the devices; 0 for an array that is too
        small to be compressed.
      block: numbers in a block.
    """

    layers: int | None
    size: int
    count: int
    block: int

    def shape(self, devices: int, count: int) -> tuple[int, ...]:
        """Of a PerDevice that holds `count` blocks on each device.

        An array that is not compressed has a single 0 there: no checkpoint holds an
        array without numbers.
        """
        leading = () if self.layers is None else (self.layers,)
        return (*leading, devices, *((count, self.block) if count else (1, 1)))

    def divide(self, array: Array) -> Array:
        """An array of the parameter's shape -> [l, count, block], padded with zeros."""
        rows = array.reshape(self.layers or 1, self.size)
        missing = self.count * self.block - self.size
        return jnp.pad(rows, ((0, 0), (0, missing))).reshape(-1, self.count, self.block)

    def join(self, blocks: Array, shape: tuple[int, ...]) -> Array:
        """The inverse of `divide`."""
        return blocks.reshape(self.layers or 1, -1)[:, : self.size].reshape(shape)


def blocks_of(
    param: Any, names: Any, devices: int, block_size: int, min_size: int
) -> Blocks:
    """How an array with these axis names (or None) is divided."""
    stacked = names is not None and LAYERS in names
    layers = param.shape[0] if stacked else None
    size = param.size // (layers or 1)
    share = -(-size // (block_size * devices))
    return Blocks(layers, size, share * devices if size >= min_size else 0, block_size)


def scale_by_adam1bit(
    b1: float,
    b2: float,
    eps: float,
    clip_norm: float | None,
    full_precision_steps: int,
    block_size: int,
    min_size: int,
    axes: Tree,
    devices: int,
) -> optax.GradientTransformation:
    """The change of the parameters without learning rate and sign, gradients averaged.

    Args:
      b1, b2, eps: as in Adam.
      clip_norm: largest norm of the mean gradient; None clips nothing. Once gradients
        are no longer averaged that norm is estimated (parallel/sketch.py). The devices'
        own norms would not do: they are mostly noise, which the mean is rid of.
      full_precision_steps: T_w.
      block_size: numbers that share a scale, a multiple of 8.
      min_size: arrays with fewer numbers, a layer's counted, are averaged in float32.
      axes: tree like the parameters of tuples of logical axis names, or None.
      devices: along the slice and data axes.
    """

    def layout(tree: Tree) -> tuple[list, list[Blocks], Any]:
        leaves, structure = jax.tree.flatten(tree)
        names = [None] * len(leaves) if axes is None else structure.flatten_up_to(axes)
        divided = [
            blocks_of(leaf, n, devices, block_size, min_size)
            for leaf, n in zip(leaves, names, strict=True)
        ]
        return leaves, divided, structure

    def init(params: Tree) -> Adam1bitState:
        leaves, divided, structure = layout(params)

        def zeros() -> Tree:
            return structure.unflatten(jnp.zeros(p.shape, jnp.float32) for p in leaves)

        def errors(ways: int) -> Tree:
            return structure.unflatten(
                PerDevice(jnp.zeros(d.shape(devices, d.count // ways))) for d in divided
            )

        step = jnp.zeros((), jnp.int32)
        return Adam1bitState(step, zeros(), zeros(), errors(1), errors(devices))

    def full(grads: Tree, state: Adam1bitState) -> Adam1bitState:
        grads = jax.lax.pmean(grads, COPY_AXES)
        if clip_norm is not None:
            clip = optax.clip_by_global_norm(clip_norm)
            grads, _ = clip.update(grads, optax.EmptyState())
        mu = jax.tree.map(lambda g, m: (1 - b1) * g + b1 * m, grads, state.mu)
        nu = jax.tree.map(lambda g, v: (1 - b2) * g**2 + b2 * v, grads, state.nu)
        return state._replace(mu=mu, nu=nu)

    def compressed(grads: Tree, state: Adam1bitState) -> Adam1bitState:
        leaves, divided, structure = layout(grads)
        if clip_norm is not None:
            rows = [g.reshape(d.layers or 1, -1) for g, d in zip(leaves, divided)]
            factor = clip_norm / jnp.maximum(mean_norm(rows, COPY_AXES), clip_norm)
            leaves = [g * factor for g in leaves]
        own = [
            (1 - b1) * g + b1 * m
            for g, m in zip(leaves, structure.flatten_up_to(state.mu), strict=True)
        ]
        results = [
            _averaged(*of_one)
            for of_one in zip(
                own,
                structure.flatten_up_to(state.nu),
                structure.flatten_up_to(state.error),
                structure.flatten_up_to(state.server_error),
                divided,
                strict=True,
            )
        ]
        mu, error, server = (structure.unflatten(r) for r in zip(*results, strict=True))
        return state._replace(mu=mu, error=error, server_error=server)

    def update(grads: Tree, state: Adam1bitState, params: Tree | None = None):
        del params
        step = optax.safe_increment(state.step)
        warm = step <= full_precision_steps
        state = jax.lax.cond(warm, full, compressed, grads, state)
        correct1 = 1 - b1**step
        correct2 = 1 - b2 ** jnp.minimum(step, full_precision_steps)
        change = jax.tree.map(
            lambda m, v: (m / correct1) / (jnp.sqrt(v / correct2) + eps),
            state.mu,
            state.nu,
        )
        return change, state._replace(step=step)

    return optax.GradientTransformation(init, update)


def _averaged(
    own: Array, nu: Array, error: PerDevice, server_error: PerDevice, divided: Blocks
) -> tuple[Array, PerDevice, PerDevice]:
    """The mean momentum of one array and what its compression lost."""
    if divided.count == 0:
        return jax.lax.pmean(own, COPY_AXES), error, server_error
    # Of the device axis a device sees its own place alone.
    mean, lost, server_lost = sign_mean(
        divided.divide(own),
        divided.divide(nu) > 0,
        error.values.reshape(-1, *error.values.shape[-2:]),
        server_error.values.reshape(-1, *server_error.values.shape[-2:]),
        COPY_AXES,
    )
    return (
        divided.join(mean, own.shape),
        PerDevice(lost.reshape(error.values.shape)),
        PerDevice(server_lost.reshape(server_error.values.shape)),
    )
