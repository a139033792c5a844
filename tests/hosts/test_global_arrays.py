"""Arrays between a process and all of them, as far as one process can show it."""

import numpy as np

from hypert5_jax.parallel import feed, global_arrays
from hypert5_jax.parallel.mesh import MeshConfig, make_mesh
from hypert5_jax.training import state
from tests.training import toy


def test_one_process_has_the_whole_of_every_batch():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, model=2))
    sharding = feed.batch_sharding(mesh)
    share = global_arrays.share(sharding)
    assert share == global_arrays.Share() and share.whole(16) == 16
    rows = np.arange(48.0, dtype=np.float32).reshape(16, 3)
    placed = global_arrays.from_share(rows, sharding)
    assert placed.sharding == sharding
    np.testing.assert_array_equal(global_arrays.to_host(placed), rows)


def test_a_share_knows_the_size_of_the_whole():
    assert global_arrays.Share((1, 3), 8).whole(4) == 16


def test_a_fingerprint_fetches_one_layer_of_one_parameter_at_a_time(monkeypatch):
    frozen = {"downstream": toy.initial(toy.ToySystem()).params["downstream"]}
    whole = state.fingerprints(frozen)
    fetched = []

    def to_host(array):
        fetched.append(array.shape)
        return np.asarray(array)

    monkeypatch.setattr(global_arrays, "to_host", to_host)
    assert state.fingerprints(frozen) == whole
    width = (toy.EMBED, toy.EMBED)
    assert sorted(fetched) == sorted(
        [width] * toy.LAYERS + [(toy.VOCAB, toy.EMBED), (toy.EMBED, toy.VOCAB)]
    )
