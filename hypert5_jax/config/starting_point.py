"""Whether the checkpoints a run starts from are there, and which recipe makes them."""

import dataclasses
from collections.abc import Collection

from hypert5_jax.checkpoints import any_t5, store
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.checkpoints.public_t5 import resolve
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError
from hypert5_jax.training import initial

_T5, _ADAPTATION = "INITIAL_CHECKPOINT_PATH", "INITIAL_ADAPTATION_PATH"


@dataclasses.dataclass(frozen=True)
class _Start:
    """One thing a run starts from.

    Attributes:
      setting: that names it.
      path: what is read: a run, one of its steps, a T5 or a φ file.
      root: the setting's value.
      maker: the recipe that makes it, or "".
    """

    setting: str
    path: str
    root: str
    maker: str

    def is_there(self) -> bool:
        """Whether it exists; reads no arrays."""
        phi_file = self.setting == _ADAPTATION and absolute(self.path).is_file()
        return phi_file or _exists(self.path)

    def missing(self, run: TrainRun) -> str:
        """What is said where it is not."""
        name = (run.recipe and run.recipe.name) or run.model_dir
        return (
            f"no checkpoint at {self.path}, which {name} starts from "
            f"({self.setting}){_steps(self.root)}. "
            f"{_advice(self.setting, self.root, self.maker)}"
        )


def require_start(run: TrainRun, made_before: Collection[str] = ()) -> None:
    """Checks that what the run starts from exists; reads no arrays.

    Args:
      run: the run.
      made_before: folders of runs that are trained before this one.

    Raises:
      UserError: a checkpoint is missing; the message has the command that makes it.
    """
    for start in _starts(run, made_before):
        if not start.is_there():
            raise UserError(start.missing(run))


def check_start(run: TrainRun, made_before: Collection[str] = ()) -> list[str]:
    """The same where nothing is to be trained yet, perhaps far from where it will be.

    Args:
      run, made_before: as for `require_start`.

    Returns:
      Notes: what lies in a bucket, which is not looked at, and what is missing but made
      by another recipe.

    Raises:
      UserError: nothing is named to start from; or something local is missing that no
        recipe makes, or is of another model by its headers.
    """
    initial.require_chosen(run.initial)
    notes = []
    for start in _starts(run, made_before):
        if "://" in resolve(start.path):
            notes.append(f"note: {start.path} ({start.setting}) is not looked at here")
        elif not start.is_there():
            if not start.maker:
                raise UserError(start.missing(run))
            notes.append(f"note: {start.missing(run)}")
        elif start.setting == _T5:
            initial.check_t5(run.system, start.path)
    return notes


def _starts(run: TrainRun, made_before: Collection[str]) -> list[_Start]:
    """What a run starts from, without what is made before it."""
    recipe, config = run.recipe or Recipe(""), run.initial
    named = (
        (_T5, config.checkpoint_path, config.checkpoint_path, recipe.checkpoint_recipe),
        (
            _ADAPTATION,
            config.adaptation,
            config.adaptation_path,
            recipe.adaptation_recipe,
        ),
    )
    return [
        _Start(setting, path, root, maker)
        for setting, path, root, maker in named
        if path is not None and root is not None and not _made(path, made_before)
    ]


def _advice(setting: str, path: str, maker: str) -> str:
    if not maker:
        return (
            f"Set --gin.{setting}=… to a run that trained it, or to your copy of a "
            "public checkpoint (docs/recipes.md says which)"
        )
    command = f"python -m hypert5_jax.train --gin_file=gin/recipes/{maker}.gin"
    if path.rstrip("/") != f"runs/{maker}":
        command += f" --gin.MODEL_DIR={path}"
    return f"The recipe {maker} makes it: {command}"


def _steps(root: str) -> str:
    steps = store.steps_in(root)
    return f"; that run has steps {', '.join(map(str, steps))}" if steps else ""


def _made(path: str, made_before: Collection[str]) -> bool:
    parents = {str(parent) for parent in (absolute(path), *absolute(path).parents)}
    return any(str(absolute(folder)) in parents for folder in made_before)


def _exists(path: str) -> bool:
    try:
        return any_t5.is_t5(resolve(path)) or store.holds_steps(path)
    except UserError:
        raise
    except Exception as error:
        if "://" not in path:
            raise
        # Whatever library reads the bucket, each with errors of its own.
        reason = (str(error) or repr(error)).splitlines()[0]
        raise UserError(
            f"cannot read {path}: {reason}. Give this machine access to it, or copy it "
            "and name the copy"
        ) from error
