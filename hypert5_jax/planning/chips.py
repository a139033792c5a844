"""The chips of Google's TPUs, from public documentation.

Peak, bandwidth, links, network and largest slice: Google Cloud's pages "TPU v4", "TPU
v5e", "TPU v5p", "TPU v6e" (cloud.google.com/tpu/docs). A link is the pages'
bidirectional bytes a second and chip over two ways and the links of a chip, two for
each axis of its torus; "How to Scale Your Model" (Austin et al., 2025, part 2) has the
same, but for v4 a tenth less. The network between slices is the pages' bits a second of
a pod's (v5e, v6e: of 256 chips) or a chip's (v5p) data centre network; that of v4 has
none, and counts as v5e.

HBM is what the compiler hands out to a program (its refusals name it, libtpu 0.0.42); the
pages have 32 GB for v4, 16 for v5e, 95 for v5p and 32 for v6e.

Clock and vector units are not on those pages. The clock is the one at which a chip's
matrix units (128 x 128, of v6e 256 x 256, four for a core) come to the documented peak;
for v4 it is in "TPU v4: An Optically Reconfigurable Supercomputer" (Jouppi et al.,
2023, table 4: 1050 MHz), as are its 16 arithmetic units for each of 128 lanes. For the
others that book has 4 units in each of 8 x 128 places. They decide only how long an
operation without matrix products is estimated to take.

Prices are Google's list prices for one chip and hour on demand, in US dollars, as they
stood in 2025 in a region of the United States. They change and differ by region; nothing
but the column of costs is computed from them, and `--prices` replaces them.
"""

import dataclasses
from collections.abc import Mapping

GIB = 1024**3
PRICED = "list prices of 2025, on demand, United States"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, its cores as one device.

    Attributes:
      name: as in a topology, "v5p".
      hbm_bytes: memory that a program can have.
      peak_flops: bfloat16 operations a second of the matrix units.
      hbm_bandwidth: bytes a second.
      link_bandwidth: bytes a second of one link to another chip, one way.
      network_bandwidth: bytes a second that a chip sends to other slices.
      vector_rate: operations a second of the vector units.
      clock: cycles a second.
      axes: of its torus.
      largest_slice: chips that can be had as one.
      price: US dollars an hour, see above.
    """

    name: str
    hbm_bytes: int
    peak_flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    network_bandwidth: float
    vector_rate: float
    clock: float
    axes: int
    largest_slice: int
    price: float


CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            hbm_bytes=round(30.75 * GIB),
            peak_flops=275e12,
            hbm_bandwidth=1228e9,
            link_bandwidth=50e9,
            network_bandwidth=25e9 / 8,
            vector_rate=2 * 16 * 128 * 1.05e9,
            clock=1.05e9,
            axes=3,
            largest_slice=4096,
            price=3.22,
        ),
        Chip(
            name="v5e",
            hbm_bytes=round(15.75 * GIB),
            peak_flops=197e12,
            hbm_bandwidth=819e9,
            link_bandwidth=50e9,
            network_bandwidth=25e9 / 8,
            vector_rate=4 * 8 * 128 * 1.5e9,
            clock=1.5e9,
            axes=2,
            largest_slice=256,
            price=1.20,
        ),
        Chip(
            name="v5p",
            hbm_bytes=round(95.74 * GIB),
            peak_flops=459e12,
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,
            network_bandwidth=50e9 / 8,
            vector_rate=2 * 4 * 8 * 128 * 1.75e9,
            clock=1.75e9,
            axes=3,
            largest_slice=6144,
            price=4.20,
        ),
        Chip(
            name="v6e",
            hbm_bytes=round(31.25 * GIB),
            peak_flops=918e12,
            hbm_bandwidth=1638e9,
            link_bandwidth=100e9,
            network_bandwidth=100e9 / 8,
            vector_rate=4 * 8 * 128 * 1.75e9,
            clock=1.75e9,
            axes=2,
            largest_slice=256,
            price=2.70,
        ),
    )
}
