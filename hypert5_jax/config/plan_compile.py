"""python -m hypert5_jax.config.plan_compile PARENT: one step, in a process of its own.

PARENT is the number of the process that asks, with which this one ends. Reads a request as
JSON from standard input and prints the answer as the last line. The compiler needs more
stack than a thread of the interpreter has by default, memory that it does not give back,
and now and then it ends the process: all of that stays here.
"""

import dataclasses
import json
import sys
from typing import Any

from etils import epath

from hypert5_jax.config import gin_files
from hypert5_jax.config.plan_recipe import run_of
from hypert5_jax.core.errors import UserError
from hypert5_jax.core.parent import follow_parent
from hypert5_jax.parallel.mesh import MeshConfig
from hypert5_jax.planning import compiled, steps, topologies


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be compiled.

    Attributes:
      files, bindings, search_paths: of the recipe, as on the command line.
      topology: name of the slice.
      program: of steps.PROGRAMS.
      compiler: whether libtpu is there.
      cache: folder of what was compiled before.
      quick: of compiled.compiler_name.
      mesh: {axis: devices} that take the place of the recipe's, or None.
      batch: target examples of the global batch, or None.
    """

    files: tuple[str, ...]
    bindings: tuple[str, ...]
    search_paths: tuple[str, ...]
    topology: str
    program: str
    compiler: bool
    cache: str
    quick: bool = False
    mesh: dict[str, int] | None = None
    batch: int | None = None


def answer(request: Request) -> dict[str, Any]:
    """The step's measures, from the cache where it holds them.

    Raises:
      UserError: the recipe and the slice do not fit together; the cache cannot be
        written.
    """
    arguments = gin_files.GinArguments(
        tuple(request.files), tuple(request.bindings), tuple(request.search_paths)
    )
    run = _changed(run_of(arguments), request)
    topology = topologies.read(request.topology)
    devices = topologies.devices(topology, request.compiler)
    program = steps.program(run, request.program, devices)
    name = compiled.compiler_name(request.compiler, request.quick)
    key = compiled.key_of(program, topology, name)
    file = epath.Path(request.cache) / f"{key}.gz"
    found = compiled.read(file)
    if found is None:
        found = compiled.compile_program(program, name)
        compiled.write(file, found)
    return compiled.measures(program, topology, name, found)


def _changed(run: steps.Run, request: Request) -> steps.Run:
    train = run.train
    if request.mesh is not None:
        mesh = MeshConfig(**request.mesh)
        train = dataclasses.replace(train, mesh=mesh)
        if run.judging is not None:
            judging = dataclasses.replace(run.judging, mesh=mesh)
            run = dataclasses.replace(run, judging=judging)
    run = dataclasses.replace(run, train=train)
    return run if request.batch is None else run.with_batch(request.batch)


def main() -> None:
    """Answers one request."""
    follow_parent(int(sys.argv[1]))
    request = Request(**json.loads(sys.stdin.read()))
    try:
        found = answer(request)
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
