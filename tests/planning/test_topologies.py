"""Names of slices, and what is said of wrong ones."""

import math

import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.planning import topologies
from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.topologies import KNOWN, environment, read


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5p:4x4x4", 64), ("v4:2x2x1", 4), ("v5e:16x16", 256), ("v6e:1x1", 1)],
)
def test_a_slice_has_as_many_chips_as_its_name_says(name, chips):
    assert read(name).chips == chips and read(name).name == name


def test_several_slices_are_one_topology():
    two = read("2*v5e:4x4")
    assert (two.slices, two.shape, two.chips, two.name) == (2, (4, 4), 32, "2*v5e:4x4")


@pytest.mark.parametrize(
    ("name", "chips"),
    # Google's tables of slices: VMs of v6e-8, v5e-16, v5p-8 (4 chips), v5p-16, one chip.
    [
        ("v6e:2x4", 8),
        ("v5e:4x4", 4),
        ("v5p:2x2x1", 4),
        ("v5p:2x2x2", 4),
        ("v5e:1x1", 1),
    ],
)
def test_a_host_drives_as_many_chips_as_cloud_tpu_gives_it(name, chips):
    assert read(name).chips_per_host == chips


def test_every_known_slice_is_read():
    assert KNOWN.keys() == CHIPS.keys()
    for chip, shapes in KNOWN.items():
        for shape in shapes:
            size = math.prod(int(n) for n in shape.split("x"))
            assert read(f"{chip}:{shape}").chips == size


@pytest.mark.parametrize(
    "name",
    ["", "v5p", "v3:2x2", "v5p:4x4", "v5e:2x2x2", "v5e:3x4", "0*v5e:2x2", "v5e:0x0"],
)
def test_others_are_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=r"v5p:2x2x1, 2x2x2.*v6e:1x1"):
        read(name)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("v6e:32x32", "16x16"),
        ("v5e:8x32", "16x16"),
        ("v4:16x16x20", "4,096 chips"),
        ("2*v5p:16x16x28", "6,144 chips"),
    ],
)
def test_a_slice_larger_than_a_pod_is_refused(name, most):
    with pytest.raises(
        UserError, match=f"at most {most}; several slices are such as 2"
    ):
        read(name)


@pytest.mark.parametrize("name", ["2*v6e:16x16", "v4:16x16x16", "v5p:16x16x24"])
def test_a_whole_pod_is_a_slice(name):
    assert read(name).name == name


def test_a_process_for_a_slice_sees_its_devices_before_jax_does(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--other")
    host = environment(read("v5e:4x4"), compiler=False)
    assert host["XLA_FLAGS"] == "--other --xla_force_host_platform_device_count=16"
    tpu = environment(read("v5e:4x4"), compiler=True)
    assert tpu["TPU_SKIP_MDS_QUERY"] == "1" and "XLA_FLAGS" not in tpu


def test_libtpu_is_found_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("TPU_LIBRARY_PATH", str(tmp_path / "libtpu.so"))
    assert not topologies.has_compiler()
    (tmp_path / "libtpu.so").touch()
    assert topologies.has_compiler()
