"""What is to be run, whatever the machine: a front door, gin files and overrides.

Nothing here knows a hyper-parameter: gin files and `--gin.NAME=VALUE` are handed through
as they come. Standard library only, as in all of launch/: these scripts run where
hypert5_jax is not installed.
"""

import argparse
import dataclasses
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
USER_ERROR = 2
INTERRUPTED = 130
_GIN = re.compile(r"--gin\.[^=]+=.*", re.DOTALL)
# Names of machines, workloads and jobs; 40 characters are the least that any tool takes.
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE|_KEY$|(^|_)PAT$",
    re.IGNORECASE,
)
# Overrides that place results: a macro, or the field it is bound to.
_PLACE = re.compile(
    r"--gin\.((?:.*\.)?(?:model_dir|output_dir))=(.*)", re.IGNORECASE | re.DOTALL
)
# What must be placed for a front door to leave nothing on the disk of its machine.
_PLACED = {
    "train": r"(.*\.)?model_dir|trainsweep\.output_dir",
    "evaluate": r"(.*\.)?(model_dir|output_dir)",
}


class UsersMistake(Exception):
    """What the user can mend; becomes a message and exit code 2."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One run.

    Attributes:
      name: of the machine or job; from the first gin file unless given.
      front_door: the module of hypert5_jax that is run.
      gin: `--gin_file=…`, `--gin_search_paths=…` and `--gin.…=…`, in order.
      env: NAME=VALUE pairs the run sees.
    """

    name: str
    front_door: str
    gin: tuple[str, ...]
    env: tuple[str, ...]

    def command(self, python: str) -> list[str]:
        """The run as a command line, to be started in a checkout."""
        return [python, "-m", f"hypert5_jax.{self.front_door}", *self.gin]

    def gin_files(self) -> list[str]:
        """The gin files, in order."""
        prefix = "--gin_file="
        return [arg.removeprefix(prefix) for arg in self.gin if arg.startswith(prefix)]

    def require_results_in_bucket(self) -> None:
        """Refuses a run that would leave results on the machine's own disk.

        Raises:
          UsersMistake: saying what the front door wants.
        """
        lost = "until_done deletes the machine, with all that is on its own disk; "
        if self.front_door == "tune":
            raise UsersMistake(
                f"{lost}tune writes to a local folder only: pass --keep, fetch the "
                "results when it is done, and `tpu.py delete` the machine"
            )
        # Of several values of a name the last one holds.
        found = [match for arg in self.gin if (match := _PLACE.fullmatch(arg))]
        places = {match[1]: match[2] for match in found}
        for name, value in places.items():
            if not value.strip("'\" ").startswith("gs://"):
                raise UsersMistake(
                    f"{lost}--gin.{name}={value} is there: pass gs://… or --keep"
                )
        wanted = re.compile(_PLACED[self.front_door], re.IGNORECASE)
        if not any(wanted.fullmatch(name) for name in places):
            raise UsersMistake(
                f"{lost}pass --gin.MODEL_DIR=gs://… (a sweep: "
                "--gin.TrainSweep.output_dir=gs://…; evaluate: --gin.OUTPUT_DIR=gs://…) "
                "or --keep"
            )


def new_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that every launcher takes."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--gin.NAME=VALUE is handed through to the run.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gin_file", action="append", default=[], metavar="FILE", help="the recipe"
    )
    parser.add_argument("--gin_search_paths", metavar="DIR,DIR")
    parser.add_argument(
        "--front_door", default="train", choices=["train", "tune", "evaluate"]
    )
    parser.add_argument(
        "--name", help="of the machine or job; from the recipe if absent"
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="environment of the run; never a secret",
    )
    parser.add_argument(
        "--compilation_cache",
        metavar="DIR",
        help="where compiled programs are kept between attempts, such as gs://…",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="print every command, run none"
    )
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str]
) -> tuple[argparse.Namespace, Request]:
    """The launcher's own arguments, and what is to be run.

    Raises:
      UsersMistake: no recipe, a name no cloud takes, an environment variable that is
        malformed or looks like a secret.
    """
    args = parser.parse_args([arg for arg in argv if not _GIN.fullmatch(arg)])
    if not args.gin_file:
        raise UsersMistake("no recipe; pass --gin_file=gin/recipes/….gin")
    gin = [f"--gin_file={file}" for file in args.gin_file]
    if args.gin_search_paths:
        gin.append(f"--gin_search_paths={args.gin_search_paths}")
    gin += [arg for arg in argv if _GIN.fullmatch(arg)]
    name = args.name or _name_of(args.gin_file[0])
    if not _NAME.fullmatch(name):
        raise UsersMistake(
            f"--name={name}: expected at most 40 lower-case letters, digits and '-', "
            "a letter first"
        )
    env = list(args.env)
    if args.compilation_cache:
        env.append(f"JAX_COMPILATION_CACHE_DIR={args.compilation_cache}")
    for pair in env:
        _check_env(pair)
    return args, Request(name, args.front_door, tuple(gin), tuple(env))


def require_in_checkout(files: Sequence[str], known: Sequence[str]) -> None:
    """Refuses gin files that a copy of the checkout would not have.

    Args:
      files: as given with --gin_file.
      known: the files of the copy, relative to the checkout.

    Raises:
      UsersMistake: naming the first that is missing.
    """
    for file in files:
        if file not in known:
            raise UsersMistake(
                f"--gin_file={file} is not a file of the checkout that git knows by "
                "this name, so the machine would not have it; write it relative to "
                f"{CHECKOUT} and `git add` it"
            )


def end(main: Callable[[Sequence[str]], int]) -> None:
    """Calls main(arguments) and ends the process: a message, not a traceback."""
    try:
        sys.exit(main(sys.argv[1:]))
    except UsersMistake as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _name_of(file: str) -> str:
    """gin/recipes/p3_large/hypert5_prefix.gin -> p3-large-hypert5-prefix"""
    path = file.removesuffix(".gin").split("gin/recipes/")[-1]
    return re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[-40:].strip("-")


def _check_env(pair: str) -> None:
    name, equals, _ = pair.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UsersMistake(f"--env={pair}: expected NAME=VALUE")
    if _SECRET.search(name):
        raise UsersMistake(
            f"--env={name}=…: commands and their environment are printed and logged; "
            "give the machine's service account the right instead of handing a secret on"
        )
