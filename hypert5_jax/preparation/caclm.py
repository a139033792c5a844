"""Context-augmented conditional language modelling (CACLM): cutting documents.

A window of 512 tokens of one document is cut into A, B, C, D: the hypermodel reads
`<extra_id_0> A <extra_id_1> D`, the downstream model B, and C is the target (paper §4.1;
lengths, sentinels and EOS: inventory A4, A5, A7).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from hypert5_jax.core.errors import UserError
from hypert5_jax.preparation.bad_lines import Bad, refuse
from hypert5_jax.preparation.declare import add_task
from hypert5_jax.preparation.documents import SPLITS, Documents
from hypert5_jax.preparation.sources import IDS, TEXT, FilesSource, output_features

CUTS = ("fixed", "offset", "random")
MARKERS = ("sentinels", "eos")


@dataclass(frozen=True)
class Segments:
    """How a window is cut.

    Attributes:
      a, b, c, d: tokens of the segments; their sum is the window.
      cuts: "fixed" lengths; "offset", where |A| + |D| is divided at random; "random",
        three uniform cuts, as HINT's copy of the method has.
      markers: what sets off A and D: "sentinels", or an "eos" between them (HINT).
      eos: whether C ends with EOS; not in the default, as the document goes on.
    """

    a: int = 176
    b: int = 32
    c: int = 128
    d: int = 176
    cuts: str = "fixed"
    markers: str = "sentinels"
    eos: bool = False

    def __post_init__(self) -> None:
        if min(self.a, self.b, self.c, self.d) < 1:
            raise UserError(f"segments {self} need at least one token each")
        if self.cuts not in CUTS or self.markers not in MARKERS:
            raise UserError(
                f"cuts={self.cuts!r}, markers={self.markers!r}; expected one of "
                f"{CUTS} and one of {MARKERS}"
            )

    @property
    def window(self) -> int:
        """Tokens of a window."""
        return self.a + self.b + self.c + self.d

    def ends(self, draw: random.Random) -> tuple[int, int, int]:
        """Where A, B and C end in the window."""
        if self.cuts == "random":
            first, second, third = sorted(draw.sample(range(1, self.window), 3))
            return first, second, third
        a = self.a
        if self.cuts == "offset":
            a = draw.randint(1, self.a + self.d - 1)
        return a, a + self.b, a + self.b + self.c

    def cut(
        self, ids: np.ndarray, vocabulary: seqio.Vocabulary, draw: random.Random
    ) -> dict[str, np.ndarray]:
        """Cuts a window, int32 [window], into the three features."""
        a, b, c, d = np.split(ids, self.ends(draw))
        eos = np.array([vocabulary.eos_id], np.int32)
        if self.markers == "eos":
            context = [a, eos, d]
        else:
            last = vocabulary.vocab_size - 1  # <extra_id_0>; the next is one below
            context = [np.array([last]), a, np.array([last - 1]), d]
        target = [c, eos] if self.eos else [c]
        parts = {"inputs": [b], "targets": target, "context": context}
        return {k: np.concatenate(v).astype(np.int32) for k, v in parts.items()}


def read_windows(
    split: str,
    path: Path,
    documents: Documents,
    segments: Segments,
    vocabulary: seqio.Vocabulary,
    seed: int = 0,
    bad: Bad = refuse,
) -> Iterator[dict[str, Any]]:
    """Yields the windows of a file's documents, one after another without overlap.

    A document shorter than a window yields a row that says so, to be counted.

    Raises:
      UserError: a damaged file; a bad line, unless `bad` takes it.
    """
    size = segments.window
    none = np.zeros(0, np.int32)
    short: dict[str, Any] = {"inputs": none, "targets": none, "context": none}
    short |= {"skipped": f"document of fewer than {size} tokens"}
    for number, text in documents.read(split, path, bad):
        ids = np.asarray(vocabulary.encode(text), np.int32)
        # A document's own generator: its cuts do not depend on the documents before it.
        draw = random.Random(f"{seed}:{path.name}:{number}")
        for start in range(0, len(ids) - size + 1, size):
            row = segments.cut(ids[start : start + size], vocabulary, draw)
            yield row | {"skipped": ""}
        if len(ids) < size:
            yield short


def register(
    name: str,
    documents: Documents,
    segments: Segments = Segments(),
    vocabulary: seqio.Vocabulary | None = None,
    seed: int = 0,
) -> None:
    """Registers a CACLM task, with the splits train and validation.

    Args:
      name: of the seqio task.
      documents: where they come from.
      segments: how windows are cut.
      vocabulary: T5's by default.
      seed: of random cuts.
    """
    vocabulary = vocabulary or output_features()["targets"].vocabulary
    read = partial(
        read_windows,
        documents=documents,
        segments=segments,
        vocabulary=vocabulary,
        seed=seed,
    )
    add_task(
        name,
        FilesSource(
            documents.files,
            read,
            {"inputs": IDS, "targets": IDS, "context": IDS, "skipped": TEXT},
            splits=list(SPLITS),
            about=documents.about,
        ),
        vocabulary,
        targets_eos=False,
    )
