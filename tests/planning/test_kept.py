"""What was compiled once: under what it is kept, and what is not taken for it."""

import gzip

import pytest
from etils import epath

from hypert5_jax.planning.compiled import Compiled, compiler_name, read, write

KEPT = Compiled("HloModule step", 2.5, {"peak": 7}, True)


@pytest.fixture
def bare(monkeypatch):
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_OPTIMIZATION_LEVEL"):
        monkeypatch.delenv(name, raising=False)


def test_what_is_kept_is_read_back(tmp_path):
    file = epath.Path(tmp_path / "folder" / "key.gz")
    assert read(file) is None
    write(file, KEPT)
    assert read(file) == KEPT


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:20] + bytes([whole[20] ^ 1]) + whole[21:],
        lambda _: b"",
        lambda _: gzip.compress(b'{"text": "of an older version"}'),
    ],
    ids=["cut", "bit", "empty", "older"],
)
def test_what_is_not_whole_counts_as_nothing(tmp_path, damage):
    file = epath.Path(tmp_path / "key.gz")
    write(file, KEPT)
    file.write_bytes(damage(file.read_bytes()))
    assert read(file) is None


@pytest.mark.parametrize("has_compiler", [True, False])
def test_what_the_environment_asks_of_a_compiler_is_part_of_its_name(
    monkeypatch, bare, has_compiler
):
    usual = compiler_name(has_compiler)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--a=1  --b=2")
    asked = compiler_name(has_compiler)
    assert asked == f"{usual}, LIBTPU_INIT_ARGS=--a=1 --b=2"
    if has_compiler:
        assert compiler_name(has_compiler, quick=True) == f"{asked}, quick"


@pytest.mark.parametrize(("level", "quick"), [("O1", True), ("O2", False)])
def test_a_level_without_the_search_is_quick(monkeypatch, bare, level, quick):
    monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", level)
    assert f"JAX_OPTIMIZATION_LEVEL={level}" in compiler_name(True)
    assert compiler_name(True).endswith(", quick") == quick


def test_the_number_of_fake_devices_is_no_part_of_it(monkeypatch, bare):
    usual = compiler_name(False)
    fake = "--xla_force_host_platform_device_count=8"
    monkeypatch.setenv("XLA_FLAGS", fake)
    assert compiler_name(False) == usual
    monkeypatch.setenv("XLA_FLAGS", f"--xla_cpu_enable_fast_math=true {fake}")
    assert compiler_name(False) == f"{usual}, XLA_FLAGS=--xla_cpu_enable_fast_math=true"
