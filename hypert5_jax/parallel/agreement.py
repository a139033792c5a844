"""Whether all processes of a run are about the same thing, asked before it begins.

Each process compiles and feeds its own part of the one program. Where they differ, in a
setting, a library or a file on a host's own disk, nothing else would notice: the copies of
a parameter would drift apart, or the processes wait for each other for ever.
"""

from collections.abc import Mapping

import jax

import hypert5_jax
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import hosts

_SAME_COMMAND = "start all of them with the same command, files and packages"


def require_same_settings(*config_texts: str) -> None:
    """Refuses processes that were started with other settings or versions.

    To be called once they have met, before anything else they do together.

    Args:
      config_texts: the resolved configuration of each run, one after another.

    Raises:
      UserError: as `require_same`.
    """
    general = {
        "hypert5_jax": hypert5_jax.__version__,
        "jax": jax.__version__,
        "the number of runs": str(len(config_texts)),
    }
    require_same("settings", general, _SAME_COMMAND)
    # One after another: there is a limit to what process 0 can say at once.
    for number, config in enumerate(config_texts, start=1):
        lines = enumerate(config.splitlines(), start=1)
        said = {f"line {line} of run {number}": text for line, text in lines}
        require_same("settings", said, _SAME_COMMAND)


def require_same(what: str, said: Mapping[str, str], mend: str) -> None:
    """Refuses a run in which this process is about something else than process 0.

    Called by every process, in the same order, in its main thread.

    Args:
      what: is compared.
      said: of this process, by what it is about.
      mend: what the user is to do.

    Raises:
      UserError: naming the first difference; in each process that differs, and the others
        end with it.
    """
    first = hosts.told(lambda: dict(said))
    for name in (*first, *said):
        if first.get(name) != said.get(name):
            raise UserError(
                f"process {jax.process_index()} has other {what} than process 0: {name} "
                f"is {said.get(name, 'absent')!r} instead of "
                f"{first.get(name, 'absent')!r}; {mend}"
            )


def require_same_parameters(marks: Mapping[str, str]) -> None:
    """Refuses processes that read other parameters.

    Args:
      marks: {group: fingerprint}.

    Raises:
      UserError: as `require_same`.
    """
    require_same(
        "parameters",
        {f"the fingerprint of the {group}": mark for group, mark in marks.items()},
        "give all of them the same checkpoint, in a folder they share or copied whole",
    )
