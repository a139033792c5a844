"""Meshes and rule tables; what does not fit is named."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh, mesh_shape


def test_data_takes_the_devices_the_other_axes_leave():
    assert mesh_shape(MeshConfig(fsdp=2, model=2), 8) == (2, 2, 2)
    assert mesh_shape(MeshConfig(), 1) == (1, 1, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(model=16), "zero devices for the mesh asked for.*at least 16"),
        (MeshConfig(data=3), "data 3 x fsdp 1 x model 1 = 3 devices, there are 8"),
        (MeshConfig(fsdp=3), "data 2 x fsdp 3 x model 1 = 6 devices, there are 8"),
    ],
)
def test_a_mesh_that_is_not_there_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        mesh_shape(config, 8)


def test_parameters_split_embed_over_fsdp_and_width_over_model():
    assert rules.partition_spec(("embed", "mlp")) == PartitionSpec("fsdp", "model")
    assert rules.partition_spec(("layers", "embed", "joined_kv")) == PartitionSpec(
        None, "fsdp", "model"
    )
    assert rules.partition_spec(None) == PartitionSpec()


def test_activations_split_fsdp_over_the_batch_alone():
    spec = rules.partition_spec(("batch", "length", "embed"))
    assert spec == PartitionSpec(("data", "fsdp"), None, None)


def test_an_axis_that_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, model=4))
    shapes = {"downstream": {"wi": jax.ShapeDtypeStruct((8, 6), np.float32)}}
    logical = {"downstream": {"wi": ("embed", "mlp")}}
    with pytest.raises(UserError, match="downstream/wi: its axis 'mlp' has size 6"):
        rules.param_shardings(mesh, shapes, logical)


def test_a_batch_that_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(data=4, model=2))
    feed.check_batch(mesh, contexts=8, targets=16, microbatches=2)
    with pytest.raises(UserError, match="12 contexts .* 2 microbatches on 4 devices"):
        feed.check_batch(mesh, contexts=12, targets=16, microbatches=2)


def test_prefetching_keeps_order_and_values():
    mesh = make_mesh(MeshConfig())
    rows = [np.full((8, 2), i, np.int32) for i in range(5)]
    seen = list(feed.prefetch(iter(rows), feed.batch_sharding(mesh)))
    for got, expected in zip(seen, rows, strict=True):
        assert got.sharding.spec == PartitionSpec(("data", "fsdp"))
        np.testing.assert_array_equal(got, expected)
