"""A plan: each step compiled in a process of its own, measured, told."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from etils import epath

from hypert5_jax.checkpoints.whole_files import require_writable, write_whole
from hypert5_jax.config.plan_arguments import PlanArguments
from hypert5_jax.config.plan_compile import Request
from hypert5_jax.config.plan_recipe import run_of
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.progress import ProgressLine, clock
from hypert5_jax.parallel.mesh import MeshConfig, mesh_shape
from hypert5_jax.planning import estimates, report, topologies
from hypert5_jax.planning import search as searching
from hypert5_jax.planning.chips import PRICED
from hypert5_jax.planning.steps import Run
from hypert5_jax.planning.topologies import Topology

Json = dict[str, Any]
_POLL_SECONDS = 0.2
# As the Makefile's KEEP_MEMORY, and more for each thread: what the compiler's asking for
# memory and giving it back takes is a tenth of its time. Other C libraries do not read it.
_KEEP_MEMORY = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 1 << 32,
        "trim_threshold": 1 << 34,
        "top_pad": 1 << 28,
        "tcache_count": 65535,
    }.items()
)
# libtpu's compiler overflows the usual 8 MiB of stack for some chips.
_WITH_STACK = ("/bin/sh", "-c", 'ulimit -s "$(ulimit -H -s)"; exec "$@"', "plan")


class Compiler:
    """Compiles steps of one recipe; says on standard error what it is at.

    Args:
      arguments: recipe and cache.
    """

    def __init__(self, arguments: PlanArguments):
        self._arguments = arguments
        self.has_libtpu = topologies.has_compiler()

    def __call__(
        self,
        topology: Topology,
        program: str,
        mesh: dict[str, int] | None = None,
        batch: int | None = None,
    ) -> Json:
        """The measures of one step.

        Raises:
          UserError: the recipe and the slice do not fit together, or the compiler fails.
        """
        recipe = self._arguments.recipe
        request = Request(
            recipe.files,
            recipe.bindings,
            recipe.search_paths,
            topology.name,
            program,
            self.has_libtpu,
            self._arguments.cache,
            self._arguments.quick,
            mesh,
            batch,
        )
        what = f"compiling {program} for {topology.name}"
        what += "".join(f" {axis} {n}" for axis, n in (mesh or {}).items())
        what += f" batch {batch}" if batch else ""
        found = _child(request, topology, what)
        if "error" in found:
            raise UserError(found["error"])
        return found


def _child(request: Request, topology: Topology, what: str) -> Json:
    own = topologies.environment(topology, request.compiler)
    environment = {"GLIBC_TUNABLES": _KEEP_MEMORY} | os.environ | own
    compiles = ("-m", "hypert5_jax.config.plan_compile", str(os.getpid()))
    child = subprocess.Popen(
        [*_WITH_STACK, sys.executable, *compiles],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    line, start = ProgressLine(), time.monotonic()
    text: str | None = json.dumps(dataclasses.asdict(request))
    try:
        while True:
            try:
                out, errors = child.communicate(text, timeout=_POLL_SECONDS)
                break
            except subprocess.TimeoutExpired:
                text = None
                if line.due():
                    line.draw(f"{what}: {clock(time.monotonic() - start)}", 0.0)
    finally:
        line.close()
        if child.poll() is None:
            child.kill()
            child.wait()
    if child.returncode:
        raise UserError(
            f"{what}: the compiler failed ({_why(child.returncode, errors)})"
        )
    return json.loads(out.splitlines()[-1])


def _why(code: int, errors: str) -> str:
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = [text for text in errors.splitlines() if text.strip()]
    return lines[-1][:400] if lines else f"exit code {code}"


def plan(arguments: PlanArguments, say: Callable[[str], None] = print) -> Json:
    """Plans the recipe on one slice and tells it.

    Returns:
      What --json writes: {"recipe", "topology", "steps", "programs": {name: measures and
      estimates}, "largest_batch", "too_large_batch": of searching.Largest}.

    Raises:
      UserError: as `Compiler`; --json or --cache cannot be written, or --largest_batch has
        no compiler or mesh, which is found out before anything is compiled.
    """
    run, topology = run_of(arguments.recipe), arguments.slices[0]
    _require_places(arguments)
    compiler = Compiler(arguments)
    if arguments.largest_batch:
        _require_batches(run, topology, compiler)
    told: Json = {
        "recipe": list(arguments.recipe.files),
        "topology": topology.name,
        "steps": run.train.steps,
        "programs": {},
    }
    say(_heading(run, topology))
    if not compiler.has_libtpu:
        say(report.HOST_CAVEAT)
    for program in arguments.programs:
        if program == "adapt" and run.system.variant.source != "generated":
            continue
        measured = compiler(topology, program)
        steps = run.train.steps if program == "train" else 0
        found = estimates.estimate(measured, steps or 1, arguments.prices)
        say("\n" + report.program_text(measured, found, steps))
        if arguments.trace:
            say("\n" + report.trace_text(measured))
        told["programs"][program] = measured | {
            "estimate": None if found is None else dataclasses.asdict(found)
        }
    if arguments.largest_batch:
        largest = _largest(run, topology, compiler)
        told["largest_batch"], told["too_large_batch"] = largest
        beyond = "" if largest.too_large is None else f" ({largest.too_large} does not)"
        say(f"\nlargest batch that fits: {largest.fits}{beyond}")
    if not arguments.prices:
        say(f"\n($: {PRICED}; --prices={topology.chip.name}=… replaces them)")
    _write(arguments, told)
    return told


def _heading(run: Run, topology: Topology) -> str:
    rows = run.rows
    read = f", contexts of {rows.context}" if rows.context else ""
    return (
        f"{topology.name}: {topology.chips} chips, batch {rows.rows} of "
        f"{rows.inputs} + {rows.targets} tokens{read}, "
        f"microbatches {run.train.microbatches}"
    )


def _require_batches(run: Run, topology: Topology, compiler: Compiler) -> None:
    """Says before anything is compiled that there is no largest batch to look for."""
    if not compiler.has_libtpu:
        raise UserError(
            "--largest_batch needs the TPU's compiler, which knows its memory: "
            "pip install -e '.[tpu]'"
        )
    mesh_shape(run.train.mesh, topology.chips, topology.slices)


def _largest(run: Run, topology: Topology, compiler: Compiler) -> searching.Largest:
    each = run.rows.rows // max(run.rows.contexts, 1)
    ways = topology.chips // run.train.mesh.model
    unit = ways * run.train.microbatches * each

    def fits(batch: int) -> searching.Fits:
        found = compiler(topology, "train", batch=batch)
        memory = found["memory"]
        limit = memory.get("limit", topology.chip.hbm_bytes)
        return bool(found["fits"]), memory.get("peak"), limit

    start = max(run.rows.rows // unit, 1) * unit
    return searching.largest_batch(fits, start, unit)


def search(arguments: PlanArguments, say: Callable[[str], None] = print) -> Json:
    """Compiles the train step for every mesh of every topology and tells the table.

    Returns:
      What --json writes: {"recipe", "steps", "rows": [measures and estimates],
      "cheapest": the row of the least dollars that fits, or None}.

    Raises:
      UserError: no mesh of any topology can be compiled; --json or --cache as in `plan`.
    """
    run = run_of(arguments.recipe)
    _require_places(arguments)
    compiler = Compiler(arguments)
    if not compiler.has_libtpu:
        say(report.HOST_CAVEAT)
    rows: list[tuple[Json, estimates.Estimate | None]] = []
    for topology in arguments.slices:
        for mesh in searching.meshes(topology.chips, topology.slices):
            why = _refused(run, topology, mesh)
            if why:
                say(f"{topology.name} fsdp {mesh['fsdp']} model {mesh['model']}: {why}")
                continue
            try:
                measured = compiler(topology, "train", mesh)
            except UserError as error:
                say(
                    f"{topology.name} fsdp {mesh['fsdp']} model {mesh['model']}: {error}"
                )
                continue
            found = estimates.estimate(measured, run.train.steps, arguments.prices)
            rows.append((measured, found))
    if not rows:
        raise UserError("no mesh of these topologies can be compiled; see above")
    say(report.table([report.table_row(*row) for row in rows]))
    fitting = [row for row in rows if row[0]["fits"] is not False and row[1]]
    cheapest = min(fitting, key=lambda row: row[1].dollars, default=None)  # type: ignore
    if cheapest is None:
        say("nothing fits")
    else:
        cells = report.table_row(*cheapest)
        known = "that fits" if cheapest[0]["fits"] else "(whether it fits: unknown)"
        priced = "" if arguments.prices else f" ({PRICED})"
        say(f"cheapest {known}: {cells[0]}, {cells[1]}, ${cells[-1]}{priced}")
    told = {
        "recipe": list(arguments.recipe.files),
        "steps": run.train.steps,
        "rows": [_row(*row) for row in rows],
        "cheapest": None if cheapest is None else _row(*cheapest),
    }
    _write(arguments, told)
    return told


def _row(measured: Json, found: estimates.Estimate | None) -> Json:
    estimate = None if found is None else dataclasses.asdict(found)
    return measured | {"estimate": estimate}


def _refused(run: Run, topology: Topology, mesh: dict[str, int]) -> str:
    """Why a mesh cannot be, where that is known without compiling."""
    config = MeshConfig(fsdp=mesh["fsdp"], model=mesh["model"])
    ways = topology.chips // config.model * run.train.microbatches
    if run.rows.rows % ways or run.rows.contexts % ways:
        return f"a batch of {run.rows.rows} does not divide into {ways} parts"
    return ""


def _require_places(arguments: PlanArguments) -> None:
    require_writable(epath.Path(arguments.cache) / "plan")
    if arguments.json is not None:
        require_writable(epath.Path(arguments.json))


def _write(arguments: PlanArguments, told: Json) -> None:
    if arguments.json is not None:
        write_whole(epath.Path(arguments.json), json.dumps(told, indent=1) + "\n")
