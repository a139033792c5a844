"""Small prepared mixtures, written without seqio; each id tells where it came from."""

from collections.abc import Sequence
from pathlib import Path

from hypert5_jax.data.prepared import PreparedMixture, open_mixture
from hypert5_jax.data.records import Example
from hypert5_jax.data.vocabulary import Vocabulary
from hypert5_jax.preparation.manifest import Source, write_manifest
from hypert5_jax.preparation.writer import Item, write_unit

VOCABULARY = Vocabulary(kind="opaque", size=20_000, extra_ids=10, fingerprint="toy")
EOS = VOCABULARY.eos_id
X, Y = VOCABULARY.x_id, VOCABULARY.y_id


def numbered(task: int, number: int, targets: Sequence[int] | None = None) -> Example:
    """Example `number` of task `task`: its ids say both, and shot and input differ."""
    base = 10 + 1000 * task
    return Example(inputs=[base + number, 5], targets=[*(targets or [base + 7]), EOS])


def write_mixture(
    home: Path,
    tasks: dict[str, list[Item]],
    rates: dict[str, float] | None = None,
    split: str = "train",
) -> PreparedMixture:
    """Writes each entry as one seqio task of one unit, and opens the whole."""
    directory = home / split
    directory.mkdir(parents=True, exist_ok=True)
    sources = []
    for name, items in tasks.items():
        unit = f"{name}-00000-of-00001"
        write_unit(directory, unit, items, default_task=name)
        sources.append(Source(name, (rates or {}).get(name, 1.0), (), (unit,)))
    write_manifest(directory, home.name, split, sources, VOCABULARY)
    return open_mixture(home, split)


def plain(counts: Sequence[int]) -> dict[str, list[Item]]:
    """Tasks t0, t1, … of so many numbered examples, all inputs different."""
    return {
        f"t{task}": [Item(None, numbered(task, i)) for i in range(count)]
        for task, count in enumerate(counts)
    }


def shots_of(context: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Reads `<x> … <y> … <x> …` back into (input, target) pairs."""
    pairs: list[tuple[list[int], list[int]]] = []
    side = 0
    for i in context:
        if i == X:
            pairs.append(([], []))
            side = 0
        elif i == Y:
            side = 1
        elif i:
            pairs[-1][side].append(int(i))
    return pairs
