"""How examples become the ids of one row: `<x> x1 <y> y1 <x> x2 <y> y2 …` (paper §5.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import numpy as np

from hypert5_jax.core.errors import UserError
from hypert5_jax.data.records import SHOTS_SLOT, Example
from hypert5_jax.data.vocabulary import Vocabulary

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
CONTEXTS = ("none", "hypermodel", "downstream")
TOO_FEW = ("error", "skip", "fewer")


@dataclass(frozen=True)
class RowFormat:
    """What a row holds and how long it may be.

    Attributes:
      lengths: tokens of `hyper_inputs`, `inputs`, `targets` (paper: 1024, 384, 128).
      max_shots: K, most shots of a context (paper: 16).
      shot_length: if set, most tokens of one shot with its `<x>` and `<y>`: its input is
        cut first, then its target (MetaICL: 256, and 1024 for all).
      min_shots: if set, each context draws its number of shots from [min, max].
      context: who reads the context: "hypermodel"; "downstream", before its input (the
        few-shot baseline, inventory A18); or "none".
      targets_per_context: T, target examples that share one context.
      empty_context_rate: fraction of contexts left empty, so that a hypermodel knows
        what an empty context means.
      inputs_eos: whether the downstream input ends with EOS (inventory A7).
      targets_eos: False drops the EOS that the task put at the end of its targets.
      task_cap: within one seqio task, a logical task weighs as its number of examples,
        but at most this (1 weighs all alike; inventory A19).
      too_few: for a task with fewer than max_shots + T different examples: "error",
        "skip" the task, or draw "fewer" shots.
    """

    lengths: Mapping[str, int] = field(
        default_factory=lambda: {"hyper_inputs": 1024, "inputs": 384, "targets": 128}
    )
    max_shots: int = 16
    shot_length: int | None = None
    min_shots: int | None = None
    context: str = "hypermodel"
    targets_per_context: int = 1
    empty_context_rate: float = 0.0
    inputs_eos: bool = False
    targets_eos: bool = True
    task_cap: int | None = None
    too_few: str = "error"

    def __post_init__(self) -> None:
        names = ["hyper_inputs", "inputs", "targets"]
        for name in names[1:] if self.context == "none" else names:
            length = self.lengths.get(name, 0)
            if not isinstance(length, Integral) or length < 1:
                raise UserError(
                    f"lengths has {dict(self.lengths)}; context={self.context!r} needs "
                    f"a whole positive number of tokens for {name}"
                )
        unknown = sorted(set(self.lengths) - set(names))
        if unknown:
            raise UserError(
                f"lengths names {', '.join(unknown)}; known: {', '.join(names)}"
            )
        if self.max_shots and 0 < self.context_length < 4:
            raise UserError(
                f"lengths give hyper_inputs {self.context_length} tokens, but the "
                "shortest shot, `<x> a <y> b`, has 4; use 4 or more"
            )
        _require(self.context in CONTEXTS, "context", self.context, CONTEXTS)
        _require(self.too_few in TOO_FEW, "too_few", self.too_few, TOO_FEW)
        _require(self.max_shots >= 0, "max_shots", self.max_shots, "0 or more")
        each = self.shot_length
        _require(each is None or each >= 4, "shot_length", each, "4 or more, or None")
        low = self.max_shots if self.min_shots is None else self.min_shots
        _require(0 <= low <= self.max_shots, "min_shots", low, "0 … max_shots")
        count = self.targets_per_context
        _require(count >= 1, "targets_per_context", count, "1 or more")
        rate = self.empty_context_rate
        _require(0.0 <= rate <= 1.0, "empty_context_rate", rate, "a rate in [0, 1]")
        cap = self.task_cap
        _require(cap is None or cap >= 1, "task_cap", cap, "1 or more, or None")

    @property
    def context_length(self) -> int:
        """Tokens of a context, wherever it goes."""
        return 0 if self.context == "none" else int(self.lengths["hyper_inputs"])

    @property
    def hyper_length(self) -> int:
        """Columns of Batch.hyper_inputs."""
        return self.context_length if self.context == "hypermodel" else 0

    @property
    def input_length(self) -> int:
        """Columns of Batch.inputs; the few-shot baseline adds `<x>` and `<y>`."""
        length = int(self.lengths["inputs"])
        if self.context == "downstream":
            return self.context_length + length + 2
        return length

    @property
    def target_length(self) -> int:
        """Columns of Batch.targets."""
        return int(self.lengths["targets"])


def _require(condition: bool, name: str, given: object, expected: object) -> None:
    if not condition:
        raise UserError(f"RowFormat.{name} is {given!r}; expected {expected}")


def without_eos(ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    """The ids less one EOS at their end."""
    return list(ids[:-1] if ids and ids[-1] == vocabulary.eos_id else ids)


def fill_labels(ids: Sequence[int], words: Sequence[Sequence[int]]) -> list[int]:
    """Puts the drawn label words in the place of the label slots (-1 - k).

    Raises:
      UserError: a slot's number is beyond the words of the pool.
    """
    if not words:
        return list(ids)
    filled: list[int] = []
    for i in ids:
        if SHOTS_SLOT < i < 0:
            if -1 - i >= len(words):
                raise UserError(
                    f"<label_{-1 - i}> needs a label_pool of at least {-i} words, the "
                    f"task has {len(words)}; add words to its label_pool"
                )
            filled.extend(words[-1 - i])
        else:
            filled.append(i)
    return filled


def relabel(example: Example, words: Sequence[Sequence[int]]) -> Example:
    """The example with the drawn label words in all its parts."""
    if not words:
        return example

    def filled(ids: list[int] | None) -> list[int] | None:
        return None if ids is None else fill_labels(ids, words)

    return Example(
        inputs=fill_labels(example.inputs, words),
        targets=fill_labels(example.targets, words),
        context=filled(example.context),
        options=tuple(fill_labels(option, words) for option in example.options),
        shot_targets=filled(example.shot_targets),
    )


def shot_ids(
    shot: Example, vocabulary: Vocabulary, length: int | None = None
) -> list[int]:
    """`<x> x <y> y` without EOS, in at most `length` ids: of x first, then of y."""
    target = without_eos(shot.shown_targets, vocabulary)
    inputs = shot.inputs
    if length is not None:
        target = target[: length - 2]
        inputs = inputs[: length - 2 - len(target)]
    return [vocabulary.x_id, *inputs, vocabulary.y_id, *target]


def fit_shots(
    shots: Sequence[Example],
    vocabulary: Vocabulary,
    room: int,
    shot_length: int | None = None,
) -> list[int]:
    """`<x> x1 <y> y1 …` in at most `room` ids, each shot in at most `shot_length`.

    Whole shots are dropped from the end; only a first shot that is too long by itself
    is cut.
    """
    ids: list[int] = []
    for shot in shots:
        piece = shot_ids(shot, vocabulary, shot_length)
        if len(ids) + len(piece) > room:
            return ids if ids else piece[: max(room, 0)]
        ids += piece
    return ids


def context_ids(
    own: Sequence[int] | None,
    shots: Sequence[Example],
    vocabulary: Vocabulary,
    length: int,
    shot_length: int | None = None,
) -> list[int]:
    """The context in at most `length` ids: the task's own, drawn shots, or both.

    Args:
      own: the task's own context; the shots go where it says `<shots>`.
      shots: drawn examples; all of the context where the task has none of its own.
      vocabulary: for the markers.
      length: room in tokens; what is too long is cut at the right.
      shot_length: room of one drawn shot; see RowFormat.
    """
    if own is None:
        return fit_shots(shots, vocabulary, length, shot_length)
    if SHOTS_SLOT not in own:
        return list(own[:length])
    at = list(own).index(SHOTS_SLOT)
    before, after = list(own[:at]), [i for i in own[at:] if i != SHOTS_SLOT]
    room = length - len(before) - len(after)
    middle = fit_shots(shots, vocabulary, room, shot_length)
    return (before + middle + after)[:length]


def input_ids(
    example: Example, context: Sequence[int], row: RowFormat, vocabulary: Vocabulary
) -> list[int]:
    """What the downstream model reads; x is never cut by its context (A18)."""
    room = int(row.lengths["inputs"])
    ids = list(example.inputs)
    if row.inputs_eos:
        ids = [*ids[: room - 1], vocabulary.eos_id]
    ids = ids[:room]
    if row.context == "downstream":
        return [*context, vocabulary.x_id, *ids, vocabulary.y_id]
    return ids


def target_ids(
    targets: Sequence[int], row: RowFormat, vocabulary: Vocabulary
) -> list[int]:
    """What the downstream model must say; a target that is cut keeps its EOS."""
    ids = list(targets)
    if not row.targets_eos:
        ids = without_eos(ids, vocabulary)
    cut = ids[: row.target_length]
    if len(ids) > len(cut) and ids[-1] == vocabulary.eos_id:
        cut[-1] = vocabulary.eos_id
    return cut


def pad(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Stacks id lists (none longer than `length`) to int32 [rows, length], padded."""
    out = np.zeros((len(rows), length), np.int32)
    for number, ids in enumerate(rows):
        out[number, : len(ids)] = ids
    return out


def to_arrays(
    contexts: list[list[int]],
    inputs: list[list[int]],
    targets: list[list[int]],
    row: RowFormat,
) -> Arrays:
    """Pads the ids of contexts [C], inputs [B] and targets [B] to a batch's arrays."""
    hyper = contexts if row.context == "hypermodel" else [[]] * len(contexts)
    weights = np.zeros((len(targets), row.target_length), np.float32)
    for number, ids in enumerate(targets):
        weights[number, : len(ids)] = 1.0
    return (
        pad(hyper, row.hyper_length),
        pad(inputs, row.input_length),
        pad(targets, row.target_length),
        weights,
    )
