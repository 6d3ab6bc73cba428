"""All figures of one or several models' predictions: slices, intervals and paired tests, from one reading."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphrec.evaluation.comparison import corrected
from graphrec.evaluation.compiled import order_by_code, take
from graphrec.evaluation.ctr import BinStrategy, ReliabilityCurve
from graphrec.evaluation.figures import Comparison, Figure
from graphrec.evaluation.history import HistorySlicer
from graphrec.evaluation.predictions import Predictions, Slicing
from graphrec.evaluation.read import ReadOptions, read_predictions
from graphrec.evaluation.slice_figures import FigureOptions, Rows, figures_of_slice

if TYPE_CHECKING:
    from graph_builders import BehaviorGraph

PERIODS_OF_DAY = ((0, 8), (8, 16), (16, 24))  # hours; LSTTM, section 5.4
TIME_SLICINGS = ("hour", "day", "period")
_FEW_USERS = 30  # below which a bootstrap over users has little to draw from
_CLUSTER_NOTES = {
    "row": (
        "no users and no requests: rows are taken as independent; GAUC and ranking figures are left out",
    ),
    "request": ("no users: intervals and tests draw whole requests; GAUC by user is left out",),
}

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        models: names of the score columns; the first is compared with each of the others.
        figures: one value of one model, slice and metric each, with its 95% interval where there is one.
        comparisons: paired tests of the first model against each other one, over all rows and by slice,
            with Holm's correction.
        notes: what was guessed, left out or is odd about the rows, in words.
        facts: rows, clicks, users, first and last hour, sources, fingerprint, options, versions.
        curves: the reliability curve of each model, where scores are probabilities.

    """

    models: tuple[str, ...]
    figures: list[Figure]
    comparisons: list[Comparison]
    notes: tuple[str, ...]
    facts: Mapping[str, str | int | float]
    curves: Mapping[str, ReliabilityCurve] = field(default_factory=dict)

    def value(self, metric: str, slice: str = "all", model: str | None = None) -> float:
        """Return one figure, of the first model if none is named; ``KeyError`` where there is none."""
        wanted = (self.models[0] if model is None else model, slice, metric)
        for figure in self.figures:
            if figure[:3] == wanted:
                return figure.value
        raise KeyError(f"no figure of model {wanted[0]!r}, slice {slice!r} and metric {metric!r}")


def evaluate(
    source: Any,
    *,
    against: Any = (),
    columns: ReadOptions | None = None,
    graph: "BehaviorGraph | str | Path | None" = None,
    k: int = 10,
    num_bins: int = 20,
    bin_strategy: BinStrategy = "quantile",
    num_resamples: int = 1000,
    random_seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate click predictions of one or several models on the same rows.

    All figures are exact, ties included, and in float64. Slices: ``all``; ``hour=08``, ``day=2022-05-04`` and
    ``period=0-8`` (LSTTM, section 5.4) in local time; ``column=value`` of each slicing column; with a graph
    ``user_history=1-5`` and, where there are items, ``item_history=1-5``. Empty slices do not appear.

    Metrics of a slice: ``auc``, ``average_precision``; where scores are probabilities ``log_loss``,
    ``normalized_entropy``, ``relative_information_gain``, ``brier_score``, ``ece``, ``calibration_ratio``,
    ``mean_score``; ``click_rate``, ``num_clicks``; for each grouping ``[user]``, ``[user,period]`` and
    ``[request]`` that the columns allow: ``gauc[grouping; weighting]`` with the weightings impressions,
    clicks and groups, ``gauc_rows_left_out``, ``gauc_groups_left_out``, ``ndcg@k``, ``mrr``, ``hit_rate@k``
    and ``ranking_rows_left_out``; ``mean_hourly_auc``, the unweighted mean over single hours of single days.

    AUC's intervals and tests are DeLong's, clustered by user where users are known (Obuchowski, Biometrics
    1997); all others come from a bootstrap that draws users with all their rows.

    Args:
        source: a path, several paths, a polars or pandas frame, a mapping of arrays, or `Predictions`.
        against: one or several further sources with other models' scores of the same rows.
        columns: names of the columns, units and zone; guessed where they are not given.
        graph: a behaviour graph, or its folder, for slices by the length of the history before a row's time.
        k: length of the ranked list of NDCG@k and of the hit rate.
        num_bins: bins of the calibration error.
        bin_strategy: ``quantile`` or ``width``.
        num_resamples: resamples of the bootstrap; 0 for none.
        random_seed: of the bootstrap.
        progress: called with a stage, what is done and, where it is known, the total.

    Raises:
        ValueError: rows that cannot be evaluated as they are; the message says where and what to do
            (`PredictionsError` for what was read).

    """
    columns = columns if columns is not None else ReadOptions()
    report = progress if progress is not None else _no_progress
    if isinstance(source, Predictions):
        if not (isinstance(against, tuple | list) and not against) or graph is not None:
            raise ValueError(
                "against and graph need sources to read; put all scores and slices into Predictions"
            )
        predictions = source
    else:
        predictions = read_predictions(
            source,
            columns,
            against=against,
            slicers=_history_slicers(graph, columns),
            progress=lambda done, total: report("reading", done, total),
        )
    clusters = {"user": predictions.user, "request": predictions.request}
    options = FigureOptions(
        k=k,
        num_bins=num_bins,
        bin_strategy=bin_strategy,
        num_resamples=num_resamples,
        random_seed=random_seed,
        cluster=next((name for name, codes in clusters.items() if codes is not None), "row"),
        is_probability=predictions.is_probability,
    )
    del clusters
    if not predictions.num_rows:
        raise ValueError("there is no row to evaluate")
    if not predictions.score:
        raise ValueError("predictions need at least one column of scores")
    found = Evaluation(
        models=tuple(predictions.score),
        figures=[],
        comparisons=[],
        notes=(
            *predictions.notes,
            *_CLUSTER_NOTES.get(options.cluster, ()),
            *_notes_on_groups(predictions),
            *_notes_on_graph(graph, columns),
        ),
        facts=_facts(predictions, options),
    )
    # from here on the columns are held by this dictionary alone, which gives them up one by one
    fields = {**vars(predictions), "score": dict(predictions.score)}
    del predictions
    return _evaluate(found, fields, columns.by, options, report)


def _evaluate(
    start: Evaluation,
    fields: dict[str, Any],
    by: Sequence[str],
    options: FigureOptions,
    progress: Progress,
) -> Evaluation:
    """Fill in the figures, comparisons and curves; ``fields`` are those of `Predictions`."""
    rows, slicings = _ordered(fields, by)
    num_slices = 1 + sum(len(slicing.values) for slicing in slicings)
    found = [figures_of_slice("all", rows, options)]
    progress("figures", 1, num_slices)
    for done, (name, index) in enumerate(_slices(slicings), start=2):
        if len(index):
            found.append(figures_of_slice(name, rows.take(index), options))
        progress("figures", done, num_slices)
    return replace(
        start,
        figures=[figure for one in found for figure in one.figures],
        comparisons=corrected([comparison for one in found for comparison in one.comparisons]),
        notes=(*start.notes, *found[0].notes),
        curves=found[0].curves,
    )


def _slices(slicings: Sequence[Slicing]) -> Iterator[tuple[str, np.ndarray]]:
    """Name each slice, and give the indices of its rows in ascending order."""
    for slicing in slicings:
        order, ptr = order_by_code(slicing.code, len(slicing.values))
        for code, value in enumerate(slicing.values):
            yield f"{slicing.name}={value}", order[ptr[code] : ptr[code + 1]]


def _ordered(columns: dict[str, Any], by: Sequence[str]) -> tuple[Rows, list[Slicing]]:
    """Bring rows into the order of users, and add the slicings that come from the time.

    ``columns`` are the fields of `Predictions`. Each is taken out before it is copied, so that no more than
    one column is there twice.
    """
    cluster = columns["user"] if columns["user"] is not None else columns["request"]
    order = None
    if cluster is not None and (cluster[1:] < cluster[:-1]).any():
        order = order_by_code(cluster, int(cluster.max()) + 1)[0]

    def arrange(column: np.ndarray | None) -> Any:
        return column if column is None or order is None else take(column, order)

    scores = columns.pop("score")
    hour, period = columns.pop("hour"), columns.pop("period")
    is_hourly = hour is period
    hour = arrange(hour)
    period = hour if is_hourly else arrange(period)
    request = columns["request"]
    del columns["user"], columns["request"]
    of_user = arrange(cluster)
    request = of_user if request is cluster else arrange(request)
    del cluster
    rows = Rows(
        label=arrange(columns.pop("label")),
        score={name: arrange(scores.pop(name)) for name in list(scores)},
        cluster=of_user,
        request=request,
        hour=hour,
        period=period,
    )
    slicings = [replace(slicing, code=arrange(slicing.code)) for slicing in columns.pop("slicings")]
    if rows.hour is not None:
        wanted = [name for name in by if name in TIME_SLICINGS] if by else list(TIME_SLICINGS)
        slicings = [*_time_slicings(rows.hour, wanted), *slicings]
    return rows, slicings


def _time_slicings(hour: np.ndarray, wanted: Sequence[str]) -> Iterator[Slicing]:
    hour_of_day = (hour % 24).astype(np.int16)
    if "hour" in wanted:
        yield Slicing("hour", hour_of_day, tuple(f"{one:02d}" for one in range(24)))
    if "period" in wanted:
        starts = np.array([start for start, _ in PERIODS_OF_DAY])
        code = (np.searchsorted(starts, hour_of_day, side="right") - 1).astype(np.int16)
        yield Slicing("period", code, tuple(f"{start}-{end}" for start, end in PERIODS_OF_DAY))
    if "day" in wanted:
        day = hour // 24
        first = int(day.min())
        names = np.arange(first, int(day.max()) + 1).astype("datetime64[D]").astype(str)
        yield Slicing("day", (day - first).astype(np.int32), tuple(names.tolist()))


def _history_slicers(graph: "BehaviorGraph | str | Path | None", columns: ReadOptions) -> list[HistorySlicer]:
    if graph is None:
        return []
    if isinstance(graph, str | Path):
        from graph_builders import BehaviorGraph

        graph = BehaviorGraph.open(graph)
    return [HistorySlicer(graph, "user"), *([HistorySlicer(graph, "item")] if columns.item else [])]


def _notes_on_graph(graph: object, columns: ReadOptions) -> list[str]:
    if graph is None or columns.item:
        return []
    return ["no item column was named, so there are no slices by the history of items; --item names it"]


def _notes_on_groups(predictions: Predictions) -> list[str]:
    """Say where there are too few users for intervals, and where a request spans several users."""
    user, request = predictions.user, predictions.request
    notes = []
    if user is not None:
        num_users = int(user.max()) + 1
        if num_users < _FEW_USERS:
            said = "one user has no intervals" if num_users == 1 else "intervals are too narrow"
            notes.append(f"{num_users} user{'s' * (num_users > 1)}: with fewer than {_FEW_USERS} {said}")
    if user is not None and request is not None:
        first_user = np.empty(int(request.max()) + 1, user.dtype)
        first_user[request[::-1]] = user[::-1]
        spanning = len(np.unique(request[first_user[request] != user]))
        if spanning:
            notes.append(
                f"{spanning:,} requests hold rows of several users; a request is a group inside one user, so "
                "each user's part of it counts as a request of its own"
            )
    return notes


def _facts(predictions: Predictions, options: FigureOptions) -> dict[str, str | int | float]:
    """Say what was evaluated, how, and with which versions."""
    facts: dict[str, str | int | float] = {
        "sources": ", ".join(predictions.sources),
        "rows": predictions.num_rows,
        "clicks": int(predictions.label.sum(dtype=np.int64)),
    }
    for name, codes in (("users", predictions.user), ("requests", predictions.request)):
        if codes is not None:
            facts[name] = int(codes.max()) + 1
    if predictions.hour is not None:
        for name, hour in (("first hour", predictions.hour.min()), ("last hour", predictions.hour.max())):
            facts[name] = str(np.datetime64(int(hour), "h")).replace("T", " ") + ":00"
    facts |= {f"option {name}": value for name, value in vars(options).items()}
    facts |= {"fingerprint": predictions.fingerprint, "python": platform.python_version()}
    return facts | {name: version(name) for name in ("graphrec", "numpy", "polars", "numba")}


def _no_progress(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""
