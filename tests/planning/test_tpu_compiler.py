"""The TPU's compiler on this machine: libtpu, where it is installed."""

import json
import os
import subprocess
import sys

import pytest

from hypert5_jax import plan as door
from hypert5_jax.config import cli
from hypert5_jax.planning import hlo, topologies
from hypert5_jax.planning.chips import CHIPS
from hypert5_jax.planning.collectives import Mesh
from hypert5_jax.planning.costs import cost
from hypert5_jax.planning.links import Grid

pytestmark = pytest.mark.tpu_compiler

# JAX reads its environment once: programs are compiled in a process for their slice.
PROGRAM = """
import json, sys
import jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from hypert5_jax.planning import topologies

topology = topologies.read(sys.argv[1])
devices = topologies.devices(topology, True)
mesh = jax.make_mesh((len(devices),), ("fsdp",), axis_types=(AxisType.Auto,),
                     devices=devices)
at = NamedSharding(mesh, P("fsdp"))
shape = lambda *s, where=at: jax.ShapeDtypeStruct(s, jnp.bfloat16, sharding=where)

def layers(x, kernels):
    return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, kernels)[0]

def unrolled(x, kernels):
    for w in kernels:
        x = jnp.tanh(x @ w)
    return x

each = NamedSharding(mesh, P())
kernels = shape(6, 2048, 2048, where=each)
square = shape(8192, 8192, where=jax.sharding.SingleDeviceSharding(devices[0]))
found = {"devices": len(devices)}
for name, function, arguments in (
    ("scan", layers, (shape(4096, 2048), kernels)),
    ("unrolled", unrolled, (shape(4096, 2048), kernels)),
    ("product", lambda a, b: a @ b, (square, square)),
    ("sum", lambda a, b: a + b, (square, square)),
):
    made = jax.jit(function).lower(*arguments).compile()
    optimal = made.cost_analysis()["optimal_seconds"]
    found[name] = {"text": made.as_text(), "optimal": optimal}
print(json.dumps(found))
"""


def compiled(name):
    environment = os.environ | topologies.environment(topologies.read(name), True)
    done = subprocess.run(
        ["sh", "-c", 'ulimit -s "$(ulimit -H -s)"; exec "$@"', "-", sys.executable]
        + ["-c", PROGRAM, name],
        env=environment,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_loops_are_multiplied_out_on_every_chip(name):
    found, chip = compiled(name), CHIPS[name.split(":")[0]]
    assert found["devices"] == 4  # v4's two cores are one device
    mesh = Mesh(("fsdp",), (4,), Grid.of(topologies.read(name)))
    costs = {
        program: cost(hlo.parse(found[program]["text"]), chip, mesh)
        for program in ("scan", "unrolled", "product", "sum")
    }
    every = 6 * 2 * 1024 * 2048 * 2048
    assert costs["scan"].flops == costs["unrolled"].flops == every
    assert not costs["scan"].unknown_loops and costs["scan"].total("cycles") > 0
    # Of one operation without a loop the compiler's own estimate is to be had, made with
    # its own idea of the chip's rates, which is up to a fifth lower.
    for program in ("product", "sum"):
        ours, theirs = costs[program].seconds(chip), found[program]["optimal"]
        assert 0.75 * theirs < ours < 1.02 * theirs


TINY = (
    "--gin_file=gin/recipes/p3_large/hypert5_lora.gin",
    "--gin_file=gin/models/t5_1_1_tiny.gin",
    "--gin.T5Config.dtype='bfloat16'",
    "--gin.MeshConfig.fsdp=4",
    "--topology=v5e:2x2",
)


def test_a_quick_plan_says_what_fits_and_nothing_of_cycles(tmp_path, capsys):
    file = tmp_path / "plan.json"
    command = [*TINY, f"--cache={tmp_path}", f"--json={file}", "--programs=train"]
    assert cli.exit_code(door.main, [*command, "--quick"]) == 0
    said = capsys.readouterr().out
    assert "fits" in said and "cycles" not in said
    train = json.loads(file.read_text())["programs"]["train"]
    assert train["fits"] and train["compiler"].endswith("quick")
    assert 1.0 <= train["estimate"]["flops_ratio"] < 1.4  # with full rematerialisation
    kinds = {one["kind"] for one in train["costs"]["sent"]}
    assert "all-gather" in kinds  # of FSDP's parameters


def test_two_slices_add_up_only_their_parts_of_gradients(tmp_path):
    file = tmp_path / "plan.json"
    command = [*TINY, f"--cache={tmp_path}", f"--json={file}", "--programs=train"]
    assert cli.exit_code(door.main, [*command, "--quick", "--topology=2*v5e:2x2"]) == 0
    train = json.loads(file.read_text())["programs"]["train"]
    assert train["mesh"] == {"slice": 2, "data": 1, "fsdp": 4, "model": 1}
    (between,) = (one for one in train["costs"]["sent"] if "slice" in one["axes"])
    part = train["held"]["trained parameters"]  # of one of the four, float32
    assert between["axes"] == ["slice"] and between["kind"] == "all-reduce"
    # Kernels' gradients are bfloat16; the hosts take blocks, small arrays are filled up.
    assert part / 2 < between["bytes"] < part


@pytest.mark.slow
def test_a_plan_of_every_program_fits(tmp_path):
    file = tmp_path / "plan.json"
    command = [*TINY, f"--cache={tmp_path}", f"--json={file}"]
    assert cli.exit_code(door.main, command) == 0
    told = json.loads(file.read_text())
    assert {p: told["programs"][p]["fits"] for p in told["programs"]} == {
        "train": True,
        "evaluate": True,
        "adapt": True,
    }


@pytest.mark.slow
def test_the_largest_batch_fits_and_what_is_too_large_does_not(tmp_path, capsys):
    file = tmp_path / "plan.json"
    command = [*TINY, f"--cache={tmp_path}", f"--json={file}", "--programs=train"]
    command += ["--quick"]
    assert cli.exit_code(door.main, [*command, "--largest_batch"]) == 0
    told = json.loads(file.read_text())
    most, over = told["largest_batch"], told["too_large_batch"]
    assert 256 < most < over and most % 4 == 0 and over % 4 == 0
    assert (
        f"largest batch that fits: {most} ({over} does not)" in capsys.readouterr().out
    )
    # The compiler says of it that it does not, and by how much.
    assert cli.exit_code(door.main, [*command, f"--gin.BATCH_SIZE={over}"]) == 0
    assert "DOES NOT FIT" in capsys.readouterr().out
    train = json.loads(file.read_text())["programs"]["train"]
    assert train["memory"]["peak"] > train["memory"]["limit"]
