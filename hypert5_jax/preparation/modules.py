"""Finding seqio tasks and mixtures by name, a user's own included."""

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from hypert5_jax.core.errors import UserError


def checkout_tasks() -> Path | None:
    """The `tasks` folder beside the package, in a checkout; None where installed."""
    folder = Path(__file__).resolve().parents[2] / "tasks"
    return folder if folder.is_dir() else None


def import_module(name: str) -> ModuleType:
    """Imports a module that registers tasks.

    `tasks.…` of the checkout is found from any working directory and never looked for
    behind another package of that name; a user's module also beside where they stand.

    Raises:
      UserError: there is no such module, or it fails for want of another.
    """
    if name in sys.modules:
        return sys.modules[name]
    folder = checkout_tasks()
    if folder is not None and name.startswith("tasks."):
        file = folder / f"{name.removeprefix('tasks.')}.py"
        if file.exists():
            return _load(name, file)
    if name.endswith(".py") and Path(name).exists():
        # Known by its place: a stem may be that of another module.
        file = Path(name).resolve()
        return _load(str(file), file)
    _look_here()
    try:
        spec = importlib.util.find_spec(name)
        loaded = _loaded(Path(spec.origin)) if spec and spec.origin else None
        return loaded or importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise _no_module(name, str(error)) from error


def require_modules(names: Sequence[str]) -> None:
    """Checks that modules are there to be imported; imports none of them.

    Raises:
      UserError: one is not.
    """
    for name in names:
        if not _is_there(name):
            raise _no_module(name, "there is none")


def _is_there(name: str) -> bool:
    folder, bundled = checkout_tasks(), f"{name.removeprefix('tasks.')}.py"
    if folder and name.startswith("tasks.") and (folder / bundled).exists():
        return True
    if name in sys.modules or (name.endswith(".py") and Path(name).exists()):
        return True
    _look_here()
    first, *rest = name.split(".")
    spec = importlib.util.find_spec(first)
    for part in rest:
        # find_spec of the whole name would import what it lies in.
        if spec is None or spec.submodule_search_locations is None:
            return False
        inside = [str(place) for place in spec.submodule_search_locations]
        spec = PathFinder.find_spec(f"{spec.name}.{part}", inside)
    return spec is not None


def _look_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)


def _no_module(name: str, reason: str) -> UserError:
    return UserError(
        f"--module={name}: {reason}; give the name of an importable module, or the "
        "path of a .py file, that registers seqio tasks"
    )


def digest_of(modules: Sequence[str]) -> str:
    """Hex sha256 over the source files of modules, in their order; imports them."""
    digest = hashlib.sha256()
    for name in modules:
        file = import_module(name).__file__
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()


def _loaded(file: Path) -> ModuleType | None:
    """The module that was loaded from a file, under whatever name; registering the same
    tasks twice is an error."""
    for module in list(sys.modules.values()):
        # Not the attribute: some modules' own __getattr__ would load others for it.
        place = getattr(module, "__dict__", {}).get("__file__")
        found = Path(place or "")
        if found.name == file.name and found.resolve() == file.resolve():
            return module
    return None


def _load(name: str, file: Path) -> ModuleType:
    loaded = _loaded(file)
    if loaded is not None:
        return loaded
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def find_provider(name: str, modules: Sequence[str] = ()) -> Any:
    """The seqio Task or Mixture of that name.

    Imports `modules` first; if the name is then unknown, the checkout's own tasks.

    Raises:
      UserError: nobody registered that name; near names are listed. Or seqio is not
        installed.
    """
    try:
        with _quietly():
            import seqio
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name!r} has to be prepared, which needs {error.name}: pip install "
            "hypert5_jax[data], or prepare it on another machine and copy the files"
        ) from error

    for module in modules:
        import_module(module)

    def names() -> set[str]:
        return {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}

    folder = checkout_tasks()
    if name not in names() and folder is not None:
        # sni_train is likely to be in sni.py: the others need not be imported then.
        files = sorted(folder.glob("[a-z]*.py"))
        for file in sorted(files, key=lambda file: not name.startswith(file.stem)):
            if name not in names():
                import_module(f"tasks.{file.stem}")
    if name not in names():
        near = get_close_matches(name, names(), n=5, cutoff=0.3)
        raise UserError(
            f"no seqio task or mixture is called {name!r}; near names: "
            f"{', '.join(near) or 'none'}. Name the module that registers it with "
            "--module=my_tasks"
        )
    return seqio.get_mixture_or_task(name)


@contextmanager
def _quietly() -> Iterator[None]:
    """Holds back what TensorFlow's libraries say while they are loaded.

    They report on accelerators they do not find, before any log level applies; what
    they say is shown after all if loading fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
