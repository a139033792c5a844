"""A model, a service around it, and a caller of its HTTP front."""

import pytest
from fastapi.testclient import TestClient

from hypert5_jax.serving.app import create
from hypert5_jax.serving.gate import Limits
from hypert5_jax.serving.service import Service
from tests.serving import world
from tests.serving.world import SIZES, TOKEN


@pytest.fixture(scope="module")
def model():
    return world.model()


@pytest.fixture(scope="module")
def service(model, tmp_path_factory):
    made = Service(model, str(tmp_path_factory.mktemp("bank")), SIZES)
    yield made
    made.close()


@pytest.fixture
def client(service):
    limits = Limits(body_bytes=20_000, body_seconds=0.5, token=TOKEN)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return TestClient(create(service, limits), headers=headers)
