"""Figures of the reports: equal input, equal bytes; bands of one deviation."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.figures import draw_curve, save_figure


def _figure() -> Figure:
    figure = Figure()
    draw_curve(figure.add_subplot(), [1, 2], [[0.0, 2.0], [3.0]], "a")
    return figure


def test_equal_figures_are_equal_files(tmp_path: Path):
    for folder in ("one", "two"):
        save_figure(_figure(), tmp_path / folder / "curve.svg")
    assert (tmp_path / "one" / "curve.svg").read_bytes() == (tmp_path / "two" / "curve.svg").read_bytes()


def test_band_is_a_deviation_around_the_mean():
    (axes,) = _figure().axes
    assert axes.lines[0].get_ydata().tolist() == [1.0, 3.0]
    lowest, highest = 1 - np.sqrt(2), 1 + np.sqrt(2)  # of 0 and 2, with one degree of freedom less
    corners = np.unique(axes.collections[0].get_paths()[0].vertices.round(6), axis=0)
    np.testing.assert_allclose(corners, [[1, lowest], [1, highest], [2, 3]], atol=1e-6)
