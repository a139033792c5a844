"""How every front door begins and ends: its arguments; one message and an exit code.

0    done, or stopped by SIGTERM with everything saved
1    a defect of ours (traceback); a training step that was not finite, storage that fails
     in a way that may pass, or nobody who reads what is printed (message)
2    a mistake of the user's (message)
75   another process of the run was lost, or could not be met (message); the same command
     goes on
130  interrupted from the keyboard

Of several processes the first that fails ends all, with its code.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from hypert5_jax.core.errors import StorageError, UserError
from hypert5_jax.parallel import lost

USER_ERROR = 2
_UNREAD = (
    "ended before it was done: whoever read its output is gone (broken pipe); the same "
    "command goes on from what is saved, its output to a file or to one who reads it all"
)
INTERRUPTED = 130


def command_line(name: str, description: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m hypert5_jax.{name}`, still without arguments.

    Args:
      name: of the front door.
      description: its docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m hypert5_jax.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Which trained system a front door uses: --checkpoint and --base."""
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a run, one of its checkpoints, or a folder of Model.save",
    )
    parser.add_argument(
        "--base", metavar="PATH", help="the run's frozen T5, if it has moved"
    )


def run(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None = None,
    *,
    only_prints: bool = False,
) -> NoReturn:
    """Calls main(arguments without the program's name) and exits the process."""
    sys.exit(exit_code(main, sys.argv[1:] if argv is None else argv, only_prints))


def exit_code(
    main: Callable[[Sequence[str]], int | None],
    argv: Sequence[str],
    only_prints: bool = False,
) -> int:
    """Calls main and turns what users can mend into a message on standard error.

    Args:
      main: of a front door.
      argv: its arguments.
      only_prints: it leaves nothing unmade when nobody reads on (`… | head`), which is
        no failure then; nor is it one of a dry run.

    Returns:
      The exit code.
    """
    _quiet_logs()
    try:
        code = main(argv) or 0
        lost.finish()
        return code
    except UserError as error:
        lost.await_verdict(error)
        return _say(message_of(error), USER_ERROR)
    except StorageError as error:
        lost.await_verdict(error)
        return _say(message_of(error), 1)
    except FloatingPointError as error:
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # At its end Python would try once more to write what is left in the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if only_prints or "--dry_run" in argv:
            lost.leave(0, "nobody reads on")
            return 0
        return _say(_UNREAD, 1)
    except Exception as error:
        lost.await_verdict(error)
        if not lost.watching():
            raise
        traceback.print_exc()
        return _say(f"{type(error).__name__}: {error}"[:500], 1)


def message_of(error: UserError | StorageError) -> str:
    """The error's own text, without the call chain gin adds to it."""
    return str(error).split("\n  In call to configurable")[0].strip()


def _say(message: str, code: int) -> int:
    text = f"error: {message}" if code != INTERRUPTED else message
    lost.leave(code, text)
    print(text, file=sys.stderr)
    return code


def _quiet_logs() -> None:
    """Our warnings on standard error, one line each; JAX's errors only, not Orbax's.

    What Orbax cannot write, checkpoints/store.py says; Orbax adds its call stacks.
    """
    # force: packages that log while they are imported have set up a format of theirs.
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True
    )
    for name, level in _OF_OTHERS.items():
        logging.getLogger(name).setLevel(level)


# Orbax logs as absl.
_OF_OTHERS = {
    "absl": logging.CRITICAL,
    "orbax": logging.CRITICAL,
    "jax": logging.ERROR,
}
