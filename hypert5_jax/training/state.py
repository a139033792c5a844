"""The training state, and the one partition into what is trained and what is frozen.

    params {hypermodel, downstream}  --variant.trainable = {hypermodel}-->
        trainable {hypermodel: float32 tree}     gradients, optimiser, checkpoints
        frozen    {downstream: bfloat16 tree}    read only, known by origin + fingerprint

Nothing after this file asks whether a parameter is frozen.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import Array
from jax.sharding import Mesh

from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import global_arrays, rules
from hypert5_jax.t5.stacking import unstack_layers

Tree = Any
Params = dict[str, Tree]


@struct.dataclass
class TrainState:
    """Everything a training step reads and writes.

    Attributes:
      step: int32 scalar, how many updates were made.
      trainable: {group: tree of float32 arrays}.
      frozen: {group: tree of arrays}, bfloat16 unless the run says otherwise.
      opt_state: optax's, for the trainable groups alone.
    """

    step: Any
    trainable: Params
    frozen: Params
    opt_state: Any

    @property
    def params(self) -> Params:
        """All groups, as the system's functions take them."""
        return {**self.frozen, **self.trainable}


@dataclasses.dataclass(frozen=True)
class InitialParams:
    """Parameters a run starts from, and where each group comes from.

    Attributes:
      params: {group: tree of arrays}, every group of the system.
      origins: {group: text}, such as a checkpoint's path or "random, seed 0".
      trained_with: the configuration of the run whose checkpoint it is, where they are
        judged as it left them.
    """

    params: Params
    origins: Mapping[str, str]
    trained_with: str | None = None


def partition(params: Params, trainable: tuple[str, ...], frozen_dtype: str):
    """Splits the groups: (trainable groups in float32, frozen groups in frozen_dtype).

    Raises:
      UserError: a trainable group is not among the parameters.
    """
    missing = [group for group in trainable if group not in params]
    if missing:
        raise UserError(
            f"the variant trains {', '.join(trainable)}, but this system has only the "
            f"groups {', '.join(params)}: {', '.join(missing)} is missing"
        )
    train = {g: trees.cast(t, jnp.float32) for g, t in params.items() if g in trainable}
    frozen = {
        g: trees.cast(t, jnp.dtype(frozen_dtype))
        for g, t in params.items()
        if g not in trainable
    }
    return train, frozen


def random_params(system: Any, seed: int) -> InitialParams:
    """Every group of the system at random, from one seed.

    Args:
      system: with `init(rng) -> {group: tree}`.
      seed: the same gives the same parameters.
    """
    params = jax.jit(system.init)(jax.random.key(seed))
    return InitialParams(dict(params), {g: f"random, seed {seed}" for g in params})


def new_state(
    trainable: Params, frozen: Params, optimiser: optax.GradientTransformation
) -> TrainState:
    """The state at step 0."""
    step = jnp.zeros((), jnp.int32)
    return TrainState(step, trainable, frozen, optimiser.init(trainable))


def own_copy(tree: Tree, shardings: Tree) -> Tree:
    """The tree laid out over the mesh in buffers of its own.

    The step donates its state; `device_put` alone may share buffers with the caller's
    arrays, which would then be deleted under their owner.
    """

    def one(leaf: Any, sharding: Any) -> Array:
        if not sharding.is_fully_addressable:
            return jnp.copy(global_arrays.from_whole(leaf, sharding))
        leaf = leaf.copy() if isinstance(leaf, jax.Array) else leaf
        return jax.device_put(leaf, sharding, may_alias=False)

    return jax.tree.map(one, tree, shardings)


def fingerprints(frozen: Params) -> dict[str, str]:
    """{group: sha256 of its names, shapes and values in the layout on disk}.

    Equal on every host, and for stacked and unstacked layers.
    """
    return {
        group: trees.fingerprint(unstack_layers(jax.tree.map(_Readable, tree)))
        for group, tree in frozen.items()
    }


class _Readable:
    """An array, or one layer of it, fetched from all hosts only when it is read."""

    def __init__(self, array: Any, layer: int | None = None):
        self._array, self._layer = array, layer
        self.shape = array.shape if layer is None else array.shape[1:]

    def __getitem__(self, layer: int) -> "_Readable":
        return _Readable(self._array, layer)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self._array if self._layer is None else self._array[self._layer]
        return np.asarray(global_arrays.to_host(array), dtype)


def state_shardings(mesh: Mesh, shapes: TrainState, axes: Params) -> TrainState:
    """Where every array of a state lies: a TrainState of NamedShardings.

    Args:
      mesh: with axes data, fsdp and model.
      shapes: the state as ShapeDtypeStructs.
      axes: {group: tree of tuples of logical axis names}.

    Raises:
      UserError: a parameter does not divide by the mesh.
    """

    def lay_out(params: Params) -> Params:
        return rules.param_shardings(mesh, params, {g: axes[g] for g in params})

    trainable = lay_out(shapes.trainable)
    opt_state = rules.like_params(mesh, shapes.opt_state, shapes.trainable, trainable)
    return TrainState(
        rules.replicated(mesh), trainable, lay_out(shapes.frozen), opt_state
    )
