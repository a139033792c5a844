"""What the compiler makes of a step over 8 devices: the arrays one device holds.

A program is compiled for one device's share, so every shape in its text is that of an
array on a device.
"""

import collections
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core import axes, trees
from hypert5_jax.hyper.heads import make_heads
from hypert5_jax.hyper.system import System
from hypert5_jax.hyper.variants import HeadConfig, Variant
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import (
    BATCH_AXES,
    FSDP,
    MESH_AXES,
    MODEL,
    MeshConfig,
    make_mesh,
)
from hypert5_jax.phi.spec import LoRASpec, PrefixSpec
from hypert5_jax.planning import costs, hlo, topologies
from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.collectives import Mesh
from hypert5_jax.planning.links import Grid
from hypert5_jax.t5.config import T5Config
from hypert5_jax.training import state as states
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.step import make_step
from tests.models import random_batch

# No two arrays of equal size but by kind: an array is known by how many numbers it has.
SIZES = T5Config(
    vocab_size=94,
    emb_dim=24,
    num_heads=2,
    head_dim=7,
    mlp_dim=58,
    num_encoder_layers=4,
    num_decoder_layers=4,
    dtype="float32",
    remat="none",
    attention="fused",
)
PREFIX = PrefixSpec(length=3)
MESH = MeshConfig(slice=2, fsdp=2, model=2)
ROWS, LENGTHS = 32, (9, 11, 5)


def sizes(text):
    """{how many numbers: shapes} of the arrays in a compiled program."""
    found = collections.defaultdict(set)
    for dims in re.findall(r"\b(?:f32|bf16|s32|u32|pred)\[([\d,]+)\]", text):
        shape = tuple(map(int, dims.split(",")))
        found[math.prod(shape)].add(shape)
    return found


@pytest.fixture(scope="module")
def step():
    """(text of the compiled training step, the shapes of its state, its layout).

    Of two microbatches, so that gradients are also carried through a loop.
    """
    system = System(SIZES, Variant(prefix=PREFIX))
    mesh, names = make_mesh(MESH), system.logical_axes()
    trainable, frozen = jax.eval_shape(
        lambda params: states.partition(params, system.variant.trainable, "bfloat16"),
        system.abstract_params(),
    )
    optimiser = make_optimiser(
        OptimiserConfig(), lambda _: 0.1, {g: names[g] for g in trainable}, mesh
    )
    shapes = jax.eval_shape(
        lambda t, f: states.new_state(t, f, optimiser), trainable, frozen
    )
    layout = states.state_shardings(mesh, shapes, names)
    batch = random_batch(ROWS, lengths=LENGTHS, vocab=SIZES.vocab_size)
    at = feed.batch_sharding(mesh)
    with jax.set_mesh(mesh), rules.activate():
        compiled = jax.jit(
            make_step(system, optimiser, seed=0, microbatches=2),
            in_shardings=(layout, jax.tree.map(lambda _: at, batch)),
            out_shardings=(layout, rules.replicated(mesh)),
            donate_argnums=0,
        ).lower(shapes, jax.tree.map(shape_of, batch))
    return compiled.compile().as_text(), shapes, layout


def shape_of(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def collectives(text):
    """The operations of a step over MESH that send something."""
    mesh = Mesh(MESH_AXES, (2, 1, 2, 2), Grid.of(topologies.read("2*v5e:2x2")))
    operations = costs.cost(hlo.parse(text), CHIPS["v5e"], mesh).operations
    return [one for one in operations if one.sent is not None]


def test_no_device_holds_a_whole_kernel_or_gradient_or_moment(step):
    """Gathered is one layer at a time; what leaves the loop is a share of the stack, and
    an embedding or a head's output kernel is never gathered at all."""
    text, shapes, layout = step
    found = sizes(text)
    places = trees.flatten(layout.trainable)
    looked_at = 0
    for path, leaf in trees.flatten(shapes.trainable).items():
        if leaf.size < 1000 or places[path].is_fully_replicated:
            continue
        assert leaf.size not in found, f"{path}: {found[leaf.size]}"
        assert leaf.size // 4 in found, path
        looked_at += 1
    assert looked_at > 20


def test_logits_stay_where_their_part_of_the_vocabulary_is(step):
    found = sizes(step[0])
    share = ROWS // 2 // 4 * LENGTHS[2] * SIZES.vocab_size
    assert share // 2 in found
    for whole in (share, 4 * share, 8 * share):
        assert whole not in found, found[whole]


def test_between_slices_sums_are_all_that_moves(step):
    """Of each gradient its device's share, and scalars: what a slow network can bear."""
    text, shapes, _ = step
    crossing = [
        (one.sent, one.times) for one in collectives(text) if "slice" in one.sent.axes
    ]
    assert {sent.kind for sent, _ in crossing} == {"all-reduce"}
    shares = sum(leaf.size for leaf in jax.tree.leaves(shapes.trainable)) // 4
    sent = sum(sent.nbytes * times for sent, times in crossing)
    # For each of the two microbatches, and what is whole on every device beside it.
    assert 2 * 4 * shares < sent < 1.2 * 2 * 4 * shares


def whole_output_kernels(spec, config=MESH, batch=8):
    """Output kernels' sizes that are in φ and its gradient, of heads by themselves."""
    mesh = make_mesh(config)
    module = make_heads(spec, SIZES.sites, HeadConfig(), "layer", jnp.float32)
    slots = 6 if isinstance(spec, PrefixSpec) else 12
    x = jax.ShapeDtypeStruct((batch, slots, SIZES.emb_dim), np.float32)
    boxed = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    names = jax.tree.map(
        tuple,
        nn.get_partition_spec(boxed),
        is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec),
    )
    shapes = jax.eval_shape(nn.unbox, boxed)
    places = rules.param_shardings(mesh, shapes, names)

    def summed(params, x):
        phi = module.apply({"params": params}, x)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(phi))

    with jax.set_mesh(mesh), rules.activate():
        gradient = jax.jit(
            jax.grad(summed),
            in_shardings=(places, feed.batch_sharding(mesh)),
            out_shardings=places,
        )
        text = gradient.lower(shapes, x).compile().as_text()
    kernels = {
        leaf.size
        for path, leaf in trees.flatten(shapes).items()
        if path.endswith("output/kernel")
    }
    assert kernels
    return {size for size in kernels if size in sizes(text)}


GATHERED = (
    (axes.BATCH, BATCH_AXES),
    (axes.COPY_BATCH, BATCH_AXES),
    (axes.HEADS, MODEL),
    (axes.PHI_OUT, MODEL),
    (axes.EMBED, FSDP),
    (axes.HEAD_HIDDEN, FSDP),
)


@pytest.mark.parametrize("spec", [PREFIX, LoRASpec(rank=4)], ids=["prefix", "lora"])
def test_a_heads_output_kernel_is_never_gathered(spec):
    assert not whole_output_kernels(spec)


def test_it_would_be_seen_if_it_were(monkeypatch):
    """Under rules that split the kernel over fsdp as all others are."""
    fsdp = MeshConfig(fsdp=8)
    assert not whole_output_kernels(PREFIX, fsdp)
    monkeypatch.setattr(rules, "RULES", GATHERED)
    assert whole_output_kernels(PREFIX, fsdp)


def test_positions_gradients_come_together_as_a_table(step):
    """Not as scores, [heads, queries, keys], once for every layer."""
    sources = [one.source for one in collectives(step[0])]
    assert any("transpose" in source for source in sources)
    assert not [source for source in sources if "attention._fused" in source]
