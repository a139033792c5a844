"""The compiled side of serving: contexts become φ, and inputs become answers, in batches.

A batch of inputs is decoded by one program, whichever φ its rows use: each row's φ is
gathered by the number of its seat (serving/seats.py). One program is compiled for each
shape of a batch, all of them before the first request.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypert5_jax.adapting.model import Model
from hypert5_jax.core.errors import UserError
from hypert5_jax.hyper.system import System
from hypert5_jax.inference import decoding
from hypert5_jax.inference.answering import bucket, padded
from hypert5_jax.inference.decoding import Decoding
from hypert5_jax.phi.spec import share_decoder_prefix
from hypert5_jax.phi.types import Phi
from hypert5_jax.serving.bank import Bank, StoredPhi, shares_decoder_prefix
from hypert5_jax.serving.batcher import Kind
from hypert5_jax.serving.seats import Seats
from hypert5_jax.t5.config import T5Config

# Tokens of the shortest shapes.
_LEAST_INPUT, _LEAST_CONTEXT = 32, 64


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is compiled and held.

    Attributes:
      batch: most inputs that are decoded together.
      adapt_batch: most contexts the hypermodel reads together.
      seats: φ held on the device, at least `batch`: all rows of one may differ.
      max_tokens: most tokens of an answer; None means as many as in training.
    """

    batch: int = 16
    adapt_batch: int = 4
    seats: int = 64
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "adapt_batch", "seats", "max_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value}: expected 1 or more")
        if self.seats < self.batch:
            raise UserError(
                f"{self.seats} seats for batches of {self.batch}: expected at least as "
                "many, since every row may use another φ"
            )


@dataclasses.dataclass(frozen=True)
class Asked:
    """One input to answer: the task's φ, the input's ids, most tokens of the answer."""

    phi: StoredPhi
    ids: Sequence[int]
    max_tokens: int


class Engine:
    """Runs batches for a batcher; used by its one thread.

    Args:
      model: a trained system.
      bank: where its φ are.
      sizes: of batches.
    """

    def __init__(self, model: Model, bank: Bank, sizes: Sizes):
        system = model.system
        self.model, self.sizes = model, sizes
        self.max_tokens = sizes.max_tokens or model.row.target_length
        self.adapts = system.variant.source == "generated"
        self.seats = Seats(
            bank.spec,
            bank.sites,
            sizes.seats,
            bank.read,
            jnp.dtype(system.downstream.dtype),
        )
        self._settings = Decoding(max_tokens=self.max_tokens)
        self._shared = shares_decoder_prefix(bank.spec)

    def kinds(self) -> dict[str, Kind]:
        """What a batcher needs: "generate", and "adapt" where there is a hypermodel."""
        row, sizes = self.model.row, self.sizes
        inputs = _doubling(_LEAST_INPUT, row.input_length)
        found = {"generate": Kind(self.generate, inputs, _quarters(sizes.batch))}
        if self.adapts:
            contexts = _doubling(_LEAST_CONTEXT, row.hyper_length)
            rows = _quarters(sizes.adapt_batch)
            found["adapt"] = Kind(self.adapt, contexts, rows)
        return found

    def warm_up(self, progress: Callable[[str], None] = lambda line: None) -> int:
        """Compiles every shape; says how many there are."""
        shapes = [
            (name, kind, length, rows)
            for name, kind in self.kinds().items()
            for length in kind.lengths
            for rows in kind.rows
        ]
        for number, (name, kind, length, rows) in enumerate(shapes, 1):
            progress(f"{number} of {len(shapes)}: {name}, {rows} x {length} tokens")
            kind.run(length, rows, [])
        return len(shapes)

    def generate(
        self, length: int, rows: int, asked: list[Asked]
    ) -> list[list[int] | UserError]:
        """Answers as ids without EOS, or why a row's φ could not be used."""
        phi, seats = self.seats.seat([one.phi for one in asked])
        seated = [seat if isinstance(seat, int) else -1 for seat in seats]
        seated += [-1] * (rows - len(asked))
        inputs = padded([one.ids for one in asked], length, rows)
        numbers = np.asarray(seated, np.int32)
        config, params = self.model.system.downstream, self.model.params["downstream"]
        said = np.asarray(
            _answer(config, self._settings, self._shared, params, phi, numbers, inputs)
        )
        return [
            _until_eos(row.tolist()[: one.max_tokens])
            if isinstance(seat, int)
            else seat
            for row, one, seat in zip(said, asked, seats)
        ]

    def adapt(self, length: int, rows: int, contexts: list[Sequence[int]]) -> list[Phi]:
        """φ of batch 1 of every context, on the host."""
        ids = padded(contexts, length, rows)
        phi = jax.device_get(_make_phi(self.model.system, self.model.params, ids))
        return [
            jax.tree.map(lambda leaf, at=at: leaf[:, at : at + 1], phi)
            for at in range(len(contexts))
        ]


def _decode(
    config: T5Config,
    settings: Decoding,
    shared: bool,
    params: Any,
    phi: Phi,
    seats: Any,
    inputs: Any,
) -> jax.Array:
    """Answers int32 [b, max_tokens] of inputs int32 [b, k], each with its seat's φ.

    Rows without a seat (-1) only fill up the batch and say nothing. `shared`: the
    decoder's own prefix is also cross-attention's.
    """
    places = jnp.maximum(seats, 0)
    own = jax.tree.map(lambda leaf: jnp.take(leaf, places, axis=1), phi)
    if shared:
        own = share_decoder_prefix(own)
    return decoding.decode(config, params, inputs, settings, own, active=seats >= 0)


# Of all engines: those of one system compile each shape once between them.
_answer = jax.jit(_decode, static_argnums=(0, 1, 2))
_make_phi = jax.jit(System.make_phi, static_argnums=0)


def _until_eos(ids: list[int]) -> list[int]:
    return ids[: ids.index(decoding.EOS)] if decoding.EOS in ids else ids


def _doubling(least: int, most: int) -> tuple[int, ...]:
    """Lengths that inputs are padded to, up to the longest."""
    sizes = [bucket(1, most, least)]
    while sizes[-1] < most:
        sizes.append(bucket(sizes[-1] + 1, most, least))
    return tuple(sizes)


def _quarters(most: int) -> tuple[int, ...]:
    """Sizes of a batch: `most`, a quarter of it, and so on, so that few rows do not
    cost as much as many."""
    sizes = [most]
    while sizes[0] >= 4:
        sizes.insert(0, sizes[0] // 4)
    return tuple(sizes)
