"""A step compiled for a slice, measured, as plain values that a file can hold."""

import hashlib
import importlib.metadata
import re
import time
from collections.abc import Mapping
from typing import Any

import jax

from hypert5_jax.planning import costs, hlo
from hypert5_jax.planning.collectives import Mesh
from hypert5_jax.planning.costs import Costs, Operation
from hypert5_jax.planning.steps import Program
from hypert5_jax.planning.topologies import Topology

Json = dict[str, Any]
HOST = "host"
# Of the most expensive operations, how many are kept for --trace.
_KEPT = 60
_TOO_LARGE = re.compile(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", re.IGNORECASE)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def key_of(program: Program, topology: Topology, compiler: str) -> str:
    """What decides the result: the program as lowered, the slice, the compiler. Recipes
    whose steps are the same share it."""
    text = "\n".join(
        (program.lowered.as_text(), topology.name, compiler, str(program.mesh.shape))
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def compiler_name(has_compiler: bool) -> str:
    """Its name and version."""
    if not has_compiler:
        return f"{HOST} (jax {jax.__version__})"
    try:
        return f"libtpu {importlib.metadata.version('libtpu')}"
    except importlib.metadata.PackageNotFoundError:
        return "libtpu"


def compile_and_measure(program: Program, topology: Topology, compiler: str) -> Json:
    """Compiles and measures; what does not fit into HBM is a result too.

    Returns:
      JSON values:
      program, topology, chips, mesh, compiler: what was compiled, and by what.
      compile_seconds: of this machine.
      held: {what: bytes on one device}; kept: bytes for the backward pass, of those;
        model_flops, tokens: of all devices.
      fits: whether the compiler found place in HBM; None if it does not know.
      memory: {peak, arguments, temporaries, code, limit} in bytes of a device, what is
        unknown left out.
      costs: of `measured`, or None where nothing was compiled.

    Raises:
      jax.errors.JaxRuntimeError: the compiler refuses for another reason.
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
        "kept": program.kept,
        "costs": None,
    }
    start = time.monotonic()
    try:
        compiled = program.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        too_large = _TOO_LARGE.search(str(error))
        if too_large is None and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        found["compile_seconds"] = time.monotonic() - start
        return found | {"fits": False, "memory": _refused(too_large)}
    found["compile_seconds"] = time.monotonic() - start
    memory = _memory(compiled)
    fits = None
    if not compiler.startswith(HOST):
        fits = True
    module = hlo.parse(compiled.as_text())
    mesh = Mesh(tuple(program.mesh.axis_names), tuple(program.mesh.devices.shape))
    found_costs = measured(costs.cost(module, topology.chip, mesh), topology)
    return found | {"fits": fits, "memory": memory, "costs": found_costs}


def _refused(too_large: re.Match[str] | None) -> Json:
    if too_large is None:
        return {}
    used, limit = (
        float(too_large[i]) * _UNITS[too_large[i + 1].upper()] for i in (1, 3)
    )
    return {"peak": round(used), "limit": round(limit)}


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
      seconds: estimated; least_seconds: if all hid one another; parts: {compute, memory,
        collectives that stop, collectives that overlap} in seconds; cycles_seconds: the
        compiler's cycles of all operations over the clock.
      sent: [{kind, axes, times, bytes}]; operations: the most expensive;
      unknown_loops: names of loops counted once.
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
        "cycles_seconds": found.total("cycles") / chip.clock,
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
        "at_peak": bounds,
        "early": one.early,
    }
