"""Figures of models over seeds, summarised and set into a report's tables."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from graphrec.evaluation.comparison import LOWER_IS_BETTER, METRIC_IN_WORDS, WITHOUT_DIRECTION
from graphrec.evaluation.figures import Figure
from graphrec.evaluation.page import Cell, Table
from graphrec.evaluation.plots import Series

_GROUPED = re.compile(r"(?P<base>[a-z_]+(@\d+)?)\[(?P<grouping>[^;\]]+)(; (?P<weight>[a-z]+))?\]")
_NO_GROUPS = frozenset({"all", "reliability_bin"})  # slices that are not values of a column


class Summary(NamedTuple):
    """A metric of a model: with one seed its 95% interval, with several their deviation (n - 1)."""

    mean: float
    deviation: float
    num_seeds: int
    n: int
    lower: float
    upper: float


class Grouped(NamedTuple):
    """The parts of a metric's name: ``gauc[user,period; impressions]``."""

    base: str
    grouping: str
    weight: str


class Column(NamedTuple):
    """A column of a table: one metric of one slice."""

    header: str
    metric: str
    slice: str = "all"


class Summaries:
    """Figures by (model, slice, metric), with seeds taken together; all orders are those of the figures.

    Attributes:
        models: names of the models.
        metrics: names of the metrics of the slice ``all``.
        values: names of the slices of each slicing column: ``{"hour": ["hour=00", ...]}``.

    """

    def __init__(self, figures: Iterable[Figure]) -> None:
        by_seed: dict[tuple[str, str, str], dict[int, Figure]] = {}
        for figure in figures:
            of_seed = by_seed.setdefault(figure[:3], {})
            if figure.seed in of_seed:
                raise ValueError(
                    f"{figure.metric} of {figure.slice} is there twice for {figure.model}, seed {figure.seed}"
                    "; give each model and seed once"
                )
            of_seed[figure.seed] = figure
        self._found = {key: _summarize(list(of_seed.values())) for key, of_seed in by_seed.items()}
        self.models = list(dict.fromkeys(model for model, _, _ in self._found))
        self.metrics = list(dict.fromkeys(metric for _, name, metric in self._found if name == "all"))
        self.values: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for _, name, _ in self._found):
            column = name.partition("=")[0]
            if column not in _NO_GROUPS:
                self.values.setdefault(column, []).append(name)
        for names in self.values.values():
            if all(value_of(name).isdecimal() for name in names):
                names.sort(key=lambda name: int(value_of(name)))

    def get(self, model: str, slice: str, metric: str) -> Summary | None:
        """Return one summary, None where there is none."""
        return self._found.get((model, slice, metric))

    def items(self) -> Iterable[tuple[tuple[str, str, str], Summary]]:
        """All summaries by (model, slice, metric)."""
        return self._found.items()

    def first(self, slice: str, metric: str) -> Summary | None:
        """Return what all models have in common, such as the rows of a slice, from the first that has it."""
        found = (self.get(model, slice, metric) for model in self.models)
        return next((one for one in found if one is not None), None)

    def num_rows(self, slice: str) -> int:
        """Rows of a slice; 0 where nothing tells."""
        for metric in ("auc", "log_loss", "click_rate"):
            found = self.first(slice, metric)
            if found is not None:
                return found.n
        return 0

    def num_clicks(self, slice: str) -> int | None:
        """Clicks of a slice; None where nothing tells."""
        found = self.first(slice, "num_clicks")
        if found is not None:
            return round(found.mean)
        rate = self.first(slice, "click_rate")
        return None if rate is None or math.isnan(rate.mean) else round(rate.mean * rate.n)

    def groupings(self, base: str) -> list[str]:
        """Return the groupings of a metric such as ``gauc`` over all rows."""
        parts = [parse_grouped(metric) for metric in self.metrics]
        return list(dict.fromkeys(one.grouping for one in parts if one is not None and one.base == base))

    def table(
        self, columns: Sequence[Column], caption: str = "", models: Sequence[str] | None = None
    ) -> Table:
        """Make a row per model; columns that no model has are left out."""
        models = self.models if models is None else models
        kept = [c for c in columns if any(self.get(model, c.slice, c.metric) for model in models)]
        found = {model: [self.get(model, c.slice, c.metric) for c in kept] for model in models}
        best = [best_model({m: found[m][i] for m in models}, column.metric) for i, column in enumerate(kept)]
        seeds = [max((one.num_seeds for one in found[model] if one), default=0) for model in models]
        several = max(seeds, default=0) > 1
        rows = [
            [
                Cell(model),
                *([Cell(str(num_seeds))] if several else []),
                *(cell_of(one, best[i] == model) for i, one in enumerate(found[model])),
            ]
            for model, num_seeds in zip(models, seeds, strict=True)
        ]
        header = ["model", *(["seeds"] if several else []), *(column.header for column in kept)]
        return Table(header, rows, caption)


def parse_grouped(metric: str) -> Grouped | None:
    """Take a metric's name with a grouping apart; None for one without."""
    match = _GROUPED.fullmatch(metric)
    return None if match is None else Grouped(match["base"], match["grouping"], match["weight"] or "")


def grouping_in_words(grouping: str) -> str:
    """``user,period`` as "user and period"."""
    return " and ".join(grouping.split(","))


def value_of(slice: str) -> str:
    """Return the value of a slice's column: 08 of ``hour=08``."""
    return slice.partition("=")[2]


def badness_of(metric: str) -> Callable[[float], float] | None:
    """Return what the best model has least of; None for a metric without a best."""
    base = re.split(r"[@\[]", metric, maxsplit=1)[0]
    if base not in METRIC_IN_WORDS or base in WITHOUT_DIRECTION:
        return None
    if base == "calibration_ratio":
        return lambda value: abs(math.log(value)) if value > 0 else math.inf
    return (lambda value: value) if base in LOWER_IS_BETTER else (lambda value: -value)


def best_model(found: dict[str, Summary | None], metric: str) -> str | None:
    """Name the best of several models; None with one, where the best are tied, and where none is best."""
    badness = badness_of(metric)
    if badness is None:
        return None
    by_model = {m: badness(s.mean) for m, s in found.items() if s is not None and not math.isnan(s.mean)}
    least = [model for model, value in by_model.items() if value == min(by_model.values())]
    return least[0] if len(by_model) > 1 and len(least) == 1 else None


def cell_of(summary: Summary | None, best: bool = False, *, with_detail: bool = True) -> Cell:
    """Show a figure with the deviation over its seeds or its interval."""
    if summary is None or math.isnan(summary.mean):
        return Cell("n/a")
    detail = ""
    if not math.isnan(summary.deviation):
        detail = f"± {summary.deviation:.4f}"
    elif not math.isnan(summary.lower):
        detail = f"{summary.lower:.4f} to {summary.upper:.4f}"
    return Cell(f"{summary.mean:.4f}", detail if with_detail else "", best)


def share_cell(summary: Summary | None) -> Cell:
    """Show a share in percent."""
    return Cell("n/a" if summary is None or math.isnan(summary.mean) else f"{100 * summary.mean:.1f}%")


def series_of(model: str, points: Iterable[tuple[float, Summary | None]]) -> Series:
    """Make a line of figures; its band is one deviation over the seeds, or the 95% interval."""
    kept = [(x, one) for x, one in points if one is not None]
    ends = [
        (one.lower, one.upper)
        if math.isnan(one.deviation)
        else (one.mean - one.deviation, one.mean + one.deviation)
        for _, one in kept
    ]
    return Series(
        model,
        [x for x, _ in kept],
        [one.mean for _, one in kept],
        [lower for lower, _ in ends],
        [upper for _, upper in ends],
    )


def _summarize(figures: list[Figure]) -> Summary:
    value = np.array([figure.value for figure in figures])
    n = round(float(np.mean([figure.n for figure in figures])))
    if len(figures) == 1:
        return Summary(float(value[0]), math.nan, 1, n, figures[0].lower, figures[0].upper)
    deviation = float(np.std(value, ddof=1))
    return Summary(float(np.mean(value)), deviation, len(value), n, math.nan, math.nan)
