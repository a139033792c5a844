"""Optimisers against their formulas, and stacked layers against unstacked ones."""

import jax
import numpy as np
import optax
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.t5.stacking import unstack_layers
from hypert5_jax.training.optimisers import OptimiserConfig, make_optimiser

AXES = {
    "downstream": {
        "table": ("vocab", "embed"),
        "encoder": {
            "layers": {
                "wi": ("layers", "embed", "mlp"),
                "norm": ("layers", "embed"),
            }
        },
    }
}


def random_like_axes(seed):
    """Layers of very different scales: statistics over all of them would differ."""
    rng = np.random.default_rng(seed)
    scales = np.array([1.0, 10.0, 0.01], np.float32)

    def layers(*shape):
        values = rng.normal(size=(3, *shape)).astype(np.float32)
        return values * scales.reshape(3, *[1] * len(shape))

    table = rng.normal(size=(6, 4)).astype(np.float32)
    stack = {"layers": {"wi": layers(4, 8), "norm": layers(4)}}
    return {"downstream": {"table": table, "encoder": stack}}


def unstacked_axes():
    layer = {"wi": ("embed", "mlp"), "norm": ("embed",)}
    encoder = {f"layers_{i}": layer for i in range(3)}
    return {"downstream": {"table": ("vocab", "embed"), "encoder": encoder}}


def updated(config, params, axes, grads, steps=2):
    optimiser = make_optimiser(config, optax.constant_schedule(0.1), axes)
    state = jax.jit(optimiser.init)(params)
    update = jax.jit(optimiser.update)
    for grad in grads[:steps]:
        updates, state = update(grad, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", ["adam", "adamw", "adafactor"])
def test_stacked_layers_train_as_unstacked_ones(name):
    config = OptimiserConfig(
        name=name,
        weight_decay=0.0 if name == "adam" else 0.01,
        min_dim_size_to_factor=4,
    )
    params, grads = random_like_axes(0), [random_like_axes(1), random_like_axes(2)]
    stacked, state = updated(config, params, AXES, grads)
    unstacked, unstacked_state = updated(
        config,
        {g: unstack_layers(t) for g, t in params.items()},
        unstacked_axes(),
        [{g: unstack_layers(t) for g, t in grad.items()} for grad in grads],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        unstack_layers(stacked),
        unstacked,
    )
    if name == "adafactor":
        # What a checkpoint holds: the state unstacks to the unstacked model's.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
            unstack_layers(state[1]),
            unstacked_state[1],
        )


def test_adafactor_factors_matrices_and_descends():
    params, grads = random_like_axes(0), [random_like_axes(1)]
    config = OptimiserConfig(name="adafactor", min_dim_size_to_factor=4, clip_norm=None)
    after, state = updated(config, params, AXES, grads, steps=1)
    change = after["downstream"]["table"] - params["downstream"]["table"]
    assert np.all(np.sign(change) == -np.sign(grads[0]["downstream"]["table"]))
    sizes = {leaf.size for leaf in jax.tree.leaves(state[0]["downstream"]["table"])}
    assert max(sizes) == 6


def test_the_first_adam_step_is_the_learning_rate_against_the_gradient():
    params = {"phi": {"a": np.array([1.0, -2.0], np.float32)}}
    grads = {"phi": {"a": np.array([3.0, -4.0], np.float32)}}
    after, _ = updated(OptimiserConfig(), params, None, [grads], steps=1)
    np.testing.assert_allclose(after["phi"]["a"], [0.9, -1.9], rtol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_all_groups_together():
    config = OptimiserConfig(eps=1.0)  # so that the update depends on the scale
    params = {"a": {"x": np.zeros(1, np.float32)}, "b": {"x": np.zeros(1, np.float32)}}
    grads = {"a": {"x": np.float32([3.0])}, "b": {"x": np.float32([4.0])}}
    clipped = {"a": {"x": np.float32([0.6])}, "b": {"x": np.float32([0.8])}}
    big, _ = updated(config, params, None, [grads], steps=1)
    small, _ = updated(config, params, None, [clipped], steps=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), big, small)


def test_nonsense_is_refused_by_name():
    with pytest.raises(UserError, match="unknown optimiser 'sgd'"):
        OptimiserConfig(name="sgd")
    with pytest.raises(UserError, match="adam has none"):
        OptimiserConfig(weight_decay=0.1)
