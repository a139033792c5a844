"""Whether the checkpoints a run starts from are there, and which recipe makes them."""

from collections.abc import Collection

from hypert5_jax.checkpoints import any_t5, store
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.checkpoints.public_t5 import resolve
from hypert5_jax.config.recipe import Recipe
from hypert5_jax.config.train_run import TrainRun
from hypert5_jax.core.errors import UserError


def require_start(run: TrainRun, made_before: Collection[str] = ()) -> None:
    """Checks that what the run starts from exists; reads no arrays.

    Args:
      run: the run.
      made_before: folders of runs that are trained before this one.

    Raises:
      UserError: a checkpoint is missing; the message has the command that makes it.
    """
    recipe = run.recipe or Recipe("")
    initial = run.initial
    for setting, path, maker, root in (
        (
            "INITIAL_CHECKPOINT_PATH",
            initial.checkpoint_path,
            recipe.checkpoint_recipe,
            initial.checkpoint_path,
        ),
        (
            "INITIAL_ADAPTATION_PATH",
            initial.adaptation,
            recipe.adaptation_recipe,
            initial.adaptation_path,
        ),
    ):
        if path is None or root is None or _made(path, made_before):
            continue
        phi_file = path == initial.adaptation and absolute(path).is_file()
        if phi_file or _exists(path):
            continue
        raise UserError(
            f"no checkpoint at {path}, which {recipe.name or run.model_dir} starts from "
            f"({setting}){_steps(root)}. {_advice(setting, root, maker)}"
        )


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
