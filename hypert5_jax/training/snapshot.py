"""Between a training state and what a checkpoint holds of it.

    TrainState ─ step, trainable, opt_state   -> arrays on disk, layers unstacked
               ─ frozen                       -> origin and fingerprint, never arrays
    data position, seed, parameter shapes,
    optimiser's name, configuration text      -> the manifest's "about"

Memory may stack layers or not; disk never does, for the optimiser's state neither, so a
run may be continued with another `scan_layers`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from hypert5_jax.checkpoints.steps import Saved
from hypert5_jax.checkpoints.store import CheckpointStore
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import stack_layers, unstack_layers
from hypert5_jax.training.state import TrainState

Tree = Any


@dataclasses.dataclass(frozen=True)
class RunIdentity:
    """What must agree between a checkpoint and the run that continues from it.

    Attributes:
      seed: of data order and dropout.
      optimiser: its name and what else its state depends on; another one's state
        cannot be read.
      fingerprints: {frozen group: sha256}.
      origins: {group: where its initial parameters came from}, for messages.
      vocabulary: fingerprint of the data's vocabulary; "" is compared with nothing.
      stream: what the batches depend on beside seed and step, {name: value}; what only
        one side names is compared with nothing.
    """

    seed: int
    optimiser: str
    fingerprints: Mapping[str, str]
    origins: Mapping[str, str]
    vocabulary: str = ""
    stream: Mapping[str, str | int] = dataclasses.field(default_factory=dict)


def save(
    store: CheckpointStore,
    state: TrainState,
    identity: RunIdentity,
    config_text: str,
    metrics: Mapping[str, float],
    since_row: Mapping[str, Any],
) -> None:
    """Begins a checkpoint of `state` under its step; the data position is that step.

    Args:
      store: that it goes to.
      state: all of it; frozen groups are left out.
      identity: what a later life of the run is compared with.
      config_text: the run's configuration.
      metrics: the last value of each.
      since_row: JSON values of what was measured after the last row of metrics.

    Raises:
      UserError, StorageError: it, or the one before, could not be written.
    """
    step = int(state.step)
    groups = state.trainable.keys()
    params, optimiser = _unstack(
        _to_host_if_possible((state.trainable, state.opt_state)), groups
    )
    about = {
        "data": {"start_step": step, "seed": identity.seed, **identity.stream},
        "optimiser": identity.optimiser,
        "vocabulary": identity.vocabulary,
        "frozen": {
            group: {"origin": identity.origins.get(group, "unknown"), "sha256": digest}
            for group, digest in identity.fingerprints.items()
        },
        "origins": dict(identity.origins),
        "parameters": _table(params),
        "config": config_text,
        "since_row": dict(since_row),
    }
    store.save(step, params, optimiser, about, metrics)


def restore(
    store: CheckpointStore, saved: Saved, shapes: TrainState, identity: RunIdentity
) -> tuple[Tree, Tree]:
    """The trainable groups and the optimiser state of a checkpoint, in memory's layout.

    Args:
      store: that `saved` came from.
      saved: which checkpoint.
      shapes: the state this run would start with, as ShapeDtypeStructs.
      identity: of this run.

    Returns:
      (trainable, opt_state), trees of NumPy arrays.

    Raises:
      UserError: the checkpoint is of another model, seed, stream or optimiser.
    """
    groups = shapes.trainable.keys()
    on_disk = jax.eval_shape(
        lambda pair: _unstack(pair, groups), (shapes.trainable, shapes.opt_state)
    )
    _check_same_parameters(saved, _table(on_disk[0]))
    _check_same_run(saved, identity)
    params, optimiser = store.read(saved, *on_disk)
    if jax.tree.structure(on_disk) == jax.tree.structure(
        (shapes.trainable, shapes.opt_state)
    ):
        return params, optimiser
    return _stack((params, optimiser), groups)


def _check_same_run(saved: Saved, identity: RunIdentity) -> None:
    about = saved.about
    if about["data"]["seed"] != identity.seed:
        raise UserError(
            f"the checkpoint {saved.directory} was written with seed "
            f"{about['data']['seed']}, this run has seed {identity.seed}: its data "
            "would not go on where they stopped; use that seed or another directory"
        )
    for name, value in identity.stream.items():
        then = about["data"].get(name, value)
        if then != value:
            raise UserError(
                f"the checkpoint {saved.directory} was trained with {name} {then}, this "
                f"run has {value}: its data would not go on where they stopped; use "
                "that, or start in another directory from this one's parameters"
            )
    if about["optimiser"] != identity.optimiser:
        raise UserError(
            f"the checkpoint {saved.directory} holds the state of "
            f"{about['optimiser']}, this run uses {identity.optimiser}; use that "
            "optimiser, or start in another directory with these parameters as initial "
            "ones"
        )
    vocabularies = {about["vocabulary"], identity.vocabulary} - {""}
    if len(vocabularies) > 1:
        raise UserError(
            f"the checkpoint {saved.directory} was trained with vocabulary "
            f"{about['vocabulary'][:12]}, the data were prepared with "
            f"{identity.vocabulary[:12]}; prepare them with the model's vocabulary"
        )
    frozen = about["frozen"]
    if frozen.keys() != identity.fingerprints.keys():
        raise UserError(
            f"the checkpoint {saved.directory} is of another model: frozen there were "
            f"({', '.join(frozen) or 'no groups'}), here "
            f"({', '.join(identity.fingerprints) or 'no groups'})"
        )
    for group, digest in identity.fingerprints.items():
        if frozen[group]["sha256"] != digest:
            raise UserError(
                f"the checkpoint {saved.directory} is of another model: its frozen "
                f"{group} came from {frozen[group]['origin']} with fingerprint "
                f"{frozen[group]['sha256'][:12]}, here it comes from "
                f"{identity.origins.get(group, 'unknown')} with fingerprint "
                f"{digest[:12]}; give the same initial checkpoint or another directory"
            )


def _check_same_parameters(saved: Saved, here: Mapping[str, list[int]]) -> None:
    there = saved.about["parameters"]
    if there == here:
        return
    path = next(p for p in [*here, *there] if there.get(p) != here.get(p))
    raise UserError(
        f"the checkpoint {saved.directory} is of another model: parameter {path} is "
        f"{there.get(path, 'absent')} there and {here.get(path, 'absent')} here; give "
        "the configuration it was trained with (its manifest holds it) or another "
        "directory"
    )


def _table(params: Tree) -> dict[str, list[int]]:
    return {path: list(leaf.shape) for path, leaf in trees.flatten(params).items()}


def _unstack(tree: Tree, groups) -> Tree:
    return _on_mirrors(unstack_layers, tree, groups)


def _stack(tree: Tree, groups) -> Tree:
    return _on_mirrors(stack_layers, tree, groups)


def _on_mirrors(function: Callable[[Tree], Tree], tree: Tree, groups) -> Tree:
    """Applies `function` to every dict in `tree` that has exactly the trainable groups.

    Such are the parameters themselves, and Adam's moments or Adafactor's states.
    """

    def is_mirror(node: Any) -> bool:
        return isinstance(node, dict) and node.keys() == groups

    return jax.tree.map(
        lambda node: function(node) if is_mirror(node) else node,
        tree,
        is_leaf=is_mirror,
    )


def _to_host_if_possible(tree: Tree) -> Tree:
    """NumPy copies where this process holds the arrays whole, else the arrays.

    Slicing layers out of NumPy arrays costs nothing; on devices it would need memory
    for a second copy of everything trained.
    """
    if all(leaf.is_fully_addressable for leaf in jax.tree.leaves(tree)):
        # The copy matters: on CPU device_get may alias a buffer the next step reuses.
        return jax.tree.map(lambda leaf: np.array(leaf), tree)
    return tree
