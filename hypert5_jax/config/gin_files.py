"""gin files and `--gin.NAME=VALUE` arguments, read with T5X's habits and checked.

    --gin_file=gin/models/t5_1_1_small.gin    repeatable; later files override earlier
    --gin.TRAIN_STEPS=100                     overrides every file
    --gin_search_paths=a,b                    where relative files are looked for
    --dry_run                                 build, check, print; train nothing

A name nobody knows, a macro nothing uses and a macro nothing sets are refused here,
before anything is built.
"""

import argparse
import contextlib
import dataclasses
import difflib
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import gin
import gin.config as gin_config

from hypert5_jax.config import registry
from hypert5_jax.config.hosts_arguments import add_hosts, read_hosts
from hypert5_jax.core import field_types
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel.hosts import HostsConfig

_OVERRIDE = re.compile(r"--gin\.([^=]+)=(.*)", re.DOTALL)
_MACRO = "gin.macro"
# So that gin/models/… is found from any folder; an installed package has no gin/.
_CHECKOUT = str(pathlib.Path(__file__).resolve().parents[2])
# `--gin.MODEL_DIR=/tmp/run` without quotes: a word or a path, which gin cannot read as
# a value of its own. What begins with a digit or a bracket is never taken for text.
_BARE_TEXT = re.compile(r"[A-Za-z/.~][\w/.:~+=-]*")


@dataclasses.dataclass(frozen=True)
class GinArguments:
    """What the command line says about the configuration.

    Attributes:
      files: gin files in order.
      bindings: "NAME = VALUE" lines, after all files.
      search_paths: folders for relative files, after the current one.
      dry_run: build and check only.
      resolved: text of a resolved configuration, read before the files.
      hosts: of several processes, how this one finds the others.
    """

    files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...] = ()
    dry_run: bool = False
    resolved: str = ""
    hosts: HostsConfig = dataclasses.field(default_factory=HostsConfig)


def read_arguments(program: str, description: str, argv: Sequence[str]) -> GinArguments:
    """The arguments of a front door; exits with code 2 on an unknown one."""
    bindings = [m for arg in argv if (m := _OVERRIDE.fullmatch(arg))]
    rest = [arg for arg in argv if not _OVERRIDE.fullmatch(arg)]
    parser = argparse.ArgumentParser(
        prog=f"python -m {program}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--gin.NAME=VALUE overrides a macro or a setting of the gin files.",
        allow_abbrev=False,
    )
    parser.add_argument("--gin_file", action="append", default=[], metavar="FILE")
    parser.add_argument(
        "--gin_search_paths", default="", metavar="DIR,DIR", help="for relative files"
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="build, check, print the configuration and the parameters, and stop",
    )
    add_hosts(parser)
    args = parser.parse_args(rest)
    return GinArguments(
        files=tuple(args.gin_file),
        bindings=tuple(f"{m[1]} = {_quoted(m[2])}" for m in bindings),
        search_paths=tuple(p for p in args.gin_search_paths.split(",") if p),
        dry_run=args.dry_run,
        hosts=read_hosts(args),
    )


def _quoted(value: str) -> str:
    """The value as gin reads it: paths and words may come without quotes."""
    try:
        gin_config.parse_value(value)
    except (ValueError, SyntaxError):
        return repr(value) if _BARE_TEXT.fullmatch(value) else value
    return value


def build(target: type, arguments: GinArguments) -> tuple[Any, str]:
    """An instance of a registered dataclass as the gin files say.

    gin's global state is emptied before and after: calls do not see each other.

    Args:
      target: one of the registry's classes.
      arguments: files and overrides.

    Returns:
      The instance, and the resolved configuration as a gin file that builds it again.

    Raises:
      UserError: a file is missing or malformed, a name unknown, a macro unused or
        unset, or what is built refuses its values.
    """
    with _parsed(arguments):
        _check_macros()
        instance = _instantiate(target)
        field_types.check(instance)
        return instance, gin.operative_config_str()


def settings(arguments: GinArguments) -> dict[str, Any]:
    """{"TrainRun.model_dir": value, "MODEL_DIR": value}: all that files and overrides set,
    and every macro they use; one that nothing sets has the value gin.REQUIRED.

    Raises:
      UserError: a file is missing or malformed.
    """
    with _parsed(arguments):
        given, used = _macros()
        found: dict[str, Any] = dict.fromkeys(used - given, gin.REQUIRED)
        for (scope, selector), values in gin_config._CONFIG.items():
            cls = selector.split(".")[-1]
            for name, value in values.items():
                if selector == _MACRO:
                    found[scope] = value
                else:
                    found[f"{scope}/{cls}.{name}".lstrip("/")] = value
        return found


@contextlib.contextmanager
def _parsed(arguments: GinArguments) -> Iterator[None]:
    """gin's global state holds the files and overrides while this lasts."""
    registry.register()
    gin.clear_config()
    prefixes = list(gin_config._LOCATION_PREFIXES)
    readers = list(gin_config._FILE_READERS)
    try:
        gin_config._LOCATION_PREFIXES.extend([*arguments.search_paths, _CHECKOUT])
        # Not the one that takes folders for packages: it fails on one without Python.
        gin_config._FILE_READERS[:] = readers[:1]
        _parse(arguments)
        yield
    finally:
        gin_config._LOCATION_PREFIXES[:] = prefixes
        gin_config._FILE_READERS[:] = readers
        gin.clear_config()


def rebuild(target: type, resolved: str) -> Any:
    """The instance that a resolved configuration, such as a checkpoint's, describes.

    Raises:
      UserError: as `build`.
    """
    return build(target, GinArguments((), (), resolved=resolved))[0]


def _parse(arguments: GinArguments) -> None:
    try:
        gin.parse_config(arguments.resolved)
    except (ValueError, SyntaxError, ImportError, AttributeError) as error:
        raise UserError(f"a resolved configuration: {_explained(error)}") from error
    for file in arguments.files:
        try:
            gin.parse_config_file(file)
        except OSError as error:
            raise UserError(
                f"cannot read the gin file {file}; looked in the current folder and "
                f"({', '.join(arguments.search_paths) or 'no search paths'}). Check "
                "the name, or pass --gin_search_paths"
            ) from error
        except (ValueError, SyntaxError, ImportError, AttributeError) as error:
            raise UserError(f"{file}: {_explained(error)}") from error
    for binding in arguments.bindings:
        try:
            gin.parse_config(binding)
        except (ValueError, SyntaxError, ImportError, AttributeError) as error:
            name = binding.split(" = ", 1)[0]
            raise UserError(f"--gin.{name}: {_explained(error, binding)}") from error


def _macros() -> tuple[set[str], set[str]]:
    """Names of the macros that are set, and of those that are used."""
    config = gin_config._CONFIG
    macro = gin.get_configurable(_MACRO)
    given = {scope for scope, selector in config if selector == _MACRO}
    used = {
        "/".join(reference.scoped_selector.split("/")[:-1])
        for reference in gin_config.iterate_references(config, to=macro)
    }
    return given, used


def _check_macros() -> None:
    """Every macro that is set is used, and every one that is used is set."""
    given, used = _macros()
    for name in sorted(given - used):
        raise UserError(
            f"{name} is set, but nothing in the gin files uses it{_near(name, used)}"
        )
    unset = sorted(used - given)
    if unset:
        flags = " ".join(f"--gin.{name}=…" for name in unset)
        raise UserError(
            f"the gin files use {', '.join(unset)}, which nothing sets; pass {flags} "
            "or set them in a gin file"
        )


def _instantiate(target: type) -> Any:
    try:
        return gin.get_configurable(target)()
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        text = str(error).splitlines()[0]
        within = re.search(r"In call to configurable '(\w+)'", str(error))
        missing = re.search(r"missing \d+ required positional arguments?: (.*)", text)
        if missing:
            raise UserError(
                f"{text.split('.')[0].split('(')[0]} is not fully configured: "
                f"{missing[1]} must be set in a gin file"
            ) from error
        name = within[1] if within else target.__name__
        raise UserError(
            f"a setting of {name} has a value of the wrong kind: {text}"
        ) from error


def _explained(error: Exception, binding: str = "") -> str:
    """gin's message, with the nearest known names."""
    text = str(error).strip()
    if binding and isinstance(error, SyntaxError):
        value = binding.split(" = ", 1)[1]
        return (
            f"cannot read the value {value}; text with anything but letters, digits and "
            "./:~+=-_ needs quotes within the shell's: \"'…'\""
        )
    field = re.search(r"'([\w.]+)'.*?doesn't have a parameter\s+named '(\w+)'", text)
    if field:
        name = field[1].split(".")[-1]
        known = registry.fields_of(name)
        return f"{name} has no setting {field[2]!r}{_near(field[2], known)}"
    unknown = re.search(
        r"[Nn]o configurable matching (?:reference )?'?@?([\w./]+)"
        r"|Unknown configurable named '([\w./]+)'",
        text,
    )
    if unknown:
        name = (unknown[1] or unknown[2]).split("/")[-1].strip(".")
        return f"nothing is called {name!r}{_near(name, registry.known())}"
    return text.replace("\n", " ")


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return f"; known: {', '.join(sorted(known)) or 'none'}"
