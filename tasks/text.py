"""Context-augmented conditional language modelling (CACLM) over JSON lines of text.

A window of 512 tokens of one document is cut into A, B, C, D: the hypermodel reads
`<extra_id_0> A <extra_id_1> D`, the downstream model B, and C is the target (paper §4.1;
lengths, sentinels and EOS: inventory A4, A5, A7).

    text_caclm              A 176, B 32, C 128, D 176
    text_caclm_offset       B C at a random place of the window
    text_caclm_random       three random cuts

Files: `$HYPERT5_DATA/text/*.jsonl.gz` with a field `text`, as C4 has; another glob: call
`register`. One document in fifty is the split `validation`.
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
from hypert5_jax.preparation.json_files import read_json_lines
from hypert5_jax.preparation.locations import data_folder, vocabulary_model
from hypert5_jax.preparation.sources import IDS, TEXT, FilesSource

VALIDATION_EVERY = 50
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


def text_files(pattern: str | None, split: str) -> list[Path]:
    """The files of the pattern, sorted.

    Raises:
      UserError: there are none.
    """
    glob = Path(pattern) if pattern else data_folder() / "text" / "*.jsonl.gz"
    found = sorted(Path(glob.anchor or ".").glob(str(glob.relative_to(glob.anchor))))
    if not found:
        raise UserError(
            f"no file matches {glob}; set HYPERT5_DATA to the folder above `text`, or "
            "register your own pattern with tasks.text.register"
        )
    return found


def read_windows(
    split: str,
    path: Path,
    segments: Segments,
    vocabulary: seqio.Vocabulary,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Yields the windows of a file's documents, one after another without overlap.

    A document shorter than a window yields a row that says so, to be counted.

    Raises:
      UserError: a malformed line (file and line) or one without `text`.
    """
    size = segments.window
    for number, fields in read_json_lines(path):
        if (number % VALIDATION_EVERY == 0) != (split == "validation"):
            continue
        if not isinstance(fields.get("text"), str):
            raise UserError(f"{path}:{number}: no field `text` that is a string")
        ids = np.asarray(vocabulary.encode(fields["text"]), np.int32)
        draw = random.Random(f"{seed}:{path.name}:{number}")
        for start in range(0, len(ids) - size + 1, size):
            row = segments.cut(ids[start : start + size], vocabulary, draw)
            yield row | {"skipped": ""}
        if len(ids) < size:
            none = np.zeros(0, np.int32)
            row = {"inputs": none, "targets": none, "context": none}
            yield row | {"skipped": f"document of fewer than {size} tokens"}


def register(
    name: str,
    pattern: str | None = None,
    segments: Segments = Segments(),
    vocabulary: seqio.Vocabulary | None = None,
    seed: int = 0,
) -> None:
    """Registers a CACLM task over files of JSON lines, gzipped or not.

    Args:
      name: of the seqio task.
      pattern: glob of the files; `$HYPERT5_DATA/text/*.jsonl.gz` by default.
      segments: how windows are cut.
      vocabulary: T5's by default.
      seed: of random cuts.
    """
    vocabulary = vocabulary or seqio.SentencePieceVocabulary(
        vocabulary_model(), extra_ids=100
    )
    read = partial(read_windows, segments=segments, vocabulary=vocabulary, seed=seed)
    seqio.TaskRegistry.add(
        name,
        FilesSource(
            partial(text_files, pattern),
            read,
            {"inputs": IDS, "targets": IDS, "context": IDS, "skipped": TEXT},
            splits=["train", "validation"],
        ),
        output_features={
            "inputs": seqio.Feature(vocabulary, add_eos=False),
            "targets": seqio.Feature(vocabulary, add_eos=False),
        },
        preprocessors=[],
        metric_fns=[],
    )


register("text_caclm")
register("text_caclm_offset", segments=Segments(cuts="offset"))
register("text_caclm_random", segments=Segments(cuts="random"))
