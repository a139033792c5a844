"""The quickstart's small text tasks: four families, composed, some compositions held out.

* ``call``: which of two things is meant, under label words drawn anew for each context
  (shown "my cat" -> "ZUMA", "the dog" -> "FIDA", asked "our cat" -> "cat ZUMA"). Only the
  pairs of a context tell which word stands for what.
* ``tell``: an attribute of a thing, said in one of several forms ("my cat" -> "grey !").
  The set of outputs alone tells the task.
* ``sort``: which of two values of an attribute a thing has, under label words drawn anew
  (grey things are "ZUMA", red ones "FIDA"): a thing may be asked that no shot shows.
* ``trio``: as ``call``, with three things of three kinds. The whole family is held out: no
  training task has three labels.

Label words appear here as the markers ``<label_0>``, ``<label_1>``, ...
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from hypert5_jax.preparation.quickstart.world import (
    FRAMES,
    KNOWN,
    THINGS,
    VALUES,
    things_with,
)

FORMS: dict[str, str] = {
    "plain": "{value}",
    "loud": "{value} !",
    "polite": "it is {value}",
    "full": "the {thing} is {value}",
    "short": "{value} {thing}",
}
# Which compositions are held out: every HELD_OUT_EVERYth of a family.
HELD_OUT_EVERY = 5


@dataclass(frozen=True)
class Example:
    """One input, its target, and the answers it is chosen from (texts with markers).

    `shown` is what a shot shows as its answer: the label word alone, where there is one,
    else the target.
    """

    inputs: str
    targets: str
    options: tuple[str, ...]
    shown: str


@dataclass(frozen=True)
class ToyTask:
    """What a task is: its family, the attribute and how the answer is given.

    `detail` is the form of a ``tell`` task; `values` are the classes of the other
    families, values of the attribute or things, class k answering with the thing and
    ``<label_k>``.
    """

    family: str
    attribute: str
    detail: str = ""
    values: tuple[str, ...] = ()
    held_out: bool = False

    @property
    def name(self) -> str:
        """Unique name, letters, digits and underscores only."""
        parts = (self.family, self.attribute, self.detail, *self.values)
        return "_".join(part for part in parts if part)

    @property
    def needs_pairs(self) -> bool:
        """Whether only the pairing of inputs and targets carries the task."""
        return self.family != "tell"


def all_tasks() -> tuple[ToyTask, ...]:
    """Every task of the quickstart, training and held out, in a fixed order."""
    tasks = []
    number = itertools.count()
    for things in THINGS.values():
        for pair in itertools.combinations(things, 2):
            held_out = next(number) % HELD_OUT_EVERY == 2
            tasks.append(ToyTask("call", "name", "", pair, held_out))
    for (a, attribute), (f, form) in itertools.product(
        enumerate(VALUES), enumerate(FORMS)
    ):
        held_out = (f + a) % HELD_OUT_EVERY == 2
        tasks.append(ToyTask("tell", attribute, form, (), held_out))
    number = itertools.count()
    for attribute, values in VALUES.items():
        for pair in itertools.combinations(values, 2):
            held_out = next(number) % HELD_OUT_EVERY == 2
            tasks.append(ToyTask("sort", attribute, "", pair, held_out))
    for kinds in itertools.combinations(THINGS.values(), 3):
        for three in list(zip(*kinds, strict=True))[:2]:
            tasks.append(ToyTask("trio", "name", "", three, True))
    return tuple(tasks)


def example(task: ToyTask, rng: np.random.Generator) -> Example:
    """One random example of `task`."""
    if task.family == "tell":
        return _tell(task, rng)
    k = int(rng.integers(len(task.values)))
    thing = task.values[k]
    if task.family == "sort":
        thing = str(rng.choice(things_with(task.attribute, thing)))
    options = tuple(f"{thing} <label_{i}>" for i in range(len(task.values)))
    return Example(framed(thing, rng), options[k], options, f"<label_{k}>")


def framed(thing: str, rng: np.random.Generator) -> str:
    """The thing with a word before it, as in "my cat"."""
    return f"{rng.choice(FRAMES)} {thing}"


def _tell(task: ToyTask, rng: np.random.Generator) -> Example:
    thing = str(rng.choice(list(KNOWN)))
    form = FORMS[task.detail]
    options = tuple(
        form.format(value=value, thing=thing) for value in VALUES[task.attribute]
    )
    target = form.format(value=KNOWN[thing][task.attribute], thing=thing)
    return Example(framed(thing, rng), target, options, target)
