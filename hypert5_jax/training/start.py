"""How a run begins: a new state, or what the newest whole checkpoint holds of one.

Where the parameters come from, in order of precedence:
  1. the newest whole checkpoint of the run's directory (trainable groups, optimiser,
     step, data position), its frozen groups made again and compared by fingerprint;
  2. the initial parameters the caller hands in.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from hypert5_jax.checkpoints.store import CheckpointStore
from hypert5_jax.parallel import global_arrays, hosts
from hypert5_jax.parallel.agreement import require_same_parameters
from hypert5_jax.training import optimisers, snapshot
from hypert5_jax.training import state as states
from hypert5_jax.training.schedules import make_schedule
from hypert5_jax.training.settings import TrainConfig
from hypert5_jax.training.state import InitialParams, TrainState

log = logging.getLogger(__name__)
Initial = InitialParams | Callable[[], InitialParams]


@dataclasses.dataclass(frozen=True)
class Start:
    """A run about to make its first or next step.

    Attributes:
      state: laid out over the mesh.
      shardings: a TrainState of NamedShardings.
      optimiser, schedule: what the configuration describes.
      identity: what a later life of the run is compared with.
      metrics: the last value of each that the checkpoint knows.
      since_row: what was measured before it and is in no row of metrics yet.
    """

    state: TrainState
    shardings: TrainState
    optimiser: optax.GradientTransformation
    schedule: optax.Schedule
    identity: snapshot.RunIdentity
    metrics: Mapping[str, float]
    since_row: Mapping[str, Any]


def start(
    system: Any,
    config: TrainConfig,
    initial: Initial,
    store: CheckpointStore | None,
    mesh: Mesh,
    vocabulary: str = "",
    stream: Mapping[str, str | int] | None = None,
) -> Start:
    """Builds the state, or restores what a checkpoint holds of it.

    Raises:
      UserError: the mesh does not divide a parameter; the newest whole checkpoint is
        of another model, seed, stream, optimiser or vocabulary; processes begin with
        different parameters.
    """
    saved = None
    if store is not None and (saved := store.newest_whole()) is not None:
        store.tidy(saved)
    begin = initial if isinstance(initial, InitialParams) else initial()
    trainable, frozen = states.partition(
        begin.params, tuple(system.variant.trainable), config.frozen_dtype
    )
    axes = {g: a for g, a in system.logical_axes().items() if g in begin.params}
    schedule = make_schedule(config.schedule, config.steps)
    optimiser = optimisers.make_optimiser(
        config.optimiser, schedule, {g: axes[g] for g in trainable}, mesh
    )
    shapes = jax.eval_shape(
        lambda t, f: states.new_state(t, f, optimiser), trainable, frozen
    )
    shardings = states.state_shardings(mesh, shapes, axes)
    several = not hosts.alone()
    compared = store is not None or several
    identity = snapshot.RunIdentity(
        config.seed,
        optimisers.identity(config.optimiser, mesh),
        states.fingerprints(frozen) if compared else {},
        begin.origins,
        vocabulary,
        stream or {},
    )
    if store is None or saved is None:
        if several:
            # Later all read those that are trained from one folder.
            marks = states.fingerprints(trainable)
            require_same_parameters({**identity.fingerprints, **marks})
        step = 0
        trainable = states.own_copy(trainable, shardings.trainable)
        make = jax.jit(optimiser.init, out_shardings=shardings.opt_state)
        opt_state = make(trainable)
    else:
        step = saved.step
        trainable, opt_state = snapshot.restore(store, saved, shapes, identity)
        trainable = states.own_copy(trainable, shardings.trainable)
        opt_state = states.own_copy(opt_state, shardings.opt_state)
        log.warning("continuing from step %d (%s)", step, saved.directory)
    state = TrainState(
        step=global_arrays.from_whole(jnp.int32(step), shardings.step),
        trainable=trainable,
        frozen=states.own_copy(frozen, shardings.frozen),
        opt_state=opt_state,
    )
    metrics = {} if saved is None else saved.metrics
    # Checkpoints of earlier releases have none.
    since_row = {} if saved is None else saved.about.get("since_row", {})
    return Start(state, shardings, optimiser, schedule, identity, metrics, since_row)
