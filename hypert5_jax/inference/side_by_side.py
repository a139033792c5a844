"""The options of the same questions ranked under several φ in one pass.

Questions and options are laid out once and ranked again and again, as φ changes: φ of
batch n serves n * m rows, those of φ i from i * m to (i + 1) * m - 1.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from hypert5_jax.inference import options as option_scores
from hypert5_jax.inference.answering import (
    Question,
    bucket,
    grouped,
    options_at_a_time,
    padded,
)
from hypert5_jax.parallel.mesh import batch_ways
from hypert5_jax.phi.types import Phi, batch_size
from hypert5_jax.t5.config import T5Config


@dataclass(frozen=True)
class Sheet:
    """Questions that go through together, each asked of every φ.

    Attributes:
      places: which questions; at most m.
      inputs: int32 [s, m, length]; s is n where each φ is asked in words of its own (of
        the same questions), 1 where all are asked in the same.
      options: int32 [s, m, o, option_length].
    """

    places: tuple[int, ...]
    inputs: np.ndarray
    options: np.ndarray


def lay_out(
    wordings: Sequence[Sequence[Question]],
    phis: int,
    rows: int,
    input_length: int,
    target_length: int,
    mesh: Mesh | None = None,
) -> list[Sheet]:
    """The sheets of questions with options.

    Args:
      wordings: one list of questions for all φ, or as many as there are φ.
      phis: n, how many φ will be asked.
      rows: most rows of a sheet, over all φ; one question per φ goes through always.
      input_length, target_length: most tokens of inputs and options.
      mesh: rows of a sheet lie over its devices where they divide.
    """
    ways = 1 if mesh is None else batch_ways(mesh)
    m = max(rows // phis, 1)
    m = -(-m // ways) * ways if ways > 1 else m
    flat = [question for wording in wordings for question in wording]
    most = max(len(question.options) for question in flat)
    longest = max(len(option) for question in flat for option in question.options)
    length = bucket(longest, target_length, least=4)
    lengths = [
        min(max(len(wording[i].inputs) for wording in wordings), input_length)
        for i in range(len(wordings[0]))
    ]
    sheets = []
    for group in grouped(lengths, m, input_length):
        inputs = np.zeros((len(wordings), m, group.length), np.int32)
        options = np.zeros((len(wordings), m, most, length), np.int32)
        for w, wording in enumerate(wordings):
            asked = [wording[place] for place in group.places]
            inputs[w] = padded([q.inputs for q in asked], group.length, m)
            for row, question in enumerate(asked):
                options[w, row] = padded(question.options, length, most)
        sheets.append(Sheet(group.places, inputs, options))
    return sheets


def rank(
    config: T5Config,
    params: Any,
    sheets: Sequence[Sheet],
    phi: Phi,
    rule: str,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """What options are ranked by: float64 [n, questions, o], -inf where there is none.

    Args:
      config, params: the downstream T5.
      sheets: of `lay_out`.
      phi: of batch n.
      rule: see options.RANKINGS.
      mesh: the one in use, if any.
    """
    n, ways = batch_size(phi), 1 if mesh is None else batch_ways(mesh)
    questions = sum(len(sheet.places) for sheet in sheets)
    found = np.full((n, questions, sheets[0].options.shape[2]), -np.inf)
    # All are under way before the first is waited for.
    ahead = []
    for sheet in sheets:
        _, m, most, length = sheet.options.shape
        chunk = options_at_a_time(most, n * m * length, ways)
        ahead.append(_score(config, params, sheet.inputs, sheet.options, phi, chunk))
    for sheet, scores in zip(sheets, ahead, strict=True):
        ranks = option_scores.ranking(jax.device_get(scores), rule)
        by_phi = ranks.reshape(n, -1, ranks.shape[-1])
        found[:, list(sheet.places)] = by_phi[:, : len(sheet.places)]
    return found


@functools.partial(jax.jit, static_argnums=(0, 5))
def _score(
    config: T5Config, params: Any, inputs: Array, options: Array, phi: Phi, chunk: int
) -> option_scores.OptionScores:
    """Scores [n * m, o] of a sheet, `chunk` options of each row at a time."""
    n = batch_size(phi)
    _, m, most, length = options.shape
    rows = jnp.broadcast_to(inputs, (n, *inputs.shape[1:])).reshape(n * m, -1)
    asked = jnp.broadcast_to(options, (n, m, most, length)).reshape(n * m, most, length)
    cache = option_scores.read_inputs(config, params, rows, length, phi)
    chunks = -(-most // chunk)
    asked = jnp.pad(asked, ((0, 0), (0, chunks * chunk - most), (0, 0)))
    if chunks == 1:
        return option_scores.score_options(config, params, cache, asked, phi)
    parts = jnp.moveaxis(asked.reshape(n * m, chunks, chunk, length), 1, 0)
    scores = jax.lax.map(
        lambda part: option_scores.score_options(config, params, cache, part, phi),
        parts,
    )
    return jax.tree.map(
        lambda leaf: jnp.moveaxis(leaf, 0, 1).reshape(n * m, -1)[:, :most], scores
    )
