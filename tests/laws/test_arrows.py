"""Who may import whom: the rooms' imports, read from the source, point one way only."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "hypert5_jax"

# What each room may import of the others. A room missing here is a new one: give it a
# line, and docs/architecture.md a sentence.
MAY_IMPORT: dict[str, set[str]] = {"core": set()}
MAY_IMPORT["phi"] = {"core"}
MAY_IMPORT["parallel"] = {"core"}
MAY_IMPORT["data"] = {"core"}
MAY_IMPORT["t5"] = {"core", "phi"}
MAY_IMPORT["hyper"] = MAY_IMPORT["t5"] | {"t5"}
MAY_IMPORT["checkpoints"] = MAY_IMPORT["hyper"] | {"hyper", "parallel"}
MAY_IMPORT["training"] = MAY_IMPORT["checkpoints"] | {"checkpoints"}
MAY_IMPORT["inference"] = MAY_IMPORT["checkpoints"] | {"checkpoints"}
LIBRARY = MAY_IMPORT["checkpoints"] | {"checkpoints", "training", "inference"}
MAY_IMPORT["evaluation"] = LIBRARY
MAY_IMPORT["planning"] = LIBRARY
MAY_IMPORT["reporting"] = LIBRARY | {"evaluation"}
MAY_IMPORT["adapting"] = LIBRARY | {"data"}
MAY_IMPORT["serving"] = MAY_IMPORT["adapting"] | {"adapting"}
# Behind the fence; preparation takes metrics from evaluation, and writes what data reads.
MAY_IMPORT["preparation"] = {"core", "data", "evaluation"}
MAY_IMPORT["config"] = LIBRARY | {
    "adapting",
    "data",
    "evaluation",
    "planning",
    "preparation",
    "reporting",
    "serving",
}


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in a file, also those inside functions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: import by the full name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names]
    return found


def room_imports(room: str) -> dict[str, list[str]]:
    """{imported room or front door: ["file:line", ...]} of one room."""
    found: dict[str, list[str]] = {}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for line, module in imports(path):
            parts = module.split(".")
            if parts[0] == "hypert5_jax" and len(parts) > 1 and parts[1] != room:
                where = f"{path.relative_to(PACKAGE.parent)}:{line}"
                found.setdefault(parts[1], []).append(where)
    return found


ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room):
    assert room in MAY_IMPORT, f"new room {room}: say what it may import"
    wrong = {
        other: places
        for other, places in room_imports(room).items()
        if other not in MAY_IMPORT[room]
    }
    assert not wrong, f"{room} may not import {wrong}"


def test_rooms_form_no_circle():
    below = {room: set(room_imports(room)) & set(ROOMS) for room in ROOMS}
    while leaves := [room for room, others in below.items() if not others]:
        below = {
            room: others - set(leaves)
            for room, others in below.items()
            if room not in leaves
        }
    assert not below, f"these rooms import each other in a circle: {below}"


def test_nothing_in_the_library_imports_a_front_door():
    doors = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    wrong = {room: doors & set(room_imports(room)) for room in ROOMS}
    assert not any(wrong.values()), wrong


def test_the_core_room_stays_small():
    allowed = {"core", "flax", "jax", "numpy", "hypert5_jax"}
    for path in (PACKAGE / "core").glob("*.py"):
        for line, module in imports(path):
            root = module.split(".")[0]
            assert root in allowed | set(sys.stdlib_module_names), f"{path}:{line}"
