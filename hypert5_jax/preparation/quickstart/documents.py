"""Documents in four segments A B C D whose C only A and D make predictable, and skill texts.

A document names things by made-up words, as nobody can know beforehand: "my cat ZUMA .
the dog FIDA ." The facts stand in A and D; B mentions a thing ("our cat") and C names it
("cat ZUMA"), which nothing in B reveals. C says the thing again on purpose: a name is
then always what follows its thing, and the habit the base learns, to look up what follows
the word just said, is one that φ can serve. Answering at once with the name, a T5 as often
learned to mark the right fact while reading the question beside it, where a φ that has
never seen the question cannot help.
`reading` is the same text as a language model meets it: the beginning, then how it goes
on. `skill_text` names the skills of the tasks, as a real language model has met many by
name in web text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hypert5_jax.preparation.quickstart.tasks import FORMS, framed
from hypert5_jax.preparation.quickstart.world import KNOWN, VALUES, choose

# How many facts go on after the beginning of a document in pretraining.
GOES_ON = 2
# Most facts of a document. Short documents on purpose: looking facts up is learned
# several times sooner from three facts than from seven.
MOST = 4
# Share of pretraining documents that go on with one answer instead.
ANSWERS = 0.5


@dataclass(frozen=True)
class Document:
    """Four consecutive segments of one text, and further facts that follow from it."""

    a: str
    b: str
    c: str
    d: str
    more: str


def document(
    rng: np.random.Generator, words: Sequence[str], plain: bool = False
) -> Document:
    """A random document; `words` are the made-up words it may use.

    Facts about two or three things, some said more than once. A `plain` one says two or
    three facts once and without the word before the thing: "cat ZUMA . dog FIDA ."
    """
    size = int(rng.integers(2, 4))
    names = zip(choose(rng, tuple(KNOWN), size), choose(rng, words, size), strict=True)
    said = dict(names)

    def lead(thing: str) -> str:
        return thing if plain else framed(thing, rng)

    if plain:
        subjects = list(said)
    else:
        many = [name for name in said for _ in range(MOST)]
        subjects = choose(rng, many, int(rng.integers(size, MOST + 1)))
    facts = [f"{lead(subject)} {said[subject]} ." for subject in subjects]
    half = (len(facts) + 1) // 2
    asked = str(rng.choice(subjects))
    more = [str(rng.choice(subjects)) for _ in range(GOES_ON)]
    return Document(
        a=" ".join(facts[:half]),
        b=lead(asked),
        c=f"{asked} {said[asked]}",
        d=" ".join(facts[half:]),
        more=" ".join(f"{lead(subject)} {said[subject]} ." for subject in more),
    )


def reading(
    rng: np.random.Generator, words: Sequence[str], plain: bool = False
) -> tuple[str, str]:
    """(text, its continuation): a document whose facts all come before C."""
    text = document(rng, words, plain)
    if rng.random() < ANSWERS:
        return f"{text.a} {text.d} {text.b}", text.c
    return f"{text.a} {text.d}", text.more


def skill_text(rng: np.random.Generator) -> tuple[str, str]:
    """(text, its continuation): a skill asked for by its name, and the answer."""
    thing, attribute = str(rng.choice(list(KNOWN))), str(rng.choice(list(VALUES)))
    if rng.random() < 0.3:
        return f"the {attribute} of {framed(thing, rng)} is", KNOWN[thing][attribute]
    form = str(rng.choice(list(FORMS)))
    target = FORMS[form].format(value=KNOWN[thing][attribute], thing=thing)
    return f"{form} {attribute} : {framed(thing, rng)}", target
