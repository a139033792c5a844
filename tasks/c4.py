"""CACLM over C4, the hyperpretraining of the paper (§4.1): A, B, C, D of a document.

    c4_caclm              A 176, B 32, C 128, D 176
    c4_caclm_offset       B C at a random place of the window
    c4_caclm_random       three random cuts

Looked for in this order, the first that is there is taken:

    $HYPERT5_DATA/c4/en/3.0.1/                    as TFDS prepares it
    $HYPERT5_DATA/c4/en/c4-train.*.json.gz        as the Allen Institute redistributes it
    $HYPERT5_DATA/c4/en/*.txt, *.txt.gz           plain text, a document per file

Any part of the files will do. Others, or other segments: call `caclm.register`. See
docs/c4.md.
"""

from hypert5_jax.preparation.caclm import Segments, register
from hypert5_jax.preparation.documents import FirstThere, JsonLines, PlainText, Tfds

_FOLDER = "$HYPERT5_DATA/c4/en"
_DOCUMENTS = FirstThere(
    (
        Tfds(f"{_FOLDER}/3.0.1"),
        JsonLines(
            f"{_FOLDER}/c4-train.*.json.gz", f"{_FOLDER}/c4-validation.*.json.gz"
        ),
        PlainText(f"{_FOLDER}/*.txt*"),
    ),
    missing=(
        f"{_FOLDER} holds neither 3.0.1/ (prepared by TFDS) nor c4-train.*.json.gz nor "
        "*.txt; put C4 there, set HYPERT5_DATA to the folder above `c4`, or register "
        "other files with hypert5_jax.preparation.caclm.register"
    ),
)

register("c4_caclm", _DOCUMENTS)
register("c4_caclm_offset", _DOCUMENTS, Segments(cuts="offset"))
register("c4_caclm_random", _DOCUMENTS, Segments(cuts="random"))
