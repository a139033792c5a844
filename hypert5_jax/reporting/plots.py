"""Figures 4, 5 and 9: mean lines with a band of one standard deviation over seeds."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from etils import epath

from hypert5_jax.checkpoints.whole_files import write_whole
from hypert5_jax.reporting.scores import Score


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
      name: in the legend.
      steps: x.
      scores: y, at each of the steps.
      colour: matplotlib's name, "C0".
    """

    name: str
    steps: Sequence[int]
    scores: Sequence[Score]
    colour: str


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
      title: above it.
      x: what its x axis is.
      lines: its curves.
      levels: horizontal lines that curves are compared with: name, score, colour.
    """

    title: str
    x: str
    lines: Sequence[Line]
    levels: Sequence[tuple[str, Score, str]] = ()


def draw(file: epath.Path, panels: Sequence[Panel]) -> None:
    """A PNG of the panels beside each other, with one y axis.

    Raises:
      UserError: it cannot be written.
    """
    # Here, not above: the core imports on machines without a plotting library.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4.2 * len(panels), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, panel in zip(axes, panels):
        for line in panel.lines:
            _draw_line(axis, line)
        for name, score, colour in panel.levels:
            axis.axhline(score.mean, color=colour, linestyle="--", lw=1, label=name)
        axis.set_title(panel.title, fontsize=10)
        axis.set_xlabel(panel.x)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("mean score, %")
    image = io.BytesIO()
    figure.savefig(image, dpi=130, format="png")
    write_whole(epath.Path(file), image.getvalue())


def _draw_line(axis: Any, line: Line) -> None:
    colour = line.colour
    means = [score.mean for score in line.scores]
    axis.plot(
        line.steps, means, color=colour, marker="o", markersize=3, label=line.name
    )
    if not any(score.sd is not None for score in line.scores):
        return
    spreads = [score.sd or 0.0 for score in line.scores]
    axis.fill_between(
        line.steps,
        [mean - sd for mean, sd in zip(means, spreads)],
        [mean + sd for mean, sd in zip(means, spreads)],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )
    # Every seed (or draw) itself: a band of three hides how they lie.
    for step, score in zip(line.steps, line.scores):
        if score.sd is not None:
            axis.plot(
                [step] * len(score.values),
                score.values,
                ".",
                color=colour,
                markersize=2.5,
                alpha=0.6,
            )
