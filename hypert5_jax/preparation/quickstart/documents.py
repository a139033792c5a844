"""Documents in four segments A B C D whose C only A and D make predictable, and skill texts.

`document` draws what nobody can know beforehand (who likes what, what is called by which
made-up word) and states it in A and D; B leads up to C and reveals nothing of it.
`reading` is the same text as a language model meets it: the beginning, then how it goes
on. `skill_text` names the skills of the tasks, as a real language model has met many by
name in web text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hypert5_jax.preparation.quickstart.tasks import FORMS, framed
from hypert5_jax.preparation.quickstart.world import (
    KNOWN,
    OWNERS,
    VALUES,
    choose,
)

# How many facts go on after the beginning of a document in pretraining.
GOES_ON = 1
# Most facts of a document.
MOST = 4
# Share of pretraining documents that go on with one answer instead.
ANSWERS = 0.75


@dataclass(frozen=True)
class Document:
    """Four consecutive segments of one text, and further facts that follow from it."""

    a: str
    b: str
    c: str
    d: str
    more: str


def document(rng: np.random.Generator, words: Sequence[str]) -> Document:
    """A random document; `words` are the made-up words it may use."""
    size = int(rng.integers(2, 4))
    if rng.random() < 0.75:
        said = dict(
            zip(choose(rng, tuple(KNOWN), size), choose(rng, words, size), strict=True)
        )
        return _document(rng, said, lambda thing: f"{framed(thing, rng)} is")
    said = dict(
        zip(choose(rng, OWNERS, size), choose(rng, tuple(KNOWN), size), strict=True)
    )
    return _document(rng, said, lambda owner: f"{owner} likes")


def _document(
    rng: np.random.Generator, said: dict[str, str], lead: Callable[[str], str]
) -> Document:
    """Facts "lead(subject) object ." for every subject, up to MOST in all.

    Short documents on purpose: looking facts up is learned several times sooner from
    three facts than from seven.
    """
    subjects = choose(rng, list(said), len(said))
    again = int(rng.integers(MOST - len(said) + 1))
    subjects += [str(rng.choice(subjects)) for _ in range(again)]
    order = [subjects[i] for i in rng.permutation(len(subjects))]
    facts = [f"{lead(subject)} {said[subject]} ." for subject in order]
    half = (len(facts) + 1) // 2
    asked = str(rng.choice(subjects))
    more = [str(rng.choice(subjects)) for _ in range(GOES_ON)]
    return Document(
        a=" ".join(facts[:half]),
        b=lead(asked),
        c=f"{said[asked]} .",
        d=" ".join(facts[half:]),
        more=" ".join(f"{lead(subject)} {said[subject]} ." for subject in more),
    )


def reading(rng: np.random.Generator, words: Sequence[str]) -> tuple[str, str]:
    """(text, its continuation): a document whose facts all come before C."""
    text = document(rng, words)
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
