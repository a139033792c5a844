"""How a hypermodel starts beside a given T5: as it, but for slots and heads.

The paper starts what is new at random. The other starts here let the first step already
depend on which word stands where in the context: slots that start as words, a prefix's
heads that start as the T5's own key and value maps, and LoRA's that start as an
associative memory.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hypert5_jax.hyper import heads
from hypert5_jax.hyper.variants import Variant
from hypert5_jax.phi.spec import LoRASpec
from hypert5_jax.t5.config import T5Config
from hypert5_jax.t5.stacking import stack_layers

# What a hypermodel has beyond the T5 it starts from.
NEW = ("slots", "heads")
# Padding, EOS and unknown come first in a T5 vocabulary.
FIRST_WORD = 3
# Slope of a head's first map where the head starts as a kernel: normed inputs times it
# lie where tanh is close to linear.
TANH_SLOPE = 0.3

# How far `associative_heads` gives up exactness where an output kernel is close to
# singular, relative to its mean squared singular value.
RIDGE = 0.1

# Site of φ -> (stack, block) of the T5 that makes keys and values there, and the norm
# before them: one per layer, or the encoder's last for what cross-attention reads.
_MAKERS = {
    "encoder/self_attention": ("encoder", "attention", "pre_attention_layer_norm"),
    "decoder/self_attention": (
        "decoder",
        "self_attention",
        "pre_self_attention_layer_norm",
    ),
    "decoder/cross_attention": ("decoder", "encoder_decoder_attention", None),
}


def beside_t5(
    new: Mapping[str, Any],
    t5: Mapping[str, Any],
    downstream: T5Config,
    variant: Variant,
) -> dict[str, Any]:
    """The hypermodel group that starts as a T5, in float32.

    Args:
      new: the "slots" and "heads" of a fresh hypermodel.
      t5: the "downstream" group, of the hypermodel's sizes and layer layout.
      downstream: its sizes.
      variant: whose `head` says how slots and heads start.

    Returns:
      t5's embedder, encoder and decoder without logits_dense, which a hypermodel has no
      use for, beside "slots" and "heads".
    """
    new = dict(new)
    if variant.head.slot_init == "vocabulary":
        table = t5["token_embedder"]["embedding"]
        new["slots"] = {"embedding": vocabulary_slots(table, downstream, variant)}
    if variant.head.output_init == "projections":
        new["heads"] = projection_heads(new["heads"], t5, variant)
    if variant.head.output_init == "associative":
        new["heads"] = associative_heads(new["heads"], t5, variant)
    decoder = {k: v for k, v in t5["decoder"].items() if k != "logits_dense"}
    start = {**{k: t5[k] for k in ("token_embedder", "encoder")}, "decoder": decoder}
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), {**start, **new})


def vocabulary_slots(embedding: Array, downstream: T5Config, variant: Variant) -> Array:
    """Slots that start as words: [2P | 3L, d] rows of embedding [v, d].

    The slots of each site start as the first words after the special ids 0 to 2, which
    SentencePiece orders by frequency, over again where there are more slots than words.
    """
    spec = variant.spec
    assert spec is not None
    groups = heads.slot_groups(spec, downstream.sites).values()
    words = embedding[FIRST_WORD:]
    rows = [jnp.arange(group.stop - group.start) % len(words) for group in groups]
    return words[jnp.concatenate(rows)]


def projection_heads(
    fresh: Mapping[str, Any], t5: Mapping[str, Any], variant: Variant
) -> dict[str, Any]:
    """Prefix heads that start as the frozen T5's own key and value maps.

    φ then starts as the keys and values each layer would compute if a slot's
    representation were a position of its input: exactly so for norm="rms" and small
    representations, and up to tanh's bend and LayerNorm's centring otherwise. A query
    thus finds the slots whose words it would find in a text, before any training.

    Args:
      fresh: the "heads" of a fresh hypermodel, names and shapes as they stay.
      t5: the "downstream" group, scanned or unrolled.
      variant: a generated prefix.
    """
    if "layers" not in t5["encoder"]:
        t5 = stack_layers(t5)
    assert variant.spec is not None
    started = dict(fresh)
    for site in variant.spec.sites:
        stack, block, norm = _MAKERS[site]
        layers = t5[stack]["layers"]
        scale = (
            t5["encoder"]["encoder_norm"]["scale"]
            if norm is None
            else layers[norm]["scale"]
        )
        for part, kernel in (("keys", "key"), ("values", "value")):
            maps = scale[..., None] * layers[block][kernel]["kernel"]  # [l, d, h * c]
            name = heads.label(site, part)
            started[name] = _as_map(started[name], maps, variant)
    return started


def _as_map(head: Mapping[str, Any], maps: Array, variant: Variant) -> dict[str, Any]:
    """A head that is `maps` [layers, d, h * c] where tanh is linear."""
    return _linear(head, jnp.concatenate(list(maps), axis=-1), variant)


def _linear(head: Mapping[str, Any], kernel: Array, variant: Variant) -> dict[str, Any]:
    """A head that is `kernel` [d, features] where tanh is linear."""
    width = kernel.shape[0]
    if variant.head.divide_by_sqrt_width:
        kernel = kernel * width**0.5
    return {
        **head,
        "hidden": {**head["hidden"], "kernel": TANH_SLOPE * jnp.eye(width)},
        "output": {**head["output"], "kernel": kernel / TANH_SLOPE},
    }


def associative_heads(
    fresh: Mapping[str, Any], t5: Mapping[str, Any], variant: Variant
) -> dict[str, Any]:
    """LoRA heads whose value maps start as an associative memory of what slots hold.

    The first of a value map's ranks starts as a = s / d and b = s V, where s [d] is a
    slot's normed representation and V answers the block's output kernel: s V passed
    through it is s again, as far as one V can serve all layers (ridge regression). An
    activation x that resembles s thus adds s to the stream, in proportion. Where s holds
    a thing and its name, meeting the thing brings up the name: which is one step away
    for the gradient if slots hold both, where random factors have to learn a, b and what
    a slot holds at once. The other ranks and the query maps stay random; a gate that is 0
    hides all of this at first.

    Args:
      fresh: the "heads" of a fresh hypermodel, names and shapes as they stay.
      t5: the "downstream" group, scanned or unrolled.
      variant: a generated LoRA that adapts value maps.
    """
    if "layers" not in t5["encoder"]:
        t5 = stack_layers(t5)
    assert isinstance(variant.spec, LoRASpec)
    started = dict(fresh)
    for site in variant.spec.sites:
        stack, block, _ = _MAKERS[site]
        out = t5[stack]["layers"][block]["out"]["kernel"]  # [l, h * c, d]
        name = heads.label(site, "value")
        head = _linear(
            started[name], _first_rank(_answering(out), variant.spec), variant
        )
        random = started[name]["output"]["kernel"]
        head["output"]["kernel"] = head["output"]["kernel"] + random
        started[name] = head
    return started


def _answering(out: Array) -> Array:
    """V [d, h * c] of small V out[l] - 1 over all layers, for out [l, h * c, d]."""
    joined = out.shape[1]
    square = jnp.einsum("lid,ljd->ij", out, out)
    ridge = RIDGE * jnp.trace(square) / joined
    # out[l] times the identity, summed over layers: the right side of the equations.
    wanted = jnp.sum(out, axis=0)
    return jnp.linalg.solve(square + ridge * jnp.eye(joined), wanted).T


def _first_rank(up: Array, spec: LoRASpec) -> Array:
    """Map [d, rank * (out + in)] to φ's layout in a head: up [d, out] and, below, 1 / d."""
    width, width_out = up.shape
    down = spec.rank * width_out
    kernel = jnp.zeros((width, down + spec.rank * width))
    kernel = kernel.at[:, :width_out].set(up / spec.scale)
    return kernel.at[:, down : down + width].set(jnp.eye(width) / width)
