"""Where the bundled tasks look for data and vocabulary, and how to say otherwise.

HYPERT5_DATA names the folder that holds `sni/`, `text/` and `t5/vocab/`; without it, a
checkout looks into `../shared/data`. HYPERT5_VOCABULARY names a SentencePiece model.
"""

import os
from pathlib import Path

DATA_VARIABLE = "HYPERT5_DATA"
VOCABULARY_VARIABLE = "HYPERT5_VOCABULARY"


def data_folder() -> Path:
    """The folder above all data sets; need not exist."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    return Path(os.environ.get(DATA_VARIABLE, beside))


def vocabulary_model() -> str:
    """Path of the SentencePiece model, the T5 one by default; need not exist."""
    default = data_folder() / "t5" / "vocab" / "t5_cc_all_32000.model"
    return os.environ.get(VOCABULARY_VARIABLE, str(default))
