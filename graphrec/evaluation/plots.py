"""Pictures of a report as inline SVG that takes its colours from the page, in light and in dark."""

import html
import io
import itertools
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib writes these colours; the page's style sheet decides what they look like.
_INK, _MUTED, _GRID, _FILL = "#fe0001", "#fe0002", "#fe0003", "#fe0004"
_SERIES = tuple(f"#fe01{position:02x}" for position in range(8))
_VARIABLE_OF_COLOR = {
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _GRID: "var(--grid)",
    _FILL: "var(--fill)",
    **{color: f"var(--series-{position})" for position, color in enumerate(_SERIES)},
}
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE: Any = {  # the keys' type is a long Literal of matplotlib's own
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a model's name is a $
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _GRID,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "legend.frameon": False,
}


class Series(NamedTuple):
    """One model's line, and the lower and upper ends of its band (NaN: no band)."""

    label: str
    x: Sequence[float]
    value: Sequence[float]
    lower: Sequence[float]
    upper: Sequence[float]


class Interval(NamedTuple):
    """A difference with its interval."""

    label: str
    difference: float
    lower: float
    upper: float


def plot_by_hour(
    series: Sequence[Series], rows_of_hour: Mapping[int, int], y_label: str = "AUC", name: str = "hour"
) -> str:
    """Draw a line per model over the hours of the day, and bars of how many rows each hour has.

    ``name`` sets the picture's ids apart on its page.
    """
    with _style():
        figure = _figure(9.6, 4.6)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3.4, 1])
        _draw_series(top, series)
        _mark_chance(top, series, 0.5)
        top.set_ylabel(y_label)
        _legend_above(top, len(series))
        hours = sorted(rows_of_hour)
        bottom.bar(hours, [rows_of_hour[hour] for hour in hours], width=0.7, color=_FILL)
        bottom.set_ylabel("rows")
        bottom.yaxis.get_major_locator().set_params(nbins=3, integer=True)
        bottom.yaxis.set_major_formatter(_short_number)
        bottom.set_xlabel("hour of the day; 8 is [8:00, 9:00)")
        bottom.set_xticks(range(0, 24, 2))
        bottom.set_xlim(-0.7, 23.7)
        bottom.grid(visible=False, axis="x")
        for axes in (top, bottom):
            for boundary in (7.5, 15.5):
                axes.axvline(boundary, color=_MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
        return _to_svg(figure, name, f"{y_label} of each model by hour of the day, and rows in each hour")


def plot_reliability(series: Sequence[Series]) -> str:
    """Click rate against mean score in bins; on the diagonal a model promises what happens."""
    with _style():
        figure = _figure(5.4, 4.8)
        axes = figure.subplots()
        values = [v for one in series for v in (*one.x, *one.value) if math.isfinite(v)]
        limit = min(1.0, 1.05 * max(values, default=1.0))
        axes.plot([0, limit], [0, limit], color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        _draw_series(axes, series)
        axes.set_xlim(0, limit)
        axes.set_ylim(0, limit)
        axes.set_aspect("equal")
        axes.set_xlabel("mean predicted click rate of the bin")
        axes.set_ylabel("observed click rate")
        axes.legend(loc="upper left")
        return _to_svg(figure, "reliability", "Observed against predicted click rate in bins, by model")


def plot_curves(panels: Mapping[str, Sequence[Series]], x_label: str) -> str:
    """Training curves, one panel per metric side by side, a line per model."""
    with _style():
        num_columns = min(len(panels), 3)
        num_rows = math.ceil(len(panels) / num_columns)
        figure = _figure(max(5.4, 3.6 * num_columns), 3.2 * num_rows)
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        labels = sorted({one.label for series in panels.values() for one in series})
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (metric, series) in zip(grid.flat, panels.items(), strict=False):
            # a model keeps its colour where another has no such curve
            _draw_series(axes, series, [labels.index(one.label) for one in series])
            axes.set_title(metric)
            axes.set_xlabel(x_label)
            axes.xaxis.get_major_locator().set_params(integer=True)
        handles = {}
        for axes in grid.flat:
            handles.update(
                {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
            )
        figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=min(len(handles), 3))
        return _to_svg(figure, "curves", "Training curves by model")


def plot_values(
    series: Sequence[Series], names: Sequence[str], num_rows: Sequence[int], x_label: str, name: str
) -> str:
    """Draw a dot with its interval per value of a column and model, and bars of how many rows each has.

    A series' ``x`` are positions in ``names``; ``name`` sets the picture's ids apart on its page.
    """
    with _style():
        figure = _figure(9.6, 1.0 + max(0.3, 0.13 * len(series) + 0.12) * len(names))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4.4, 1])
        step = 0.64 / max(len(series), 1)
        for position, one in enumerate(series):
            y = [x + step * (position - (len(series) - 1) / 2) for x in one.x]
            color, marker = _SERIES[position % len(_SERIES)], _MARKERS[position % len(_MARKERS)]
            left.hlines(y, one.lower, one.upper, color=color, linewidth=1.8)
            left.plot(one.value, y, color=color, marker=marker, linestyle="", markersize=5, label=one.label)
        values = [value for one in series for value in one.value if math.isfinite(value)]
        if values and min(values) < 0.52:
            left.axvline(0.5, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))
        left.set_yticks(range(len(names)), names)
        left.set_ylim(len(names) - 0.4, -0.6)
        left.set_xlabel(x_label)
        _legend_above(left, len(series))
        right.barh(range(len(names)), num_rows, height=0.6, color=_FILL)
        right.set_xlabel("rows")
        right.xaxis.get_major_locator().set_params(nbins=3, integer=True)
        right.xaxis.set_major_formatter(_short_number)
        right.tick_params(axis="y", length=0)
        right.grid(visible=False, axis="y")
        return _to_svg(figure, name, f"{x_label} of each model by value, and rows of each value")


def plot_intervals(
    panels: Mapping[str, Sequence[Interval]], x_label: str, name: str = "intervals", beside: bool = False
) -> str:
    """Differences with their intervals, one line each; an interval that misses 0 tells the two apart.

    Panels stand below each other, each with a scale of its own, or ``beside`` each other with the same labels
    and one scale. ``name`` sets the picture's ids apart on its page.
    """
    with _style():
        counts = [len(intervals) for intervals in panels.values()]
        if beside:
            figure = _figure(max(5.6, min(9.6, 2.4 + 3.0 * len(panels))), 1.2 + 0.26 * max(counts))
            grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)
        else:
            figure = _figure(9.6, 0.5 + sum(0.75 + 0.3 * count for count in counts))
            grid = figure.subplots(
                len(panels), 1, squeeze=False, height_ratios=[count + 1 for count in counts]
            )
        for axes, (title, intervals) in zip(grid.flat, panels.items(), strict=True):
            axes.axvline(0.0, color=_MUTED, linewidth=1.0)
            positions = range(len(intervals), 0, -1)
            for position, one in zip(positions, intervals, strict=True):
                color = _INK if one.lower > 0 or one.upper < 0 else _MUTED
                axes.plot([one.lower, one.upper], [position, position], color=color, linewidth=2.0)
                axes.plot([one.difference], [position], color=color, marker="o", markersize=5.5)
            axes.set_yticks(list(positions), [one.label for one in intervals])
            axes.set_ylim(0.4, len(intervals) + 0.6)
            axes.grid(visible=False, axis="y")
            axes.set_title(title)
        figure.supxlabel(x_label, fontsize=10, color=_MUTED)
        return _to_svg(figure, name, x_label)


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # text stays text in the picture: the reader's fonts draw it, not matplotlib's
        for message in (r"Glyph \d+ .*missing from", "Matplotlib currently does not support .* natively"):
            warnings.filterwarnings("ignore", message, UserWarning)
        yield


def _figure(width: float, height: float) -> "Figure":
    """Make a figure without pyplot, which would choose a screen and keep the figure alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _draw_series(axes: "Axes", series: Sequence[Series], positions: Sequence[int] | None = None) -> None:
    import numpy as np

    for one, position in zip(series, positions or itertools.count(), strict=False):
        color, marker = _SERIES[position % len(_SERIES)], _MARKERS[position % len(_MARKERS)]
        lower, upper = np.asarray(one.lower, np.float64), np.asarray(one.upper, np.float64)
        line_style = "-" if position < len(_SERIES) else "--"
        axes.plot(one.x, one.value, color=color, marker=marker, label=one.label, linestyle=line_style)
        if np.isfinite(lower).any():
            axes.fill_between(
                np.asarray(one.x, np.float64), lower, upper, color=color, alpha=0.16, linewidth=0
            )


def _mark_chance(axes: "Axes", series: Sequence[Series], chance: float) -> None:
    """Draw the value of a random score where the figures come near it."""
    values = [value for one in series for value in one.value if math.isfinite(value)]
    if values and min(values) < chance + 0.02:
        axes.axhline(chance, color=_MUTED, linewidth=1.0, linestyle=(0, (4, 3)))


def _legend_above(axes: "Axes", num_series: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=max(1, min(num_series, 3)), borderaxespad=0.2
    )


def _short_number(value: float, _: int | None = None) -> str:
    """20,000 as 20k: narrow axes have no room for more."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _to_svg(figure: "Figure", name: str, description: str) -> str:
    """SVG for inlining: no header, no metadata, no fixed size, page's fonts and colours, own element ids."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # equal input, equal bytes
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    head, _, body = svg.partition(">")
    view_box = re.search(r'viewBox="0 0 ([\d.]+) [\d.]+"', head)
    assert view_box is not None
    width = round(1.4 * float(view_box[1]))  # px for pt: letters of about 14 px at full width
    least = round(0.95 * float(view_box[1]))  # narrower screens scroll
    svg = (
        f'<svg {view_box[0]} style="max-width: {width}px; min-width: {least}px" role="img" '
        f'aria-label="{html.escape(description)}">{body}'
    )
    svg = re.sub(r"font(-family)?: ([^;\"]*?)('[^\"]*?|sans-serif)(?=[;\"])", _use_page_font, svg)
    # several pictures share a page: ids get the picture's name in front
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    for color, variable in _VARIABLE_OF_COLOR.items():
        svg = svg.replace(color, variable)
    return svg


def _use_page_font(match: re.Match[str]) -> str:
    """Keep size and weight, drop the names of fonts that the reader may lack."""
    return f"font{match[1] or ''}: {match[2]}var(--font)"
