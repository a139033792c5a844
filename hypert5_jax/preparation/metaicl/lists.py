"""The three settings of the paper: which tasks train, which test, and their kinds."""

from dataclasses import dataclass
from functools import cache
from importlib import resources

SETTINGS = ("hr_to_lr", "non_nli_to_nli", "non_class_to_class")
KINDS = ("classification", "multi-choice", "free-form")


@dataclass(frozen=True)
class Setting:
    """Tasks to train on and tasks to be judged on, in the official order."""

    train: tuple[str, ...]
    test: tuple[str, ...]


def setting(name: str) -> Setting:
    """One of SETTINGS."""
    lists = _lists()
    return Setting(lists[f"{name} train"], lists[f"{name} test"])


def kind_of(task: str) -> str | None:
    """One of KINDS for the tasks of the settings, None for others."""
    for kind in KINDS:
        if task in _lists()[kind]:
            return kind
    return None


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    text = resources.files(__package__).joinpath("lists.txt").read_text("utf-8")
    found: dict[str, tuple[str, ...]] = {}
    heading = ""
    for line in text.splitlines():
        if line.startswith("["):
            heading = line.strip("[]")
            found[heading] = ()
        elif line and not line.startswith("#"):
            found[heading] += tuple(line.split())
    return found
