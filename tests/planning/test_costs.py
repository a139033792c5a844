"""What a step takes, proved on programs whose numbers are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from hypert5_jax.planning import costs, hlo
from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.collectives import Mesh, sent
from hypert5_jax.planning.flops import product_flops
from hypert5_jax.planning.links import Grid
from hypert5_jax.planning.topologies import read

MESH = Mesh(("data", "fsdp"), (2, 4), Grid.of(read("v5e:2x4")))
CHIP = CHIPS["v5e"]


def compiled(function, *shapes, **options):
    return jax.jit(function, **options).lower(*shapes).compile()


def cost_of(function, *shapes, **options):
    text = compiled(function, *shapes, **options).as_text()
    return costs.cost(hlo.parse(text), CHIP, MESH)


def array(*shape, dtype=jnp.float32, at=None):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=at)


def layers(x, kernels):
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, kernels)[0]


def test_a_scan_of_matrix_products_has_all_its_flops():
    found = cost_of(layers, array(32, 64), array(24, 64, 64))
    assert found.flops == 24 * 2 * 32 * 64 * 64
    assert not found.unknown_loops


def test_a_loop_in_a_loop_and_its_backward_pass_have_all_theirs():
    def twice(x, kernels):
        def outer(c, ws):
            return layers(c, ws), None

        return jax.lax.scan(outer, x, kernels)[0]

    def loss(x, kernels):
        return jnp.sum(twice(x, kernels))

    shapes = array(8, 16), array(3, 5, 16, 16)
    one = 2 * 8 * 16 * 16
    assert cost_of(twice, *shapes).flops == 15 * one
    # The gradients of x and of every kernel cost as much as the forward pass each.
    assert cost_of(jax.grad(loss, (0, 1)), *shapes).flops == 3 * 15 * one


@pytest.mark.parametrize(
    ("window", "padding", "strides", "dilations", "groups"),
    [
        ((3, 3), "SAME", (1, 1), (1, 1), 1),
        ((4, 1), "VALID", (2, 3), (1, 1), 1),
        ((2, 3), ((5, 1), (0, 4)), (1, 2), (2, 1), 1),
        ((3, 3), "SAME", (1, 1), (1, 1), 2),
    ],
)
def test_a_convolution_is_counted_as_xla_counts_it(
    window, padding, strides, dilations, groups
):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=dilations,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    made = compiled(convolve, array(2, 9, 10, 4), array(*window, 4 // groups, 6))
    module = hlo.parse(made.as_text())
    ours = sum(
        product_flops(one, around)
        for around in module.computations.values()
        for one in around.values()
    )
    if not any(
        one.opcode == "convolution"
        for around in module.computations.values()
        for one in around.values()
    ):
        pytest.skip("this compiler made no convolution of it")
    assert ours == made.cost_analysis()["flops"]


def mesh():
    return jax.make_mesh((2, 4), MESH.axes, axis_types=(AxisType.Auto,) * 2)


def at(*spec):
    return NamedSharding(mesh(), PartitionSpec(*spec))


def multiply(a, b):
    return a @ b


def test_collectives_have_the_bytes_of_a_ring_and_the_axes_they_cross():
    n = 512
    part = (n // 2) * n * 4
    # Contracted over what fsdp splits: partial sums of [n / 2, n] are added up.
    added = cost_of(
        multiply,
        array(n, n, at=at("data", "fsdp")),
        array(n, n, at=at("fsdp", None)),
        out_shardings=at("data", None),
    )
    assert added.flops == 2 * n**3 // 8
    assert added.sent == {("all-reduce", ("fsdp",)): (1, 2 * part * 3 // 4)}
    # Rows over all devices, a kernel over fsdp: each gathers the three parts it lacks.
    gathered = cost_of(
        multiply,
        array(n, n, at=at(("data", "fsdp"), None)),
        array(n, n, at=at("fsdp", None)),
        out_shardings=at(("data", "fsdp"), None),
    )
    assert gathered.sent == {("all-gather", ("fsdp",)): (1, n * n * 4 * 3 // 4)}


@pytest.mark.parametrize(
    ("groups", "axes", "devices"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", ("fsdp",), 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",), 2),
        ("[2,4]<=[8]", ("fsdp",), 4),
        ("[4,2]<=[2,4]T(1,0)", ("data",), 2),
        ("[1,8]<=[8]", ("data", "fsdp"), 8),
        ("mesh['a'=8] {'a'}", ("data", "fsdp"), 8),
        ("mesh['a'=2,'b'=4] {'b'}", ("fsdp",), 4),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", ("fsdp",), 4),
        ("mesh['a'=8] {'a':(1)2}", ("data",), 2),
        ("mesh['a'=8] {'a':(2)4}", ("fsdp",), 4),
    ],
)
def test_the_groups_of_a_collective_are_read_however_they_are_written(
    groups, axes, devices
):
    text = f"""ENTRY %main (a: f32[64]) -> f32[64] {{
  %a = f32[64]{{0}} parameter(0)
  ROOT %sum = f32[64]{{0}} all-reduce(%a), replica_groups={groups}, to_apply=%add
}}"""
    around = hlo.parse(text).computations["main"]
    found = sent(around["sum"], around, MESH)
    assert (found.axes, found.devices) == (axes, devices)
    assert found.nbytes == 2 * 256 * (devices - 1) // devices


@pytest.mark.parametrize(
    ("transfer", "kind", "nbytes"),
    [
        ("ALL_REDUCE", "all-reduce", 2 * 256 * 2 // 3),
        ("ALL_GATHER", "all-gather", 2 * 256),
        ("REDUCE_SCATTER", "reduce-scatter", 256 * 2 // 3),
        ("ONE_TO_ONE", "collective-permute", 256),
    ],
)
def test_what_hosts_send_between_slices_is_a_collective_too(transfer, kind, nbytes):
    text = f"""ENTRY %main (a: f32[64]) -> token[] {{
  %a = f32[64]{{0}} parameter(0)
  %t = token[] after-all()
  %s = (f32[64]{{0}}, u32[], token[]) send(%a, %t), channel_id=2, is_host_transfer=true, \
frontend_attributes={{_xla_megascale_transfer_type="{transfer}"}}
  ROOT %d = token[] send-done(%s), channel_id=2, is_host_transfer=true
}}"""
    module = hlo.parse(text)
    grid = Grid.of(read("3*v5e:2x2"))
    found = costs.cost(module, CHIP, Mesh(("slice", "fsdp"), (3, 2), grid))
    assert found.sent == {(kind, ("slice",)): (1, nbytes)}
    stops, hidden = found.collective_seconds
    assert (stops, hidden) == (nbytes / CHIP.network_bandwidth, 0)


def reduced(kept, root):
    """What is sent for two arrays added up inside of a fusion that ends in these lines."""
    text = f"""%fused (a: f32[64,8], b: f32[64,8]) -> (f32[8,8], {kept}) {{
  %a = f32[64,8]{{1,0}} parameter(0)
  %b = f32[64,8]{{1,0}} parameter(1)
  %sum = (f32[64,8]{{1,0}}, f32[64,8]{{1,0}}) all-reduce(%a, %b), \
replica_groups={{{{0,1,2,3,4,5,6,7}}}}
  %id = u32[] partition-id()
  %zero = u32[] constant(0)
  %left = f32[64,8]{{1,0}} get-tuple-element(%sum), index=0
  %right = f32[64,8]{{1,0}} get-tuple-element(%sum), index=1
  %part = f32[8,8]{{1,0}} dynamic-slice(%left, %id, %zero), dynamic_slice_sizes={{8,8}}
  {root}
}}

ENTRY %main (a: f32[64,8], b: f32[64,8]) -> (f32[8,8], {kept}) {{
  %a = f32[64,8]{{1,0}} parameter(0)
  %b = f32[64,8]{{1,0}} parameter(1)
  ROOT %f = (f32[8,8]{{1,0}}, {kept}{{1,0}}) fusion(%a, %b), kind=kCustom, calls=%fused
}}"""
    return costs.cost(hlo.parse(text), CHIP, MESH).sent


def test_a_fused_sum_of_which_only_slices_are_kept_is_a_reduce_scatter():
    other = """%other = f32[8,8]{1,0} dynamic-slice(%right, %id, %zero), \
dynamic_slice_sizes={8,8}
  ROOT %both = (f32[8,8]{1,0}, f32[8,8]{1,0}) tuple(%part, %other)"""
    everywhere, nbytes = ("data", "fsdp"), 2 * 64 * 8 * 4 * 7 // 8
    found = reduced("f32[8,8]", other)
    assert found == {("reduce-scatter", everywhere): (1, nbytes)}

    both = "ROOT %both = (f32[8,8]{1,0}, f32[64,8]{1,0}) tuple(%part, %right)"
    found = reduced("f32[64,8]", both)
    assert found == {("all-reduce", everywhere): (1, 2 * nbytes)}


def test_a_permutation_sends_its_operand_once():
    text = """ENTRY %main (a: f32[64]) -> f32[64] {
  %a = f32[64]{0} parameter(0)
  ROOT %moved = f32[64]{0} collective-permute(%a), source_target_pairs={{0,4},{4,0}}
}"""
    around = hlo.parse(text).computations["main"]
    found = sent(around["moved"], around, MESH)
    assert (found.kind, found.axes, found.nbytes) == (
        "collective-permute",
        ("data",),
        256,
    )


FUSED = """%take (p: f32[24,64], i: s32[]) -> f32[64] {
  %p = f32[24,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,64]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,64}
  ROOT %flat = f32[64]{0} bitcast(%one)
}

%put (q: f32[24,64], v: f32[1,64], j: s32[]) -> f32[24,64] {
  %q = f32[24,64]{1,0} parameter(0)
  %v = f32[1,64]{1,0} parameter(1)
  %j = s32[] parameter(2)
  %nil = s32[] constant(0)
  ROOT %new = f32[24,64]{1,0} dynamic-update-slice(%q, %v, %j, %nil)
}

ENTRY %main (a: f32[24,64], n: s32[], x: f32[1,64]) -> f32[24,64] {
  %a = f32[24,64]{1,0} parameter(0)
  %n = s32[] parameter(1)
  %x = f32[1,64]{1,0} parameter(2)
  %taken = f32[64]{0:S(1)} fusion(%a, %n), kind=kLoop, calls=%take
  ROOT %changed = f32[24,64]{1,0} fusion(%a, %x, %n), kind=kLoop, calls=%put
}"""


def test_memory_traffic_is_that_of_slices_and_of_what_changes():
    found = costs.cost(hlo.parse(FUSED), CHIP, MESH)
    nbytes = {one.name: one.hbm_bytes for one in found.operations}
    # Read one of 24 rows; the result lies on the chip.
    assert nbytes["taken"] == 256
    # Read the row and its number, write it in its place.
    assert nbytes["changed"] == 256 + 4 + 256


def test_time_is_that_of_the_busiest_part_of_the_chip():
    n = 1024
    found = cost_of(multiply, array(n, n, dtype=jnp.float32), array(n, n))
    (product,) = (one for one in found.operations if one.product_flops)
    assert product.seconds == pytest.approx(
        max(2 * n**3 / CHIP.peak_flops, 3 * n * n * 4 / CHIP.hbm_bandwidth), rel=0.05
    )
    assert found.seconds(CHIP) >= found.least_seconds(CHIP)
    assert np.isclose(found.least_seconds(CHIP), found.memory_seconds(CHIP))


KERNEL = """ENTRY %main (a: bf16[256,256]) -> bf16[256,256] {
  %a = bf16[256,256]{1,0} parameter(0)
  %hint = bf16[256,256]{1,0} custom-call(%a), custom_call_target="AllocateBuffer"
  ROOT %kernel = bf16[256,256]{1,0} custom-call(%a, %hint), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"TUz=="ESTIMATE}}
}"""


def test_a_kernel_is_what_its_author_says_or_is_named():
    says = ',"cost_estimate":{"flops":"33554432","bytes_accessed":"500"}'
    found = costs.cost(hlo.parse(KERNEL.replace("ESTIMATE", says)), CHIP, MESH)
    assert (found.flops, found.total("hbm_bytes")) == (33554432, 500)
    assert not found.unknown_kernels
    silent = costs.cost(hlo.parse(KERNEL.replace("ESTIMATE", "")), CHIP, MESH)
    assert (silent.flops, silent.total("hbm_bytes")) == (0, 3 * 256 * 256 * 2)
    assert silent.unknown_kernels == ("kernel",)


def test_a_fusion_that_sends_also_computes():
    text = """%both (p: f32[64,64]) -> f32[64,64] {
  %p = f32[64,64]{1,0} parameter(0)
  %sum = f32[64,64]{1,0} all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %dot = f32[64,64]{1,0} dot(%p, %sum), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (a: f32[64,64]) -> f32[64,64] {
  %a = f32[64,64]{1,0} parameter(0)
  ROOT %fused = f32[64,64]{1,0} fusion(%a), kind=kOutput, calls=%both
}"""
    found = costs.cost(hlo.parse(text), CHIP, MESH)
    assert found.flops == 2 * 64**3
    assert list(found.sent) == [("all-reduce", ("data", "fsdp"))]


def test_a_collective_that_goes_through_several_fusions_is_one_that_overlaps():
    gather = (
        "all-gather(%p{n}), channel_id=7, replica_groups=[2,4]<=[8], dimensions={{0}}"
    )

    def part(n, target):
        return f"""%part{n} (p{n}: f32[16,64]) -> f32[64,64] {{
  %p{n} = f32[16,64]{{1,0}} parameter(0)
  %all{n} = f32[64,64]{{1,0}} {gather.format(n=n)}
  ROOT %out{n} = f32[64,64]{{1,0}} custom-call(%all{n}), custom_call_target="{target}"
}}
"""

    targets = ("AsyncCollectiveStart", "AsyncCollectiveStep", "AsyncCollectiveDone")
    lines = [part(n, target) for n, target in enumerate(targets)]
    fused = "  %f{n} = f32[64,64]{{1,0}} fusion(%a), kind=kCustom, calls=%part{n}"
    lines += ["ENTRY %main (a: f32[16,64]) -> f32[64,64] {"]
    lines += ["  %a = f32[16,64]{1,0} parameter(0)"]
    lines += [fused.format(n=n) for n in range(3)] + ["}"]
    found = costs.cost(hlo.parse("\n".join(lines)), CHIP, MESH)
    nbytes = 3 * 16 * 64 * 4
    assert found.sent == {("all-gather", ("fsdp",)): (1, nbytes)}
    stops, early = found.collective_seconds
    assert stops == 0 and early > 0
