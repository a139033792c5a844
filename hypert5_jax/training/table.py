"""What a run holds in memory, as a table: group, parameters, bytes, dtype, trainable."""

import jax

from hypert5_jax.core import trees
from hypert5_jax.training.state import TrainState

_HEADER = ("group", "parameters", "bytes", "dtype", "trainable")


def parameter_table(state: TrainState) -> str:
    """One row per group of arrays or ShapeDtypeStructs, and the optimiser's state."""
    rows = [_HEADER]
    total = 0
    for group, tree in [*state.trainable.items(), *state.frozen.items()]:
        trained = "yes" if group in state.trainable else "no"
        rows.append((group, *_sizes(tree), trained))
        total += trees.nbytes(tree)
    rows.append(("(optimiser)", *_sizes(state.opt_state), ""))
    total += trees.nbytes(state.opt_state)
    rows.append(("total", "", f"{total:,}", "", ""))
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
    lines = []
    for row in rows:
        name, *numbers, dtype, trained = row
        cells = [name.ljust(widths[0])]
        cells += [n.rjust(w) for n, w in zip(numbers, widths[1:3], strict=True)]
        cells += [dtype.ljust(widths[3]), trained.ljust(widths[4])]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _sizes(tree: object) -> tuple[str, str, str]:
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(tree)})
    return f"{trees.count(tree):,}", f"{trees.nbytes(tree):,}", ", ".join(dtypes)
