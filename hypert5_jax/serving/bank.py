"""A φ bank: a folder of φ files, one task each, found by name.

    BANK/sentiment.safetensors   as phi/files.py writes them; also by hand, with `mv`

Files are memory-mapped when they are read, written whole or not at all, and replaced in
one step, so that several processes may share a folder. All φ of a bank have the shapes
of one specification and were made for one downstream T5; others are refused by name.
"""

import contextlib
import dataclasses
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from hypert5_jax.core import storage
from hypert5_jax.core.errors import StorageError, UserError
from hypert5_jax.phi import files, types
from hypert5_jax.phi.spec import DECODER_CROSS, PrefixSpec, Site, Spec, phi_shapes

SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Files being written; a kill may leave one behind.
_UNFINISHED = ".unfinished-"
_STALE_SECONDS = 3600.0


class BadName(UserError):
    """A name that is no task's."""


class NoSuchTask(UserError):
    """No φ of that name."""


class TaskExists(UserError):
    """There is a φ of that name, and it was not to be replaced."""


class Replaced(UserError):
    """The file is no longer the one that was found: find it again."""


@dataclasses.dataclass(frozen=True)
class StoredPhi:
    """One φ file as it was when it was found; equal values hold equal φ.

    Attributes:
      name: of the task.
      inode, modified, size: of the file (number, nanoseconds, bytes).
    """

    name: str
    inode: int
    modified: int
    size: int


def check_name(name: str) -> str:
    """The name, if it is one.

    Raises:
      BadName: it could leave the folder, hide in it, or is too long.
    """
    if not _NAME.fullmatch(name):
        raise BadName(
            f"{name[:120]!r} is no name for a task: expected 1 to 100 letters, digits, "
            "'.', '_' and '-', of which the first is a letter or a digit"
        )
    return name


class Bank:
    """The folder; safe to use from several threads and processes.

    Args:
      folder: made if it is missing.
      spec, sites: what all φ here adapt, and the downstream model's blocks.
      base_model: its fingerprint.

    Raises:
      UserError: the folder cannot be made.
    """

    def __init__(
        self, folder: str, spec: Spec, sites: Mapping[str, Site], base_model: str
    ):
        self.spec, self.sites, self.base_model = spec, sites, base_model
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.folder = Path(folder).resolve(strict=True)
            self._sweep()
        except OSError as error:
            raise UserError(
                f"cannot use {folder} as a bank: {error.strerror or error}; expected a "
                "folder that can be written"
            ) from error
        self._shapes = _shapes_of(phi_shapes(spec, sites, 1))

    def names(self) -> list[str]:
        """Names of all tasks, sorted. What is no φ file by its name, is left out."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(SUFFIX)
                if name == entry.name or not _NAME.fullmatch(name):
                    continue
                with contextlib.suppress(OSError):  # deleted meanwhile
                    if entry.is_file(follow_symlinks=False):
                        found.append(name)
        return sorted(found)

    def find(self, name: str) -> StoredPhi:
        """The φ file of a task, not read yet.

        Raises:
          BadName: not a name.
          NoSuchTask: no file, or a link or anything else that is no plain file.
        """
        check_name(name)
        try:
            about = os.lstat(self._file(name))
        except FileNotFoundError:
            raise NoSuchTask(f"no task {name!r} in the bank") from None
        except OSError as error:
            raise UserError(f"cannot read task {name!r}: {error.strerror}") from error
        if not stat.S_ISREG(about.st_mode):
            raise NoSuchTask(f"task {name!r} is a link or a folder, not a φ file")
        return StoredPhi(name, about.st_ino, about.st_mtime_ns, about.st_size)

    def read(self, stored: StoredPhi) -> types.Phi:
        """φ of batch 1.

        Raises:
          Replaced: the file was replaced or deleted since it was found.
          UserError: a damaged file, or φ of another base model or of other shapes.
        """
        self._check_unchanged(stored)
        path = str(self._file(stored.name))
        try:
            phi, _ = files.load_phi(path, self.sites, self.base_model)
        except UserError as error:
            self._check_unchanged(stored)  # that it was replaced says more
            # Callers know names, not the server's folders.
            what = str(error).replace(path, f"task {stored.name!r}")
            raise UserError(what) from error
        self._check_unchanged(stored)
        phi = self._own_arrays(phi)
        self._check_shapes(phi, f"task {stored.name!r}")
        return phi

    def put(
        self,
        name: str,
        phi: types.Phi,
        header: files.PhiHeader,
        replace: bool = False,
    ) -> StoredPhi:
        """Writes φ of batch 1, whole or not at all.

        Args:
          name: of the task.
          phi, header: as for phi/files.py:save_phi.
          replace: instead of the φ that has the name.

        Raises:
          BadName, TaskExists: see `replace`.
          UserError: φ of another base model or of other shapes, values that are not
            finite.
          UserError, StorageError: the folder cannot be written.
        """
        final = self._file(check_name(name))
        if header.base_model != self.base_model:
            raise UserError(
                f"φ for task {name!r} was made for the T5 {header.base_model[:16]}…, "
                f"this bank holds φ for {self.base_model[:16]}…"
            )
        self._check_shapes(self._own_arrays(phi), f"task {name!r}")
        beside = self.folder / f"{_UNFINISHED}{uuid.uuid4().hex}{SUFFIX}"
        try:
            files.save_phi(str(beside), phi, header)
            # To the nanosecond: file systems' own clocks tick every few milliseconds,
            # and inodes are used again, so that two φ might look like one.
            os.utime(beside, ns=(time.time_ns(),) * 2)
            found = os.lstat(beside)
            if replace:
                os.replace(beside, final)
            else:
                # A link is refused where the name is taken, whoever took it.
                os.link(beside, final)
        except FileExistsError:
            raise TaskExists(
                f"there is a task {name!r}: choose another name, or ask to replace it"
            ) from None
        except (UserError, StorageError) as error:
            what = str(error).replace(str(beside), f"task {name!r}")
            raise type(error)(what) from error
        except OSError as error:
            what = f"cannot write task {name!r} to the bank"
            raise storage.failed(what, error) from error
        finally:
            beside.unlink(missing_ok=True)
        return StoredPhi(name, found.st_ino, found.st_mtime_ns, found.st_size)

    def delete(self, name: str) -> None:
        """Removes a task; requests that are already running are answered.

        Raises:
          BadName, NoSuchTask: as `find`.
          UserError, StorageError: the folder cannot be written.
        """
        self.find(name)
        try:
            self._file(name).unlink(missing_ok=True)
        except OSError as error:
            raise storage.failed(f"cannot delete task {name!r}", error) from error

    def _own_arrays(self, phi: types.Phi) -> types.Phi:
        """φ without the cross-attention that only repeats the decoder's own prefix."""
        if not shares_decoder_prefix(self.spec):
            return phi
        kept = {k: v for k, v in types.named_arrays(phi) if DECODER_CROSS not in k}
        return types.from_named_arrays(kept)

    def _check_shapes(self, phi: types.Phi, what: str) -> None:
        given = _shapes_of(phi)
        for array in sorted(given.keys() | self._shapes.keys()):
            if given.get(array) != self._shapes.get(array):
                raise UserError(
                    f"{what}: φ {array} is {given.get(array) or 'absent'}, all φ of "
                    f"this bank have {self._shapes.get(array) or 'none'} ({self.spec}); "
                    "use a bank of its own for φ of other shapes"
                )

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"

    def _check_unchanged(self, stored: StoredPhi) -> None:
        try:
            if self.find(stored.name) == stored:
                return
        except NoSuchTask:
            pass
        raise Replaced(
            f"task {stored.name!r} was replaced or deleted while it was waited for: "
            "ask again"
        )

    def _sweep(self) -> None:
        """Removes what killed writers left."""
        for path in self._unfinished():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                    path.unlink()

    def _unfinished(self) -> Iterator[Path]:
        return self.folder.glob(f"{_UNFINISHED}*")


def shares_decoder_prefix(spec: Spec) -> bool:
    """Whether cross-attention sees the decoder's own prefix; files hold it once."""
    return isinstance(spec, PrefixSpec) and spec.cross_attention == "share_decoder"


def _shapes_of(phi: types.Phi) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in types.named_arrays(phi)}
