"""A step compiled for a slice, measured, as plain values that a file can hold."""

import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.planning import costs, hlo
from hypert5_jax.planning.collectives import Mesh
from hypert5_jax.planning.costs import Costs, Operation
from hypert5_jax.planning.links import Grid
from hypert5_jax.planning.steps import Program
from hypert5_jax.planning.topologies import Topology

Json = dict[str, Any]
HOST = "host"
# Without the search for tiles and the code it leads to, most of the compiler's time:
# memory, FLOPs and collectives come out as with it, within a few percent; its cycles mean
# nothing.
QUICK = "quick"
_QUICK_OPTIONS = {"exec_time_optimization_effort": -1.0}
# Levels of JAX_OPTIMIZATION_LEVEL that come to the same.
_QUICK_LEVELS = ("O0", "O1")
# Of the environment, what changes how a program is compiled …
_STEERING = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_OPTIMIZATION_LEVEL",
    "JAX_MEMORY_FITTING_LEVEL",
    "JAX_EXEC_TIME_OPTIMIZATION_EFFORT",
    "JAX_MEMORY_FITTING_EFFORT",
)
# … but for the number of fake devices, of which a program uses as many as its mesh has.
_FAKE_DEVICES = re.compile(r"--xla_force_host_platform_device_count=\d+")
# Of the most expensive operations, how many are kept for --trace.
_KEPT = 60
# "Used 17.2G of 15.75G hbm", "… temporaries (90.00G) exceeds available HBM (15.75G)".
_TOO_LARGE = re.compile(
    r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"
    r"|\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)",
    re.IGNORECASE,
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def key_of(program: Program, topology: Topology, compiler: str) -> str:
    """What decides the result: the program as lowered, the slice, the compiler with its
    manner. Recipes whose steps are the same share it."""
    text = "\n".join(
        (program.lowered.as_text(), topology.name, compiler, str(program.mesh.shape))
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def compiler_name(has_compiler: bool, quick: bool = False) -> str:
    """Its name and version, and how it compiles where that is not its own manner: what
    the environment asks of it, and whether that or the caller makes it `quick`."""
    if not has_compiler:
        return ", ".join((f"{HOST} (jax {jax.__version__})", *_asked()))
    quick = quick or os.environ.get("JAX_OPTIMIZATION_LEVEL") in _QUICK_LEVELS
    try:
        name = f"libtpu {importlib.metadata.version('libtpu')}"
    except importlib.metadata.PackageNotFoundError:
        name = "libtpu"
    return ", ".join((name, *_asked(), *((QUICK,) if quick else ())))


def _asked() -> Iterator[str]:
    for name in _STEERING:
        value = " ".join(_FAKE_DEVICES.sub("", os.environ.get(name, "")).split())
        if value:
            yield f"{name}={value}"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler made of a program, as much as is kept of it.

    Attributes:
      text: of the optimised module; "" where it did not fit.
      seconds: that compiling took on this machine.
      memory: {peak, arguments, outputs, temporaries, code, limit} in bytes of a device,
        what is unknown left out.
      fits: whether the compiler found place in HBM; None if it does not know.
    """

    text: str
    seconds: float
    memory: Mapping[str, int]
    fits: bool | None


def compile_program(program: Program, compiler: str) -> Compiled:
    """Compiles; what does not fit into HBM is a result too.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses for another reason.
    """
    start = time.monotonic()
    try:
        options: Any = _QUICK_OPTIONS if compiler.endswith(QUICK) else None
        compiled = program.lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled("", time.monotonic() - start, refused(str(error)), False)
    seconds = time.monotonic() - start
    fits = None if compiler.startswith(HOST) else True
    return Compiled(compiled.as_text(), seconds, _memory(compiled), fits)


def write(file: epath.Path, compiled: Compiled) -> None:
    """Keeps it in a file, whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    text = json.dumps(dataclasses.asdict(compiled)).encode()
    write_whole(file, gzip.compress(text, compresslevel=6))


def read(file: epath.Path) -> Compiled | None:
    """What `write` kept; None where nothing is, or nothing whole."""
    try:
        return Compiled(**json.loads(gzip.decompress(file.read_bytes())))
    except (OSError, EOFError, zlib.error, ValueError, TypeError):
        return None


def measures(
    program: Program, topology: Topology, compiler: str, compiled: Compiled
) -> Json:
    """All that is known of a compiled program.

    Returns:
      JSON values:
      program, topology, chips, mesh, compiler: what was compiled, and by what.
      compile_seconds, memory, fits: of Compiled.
      held: {what: bytes on one device}; kept: bytes for the backward pass;
        model_flops, tokens, rows: of all devices.
      costs: of `measured`, or None where nothing was compiled.
    """
    found: Json = {
        "program": program.name,
        "topology": topology.name,
        "chips": topology.chips,
        "mesh": dict(program.mesh.shape),
        "compiler": compiler,
        "held": dict(program.held),
        "model_flops": program.flops,
        "tokens": program.tokens,
        "rows": program.rows,
        "kept": program.kept,
        "compile_seconds": compiled.seconds,
        "memory": dict(compiled.memory),
        "fits": compiled.fits,
        "costs": None,
    }
    if compiled.text:
        mesh = Mesh(
            tuple(program.mesh.axis_names),
            tuple(program.mesh.devices.shape),
            Grid.of(topology, program.mesh.devices.flatten().tolist()),
        )
        module = hlo.parse(compiled.text)
        found["costs"] = measured(costs.cost(module, topology.chip, mesh), topology)
    return found


def refused(message: str) -> dict[str, int]:
    """{peak, limit} in bytes of what the compiler says does not fit into HBM; empty where
    it names no sizes."""
    found = _TOO_LARGE.search(message)
    if found is None:
        return {}
    used, used_unit, limit, limit_unit = (part for part in found.groups() if part)
    return {
        "peak": round(float(used) * _UNITS[used_unit.upper()]),
        "limit": round(float(limit) * _UNITS[limit_unit.upper()]),
    }


def _memory(compiled: Any) -> Json:
    found = compiled.memory_analysis()
    if found is None:
        return {}
    arguments = found.argument_size_in_bytes
    outputs = found.output_size_in_bytes - found.alias_size_in_bytes
    peak = getattr(found, "peak_memory_in_bytes", 0)
    return {
        "arguments": arguments,
        "outputs": max(outputs, 0),
        "temporaries": found.temp_size_in_bytes,
        "code": found.generated_code_size_in_bytes,
        "peak": peak or arguments + found.temp_size_in_bytes,
    }


def measured(found: Costs, topology: Topology) -> Json:
    """Costs as JSON values, per device.

    Returns:
      flops, vector_operations, hbm_bytes: of one step.
      seconds: each operation at the chip's full rates; slow_seconds: by the compiler's
        cycles; least_seconds: if all operations hid one another; parts: {compute, memory,
        collectives that stop, collectives that overlap} in seconds.
      sent: [{kind, axes, times, bytes}]; operations: the most expensive;
      unknown_loops, unknown_kernels: of Costs.
    """
    chip = topology.chip
    stops, overlap = found.collective_seconds
    kept = sorted(found.operations, key=lambda one: -one.seconds)[:_KEPT]
    return {
        "flops": found.flops,
        "vector_operations": found.total("vector_operations"),
        "hbm_bytes": found.total("hbm_bytes"),
        "seconds": found.seconds(chip),
        "least_seconds": found.least_seconds(chip),
        "slow_seconds": found.seconds(chip, "slow_seconds"),
        "parts": {
            "compute": found.compute_seconds,
            "memory": found.memory_seconds(chip),
            "collectives that stop": stops,
            "collectives that overlap": overlap,
        },
        "sent": [
            {"kind": kind, "axes": list(axes), "times": times, "bytes": nbytes}
            for (kind, axes), (times, nbytes) in sorted(found.sent.items())
        ],
        "operations": [_operation(one, topology) for one in kept],
        "unknown_loops": list(found.unknown_loops),
        "unknown_kernels": list(found.unknown_kernels),
    }


def _operation(one: Operation, topology: Topology) -> Mapping[str, Any]:
    chip = topology.chip
    bounds = {
        "matrix": one.product_flops / chip.peak_flops,
        "vector": one.vector_operations / chip.vector_rate,
        "memory": one.hbm_bytes / chip.hbm_bandwidth,
    }
    return {
        "name": one.name,
        "kind": one.kind,
        "source": one.source,
        "times": one.times,
        "seconds": one.seconds,
        "slow_seconds": one.slow_seconds,
        "at_peak": bounds,
        "early": one.early,
    }
