"""One version, in the package and in its metadata; and the public names."""

import tomllib

import hypert5_jax
from tests.conftest import ROOT


def test_the_package_and_pyproject_name_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hypert5_jax.__version__ == project["version"]


def test_every_public_name_is_there_when_it_is_asked_for():
    assert {"load", "Model", "Phi", "Decoding"} <= set(dir(hypert5_jax))
    assert all(getattr(hypert5_jax, name) for name in dir(hypert5_jax))
    assert hypert5_jax.Phi.__name__ == "TaskPhi"
