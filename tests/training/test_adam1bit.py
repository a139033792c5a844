"""1-bit Adam: the paper's algorithm, what crosses devices, and what is refused."""

import dataclasses
import re
import types

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from hypert5_jax.core import trees
from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import feed, per_device
from hypert5_jax.parallel.mesh import DATA, MeshConfig, make_mesh
from hypert5_jax.training.loop import CheckpointConfig, TrainConfig, train
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.schedules import ScheduleConfig
from hypert5_jax.training.start import start
from hypert5_jax.training.step import make_step
from tests.training import toy

BLOCK, FULL = 8, 4
CONFIG = OptimiserConfig(
    "adam1bit",
    block_size=BLOCK,
    min_compressed_size=BLOCK,
    full_precision_steps=FULL,
    clip_norm=None,
)
SYSTEM = toy.ToySystem(trainable=("hypermodel", "downstream"), dropout_rate=0.0)
TRAIN = TrainConfig(
    steps=8,
    log_every=1,
    optimiser=CONFIG,
    schedule=ScheduleConfig(name="constant", learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=6),
)


def sign_blocks(array):
    """The paper's compression, block by block: as long as the block, signs only."""
    flat = array.ravel()
    out = np.zeros_like(flat)
    for first in range(0, len(flat), BLOCK):
        block = flat[first : first + BLOCK]
        length = np.sqrt((block**2).sum() / len(block))
        out[first : first + BLOCK] = np.where(block < 0, -length, length)
    return out.reshape(array.shape)


def algorithm_1(param, grads, rate=1e-2, b1=0.9, b2=0.999, eps=1e-8):
    """Tang et al., Algorithm 1, on one array; grads [steps, workers, ...]."""
    workers = grads.shape[1]
    m, v, server = (np.zeros(param.shape) for _ in range(3))
    errors = np.zeros((workers, *param.shape))
    for step, of_workers in enumerate(grads, 1):
        if step <= FULL:
            mean = of_workers.mean(axis=0)
            m = b1 * m + (1 - b1) * mean
            v = b2 * v + (1 - b2) * mean**2
        else:
            sent = []
            for i in range(workers):
                own = b1 * m + (1 - b1) * of_workers[i] + errors[i]
                sent.append(sign_blocks(own))
                errors[i] = own - sent[i]
            mean = np.mean(sent, axis=0) + server
            m = sign_blocks(mean)
            server = mean - m
        variance = v / (1 - b2 ** min(step, FULL))
        param = param - rate * m / (1 - b1**step) / (np.sqrt(variance) + eps)
    return param


@pytest.mark.parametrize("workers", [2, 8])
def test_after_the_full_steps_it_is_the_papers_algorithm(workers):
    rng = np.random.default_rng(workers)
    mesh = make_mesh(MeshConfig(), jax.devices()[:workers])
    axes = {"g": {"layers": {"w": ("layers", None, None)}, "v": (None,), "s": (None,)}}
    params = {"g": {"layers": {"w": (2, 5, 7)}, "v": (37,), "s": (3,)}}
    params = jax.tree.map(
        lambda shape: rng.standard_normal(shape).astype(np.float32),
        params,
        is_leaf=lambda x: isinstance(x, tuple),
    )
    grads = jax.tree.map(
        lambda p: rng.standard_normal((9, workers, *p.shape)).astype(np.float32), params
    )
    optimiser = make_optimiser(CONFIG, optax.constant_schedule(1e-2), axes, mesh)
    state = optimiser.init(params)
    specs = per_device.specs(state)

    def one_device(grads, state, params):
        grads = jax.tree.map(lambda g: g[0], grads)
        change, state = optimiser.update(grads, state, params)
        return optax.apply_updates(params, change), state

    step = jax.jit(
        jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(PartitionSpec(DATA), specs, PartitionSpec()),
            out_specs=(PartitionSpec(), specs),
            check_vma=False,
        )
    )
    found = params
    for number in range(9):
        of_step = jax.tree.map(lambda g, n=number: g[n], grads)
        found, state = step(of_step, state, found)
    for path, layer in (("v", ...), ("layers/w", 0), ("layers/w", 1)):
        start_at = trees.flatten(params)[f"g/{path}"][layer]
        given = trees.flatten(grads)[f"g/{path}"][:, :, layer]
        given = given.reshape(9, workers, *start_at.shape)
        expected = algorithm_1(start_at, given)
        np.testing.assert_allclose(
            trees.flatten(found)[f"g/{path}"][layer], expected, rtol=2e-4, atol=1e-5
        )


def run(optimiser, devices, steps=FULL, system=SYSTEM, directory=None, **settings):
    config = dataclasses.replace(TRAIN, optimiser=optimiser, steps=steps, **settings)
    return train(
        system,
        config,
        toy.batches,
        toy.initial(system),
        directory=directory,
        devices=jax.devices()[:devices],
    )


@pytest.mark.parametrize("microbatches", [1, 2])
def test_the_full_steps_are_adams_on_one_device(microbatches):
    clipped = dataclasses.replace(CONFIG, clip_norm=0.1)
    found = run(clipped, 4, microbatches=microbatches)
    expected = run(OptimiserConfig(clip_norm=0.1), 1)
    for name in ("train/loss", "train/accuracy"):
        assert found.metrics[name] == pytest.approx(expected.metrics[name], rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        found.params,
        expected.params,
    )


def test_an_interrupted_run_goes_on_bit_by_bit_on_as_many_devices_only(tmp_path):
    straight = run(CONFIG, 4, steps=8).params
    run(CONFIG, 4, steps=6, directory=tmp_path)
    # In how many slices the devices lie changes nothing.
    slices = MeshConfig(slice=2)
    again = run(CONFIG, 4, steps=8, directory=tmp_path, mesh=slices).params
    jax.tree.map(np.testing.assert_array_equal, again, straight)
    with pytest.raises(
        UserError, match=r"4 data devices\), this run .* 2 data devices"
    ):
        run(CONFIG, 2, steps=9, directory=tmp_path)
    loop = dataclasses.replace(SYSTEM, scan_layers=False)
    run(CONFIG, 4, steps=9, directory=tmp_path, system=loop)


def compiled_step(config, width=64):
    """The whole training step over 8 devices, as the compiler wrote it."""
    system = dataclasses.replace(SYSTEM, width=width)
    mesh = make_mesh(MeshConfig())
    with jax.set_mesh(mesh):
        begin = start(
            system,
            dataclasses.replace(TRAIN, optimiser=config),
            toy.initial(system),
            None,
            mesh,
        )
        batch = feed.to_mesh(toy.batch_at(0), feed.batch_sharding(mesh))
        step = jax.jit(make_step(system, begin.optimiser, seed=0))
        text = step.lower(begin.state, batch).compile().as_text()
    return text, trees.count(begin.state.trainable)


WIDTHS = {"f32": 4, "u8": 1, "s32": 4, "u32": 4, "pred": 1}


def crossing(text, branch):
    """{(operation, dtype): bytes} of one branch's results that cross devices."""
    found = {}
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for line in text.splitlines():
        match = re.search(rf" = (.*?) ({kinds})(?:-start)?\(", line)
        if match is None or branch not in line:
            continue
        for dtype, sizes in re.findall(r"([a-z]+\d*)\[([\d,]*)\]", match[1]):
            size = int(np.prod([int(n) for n in sizes.split(",") if n]))
            key = match[2], dtype
            found[key] = found.get(key, 0) + size * WIDTHS[dtype]
    return found


def test_packed_signs_are_what_crosses_devices():
    config = dataclasses.replace(CONFIG, block_size=64, min_compressed_size=1024)
    text, count = compiled_step(config)
    full = crossing(text, "cond/branch_1_fun")
    assert full == {("all-reduce", "f32"): 4 * count}
    signs = crossing(text, "cond/branch_0_fun")
    assert signs == {
        ("all-to-all", "u8"): count // 8,
        ("all-gather", "u8"): count // 8,
        ("all-to-all", "f32"): 4 * count // 64,
        ("all-gather", "f32"): 4 * count // 64,
    }
    # An all-reduce is a reduce-scatter and an all-gather: each moves all numbers once.
    assert sum(signs.values()) < 2 * 4 * count / 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mesh": MeshConfig(fsdp=2)}, "mesh has fsdp=2; set MeshConfig.fsdp to 1"),
        ({"mesh": MeshConfig(model=4)}, "mesh has model=4"),
    ],
)
def test_meshes_it_cannot_use_are_refused_by_name(settings, message):
    with pytest.raises(UserError, match=message):
        run(CONFIG, 8, **settings)


def test_other_nonsense_is_refused_by_name():
    with pytest.raises(UserError, match="block_size is 12; .* multiples of 8"):
        OptimiserConfig("adam1bit", block_size=12)
    with pytest.raises(UserError, match="full_precision_steps is 0"):
        OptimiserConfig("adam1bit", full_precision_steps=0)
    with pytest.raises(UserError, match="but adam1bit has none"):
        OptimiserConfig("adam1bit", weight_decay=0.1)
    optimiser = make_optimiser(
        CONFIG, optax.constant_schedule(1.0), None, make_mesh(MeshConfig())
    )
    several = types.SimpleNamespace(variant=types.SimpleNamespace(learned_batch=4))
    with pytest.raises(UserError, match="adam1bit with learned_batch=4"):
        make_step(several, optimiser, seed=0)


def test_what_never_had_a_gradient_is_left_alone():
    def batches(first):
        for batch in toy.batches(first):
            batch.inputs[:] = batch.inputs % 7  # the other tokens are not met
            yield batch

    # Two rows of the embedding to a block: the last that is met beside one that is not.
    optimiser = dataclasses.replace(CONFIG, block_size=2 * toy.EMBED)
    config = dataclasses.replace(TRAIN, steps=12, optimiser=optimiser)
    begin = toy.initial(SYSTEM)
    result = train(SYSTEM, config, batches, begin, devices=jax.devices()[:2])
    before, after = (
        np.array(p["downstream"]["embedding"]) for p in (begin.params, result.params)
    )
    np.testing.assert_array_equal(after[7:], before[7:])
    assert np.all(np.any(after[:7] != before[:7], axis=1))
