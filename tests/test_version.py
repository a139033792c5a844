"""One version, whether read from the package or from its metadata."""

import tomllib

import hypert5_jax
from tests.conftest import ROOT


def test_the_package_and_pyproject_name_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert hypert5_jax.__version__ == project["version"]
