"""The vocabulary prepared data was tokenised with, readable without seqio.

A copy of the SentencePiece model lies beside the prepared files, so that ids can be
turned to text and back on any machine that has the files.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from etils import epath

from hypert5_jax.core.errors import UserError

MODEL_FILE = "vocabulary.model"
_BYTE_OFFSET = 3  # pad, eos and unk precede the bytes, as in ByT5
_SENTINEL = re.compile(r"(<extra_id_\d+>|<x>|<y>)")


def fingerprint(kind: str, model: bytes, extra_ids: int) -> str:
    """Hex sha256 over everything that decides which text an id stands for."""
    return hashlib.sha256(model + f"|{kind}|extra_ids={extra_ids}".encode()).hexdigest()


@dataclass(frozen=True)
class Vocabulary:
    """Ids and text of one vocabulary.

    Attributes:
      kind: "sentencepiece", "bytes", or "opaque" (ids without a known text).
      size: number of ids, sentinels included; `<x>` and `<y>` come right after.
      extra_ids: sentinels appended to the model, `<extra_id_0>` having the last id.
      fingerprint: see `fingerprint`.
      model_path: the SentencePiece model, for that kind.
    """

    kind: str
    size: int
    extra_ids: int
    fingerprint: str
    pad_id: int = 0
    eos_id: int = 1
    model_path: str | None = None

    @property
    def x_id(self) -> int:
        """The id of `<x>`, before an input (inventory A6: 32100 for T5)."""
        return self.size

    @property
    def y_id(self) -> int:
        """The id of `<y>`, before a target (inventory A6: 32101 for T5)."""
        return self.size + 1

    @property
    def rows(self) -> int:
        """The least number of embedding rows that serves all these ids."""
        return self.size + 2

    @property
    def ordinary_ids(self) -> tuple[int, int]:
        """First ordinary id and the one after the last: neither padding, EOS and
        unknown, which come first in every kind, nor sentinels and markers."""
        return 3, self.size - self.extra_ids

    def to_json(self) -> dict[str, Any]:
        """What the manifest keeps: all but the place of the model file."""
        fields = {k: v for k, v in asdict(self).items() if k != "model_path"}
        return fields | {"x_id": self.x_id, "y_id": self.y_id}

    @classmethod
    def from_json(
        cls, fields: dict[str, Any], directory: epath.PathLike
    ) -> "Vocabulary":
        """Reads what `to_json` wrote; `directory` holds the copy of the model."""
        kept = {k: v for k, v in fields.items() if k not in ("x_id", "y_id")}
        model = epath.Path(directory) / MODEL_FILE
        return cls(model_path=str(model) if model.exists() else None, **kept)

    @cached_property
    def _processor(self) -> Any:
        import sentencepiece  # only text needs it; training does not

        if self.model_path is None or not epath.Path(self.model_path).exists():
            raise UserError(
                f"the vocabulary model {self.model_path} is missing; prepare the "
                "mixture again, or restore the file from where it was prepared"
            )
        model = epath.Path(self.model_path).read_bytes()
        return sentencepiece.SentencePieceProcessor(model_proto=model)

    def sentinel_id(self, number: int) -> int:
        """The id of `<extra_id_{number}>`.

        Raises:
          UserError: the vocabulary has no such sentinel.
        """
        if number < self.extra_ids:
            return self.size - 1 - number
        if self.kind == "sentencepiece":
            for piece in (f"<extra_id_{number}>", f"▁<extra_id_{number}>"):
                found = self._processor.piece_to_id(piece)
                if found != self._processor.unk_id():
                    return int(found)
        raise UserError(
            f"<extra_id_{number}> was asked for, but the vocabulary has "
            f"{self.extra_ids} sentinels; use a vocabulary with more extra_ids"
        )

    def encode(self, text: str) -> list[int]:
        """Tokenises plain text; no EOS, no markers."""
        if self.kind == "sentencepiece":
            return list(self._processor.encode(text))
        if self.kind == "bytes":
            return [byte + _BYTE_OFFSET for byte in text.encode("utf-8")]
        raise UserError(f"a vocabulary of kind {self.kind!r} cannot tokenise text")

    def encode_marked(self, text: str) -> list[int]:
        """Tokenises text in which `<x>`, `<y>` and `<extra_id_N>` stand for ids."""
        ids: list[int] = []
        for piece in _SENTINEL.split(text):
            if piece == "<x>":
                ids.append(self.x_id)
            elif piece == "<y>":
                ids.append(self.y_id)
            elif piece.startswith("<extra_id_") and _SENTINEL.fullmatch(piece):
                ids.append(self.sentinel_id(int(piece[10:-1])))
            elif piece.strip():
                ids.extend(self.encode(piece.strip()))
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; markers, sentinels and EOS are spelt out, padding is dropped."""
        pieces: list[str] = []
        plain: list[int] = []

        def flush() -> None:
            if plain:
                pieces.append(self._decode_plain(plain).strip())
                plain.clear()

        for i in (int(i) for i in ids):
            special = self._special(i)
            if special is None:
                plain.append(i)
            else:
                flush()
                if special:
                    pieces.append(special)
        flush()
        return " ".join(pieces)

    def _special(self, i: int) -> str | None:
        names = {self.pad_id: "", self.eos_id: "</s>", self.x_id: "<x>"}
        names[self.y_id] = "<y>"
        if i in names:
            return names[i]
        if i < 0:
            return f"<label_{-1 - i}>"
        if self.size - self.extra_ids <= i < self.size:
            return f"<extra_id_{self.size - 1 - i}>"
        return f"<{i}>" if i >= self.size else None

    def _decode_plain(self, ids: list[int]) -> str:
        if self.kind == "sentencepiece":
            return str(self._processor.decode(ids))
        if self.kind == "bytes":
            values = bytes(i - _BYTE_OFFSET for i in ids if i >= _BYTE_OFFSET)
            return values.decode("utf-8", errors="replace")
        return " ".join(map(str, ids))
