"""A small world of things, the attributes people know of them, and made-up words.

Everything the quickstart says is about these things. What a thing *is* (its kind, colour,
size and place) never changes: it is what a language model would know of the world. What is
drawn anew for each document or context (what is called "ZUMA") is never here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# name: (colour, size, place), grouped by kind.
THINGS: dict[str, dict[str, tuple[str, str, str]]] = {
    "animal": {
        "cat": ("grey", "small", "house"),
        "dog": ("brown", "middle", "house"),
        "horse": ("brown", "large", "farm"),
        "cow": ("white", "large", "farm"),
        "crab": ("red", "small", "sea"),
        "frog": ("green", "small", "forest"),
    },
    "food": {
        "apple": ("red", "small", "farm"),
        "bread": ("brown", "middle", "house"),
        "cheese": ("yellow", "middle", "farm"),
        "salt": ("white", "small", "sea"),
        "honey": ("yellow", "middle", "forest"),
        "melon": ("green", "large", "farm"),
    },
    "tool": {
        "hammer": ("grey", "middle", "house"),
        "ladder": ("brown", "large", "farm"),
        "axe": ("grey", "middle", "forest"),
        "net": ("green", "large", "sea"),
        "brush": ("red", "small", "house"),
        "hook": ("white", "small", "sea"),
    },
    "cloth": {
        "hat": ("grey", "small", "house"),
        "sock": ("white", "small", "house"),
        "boot": ("brown", "middle", "farm"),
        "scarf": ("red", "middle", "forest"),
        "tent": ("green", "large", "forest"),
        "sail": ("yellow", "large", "sea"),
    },
}

ATTRIBUTES = ("kind", "colour", "size", "place")
KNOWN: dict[str, dict[str, str]] = {
    thing: {"kind": kind, "colour": colour, "size": size, "place": place}
    for kind, things in THINGS.items()
    for thing, (colour, size, place) in things.items()
}
VALUES: dict[str, tuple[str, ...]] = {
    attribute: tuple(dict.fromkeys(known[attribute] for known in KNOWN.values()))
    for attribute in ATTRIBUTES
}

# What stands before a thing, as in "my cat".
FRAMES = (
    *("a", "the", "my", "this", "one", "your"),
    *("his", "her", "our", "that", "some", "each"),
)

# A made-up word is one of the first syllables and one of the last.
FIRST = ("BA", "DE", "FI", "GO", "KU", "LE", "MI", "ZU")
LAST = ("BO", "DA", "KE", "MA", "TI")


def things_with(attribute: str, value: str) -> tuple[str, ...]:
    """Names of all things whose `attribute` is `value`, in the order of THINGS."""
    return tuple(name for name, known in KNOWN.items() if known[attribute] == value)


def made_up_words() -> tuple[str, ...]:
    """All made-up words, in capitals, as "ZUMA"."""
    return tuple(first + last for first in FIRST for last in LAST)


def split_label_words() -> tuple[list[str], list[str]]:
    """(label words of training tasks, label words of held-out tasks only).

    One word of each first syllable is held out. All of them occur in the documents, as
    rare words occur in web text; the held-out ones are never a label of a training task.
    """
    unseen = [first + LAST[i % len(LAST)] for i, first in enumerate(FIRST)]
    return [word for word in made_up_words() if word not in unseen], unseen


def choose(rng: np.random.Generator, sequence: Sequence[str], size: int) -> list[str]:
    """`size` different members of `sequence` in random order."""
    return [sequence[i] for i in rng.permutation(len(sequence))[:size]]
