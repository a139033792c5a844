"""Meshes and rule tables; what does not fit is named."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from hypert5_jax.core.errors import UserError
from hypert5_jax.parallel import feed, rules
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh, mesh_shape


def test_data_takes_the_devices_the_other_axes_leave():
    assert mesh_shape(MeshConfig(fsdp=2, model=2), 8) == (1, 2, 2, 2)
    assert mesh_shape(MeshConfig(), 1) == (1, 1, 1, 1)
    assert mesh_shape(MeshConfig(slice=2, fsdp=2), 8) == (2, 2, 2, 1)
    assert mesh_shape(MeshConfig(fsdp=2), 8, slices=4) == (4, 1, 2, 1)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(model=16), "model 16, needs at least 16 devices, there are 8"),
        (MeshConfig(data=3), "data 3 x fsdp 1 x model 1 = 3 devices, there are 8"),
        (MeshConfig(fsdp=3), "data 2 x fsdp 3 x model 1 = 6 devices, there are 8"),
        (MeshConfig(slice=3, data=1), "slice 3 x data 1 x .* = 3 devices, there are 8"),
        (MeshConfig(slice=16), "slice 16 x fsdp 1 x model 1, needs at least 16"),
    ],
)
def test_a_mesh_that_is_not_there_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        mesh_shape(config, 8)


@pytest.mark.parametrize("sizes", [{"slice": 0}, {"data": -2}, {"fsdp": -1}], ids=str)
def test_sizes_that_no_mesh_has_are_refused(sizes):
    with pytest.raises(UserError, match="an axis has at least 1 device"):
        MeshConfig(**sizes)


@dataclasses.dataclass(frozen=True)
class StandIn:
    """What a mesh asks a chip of a v5p slice of 2 x 2 x 1 for."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5"
    core_on_chip: int = 0
    process_index: int = 0


def stand_ins(slices=2, platform="tpu"):
    """Chips of several slices in no order."""
    chips = [
        StandIn(4 * s + 2 * y + x, s, (x, y, 0), platform)
        for s in range(slices)
        for y in range(2)
        for x in range(2)
    ]
    return [chips[i] for i in np.random.default_rng(0).permutation(len(chips))]


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 4}, {"fsdp": 2, "model": 2}], ids=str)
def test_the_slice_axis_alone_crosses_slices(sizes):
    mesh = make_mesh(MeshConfig(**sizes), stand_ins())
    assert mesh.shape["slice"] == 2 and mesh.size == 8
    for index, devices in enumerate(mesh.devices):
        assert {device.slice_index for device in devices.flat} == {index}
    assert len({device.id for device in mesh.devices.flat}) == 8


def test_neighbours_along_an_inner_axis_are_neighbours_on_the_torus():
    mesh = make_mesh(MeshConfig(fsdp=2, model=2), stand_ins())
    chips = np.vectorize(lambda device: device.coords, otypes=[object])(mesh.devices)
    for line in chips.reshape(-1, 2):
        assert np.abs(np.subtract(*line)).sum() == 1


def test_an_axis_may_be_part_of_a_torus_axis():
    """Of 2 x 2 x 2 chips, 4 and 2: a plane and a line; of 4 x 4, 8 is half a plane."""
    chips = [
        StandIn(4 * y + x, 0, (x, y, 0), device_kind="TPU v6 lite")
        for y in range(4)
        for x in range(4)
    ]
    assert make_mesh(MeshConfig(fsdp=8), chips).devices.shape == (1, 2, 8, 1)


def test_hosts_of_gpus_are_no_slices():
    mesh = make_mesh(MeshConfig(fsdp=8), stand_ins(platform="gpu"))
    assert [device.id for device in mesh.devices.flat] == list(range(8))


def test_another_number_of_slices_than_there_are_is_refused():
    with pytest.raises(
        UserError, match="lie in 2 slices, .* set MeshConfig.slice to 2"
    ):
        make_mesh(MeshConfig(slice=1), stand_ins())
    with pytest.raises(UserError, match="the slices have 4, 2 devices"):
        make_mesh(MeshConfig(), [chip for chip in stand_ins() if chip.id < 6])


def test_parameters_split_embed_over_fsdp_and_width_over_model():
    assert rules.partition_spec(("embed", "mlp")) == PartitionSpec("fsdp", "model")
    assert rules.partition_spec(("layers", "embed", "joined_kv")) == PartitionSpec(
        None, "fsdp", "model"
    )
    assert rules.partition_spec(None) == PartitionSpec()


def test_activations_split_fsdp_over_the_batch_alone():
    spec = rules.partition_spec(("batch", "length", "embed"))
    assert spec == PartitionSpec(("slice", "data", "fsdp"), None, None)


def test_an_axis_that_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(data=2, fsdp=1, model=4))
    shapes = {"downstream": {"wi": jax.ShapeDtypeStruct((8, 6), np.float32)}}
    logical = {"downstream": {"wi": ("embed", "mlp")}}
    with pytest.raises(
        UserError,
        match="downstream/wi: its axis 'mlp' has size 6, .* model 4; choose model 1 or 2",
    ):
        rules.param_shardings(mesh, shapes, logical)


def test_the_sizes_named_divide_every_parameter():
    mesh = make_mesh(MeshConfig(fsdp=1, model=8))
    sizes = {"wi": (8, 24), "key": (8, 12), "output": (8, 96)}
    shapes = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in sizes.items()}
    names = {
        "wi": ("embed", "mlp"),
        "key": ("embed", "joined_kv"),
        "output": ("head_hidden", "phi_out"),
    }
    with pytest.raises(
        UserError, match="key: .* has size 12, .* choose model 1, 2 or 4"
    ):
        rules.param_shardings(mesh, shapes, names)


def test_sizes_of_two_axes_that_lie_along_one_another_are_named():
    mesh = make_mesh(MeshConfig(fsdp=4, model=2))
    shapes = jax.ShapeDtypeStruct((8, 12), np.float32)
    message = "size 12, the mesh has model 2 x fsdp 4; choose model 1 or fsdp 1 or 2"
    with pytest.raises(UserError, match=message):
        rules.param_shardings(mesh, shapes, ("head_hidden", "phi_out"))


def test_a_batch_that_does_not_divide_is_named():
    mesh = make_mesh(MeshConfig(data=4, model=2))
    feed.check_batch(mesh, contexts=8, targets=16, microbatches=2)
    message = "12 contexts .* 2 microbatches on 4 devices .* choose 1, 2 or 4 for"
    with pytest.raises(UserError, match=message):
        feed.check_batch(mesh, contexts=12, targets=16, microbatches=2)


def test_prefetching_keeps_order_and_values():
    mesh = make_mesh(MeshConfig())
    rows = [np.full((8, 2), i, np.int32) for i in range(5)]
    seen = list(feed.prefetch(iter(rows), feed.batch_sharding(mesh)))
    for got, expected in zip(seen, rows, strict=True):
        assert got.sharding.spec == PartitionSpec(("slice", "data", "fsdp"))
        np.testing.assert_array_equal(got, expected)
