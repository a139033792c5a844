"""Adam with 8-bit moments: against a NumPy version, in layers, on disk and sharded."""

import dataclasses
import json
import re

import jax
import numpy as np
import optax
import pytest
import tensorstore
from jax.sharding import PartitionSpec

from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import rules
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.t5.stacking import unstack_layers
from hypert5_jax.training.adam8bit import scale_by_adam8bit
from hypert5_jax.training.dynamic_tree import Quantised
from hypert5_jax.training.loop import CheckpointConfig, TrainConfig, train
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser
from hypert5_jax.training.schedules import ScheduleConfig
from tests.training import toy
from tests.training.test_dynamic_tree import paper_map
from tests.training.test_optimisers import (
    AXES,
    random_like_axes,
    unstacked_axes,
    updated,
)

CONFIG = OptimiserConfig("adam8bit", block_size=4, min_compressed_size=8)
SYSTEM = toy.ToySystem(trainable=("hypermodel", "downstream"))
TRAIN = TrainConfig(
    steps=6,
    optimiser=CONFIG,
    schedule=ScheduleConfig(name="constant", learning_rate=1e-2),
    checkpoints=CheckpointConfig(every=3),
)


def test_updates_are_those_of_a_numpy_version_that_looks_codes_up():
    rng = np.random.default_rng(0)
    shape, block = (3, 20), 8
    grads = [rng.standard_normal(shape).astype(np.float32) for _ in range(5)]
    grads[2][0] = 0.0
    chain = scale_by_adam8bit(0.9, 0.99, 1e-8, block, 8, None)
    state, update = chain.init({"w": grads[0]}), jax.jit(chain.update)

    def squeezed(moment, signed):
        table = paper_map(signed)
        out = np.zeros_like(moment)
        for row in range(shape[0]):
            for first in range(0, shape[1], block):
                here = row, slice(first, first + block)
                largest = np.abs(moment[here]).max() or 1.0
                away = np.abs(moment[here][:, None] / largest - table)
                out[here] = table[away.argmin(axis=1)] * largest
        return out

    mu, nu = np.zeros(shape), np.zeros(shape)
    for step, grad in enumerate(grads, 1):
        mu = 0.9 * squeezed(mu, True) + 0.1 * grad
        nu = 0.99 * squeezed(nu, False) + 0.01 * grad**2
        expected = mu / (1 - 0.9**step) / (np.sqrt(nu / (1 - 0.99**step)) + 1e-8)
        change, state = update({"w": grad}, state)
        np.testing.assert_allclose(change["w"], expected, rtol=2e-4, atol=1e-6)
    assert isinstance(state.mu["w"], Quantised)


def test_stacked_layers_train_as_unstacked_ones_to_the_last_bit():
    config = dataclasses.replace(CONFIG, clip_norm=None)
    params, grads = random_like_axes(0), [random_like_axes(1), random_like_axes(2)]
    stacked, state = updated(config, params, AXES, grads)
    unstacked, unstacked_state = updated(
        config,
        {g: unstack_layers(t) for g, t in params.items()},
        unstacked_axes(),
        [{g: unstack_layers(t) for g, t in grad.items()} for grad in grads],
    )
    moments, unstacked_moments = state[0], unstacked_state[0]
    for one, other in (
        (stacked, unstacked),
        (moments.mu, unstacked_moments.mu),
        (moments.nu, unstacked_moments.nu),
    ):
        jax.tree.map(
            np.testing.assert_array_equal,
            {g: unstack_layers(one[g]) for g in one},
            other,
        )
    kept = moments.mu["downstream"]
    assert kept["table"].dtype == np.float32  # a vocabulary
    assert kept["encoder"]["layers"]["norm"].dtype == np.float32  # 4 numbers a layer
    assert kept["encoder"]["layers"]["wi"].codes.dtype == np.uint8


def test_several_phi_side_by_side_share_no_block():
    shape, names = (2, 9, 4, 5), {"phi": ("layers", None, "embed", "rank")}
    rng = np.random.default_rng(0)
    scales = 10.0 ** np.arange(9).reshape(9, 1, 1)
    grads = (scales * rng.standard_normal(shape)).astype(np.float32)
    chain = scale_by_adam8bit(0.9, 0.999, 1e-8, 16, 16, names)
    update = jax.jit(chain.update)

    def third_change(grads):
        state = chain.init({"phi": grads})
        for power in range(3):
            change, state = update({"phi": grads**power}, state)
        return change["phi"]

    together, apart = third_change(grads), third_change(grads[:, 4:5])
    np.testing.assert_array_equal(together[:, 4:5], apart)


def test_the_checkpoint_holds_bytes_and_the_run_goes_on_bit_by_bit(tmp_path):
    one = jax.devices()[:1]

    def run(directory, steps):
        config = dataclasses.replace(TRAIN, steps=steps)
        return train(
            SYSTEM,
            config,
            toy.batches,
            toy.initial(SYSTEM),
            directory=directory,
            devices=one,
        )

    straight = run(None, 6).params
    run(tmp_path, 3)
    assert dtype_on_disk(tmp_path / "checkpoints/3/optimiser", "kernel.codes") == "|u1"
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path, 6).params, straight)
    other = dataclasses.replace(CONFIG, block_size=8)
    with pytest.raises(UserError, match="block_size 4, .* uses adam8bit .block_size 8"):
        train(
            SYSTEM,
            dataclasses.replace(TRAIN, optimiser=other),
            toy.batches,
            toy.initial(SYSTEM),
            directory=tmp_path,
            devices=one,
        )


def dtype_on_disk(directory, ending):
    """Of the arrays whose name ends so, as another library reads the files."""
    store = tensorstore.KvStore.open(
        {"driver": "ocdbt", "base": f"file://{directory}"}
    ).result()
    keys = [key.decode() for key in store.list().result()]
    found = [key for key in keys if key.endswith(f"{ending}/.zarray")]
    dtypes = set()
    for key in found:
        dtypes.add(json.loads(store[key])["dtype"])
    (dtype,) = dtypes
    return dtype


def test_codes_and_scales_lie_as_the_parameters_do_and_nothing_moves():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    params = {"g": {"layers": {"w": jax.ShapeDtypeStruct((3, 32, 64), np.float32)}}}
    axes = {"g": {"layers": {"w": ("layers", "embed", "mlp")}}}
    config = dataclasses.replace(CONFIG, block_size=16, clip_norm=None)
    chain = make_optimiser(config, optax.constant_schedule(1.0), axes)
    lie = rules.param_shardings(mesh, params, axes)
    state = jax.eval_shape(chain.init, params)
    state_lies = rules.like_params(mesh, state, params, lie)
    kept = state[0].nu["g"]["layers"]["w"]
    assert kept.codes.shape == (3, 32, 64) and kept.scales.shape == (3, 32, 4)
    for sharding in state_lies[0].nu["g"]["layers"]["w"]:
        assert sharding.spec == PartitionSpec(None, "fsdp", "model")
    update = jax.jit(
        chain.update,
        in_shardings=(lie, state_lies, lie),
        out_shardings=(lie, state_lies),
    )
    text = update.lower(params, state, params).compile().as_text()
    assert "u8[3,16,32]" in text  # what one of four devices holds
    assert not re.search(r"all-|collective|reduce-scatter", text)


def test_an_infinite_gradient_reaches_the_parameters():
    params, grads = random_like_axes(0), random_like_axes(1)
    grads["downstream"]["encoder"]["layers"]["wi"][0, 0, 0] = np.inf
    config = dataclasses.replace(CONFIG, clip_norm=None)
    chain = make_optimiser(config, optax.constant_schedule(0.1), AXES)
    state, update = chain.init(params), jax.jit(chain.update)
    change, state = update(grads, state, params)
    wi = change["downstream"]["encoder"]["layers"]["wi"]
    assert not np.isfinite(wi[0, 0, 0]) and np.isfinite(wi[1:]).all()
    change, _ = update(random_like_axes(2), state, params)
    wi = change["downstream"]["encoder"]["layers"]["wi"]
    assert not np.isfinite(wi[0, 0, 0])
