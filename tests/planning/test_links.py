"""How long links take, against cases computed by hand and a simulation of the grid."""

import types

import pytest

from hypert5_jax.planning.links import Grid
from hypert5_jax.planning.topologies import read


def line(grid, axis, start=0, step=1):
    """Partitions along one axis of the grid, from its corner."""
    others = range(len(grid.shape))
    return tuple(
        number
        for number, place in enumerate(grid.places)
        if not any(place[at] for at in others if at != axis)
        and place[axis] in range(start, grid.shape[axis], step)
    )


def everyone(grid):
    return tuple(range(len(grid.places)))


@pytest.mark.parametrize(
    ("name", "links"),
    [
        (
            "v5e:4x4",
            2,
        ),  # "How to Scale Your Model", part 2, question 6: 16e9 / (2 * 5e10)
        ("v5e:16x16", 4),
        ("v5e:8x16", 3),
        ("v6e:2x4", 2),
        ("v5p:2x2x1", 2),
        ("v5p:2x2x2", 3),
        ("v5p:2x4x4", 3),
        ("v5p:4x4x8", 6),
    ],
)
def test_a_whole_slice_has_the_links_of_its_corner(name, links):
    grid = Grid.of(read(name))
    for kind in ("all-gather", "all-reduce", "reduce-scatter"):
        found = grid.seconds(kind, [everyone(grid)], 10**9)
        assert found == pytest.approx(1e9 / (links * grid.link_bandwidth))


def test_an_axis_of_the_mesh_has_the_links_of_its_axis_of_the_torus():
    ring, row = Grid.of(read("v5p:4x4x4")), Grid.of(read("v5p:2x2x4"))
    assert ring.seconds("all-gather", [line(ring, 2)], 10**9) == 1e9 / 2e11
    assert row.seconds("all-gather", [line(row, 2)], 10**9) == 1e9 / 1e11


def test_a_part_of_a_ring_is_a_row():
    grid = Grid.of(read("v5p:4x4x4"))
    half = line(grid, 1)[:2]
    ends = line(grid, 1)[::3]  # neighbours, by the link that joins the ends
    for pair in (half, ends):
        assert grid.seconds("all-gather", [pair], 10**9) == 1e9 / 1e11


def test_groups_that_lie_between_one_another_share_links():
    row, ring = Grid.of(read("v5e:4x4")), Grid.of(read("v5e:16x16"))
    odd_and_even = [line(row, 1, start, 2) for start in (0, 1)]
    assert row.seconds("all-gather", odd_and_even, 10**9) == 1e9 / 2.5e10
    odd_and_even = [line(ring, 1, start, 2) for start in (0, 1)]
    assert ring.seconds("all-gather", odd_and_even, 10**9) == 1e9 / 5e10


def test_an_exchange_is_bound_by_the_middle_of_an_axis():
    ring, row = Grid.of(read("v5e:16x16")), Grid.of(read("v5e:4x4"))
    # Part 3 of the book: an array of V bytes over a ring takes V / (4 * 1e11) of a v5e;
    # every device sends V / 16 of it.
    found = ring.seconds("all-to-all", [line(ring, 0)], 10**9)
    assert found == pytest.approx(16e9 / (4 * 1e11))
    # Of a row of 4, two send half of theirs over the link in the middle.
    assert row.seconds("all-to-all", [line(row, 0)], 10**9) == 1e9 / 5e10


def shift(members, by):
    return [(one, members[(n + by) % len(members)]) for n, one in enumerate(members)]


@pytest.mark.parametrize(
    ("name", "by", "messages"),
    [("v5e:4x4", 1, 1), ("v5e:4x4", 2, 2), ("v5e:16x16", 1, 1), ("v5e:16x16", 3, 3)],
)
def test_a_permutation_takes_as_long_as_its_busiest_link(name, by, messages):
    grid = Grid.of(read(name))
    pairs = shift(line(grid, 1), by)
    found = grid.seconds("collective-permute", pairs, 10**9)
    assert found == messages * 1e9 / 5e10


def test_devices_say_where_they_lie():
    places = [(x, y, 0) for y in range(4) for x in range(2)]  # x first, as TPUs count
    devices = [types.SimpleNamespace(coords=list(place)) for place in places]
    grid = Grid.of(read("v6e:2x4"), devices)
    assert grid.places == tuple(place[:2] for place in places)
    # fsdp 2 along x, one hop; in the order of rows it would lie along y.
    assert grid.seconds("all-gather", [(0, 1)], 10**9) == 1e9 / 1e11
    assert grid.seconds("all-gather", [(0, 6)], 10**9) == 3e9 / 1e11


def test_hosts_that_stand_in_lie_row_by_row_in_every_slice():
    devices = [types.SimpleNamespace() for _ in range(8)]
    grid = Grid.of(read("2*v5e:2x2"), devices)
    assert grid.places == ((0, 0), (0, 1), (1, 0), (1, 1)) * 2


def rounds_of_an_all_gather(grid):
    """Rounds in which every chip gets all chips' parts, a link carrying one a round each
    way: each chip asks its neighbours for what the fewest have."""
    at = {place: number for number, place in enumerate(grid.places)}

    def neighbours(place):
        for axis, (size, ring) in enumerate(zip(grid.shape, grid.rings)):
            for step in (-1, 1):
                other = place[axis] + step
                if ring or 0 <= other < size:
                    yield at[(*place[:axis], other % size, *place[axis + 1 :])]

    near = [sorted(set(neighbours(place)) - {at[place]}) for place in grid.places]
    has = [{one} for one in range(len(near))]
    rounds = 0
    while any(len(mine) < len(near) for mine in has):
        rounds += 1
        gets = [set() for _ in near]
        spread = [sum(part in mine for mine in has) for part in range(len(near))]
        for one, others in enumerate(near):
            for other in sorted(others, key=lambda n: len(has[n] - has[one])):
                new = has[other] - has[one] - gets[one]
                if new:
                    gets[one].add(min(new, key=lambda part: (spread[part], part)))
        for mine, more in zip(has, gets):
            mine |= more
    return rounds


@pytest.mark.parametrize("name", ["v5e:2x4", "v5e:4x4", "v5p:2x2x2", "v5p:4x4x4"])
def test_neighbours_alone_can_gather_in_hardly_more_than_that(name):
    grid = Grid.of(read(name))
    chips = len(grid.places)
    rounds = rounds_of_an_all_gather(grid)
    least = grid.seconds("all-gather", [everyone(grid)], chips - 1)
    least *= grid.link_bandwidth
    assert least <= rounds <= 1.3 * least + 1
