"""A run's checkpoints: asynchronous, atomic, verified; the newest N and the best.

    {directory}/{step}/params      {group: tree}, T5X's unstacked layout, float32
    {directory}/{step}/optimiser   its state, unstacked alike
    {directory}/{step}/manifest.json   the seal (checkpoints/manifest.py), with metrics
                                       and what the run says about itself

Directories are local or gs:// paths (etils.epath). Older checkpoints are deleted only
after a newer one is sealed, so that at any moment a whole one exists.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from hypert5_jax.checkpoints import dropping, manifest, steps
from hypert5_jax.checkpoints.paths import absolute
from hypert5_jax.checkpoints.steps import Saved
from hypert5_jax.core import storage
from hypert5_jax.core.errors import StorageError, UserError
from hypert5_jax.parallel import hosts

Tree = Any
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written and which are kept.

    Attributes:
      every: steps between checkpoints; the last step always gets one.
      keep: how many of the newest stay.
      best_metric: name of a metric whose best checkpoint stays as well, or None; values
        that are not finite do not count.
      best_mode: "min" or "max", which value of it is best.
      checksums: verify contents as well as sizes on restoring (reads every byte once
        more); False is meant for stores that checksum by themselves, such as gs://.
    """

    every: int = 1000
    keep: int = 3
    best_metric: str | None = None
    best_mode: str = "min"
    checksums: bool = True

    def __post_init__(self) -> None:
        if self.every < 1 or self.keep < 1:
            raise UserError(
                f"checkpoints every={self.every}, keep={self.keep}: both must be at "
                "least 1"
            )
        if self.best_mode not in ("min", "max"):
            raise UserError(f"best_mode is {self.best_mode!r}; choose min or max")


class CheckpointStore:
    """Writes and reads the checkpoints of one run.

    Every process calls every method and writes its own parts of the arrays; process 0
    alone seals, deletes and decides what is whole.
    """

    def __init__(self, directory: str | epath.Path, config: CheckpointConfig):
        self.directory = absolute(directory)
        self.config = config
        self._writer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._saving = -1
        self._told = False  # whether a failure was

    def save(
        self,
        step: int,
        params: Tree,
        optimiser: Tree,
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Begins to write a checkpoint; returns once the arrays are copied to the host.

        Args:
          step: its name; a whole checkpoint of that step is left as it is.
          params, optimiser: trees of arrays.
          about: JSON values: data position, configuration, origins of frozen groups.
          metrics: what `best_metric` is looked up in.

        Raises:
          UserError, StorageError: this or the previous checkpoint could not be written.
        """
        self.wait()
        target = self.directory / str(step)
        self._saving = step
        # With checksums: what has the right sizes alone may be why this step is made anew.
        # The process that seals looks for all: its seal may be a moment old.
        if hosts.told(lambda: manifest.damage(target)) is None:
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(params),
            optimiser=ocp.args.StandardSave(optimiser),
        )
        contents = {"step": step, "metrics": dict(metrics or {}), "about": dict(about)}
        try:
            if self._writer is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self._remove_unfinished()
                self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
            # force: a broken leftover of the same step is replaced.
            self._writer.save(target, args=items, force=True)
        except Exception as error:
            raise self._failed(error) from error
        self._thread = threading.Thread(
            target=self._finish,
            args=(self._writer, target, contents),
            name=f"checkpoint {step}",
        )
        self._thread.start()

    def _finish(
        self,
        writer: ocp.AsyncCheckpointer,
        target: epath.Path,
        contents: dict[str, Any],
    ) -> None:
        """In the background: waits for Orbax's rename, seals, then drops old ones."""
        try:
            writer.wait_until_finished()
            if hosts.is_writer():
                storage.patiently(manifest.write, target, contents)
                self._drop_old(contents["step"])
            # What wait() has waited for, every process can read.
            hosts.barrier("sealed")
        except Exception as error:  # noqa: BLE001 (check() hands it on)
            self._error = error

    def check(self) -> None:
        """Raises what `save` does if writing in the background has failed since asked."""
        if self._error is not None:
            error, self._error = self._error, None
            raise self._failed(error) from error

    def wait(self) -> None:
        """Returns when the checkpoint being written is whole; raises as `check`."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def close(self) -> None:
        """Waits, then lets go of the writer's threads."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                writer, self._writer = self._writer, None
                try:
                    writer.close()
                except Exception as error:
                    if not self._told:  # it comes back from more than one thread
                        raise self._failed(error) from error

    def steps(self) -> list[int]:
        """Steps that have a directory, whole or not, oldest first."""
        return steps.steps(self.directory)

    def newest_whole(self) -> Saved | None:
        """The newest checkpoint that passes verification; warns of each that does not.

        Returns:
          None where no checkpoint was ever finished.

        Raises:
          UserError: checkpoints are there, sealed, but none of them is whole.
          StorageError: one cannot be read, or process 0 sees one that this one does not.
        """
        step = hosts.told(self._newest_whole_step)
        if step < 0:
            return None
        place = self.directory / str(step)
        if (saved := steps.saved(place)) is None:
            # Never a new start beside others that go on.
            raise StorageError(
                f"process {jax.process_index()} does not see the manifest of {place}, "
                "which process 0 finds whole; see that all of them share this folder, "
                "and run the same command again"
            )
        return saved

    def _newest_whole_step(self) -> int:
        sealed_but_broken = []
        for step in reversed(self.steps()):
            place = self.directory / str(step)
            reason = manifest.damage(place, self.config.checksums)
            if reason is None:
                return step
            log.warning(
                "checkpoint %s is not whole and is passed over: %s", place, reason
            )
            if manifest.is_sealed(place):
                sealed_but_broken.append(f"{step}: {reason}")
        if sealed_but_broken:
            raise UserError(
                f"no checkpoint in {self.directory} is whole "
                f"({'; '.join(sealed_but_broken)}); restore one of them from a copy, "
                "or start afresh in another directory"
            )
        return -1

    def read(self, saved: Saved, params: Tree, optimiser: Tree) -> tuple[Tree, Tree]:
        """The arrays of a checkpoint, as NumPy arrays in trees like the two given.

        Args:
          saved: from `newest_whole`.
          params, optimiser: trees of ShapeDtypeStructs in the layout on disk.
        """
        reader = ocp.Checkpointer(ocp.CompositeCheckpointHandler())
        with reader:
            restored = reader.restore(
                saved.directory,
                args=ocp.args.Composite(
                    params=_as_numpy(params), optimiser=_as_numpy(optimiser)
                ),
            )
        return restored["params"], restored["optimiser"]

    def tidy(self, newest: Saved) -> None:
        """Removes what a kill left half written or half dropped.

        Args:
          newest: the newest whole checkpoint.
        """
        if hosts.is_writer():
            self._remove_unfinished()
            self._drop_old(newest.step)

    def _drop_old(self, newest: int) -> None:
        config = self.config
        dropping.drop_old(
            self.directory, newest, config.keep, config.best_metric, config.best_mode
        )

    def _remove_unfinished(self) -> None:
        if hosts.is_writer():
            dropping.drop_unfinished(self.directory)

    def _failed(self, error: BaseException) -> UserError | StorageError:
        self._told = True
        self._remove_unfinished()
        return storage.failed(
            f"the checkpoint of step {self._saving} could not be written to "
            f"{self.directory} (newest whole checkpoint: {self._newest_sealed()})",
            error,
        )

    def _newest_sealed(self) -> str:
        try:
            for step in reversed(self.steps()):
                if steps.saved(self.directory / str(step)) is not None:
                    return f"step {step}"
        except (UserError, StorageError):
            return "not known, they cannot be read either"
        return "no earlier one"


def load_params(path: str | epath.Path) -> tuple[dict[str, Tree], epath.Path]:
    """The parameters of a run's newest whole checkpoint, without its optimiser.

    Args:
      path: a run's directory, its `checkpoints` directory, or one step's directory.

    Returns:
      {group: tree of float32 NumPy arrays in the layout on disk (unstacked layers)},
      and the directory they were read from.

    Raises:
      UserError: there is no checkpoint, or none that is whole.
      StorageError: they cannot be read.
    """
    place = newest(path)
    with _quiet(), ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        shapes = reader.metadata(place / "params").item_metadata.tree
        return reader.restore(place / "params", args=_as_numpy(shapes)), place


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Orbax warns of a metadata file that checkpoints read as one part do not have."""
    its = logging.getLogger("absl")
    before = its.level
    its.setLevel(logging.ERROR)
    try:
        yield
    finally:
        its.setLevel(before)


def newest(path: str | epath.Path) -> epath.Path:
    """The directory of the newest whole step of what `load_params` takes.

    Raises:
      UserError, StorageError: as there.
    """
    path = absolute(path)
    place = _find(path)
    if place is None:
        raise UserError(
            f"no checkpoint at {path}; expected a run's directory, its checkpoints/ "
            "directory or one step's directory inside it"
        )
    return place


def holds_steps(path: str | epath.Path) -> bool:
    """Whether `load_params` would find a step here, be it whole or not."""
    path = absolute(path)
    return manifest.is_sealed(path) or bool(steps_in(path))


def steps_in(path: str | epath.Path) -> list[int]:
    """Steps of a run, or of its `checkpoints` directory, whole or not, oldest first."""
    path = absolute(path)
    return steps.steps(path) or steps.steps(path / "checkpoints")


def whole(step_directory: epath.Path, checksums: bool) -> Saved | None:
    """What a step's manifest says, if `manifest.damage` finds none; else None."""
    if manifest.damage(step_directory, checksums) is not None:
        return None
    return steps.saved(step_directory)


def about(step_directory: epath.Path) -> Mapping[str, Any]:
    """What the run said about itself in the manifest of a whole step."""
    saved = steps.saved(step_directory)
    assert saved is not None, step_directory
    return saved.about


def _find(path: epath.Path) -> epath.Path | None:
    """The directory of one whole step that `path` names or contains."""
    if manifest.is_sealed(path):
        if (reason := manifest.damage(path)) is not None:
            raise UserError(f"the checkpoint {path} is not whole: {reason}")
        return path
    for directory in (path, path / "checkpoints"):
        if steps.steps(directory):
            saved = CheckpointStore(directory, CheckpointConfig()).newest_whole()
            return None if saved is None else saved.directory
    return None


def _as_numpy(tree: Tree) -> Any:
    """Restore arguments: every array whole and on the host, whoever wrote it."""
    import numpy as np

    def empty(leaf: Any) -> np.ndarray:
        return np.zeros(leaf.shape, leaf.dtype)

    return ocp.args.StandardRestore(jax.tree.map(empty, tree))
