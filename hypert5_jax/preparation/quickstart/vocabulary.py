"""A small SentencePiece vocabulary trained on the quickstart's own text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hypert5_jax.preparation.quickstart.documents import document, skill_text
from hypert5_jax.preparation.quickstart.world import (
    FRAMES,
    KNOWN,
    made_up_words,
)
from hypert5_jax.preparation.trained_vocabulary import train_bpe

VARIABLE = "QUICKSTART_VOCABULARY"
_LINES = 6000
# Padding, EOS and the unknown word.
_SPECIAL = 3


def train_vocabulary(path: Path, seed: int = 0) -> Path:
    """Writes a BPE model of the world's words to `path`; equal seeds give equal bytes.

    Every word of the world is one piece, the things first, as frequent words are one
    piece of a large vocabulary; other text is unknown to it. Id 0 is padding,
    1 EOS, as in T5.
    """
    lines = list(_lines(seed))
    words = _words(lines)
    whole = [f"▁{word}" for word in words]
    return train_bpe(path, lines, len(words) + _SPECIAL, whole)


def _words(lines: list[str]) -> list[str]:
    """Every word of the quickstart's text, once, things first."""
    known = [*KNOWN, *made_up_words(), *FRAMES]
    spoken = {word for line in lines for word in line.split()}
    return [*known, *sorted(spoken - set(known))]


def _lines(seed: int) -> Iterator[str]:
    rng = np.random.default_rng([seed, 17])
    words = made_up_words()
    for _ in range(_LINES):
        text = document(rng, words)
        yield f"{text.a} {text.b} {text.c} {text.d}"
        yield " ".join(skill_text(rng))
