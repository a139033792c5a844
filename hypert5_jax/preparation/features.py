"""From the features of a seqio example to ids: text, markers, label slots, EOS."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.records import SHOTS_SLOT, Example, label_slot
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.writer import Item

_LABEL = re.compile(r"(<label_\d+>)")
_MARKER = re.compile(r"(<x>|<y>|<shots>|<extra_id_\d+>)")


class FeatureReader:
    """Turns one task's examples, as NumPy features, into items to write.

    Args:
      task: name of the seqio task, for messages.
      vocabulary: the ids' meaning.
      encode: tokenises text, with the seqio feature's own vocabulary.
      targets_eos: whether the task declares EOS at the end of its targets.
    """

    def __init__(
        self,
        task: str,
        vocabulary: Vocabulary,
        encode: Callable[[str], Sequence[int]],
        targets_eos: bool,
    ):
        self._task = task
        self._vocabulary = vocabulary
        self._encode = encode
        self._targets_eos = targets_eos
        # Definitions and label words come with every example of their task.
        self._marked = lru_cache(maxsize=4096)(self._encode_marked)

    def __call__(self, features: Mapping[str, Any]) -> Item:
        """Reads `inputs`, `targets` and, where given, the optional features.

        Raises:
          UserError: `targets` is missing, or a marker that the vocabulary lacks.
        """
        if "skipped" in features and (reason := _text(features["skipped"])):
            return Item(None, Example([], []), skipped=reason)
        if "targets" not in features:
            raise UserError(
                f"task {self._task!r} yields {', '.join(sorted(features))} but no "
                "`targets`; rename its features in its preprocessors"
            )
        pool = tuple(
            tuple(self._marked(_text(word), False))
            for word in _listed(features.get("label_pool"))
        )
        slots = bool(pool)
        context = None
        if "context" in features:
            context = self._ids(features["context"], markers=True, slots=slots)
        shown = None
        if "shot_targets" in features:
            shown = self._target(features["shot_targets"], slots)
        example = Example(
            inputs=self._inputs(features.get("inputs"), slots),
            targets=self._target(features["targets"], slots),
            context=context,
            options=tuple(
                self._target(option, slots)
                for option in _listed(features.get("options"))
            ),
            shot_targets=shown,
            references=tuple(map(_text, _listed(features.get("references")))),
        )
        task = _text(features["task"]) if "task" in features else None
        return Item(task, example, pool, group=_text(features.get("group", "")))

    def _inputs(self, value: Any, slots: bool) -> list[int]:
        # An EOS the task put there goes; RowFormat.inputs_eos decides about it.
        ids = [] if value is None else self._ids(value, markers=False, slots=slots)
        return ids[:-1] if ids and ids[-1] == self._vocabulary.eos_id else ids

    def _target(self, value: Any, slots: bool) -> list[int]:
        ids = self._ids(value, markers=False, slots=slots)
        eos = self._vocabulary.eos_id
        if self._targets_eos and (not ids or ids[-1] != eos):
            ids = [*ids, eos]
        return ids

    def _ids(self, value: Any, markers: bool, slots: bool) -> list[int]:
        if _is_text(value):
            text = _text(value)
            if markers:
                return list(self._marked(text, True))
            if slots and "<label_" in text:
                return list(self._marked(text, False))
            return [int(i) for i in self._encode(text)]
        ids = np.asarray(value)
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            if ids.size == 0:
                return []
            raise UserError(
                f"task {self._task!r}: a feature has dtype {ids.dtype} and shape "
                f"{ids.shape}; expected text or a list of ids"
            )
        return [int(i) for i in ids]

    def _encode_marked(self, text: str, everything: bool) -> tuple[int, ...]:
        """Markers become ids; each piece of text between them is tokenised alone.

        White space around a marker of the format goes; around a label it belongs to
        the sentence.
        """
        ids: list[int] = []
        for piece in _MARKER.split(text) if everything else [text]:
            marker = self._marker_id(piece) if everything else None
            if marker is not None:
                ids.append(marker)
                continue
            for part in _LABEL.split(piece.strip()):
                if part.startswith("<label_") and part[7:-1].isdigit():
                    ids.append(label_slot(int(part[7:-1])))
                elif part:
                    ids.extend(int(i) for i in self._encode(part))
        return tuple(ids)

    def _marker_id(self, piece: str) -> int | None:
        if piece.startswith("<extra_id_") and piece[10:-1].isdigit():
            return self._vocabulary.sentinel_id(int(piece[10:-1]))
        known = {"<x>": self._vocabulary.x_id, "<y>": self._vocabulary.y_id}
        return (known | {"<shots>": SHOTS_SLOT}).get(piece)


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes)) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "OSU"
    )


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    if hasattr(value, "to_list"):  # a ragged tensor's NumPy value
        return list(value.to_list())
    return list(value)
