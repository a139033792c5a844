"""Greedy, sampled and beam decoding with a cache, φ applied, stopped by EOS.

All are pure functions to be compiled by the caller; the number of steps is that of the
longest answer, not of the longest allowed. φ of batch 1 or G serves b = G * n rows as in
phi/apply.py: it is never copied, also not for the beams of a row.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from hypert5_jax.core.errors import UserError
from hypert5_jax.inference import sampling
from hypert5_jax.phi.types import Phi
from hypert5_jax.t5 import stacking
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.network import T5
from hypert5_jax.t5.stacks import PAD, DecoderCache

EOS = 1
# Worse than any sum of log-probabilities; finite, so that a penalty cannot make it NaN.
_NEVER = -1e9

# (last tokens int32 [b], cache) -> (float32 logits [b, vocab], cache).
_Next = Callable[[Array, DecoderCache], tuple[Array, DecoderCache]]


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are searched for, or drawn.

    Attributes:
      max_tokens: most tokens of an answer, EOS included.
      beams: 1 is greedy.
      alpha: exponent of the length penalty ((5 + tokens) / 6) ** alpha that divides a
        beam's log-probability (Wu et al. 2016; T5X's default 0.6); 0 prefers short
        answers; ignored by greedy decoding.
      temperature: what logits are divided by before a token is drawn; 0 draws nothing:
        greedy or beam search.
      top_k: draw from that many of the likeliest tokens; 0 is all.
      top_p: draw from the fewest likeliest tokens of that probability; 1 is all.
      seed: of what is drawn, 0 to 2**32 - 1.

    Raises:
      UserError: a setting is no number or out of its range, or two say different things.
    """

    max_tokens: int = 128
    beams: int = 1
    alpha: float = 0.6
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, whole = getattr(self, field.name), isinstance(field.default, int)
            # numbers.*: those of NumPy are numbers too.
            if not isinstance(value, numbers.Integral if whole else numbers.Real):
                kind = "a whole number" if whole else "a number"
                raise UserError(f"Decoding.{field.name}={value!r}: expected {kind}")
        if self.max_tokens < 1 or self.beams < 1 or not 0 <= self.alpha < math.inf:
            raise UserError(
                f"Decoding(max_tokens={self.max_tokens}, beams={self.beams}, alpha="
                f"{self.alpha}): expected at least 1 token, 1 beam and an alpha of 0 "
                "or more"
            )
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"Decoding.temperature={self.temperature}: expected 0 (the likeliest "
                "answer) or a number above it"
            )
        if self.top_k < 0 or not 0 < self.top_p <= 1:
            raise UserError(
                f"Decoding(top_k={self.top_k}, top_p={self.top_p}): expected a top_k of "
                "0 (all tokens) or more, and 0 < top_p <= 1 (all tokens)"
            )
        if not 0 <= self.seed < 2**32:
            raise UserError(f"Decoding.seed={self.seed}: expected 0 to {2**32 - 1}")
        if self.temperature == 0 and (self.top_k or self.top_p < 1):
            raise UserError(
                f"Decoding(top_k={self.top_k}, top_p={self.top_p}) with a temperature "
                "of 0: nothing is drawn; give a temperature, such as 1.0"
            )
        if self.temperature > 0 and self.beams > 1:
            raise UserError(
                f"Decoding(temperature={self.temperature}, beams={self.beams}): answers "
                "are drawn or searched for; leave one of the two out"
            )

    def described(self) -> dict[str, int | float]:
        """What these settings come to, for a file of results: what a temperature of 0
        leaves unused is not among it."""
        settings = dataclasses.asdict(self)
        if self.temperature == 0:
            for name in ("temperature", "top_k", "top_p", "seed"):
                del settings[name]
        return settings


def decode(
    config: T5Config,
    params: Any,
    inputs: Array,
    settings: Decoding,
    phi: Phi | None = None,
    active: Array | None = None,
    rng: Array | None = None,
) -> Array:
    """Answers as the settings say: greedy, drawn, or the best of the beams.

    Args:
      config: the downstream T5's.
      params: its parameters.
      inputs: int32 [b, k].
      settings: static for a caller that compiles.
      phi: of batch 1 or a divisor of b.
      active: bool [b], False for rows that only fill up the batch; they say nothing.
      rng: keys [b], one per row (`sampling.row_keys`), for answers that are drawn.
        Without it, keys of `settings.seed` and the row's place in the batch.

    Returns:
      int32 [b, max_tokens]: the answers with their EOS, then padding.
    """
    if settings.beams > 1:
        found = beam(config, params, inputs, settings, phi, active)
        return found.tokens[:, 0]
    if settings.temperature == 0:
        return greedy(config, params, inputs, settings.max_tokens, phi, active)
    if rng is None:
        rng = sampling.row_keys(settings.seed, jnp.arange(inputs.shape[0]))
    return sample(config, params, inputs, settings, rng, phi, active)


@struct.dataclass
class Beams:
    """What a beam search found, best first.

    Attributes:
      tokens: int32 [b, beams, max_tokens], with EOS where one was said, then padding.
      scores: float32 [b, beams], log-probability over the length penalty.
    """

    tokens: Array
    scores: Array


def greedy(
    config: T5Config,
    params: Any,
    inputs: Array,
    max_tokens: int,
    phi: Phi | None = None,
    active: Array | None = None,
) -> Array:
    """The likeliest next token, again and again; arguments and answers of `decode`."""

    def likeliest(step: Array, logits: Array) -> Array:
        # The first of the largest, as argmax says, in two passes that XLA vectorises on
        # a CPU, where the one pass of argmax takes a twentieth of a step.
        places = jnp.arange(logits.shape[-1], dtype=jnp.int32)
        largest = logits == jnp.max(logits, -1, keepdims=True)
        return jnp.min(jnp.where(largest, places, places[-1]), -1)

    return _one_by_one(config, params, inputs, max_tokens, likeliest, phi, active)


def sample(
    config: T5Config,
    params: Any,
    inputs: Array,
    settings: Decoding,
    rng: Array,
    phi: Phi | None = None,
    active: Array | None = None,
) -> Array:
    """Tokens drawn one after another; arguments and answers of `decode`.

    What is drawn for a row depends on its key, its input and its φ alone.
    """

    def drawn(step: Array, logits: Array) -> Array:
        kept = sampling.candidates(
            logits, settings.temperature, settings.top_k, settings.top_p
        )
        return sampling.draw(rng, step, kept)

    return _one_by_one(config, params, inputs, settings.max_tokens, drawn, phi, active)


def _one_by_one(
    config: T5Config,
    params: Any,
    inputs: Array,
    max_tokens: int,
    choose: Callable[[Array, Array], Array],
    phi: Phi | None,
    active: Array | None,
) -> Array:
    """Answers whose next tokens are `choose`(step, logits [b, vocab]), int32 [b]."""
    next_logits, cache = _start(config, params, inputs, max_tokens, phi)
    rows = inputs.shape[0]
    done = jnp.zeros(rows, bool) if active is None else ~active
    tokens = jnp.full((rows, max_tokens), PAD, jnp.int32)

    def unfinished(state: Any) -> Array:
        index, _, _, done, _ = state
        return (index < max_tokens) & ~jnp.all(done)

    def step(state: Any) -> Any:
        index, tokens, last, done, cache = state
        logits, cache = next_logits(last, cache)
        chosen = jnp.where(done, PAD, choose(index, logits))
        tokens = tokens.at[:, index].set(chosen)
        return index + 1, tokens, chosen, done | (chosen == EOS), cache

    start = (jnp.int32(0), tokens, jnp.full(rows, PAD, jnp.int32), done, cache)
    return jax.lax.while_loop(unfinished, step, start)[1]


def length_penalty(tokens: Array | int, alpha: float) -> Array:
    """((5 + tokens) / 6) ** alpha, float32."""
    return ((5.0 + jnp.asarray(tokens, jnp.float32)) / 6.0) ** alpha


@struct.dataclass
class _Search:
    """A beam search under way: hypotheses still going on, and the best finished."""

    index: Array
    live_tokens: Array
    live_scores: Array
    done_tokens: Array
    done_scores: Array
    cache: DecoderCache


def beam(
    config: T5Config,
    params: Any,
    inputs: Array,
    settings: Decoding,
    phi: Phi | None = None,
    active: Array | None = None,
) -> Beams:
    """Beam search as T5X does it.

    Of the 2 * beams likeliest continuations those that end join the finished ones, and
    the best others go on. A row stops when no hypothesis that goes on could still beat
    its worst finished one. A row that finished nothing returns what it has.

    Args:
      config, params, inputs, phi, active: as `decode`.
      settings: number of beams, penalty and most tokens.
    """
    rows, beams, length = inputs.shape[0], settings.beams, settings.max_tokens
    next_logits, cache = _start(config, params, inputs, length, phi)
    cache = repeat_rows(cache, beams)
    longest = length_penalty(length, settings.alpha)

    def unfinished(state: _Search) -> Array:
        bound = state.live_scores[:, 0] / longest
        settled = state.done_scores[:, -1] >= bound
        return (state.index < length) & ~jnp.all(settled)

    def step(state: _Search) -> _Search:
        last = jax.lax.dynamic_index_in_dim(
            state.live_tokens, jnp.maximum(state.index - 1, 0), 2, keepdims=False
        )
        last = jnp.where(state.index == 0, PAD, last)
        logits, cache = next_logits(last.reshape(-1), state.cache)
        log_probs = jax.nn.log_softmax(logits).reshape(rows, beams, -1)
        vocab = log_probs.shape[-1]
        totals = (state.live_scores[..., None] + log_probs).reshape(rows, -1)
        scores, place = jax.lax.top_k(totals, 2 * beams)
        source, chosen = place // vocab, place % vocab
        tokens = _rows_of(state.live_tokens, source).at[:, :, state.index].set(chosen)
        ended = chosen == EOS

        live_scores, kept = jax.lax.top_k(jnp.where(ended, _NEVER, scores), beams)
        penalty = length_penalty(state.index + 1, settings.alpha)
        finished = jnp.where(ended, scores / penalty, _NEVER)
        done_scores, best = jax.lax.top_k(
            jnp.concatenate([state.done_scores, finished], 1), beams
        )
        return _Search(
            index=state.index + 1,
            live_tokens=_rows_of(tokens, kept),
            live_scores=live_scores,
            done_tokens=_rows_of(jnp.concatenate([state.done_tokens, tokens], 1), best),
            done_scores=done_scores,
            cache=_reorder(cache, jnp.take_along_axis(source, kept, 1)),
        )

    fill = _NEVER if active is None else jnp.where(active, _NEVER, 0.0)[:, None]
    nothing = jnp.full((rows, beams, length), PAD, jnp.int32)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER)
    start = _Search(
        index=jnp.int32(0),
        live_tokens=nothing,
        live_scores=jnp.broadcast_to(first, (rows, beams)),
        done_tokens=nothing,
        done_scores=jnp.broadcast_to(fill, (rows, beams)),
        cache=cache,
    )
    end = jax.lax.while_loop(unfinished, step, start)
    # A hypothesis that never ended counts only where none did.
    some = (end.done_scores[:, :1] > _NEVER / 2)[..., None]
    return Beams(
        tokens=jnp.where(some, end.done_tokens, end.live_tokens),
        scores=jnp.where(some[..., 0], end.done_scores, end.live_scores / longest),
    )


def repeat_rows(cache: DecoderCache, times: int) -> DecoderCache:
    """A cache of b rows as one of b * times, each row `times` times in a row."""
    tokens = jnp.repeat(cache.encoder_tokens, times, axis=0)
    cache = cache.map_rows(lambda x, axis: jnp.repeat(x, times, axis=axis))
    return dataclasses.replace(cache, encoder_tokens=tokens)


def _start(
    config: T5Config, params: Any, inputs: Array, max_tokens: int, phi: Phi | None
) -> tuple[_Next, DecoderCache]:
    """The inputs encoded, cross-attention computed, nothing decoded yet; and how to go
    on from there."""
    encoded = T5(config).apply({"params": params}, inputs, phi, method="encode")
    config, params, phi = _for_steps(config, params, phi)
    model, variables = T5(config), {"params": params}

    def next_logits(last: Array, cache: DecoderCache) -> tuple[Array, DecoderCache]:
        logits, cache = model.apply(
            variables, last[:, None], cache, phi, method="decode_next"
        )
        return logits[:, 0], cache

    cache = model.apply(
        variables, encoded, inputs, max_tokens, phi, method="start_decoding"
    )
    return next_logits, cache


def _for_steps(
    config: T5Config, params: Any, phi: Phi | None
) -> tuple[T5Config, Any, Phi | None]:
    """The decoder and its φ with their layers apart.

    A step reads every weight for a handful of rows, so that moving them is all it costs:
    a scan would copy each layer's weights, and its cache there and back, at every step.
    """
    depth = range(config.num_decoder_layers)
    if phi is not None:
        # What a pass over decoders whose layers are unrolled takes for each of them.
        layers = jax.tree.map(lambda leaf: [leaf[i] for i in depth], phi.decoder)
        phi = dataclasses.replace(phi, decoder=layers)
    if config.scan_layers:
        decoder = stacking.unstack_layers(params["decoder"])
        params = {**params, "decoder": decoder}
        config = dataclasses.replace(config, scan_layers=False)
    return config, params, phi


def _rows_of(tokens: Array, chosen: Array) -> Array:
    """tokens [b, n, length] at chosen [b, m] -> [b, m, length]."""
    return jnp.take_along_axis(tokens, chosen[..., None], 1)


def _reorder(cache: DecoderCache, source: Array) -> DecoderCache:
    """The cache of the hypotheses that go on, from beams `source` [b, beams]; cross-
    attention is the same for all beams of a row."""
    assert isinstance(cache.layers, list)
    rows, beams = source.shape
    places = (source + beams * jnp.arange(rows)[:, None]).reshape(-1)
    layers = [
        dataclasses.replace(
            layer,
            self_keys=layer.self_keys[places],
            self_values=layer.self_values[places],
        )
        for layer in cache.layers
    ]
    return dataclasses.replace(cache, layers=layers)
