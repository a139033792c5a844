"""Whether what a run's folder holds may go by the settings that are asked for now.

A run with steps left goes on from its newest checkpoint under the settings it is given.
One without is not trained again: under other settings, its checkpoint and its scores would
go by what they were not made with. Scores of two trainings are not mixed.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator
from typing import Any

from etils import epath

from hypert5_jax.checkpoints import store
from hypert5_jax.checkpoints.store import Saved
from hypert5_jax.config import gin_files
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError

# Of a TrainRun, what decides which parameters come out …
_PARTS = ("system", "data", "train", "initial")
# … but for places, speed, rounding, and what is measured or kept by the way.
_MAY_DIFFER = frozenset(
    {
        "T5Config.scan_layers",
        "T5Config.remat",
        "T5Config.attention",
        "DataConfig.prepared_dir",  # a digest is compared with the checkpoint's
        "DataConfig.modules",
        "DataConfig.num_workers",
        "TrainConfig.microbatches",
        "TrainConfig.log_every",
        "TrainConfig.eval_every",
        "TrainConfig.max_skips",
        "TrainConfig.stall_seconds",
        "TrainConfig.on_stall",
        "TrainConfig.mesh",
        "TrainConfig.checkpoints",
    }
)
# Whether a resolved configuration is of a TrainRun.
_OF_TRAINING = re.compile(r"^TrainRun\.", re.MULTILINE)
_FROZEN_T5 = "InitialConfig.checkpoint_path"


def require_same_training(run: TrainRun) -> None:
    """Checks that what is there, and will go by this run's settings, was made with them:
    the last checkpoint, if no steps are left; or else scores in the place of this run's.

    Reads manifests and configurations, no arrays.

    Raises:
      UserError: it was made with others, named one by one, or with more steps.
    """
    saved = _newest(run)
    if saved is None or saved.step < run.train.steps:
        _require_no_other_scores(run)
    else:
        _require_trained_so(run, saved)


def _require_trained_so(run: TrainRun, saved: Saved) -> None:
    """Of a run without steps left."""
    if saved.step > run.train.steps:
        raise UserError(
            f"{run.model_dir} has made {saved.step} steps, more than TRAIN_STEPS = "
            f"{run.train.steps}; set TRAIN_STEPS to {saved.step} or more, choose another "
            "MODEL_DIR, or judge an earlier checkpoint with python -m "
            "hypert5_jax.evaluate and CHECKPOINT_PATH"
        )
    config = saved.about["config"]
    changed = _changes(config, run, str(saved.directory)) if config else []
    if changed:
        raise UserError(
            f"all {saved.step} steps of {run.model_dir} are made, with other settings: "
            f"{'; '.join(changed[:5])}. Nothing would be trained with these; choose "
            "another MODEL_DIR, give it the settings of then (its config.gin has them), "
            "or set more TRAIN_STEPS to go on with the new ones"
        )


def _require_no_other_scores(run: TrainRun) -> None:
    """Of a run with steps left: otherwise judging says so, when they are all made."""
    judged = run.evaluation
    if judged is None or judged.checkpoint_path != run.model_dir:
        return
    config = epath.Path(judged.output_dir or "") / "config.gin"
    if not config.exists() or not _OF_TRAINING.search(text := config.read_text()):
        return
    if changed := _changes(text, run, str(config)):
        raise UserError(
            f"{config.parent} holds scores of another training: "
            f"{'; '.join(changed[:5])}. Those of this one could not go there; choose "
            "another OUTPUT_DIR, or delete that one"
        )


def _newest(run: TrainRun) -> Saved | None:
    """The newest checkpoint with a seal and all its bytes; their values nobody reads."""
    place = epath.Path(run.model_dir) / "checkpoints"
    steps = reversed(store.steps_in(place))
    found = (store.whole(place / str(step), checksums=False) for step in steps)
    return next((saved for saved in found if saved is not None), None)


def _changes(config_text: str, now: TrainRun, place: str) -> list[str]:
    """What decides the parameters and has changed: "T5Config.emb_dim was 8, is 16".

    Args:
      config_text: a resolved configuration.
      now: the run to compare with.
      place: where that text is from, for the message.

    Raises:
      UserError: the text is of no run, or one this version has no settings for.
    """
    try:
        then = gin_files.rebuild(TrainRun, config_text)
    except UserError as error:
        raise UserError(
            f"the settings {place} was made with cannot be read ({error}); choose "
            "another MODEL_DIR"
        ) from error
    may_differ = set(_MAY_DIFFER)
    if "downstream" in now.system.variant.frozen:
        # It may have moved: its fingerprint is compared with the checkpoint's.
        may_differ.add(_FROZEN_T5)
    return [
        change
        for part in _PARTS
        for change in _differences(getattr(then, part), getattr(now, part), may_differ)
    ]


def _differences(then: Any, now: Any, may_differ: Collection[str]) -> Iterator[str]:
    """Between two instances of one dataclass, field by field."""
    for field in dataclasses.fields(now):
        name = f"{type(now).__name__}.{field.name}"
        old, new = getattr(then, field.name), getattr(now, field.name)
        if name in may_differ:
            continue
        if dataclasses.is_dataclass(new) and type(old) is type(new):
            yield from _differences(old, new, may_differ)
        elif old != new:
            yield f"{name} was {old!r}, is {new!r}"
