"""Seats: every φ asked for sits where it is said to, written in place, compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypert5_jax.core.errors import UserError
from hypert5_jax.phi.spec import LoRASpec, phi_shapes
from hypert5_jax.serving import seats as module
from hypert5_jax.serving.bank import StoredPhi
from hypert5_jax.serving.seats import Seats
from tests.models import TINY, random_tree

SPEC = LoRASpec(2)


def stored(number):
    return StoredPhi(f"task{number}", number, 0, 0)


def phi(number):
    return random_tree(phi_shapes(SPEC, TINY.sites, 1), number)


def make(capacity, dtype=jnp.float32):
    reads = []

    def read(one):
        if one.inode < 0:
            raise UserError(f"{one.name} is damaged")
        reads.append(one.inode)
        return phi(one.inode)

    return Seats(SPEC, TINY.sites, capacity, read, dtype), reads


def check(seats, numbers, dtype=np.float32):
    everybody, where = seats.seat([stored(n) for n in numbers])
    for number, seat in zip(numbers, where):
        for found, expected in zip(
            jax.tree.leaves(everybody), jax.tree.leaves(phi(number))
        ):
            np.testing.assert_array_equal(
                np.asarray(found)[:, seat], expected[:, 0].astype(dtype)
            )
    return where


def test_random_batches_always_find_their_phi(monkeypatch):
    traced = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *a: traced.append(1) or write(*a))
    seats, reads = make(5)
    rng = np.random.default_rng(0)
    for _ in range(60):
        check(seats, [int(n) for n in rng.integers(0, 12, rng.integers(1, 6))])
    assert len(seats) == 5 and seats.loads == len(reads)
    assert seats.evictions == seats.loads - 5
    assert len(traced) == 1


def test_the_least_recently_used_gives_way_and_none_of_the_batch_does():
    seats, reads = make(3)
    check(seats, [0, 1, 2])
    check(seats, [0])
    check(seats, [3])  # in 1's place
    check(seats, [0, 2, 3])
    assert reads == [0, 1, 2, 3]
    check(seats, [4, 0])  # all three sit; 0 is asked for and stays
    check(seats, [0, 4])
    assert reads == [0, 1, 2, 3, 4]


def test_a_seat_is_written_in_place():
    seats, _ = make(4)
    before = jax.tree.leaves(seats.seat([stored(0)]).phi)
    check(seats, [0, 1])
    assert all(leaf.is_deleted() for leaf in before)


def test_a_phi_that_cannot_be_read_fails_alone():
    seats, _ = make(2)
    everybody, where = seats.seat([stored(-1), stored(3), stored(-1)])
    assert isinstance(where[0], UserError) and where[0] is where[2]
    expected = jax.tree.leaves(phi(3))[0][:, 0]
    np.testing.assert_array_equal(
        np.asarray(jax.tree.leaves(everybody)[0])[:, where[1]], expected
    )
    assert len(seats) == 1
    with pytest.raises(ValueError):
        seats.seat([stored(n) for n in range(3)])


def test_seats_hold_the_dtype_of_activations():
    seats, _ = make(2, jnp.bfloat16)
    check(seats, [1, 2], jnp.bfloat16)
    shapes = jax.tree.leaves(phi_shapes(SPEC, TINY.sites, 2, jnp.bfloat16))
    assert seats.nbytes == sum(2 * np.prod(leaf.shape) for leaf in shapes)
