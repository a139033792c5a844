"""CACLM over any text: a window of a document is cut into A, B, C, D.

    text_caclm              A 176, B 32, C 128, D 176
    text_caclm_offset       B C at a random place of the window
    text_caclm_random       three random cuts

Files: `$HYPERT5_DATA/text/*.jsonl.gz` with a field `text`, as C4 has. One document in
fifty is the split `validation`. Other files, or plain text: call `caclm.register`.
"""

from hypert5_jax.preparation.caclm import Segments, register
from hypert5_jax.preparation.documents import JsonLines

_DOCUMENTS = JsonLines("$HYPERT5_DATA/text/*.jsonl.gz")

register("text_caclm", _DOCUMENTS)
register("text_caclm_offset", _DOCUMENTS, Segments(cuts="offset"))
register("text_caclm_random", _DOCUMENTS, Segments(cuts="random"))
