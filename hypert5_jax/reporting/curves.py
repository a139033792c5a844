"""Metrics of finished or running trainings as curves.

python -m hypert5_jax.reporting.curves curves.png runs/sni/metrics.jsonl …
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from hypert5_jax.core.errors import UserError

METRIC = "train/loss"


def read_metric(path: str, metric: str = METRIC) -> tuple[list[int], list[float]]:
    """(steps, values) of one metric in a metrics.jsonl.

    Raises:
      UserError: no such file, a line that is no JSON, or not one row with the metric.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(f"no metrics at {path}: expected a run's metrics.jsonl")
    steps, values = [], []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from error
        if metric in row:
            steps.append(int(row["step"]))
            # What was not finite is null, and leaves a gap.
            values.append(math.nan if row[metric] is None else float(row[metric]))
    if not steps:
        raise UserError(f"{path} has no row with {metric}")
    return steps, values


def plot_curves(output: str, paths: Sequence[str], metric: str = METRIC) -> None:
    """One line per metrics.jsonl, named after its run's folder, into a PNG."""
    # Here, not above: the core imports on machines without a plotting library.
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for path in paths:
        steps, values = read_metric(path, metric)
        axis.plot(steps, values, label=Path(path).resolve().parent.name)
    axis.set_xlabel("step")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(output, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    try:
        plot_curves(sys.argv[1], sys.argv[2:])
    except (UserError, IndexError) as error:
        sys.exit(f"{error}\nusage: curves OUTPUT.png METRICS.jsonl …")
