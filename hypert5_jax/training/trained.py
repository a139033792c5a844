"""The parameters of a trained system, from the checkpoint that is judged."""

import dataclasses
import re

from hypert5_jax.checkpoints import any_t5, store
from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.training.initial import InitialConfig, initial_params
from hypert5_jax.training.state import InitialParams

_RANDOM = re.compile(r"random, seed (\d+)$")


def trained_params(
    system: System,
    checkpoint_path: str | None,
    initial_path: str | None = None,
    vocabulary: str = "",
    allow_random: bool = False,
) -> InitialParams:
    """Every group's parameters: the trained ones from the run, frozen ones from where
    the run had them.

    Args:
      system: decides which groups there are.
      checkpoint_path: a run or one of its checkpoints; or a T5 alone, as T5X or
        Hugging Face has it.
      initial_path: of the frozen downstream T5; by default what the run's checkpoint
        names, which is compared by fingerprint either way.
      vocabulary: fingerprint of the data's; "" compares nothing.
      allow_random: an untrained system where there is no checkpoint.

    Raises:
      UserError: no checkpoint, one of another system, or one that lacks a group.
    """
    adapted = [group for group in system.groups if group != "downstream"]
    if checkpoint_path is None and not allow_random:
        raise UserError(
            "no checkpoint to judge: set CHECKPOINT_PATH to a run, one of its "
            "checkpoints or a T5 of T5X or Hugging Face, or EvaluateRun.allow_random = True"
        )
    if checkpoint_path is None or any_t5.is_t5(checkpoint_path):
        if adapted and not allow_random:
            raise UserError(
                f"{checkpoint_path} is a T5 alone, but the variant has a {adapted[0]}; "
                "set CHECKPOINT_PATH to the run that trained it"
            )
        config = InitialConfig(
            checkpoint_path or initial_path, allow_random=allow_random
        )
        return initial_params(system, config, seed=0, vocabulary=vocabulary)
    about = store.about(store.newest(checkpoint_path))
    base, seed = initial_path, 0
    frozen = about["frozen"]
    if "downstream" not in frozen:
        base = checkpoint_path
    elif base is None:
        base = frozen["downstream"]["origin"]
        if chance := _RANDOM.match(base):
            base, seed = None, int(chance[1])
    own = checkpoint_path if adapted else None
    config = InitialConfig(base, own, allow_random=base is None)
    found = initial_params(system, config, seed, vocabulary)
    return dataclasses.replace(found, trained_with=about["config"] or None)


def hold(system: System, params: dict, frozen_dtype: str) -> dict:
    """The groups as they are used: trained ones in float32, frozen ones as told."""
    frozen = system.variant.frozen
    return {
        group: trees.cast(tree, frozen_dtype if group in frozen else "float32")
        for group, tree in params.items()
    }
