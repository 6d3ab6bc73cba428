"""What the reports' figures share: how they are saved, and curves with a band of one deviation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as the file's ending says; of equal input, an SVG has equal bytes."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_curve(axes: "Axes", x: Sequence[float], values: Sequence[Sequence[float]], label: str) -> None:
    """Draw a line of means, and around it a band of one deviation.

    Args:
        axes: to draw on.
        x: of the points.
        values: of each point, those of its seeds; a single one has no band.
        label: in the legend.

    """
    mean = np.array([np.mean(one) for one in values])
    spread = np.array([np.std(one, ddof=1) if len(one) > 1 else 0.0 for one in values])
    (line,) = axes.plot(x, mean, marker="o", markersize=3, label=label)
    axes.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.15)
    axes.grid(alpha=0.3)
