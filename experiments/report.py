"""The report of a results table, from its files alone: JSON, Markdown, one HTML page, a terminal table."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.paired_tests import BOOTSTRAP, PairedTest, pairwise_tests, read_tests, write_tests
from experiments.results_table import ResultRow, RunRecord, read_rows, read_run_records
from graphrec.evaluation.page import (
    Cell,
    Page,
    Picture,
    Section,
    Table,
    print_page,
    render_html,
    render_markdown,
)
from graphrec.evaluation.plots import (
    Interval,
    Series,
    plot_by_hour,
    plot_curves,
    plot_intervals,
    plot_reliability,
)

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ReportPaths", "build_report", "pairwise_tests", "read_page", "write_tests"]

_PERIODS = ("period=0-8", "period=8-16", "period=16-24")
_CURVE_SLICES = ("epoch", "step")


class ReportPaths(NamedTuple):
    """The files of a report."""

    json: Path
    markdown: Path
    html: Path


class Summary(NamedTuple):
    """A metric of a model over its seeds; ``deviation`` (n - 1) is NaN with one seed."""

    mean: float
    deviation: float
    num_seeds: int
    n: int


class _Column(NamedTuple):
    header: str
    slice: str
    metric: str
    badness: Callable[[float], float] | None
    """What the best model has least of; None marks no best."""


def _negative(value: float) -> float:
    return -value


def _distance_from_one(value: float) -> float:
    return abs(math.log(value)) if value > 0 else math.inf


_USER_PERIOD, _USER = "gauc[user,period; impressions]", "gauc[user; impressions]"
_SUMMARY_COLUMNS = (
    _Column("AUC", "all", "auc", _negative),
    _Column("GAUC by user and period", "all", _USER_PERIOD, _negative),
    _Column("GAUC by user", "all", _USER, _negative),
    _Column("log loss", "all", "log_loss", float),
    _Column("calibration error", "all", "ece", float),
    _Column("predicted / observed clicks", "all", "calibration_ratio", _distance_from_one),
)
_PERIOD_COLUMNS = (
    *(_Column(f"{name[7:]} h, mean of hours", name, "mean_hourly_auc", _negative) for name in _PERIODS),
    _Column("whole day, mean of hours", "all", "mean_hourly_auc", _negative),
    *(_Column(f"{name[7:]} h, all rows", name, "auc", _negative) for name in _PERIODS),
)
_SUMMARY_TEXT = (
    "Mean over the seeds, and the standard deviation below it. GAUC is the AUC inside groups, weighted by "
    "impressions; groups of one class have none and are left out. Within a user and period all that is known "
    "of the user is constant, so GAUC by user and period measures how well a user's own items are ranked. "
    "The calibration error is over 20 bins of equal numbers of rows."
)
_PERIOD_TEXT = (
    "The mean of hours is over the AUCs of single hours of single days that have both classes, each hour "
    "counting alike; beside it the AUC over all rows of the period, where hours with more rows count more."
)
_TEST_TEXT = (
    "Each model's predictions are averaged over its seeds, and both models are tested on the same rows. "
    "DeLong's test takes rows as independent; the bootstrap draws users with all their rows, 95% intervals "
    "are its percentiles. P-values are corrected over the baselines (Holm), the intervals are not."
)


def build_report(results_dir: Path, table: str, output_dir: Path) -> ReportPaths:
    """Write ``<table>.json``, ``<table>.md`` and ``<table>.html`` into ``output_dir``.

    Everything comes from the files of ``table`` in ``results_dir`` (`experiments.results_table` lists them).
    Raises ``ValueError`` where there is no row, or where a figure is there twice.
    """
    rows, curves, tests, runs = _read_table(results_dir, table)
    page = _page(rows, curves, tests, runs)
    figures = [
        {"model": model, "slice": name, "metric": metric, **summary._asdict()}
        for (model, name, metric), summary in _summarize([*rows, *curves]).items()
    ]
    content = {
        "title": page.title,
        "subtitle": page.subtitle,
        "headline": page.headline,
        "figures": figures,
        "tests": [test._asdict() for test in tests],
        "runs": [vars(run) for run in runs],
    }
    paths = ReportPaths(*(output_dir / f"{table}.{suffix}" for suffix in ("json", "md", "html")))
    output_dir.mkdir(parents=True, exist_ok=True)
    _write(
        paths.json, json.dumps(_nan_to_none(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    )
    _write(paths.markdown, render_markdown(page))
    _write(paths.html, render_html(page))
    return paths


def read_page(results_dir: Path, table: str) -> Page:
    """Return the report as plain values, as `build_report` shows them."""
    return _page(*_read_table(results_dir, table))


def print_report(results_dir: Path, table: str, console: "Console | None" = None) -> None:
    """Print the report's tables and verdicts to the terminal."""
    from rich.console import Console

    print_page(read_page(results_dir, table), console or Console())


_Summaries = dict[tuple[str, str, str], Summary]


def _read_table(
    results_dir: Path, table: str
) -> tuple[list[ResultRow], list[ResultRow], list[PairedTest], list[RunRecord]]:
    """Rows, with a model's run and data in its name where it has several; curves apart."""
    found = read_rows(results_dir / f"{table}.jsonl") + read_rows(results_dir / f"{table}.curves.jsonl")
    rows = [row for row in found if row.slice.partition("=")[0] not in _CURVE_SLICES]
    if not rows:
        raise ValueError(
            f"{results_dir / (table + '.jsonl')} holds no row; run the experiment before its report is made"
        )
    runs_of_model: dict[str, set[str]] = {}
    data_of_model: dict[str, set[str]] = {}
    for row in rows:
        runs_of_model.setdefault(row.model, set()).add(row.run)
        data_of_model.setdefault(row.model, set()).add(row.data)

    def label(row: ResultRow) -> str:
        run = f" [{row.run}]" if len(runs_of_model.get(row.model, ())) > 1 else ""
        data = f" on {row.data}" if len(data_of_model.get(row.model, ())) > 1 else ""
        return row.model + run + data

    found = [row._replace(model=label(row)) for row in found]
    curves = [row for row in found if row.slice.partition("=")[0] in _CURVE_SLICES]
    rows = [row for row in found if row.slice.partition("=")[0] not in _CURVE_SLICES]
    tests = read_tests(results_dir / f"{table}.tests.jsonl")
    return rows, curves, tests, read_run_records(results_dir / f"{table}.runs.jsonl")


def _summarize(rows: Sequence[ResultRow]) -> _Summaries:
    """Mean and deviation over the seeds, by (model, slice, metric), in the order of the rows."""
    values: dict[tuple[str, str, str], dict[int, ResultRow]] = {}
    for row in rows:
        by_seed = values.setdefault((row.model, row.slice, row.metric), {})
        if row.seed in by_seed:
            raise ValueError(
                f"{row.metric} of {row.slice} is there twice for {row.model}, seed {row.seed}; "
                "write repeated runs with replace_rows"
            )
        by_seed[row.seed] = row
    summaries = {}
    for key, by_seed in values.items():
        value = np.array([row.value for row in by_seed.values()])
        deviation = float(np.std(value, ddof=1)) if len(value) > 1 else math.nan
        n = round(float(np.mean([row.n for row in by_seed.values()])))
        summaries[key] = Summary(float(np.mean(value)), deviation, len(value), n)
    return summaries


def _page(
    rows: list[ResultRow], curves: list[ResultRow], tests: list[PairedTest], runs: list[RunRecord]
) -> Page:
    summaries = _summarize(rows)
    models = list(dict.fromkeys(row.model for row in rows))
    data = ", ".join(dict.fromkeys(row.data for row in rows))
    days = sorted({row.slice[4:] for row in rows if row.slice.startswith("day=")})
    seeds = sorted({row.seed for row in rows})
    num_rows = max(
        (s.n for (_, name, metric), s in summaries.items() if (name, metric) == ("all", "auc")), default=0
    )
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "days not given"
    subtitle = f"Test days: {span}. Seeds: {', '.join(map(str, seeds))}."
    facts = [
        ("Data set", data),
        ("Test days", f"{len(days)}" if days else "not given"),
        ("Impressions", f"{num_rows:,}"),
        ("Models", str(len(models))),
        ("Seeds", str(len(seeds))),
    ]
    click_rate = summaries.get((models[0], "all", "click_rate"))
    if click_rate is not None:
        facts.insert(3, ("Click rate", f"{100 * click_rate.mean:.1f}%"))
    sections = [
        _summary_section(models, summaries),
        Section(
            "AUC by period of the day", _PERIOD_TEXT, tables=[_table(models, summaries, _PERIOD_COLUMNS)]
        ),
        *_hour_sections(models, summaries),
        *_test_sections(tests),
        *_reliability_sections(models, summaries),
        *_curve_sections(models, _summarize(curves)),
        *_day_sections(models, summaries, days),
        *_run_sections(runs),
    ]
    return Page(
        f"Click prediction, hour by hour: {data}",
        subtitle,
        _headline(models, summaries, tests),
        facts,
        sections,
    )


def _headline(models: list[str], summaries: _Summaries, tests: list[PairedTest]) -> str:
    """Name the best AUC and the best of another model, and whether users drawn anew would tell them apart."""
    found = {model: summaries[model, "all", "auc"] for model in models if (model, "all", "auc") in summaries}
    ranked = sorted(
        (model for model in found if not math.isnan(found[model].mean)), key=lambda model: -found[model].mean
    )
    if not ranked:
        return "No model has an AUC: the test rows hold one class only."
    best = found[ranked[0]]
    spread = (
        f" ± {best.deviation:.4f} over {best.num_seeds} seeds" if best.num_seeds > 1 else " with one seed"
    )
    sentence = f"{ranked[0]} has the highest AUC, {best.mean:.4f}{spread}"
    rivals = [model for model in ranked if _without_update(model) != _without_update(ranked[0])]
    if not rivals:
        return sentence + "."
    sentence += f"; the best other model is {rivals[0]} with {found[rivals[0]].mean:.4f}."
    for test in tests:
        same = _without_update(test.model) == _without_update(ranked[0]) and test.baseline == rivals[0]
        if (test.metric, test.method) == ("auc", BOOTSTRAP) and same:
            return f"{sentence} {test.verdict}"
    return sentence


def _without_update(model: str) -> str:
    """Return the name of a model without its form of online update: "LSTTM, updated (union)" is LSTTM."""
    return model.partition(", updated (")[0]


def _summary_section(models: list[str], summaries: _Summaries) -> Section:
    left_out = []
    for metric, words in (("user", "user"), ("user,period", "user and period")):
        share = summaries.get((models[0], "all", f"gauc_rows_left_out[{metric}]"))
        if share is not None:
            left_out.append(
                f"GAUC by {words} leaves out {100 * share.mean:.1f}% of the rows, in groups of one class."
            )
    return Section("All test rows", _SUMMARY_TEXT, left_out, [_table(models, summaries, _SUMMARY_COLUMNS)])


def _table(
    models: Sequence[str], summaries: _Summaries, columns: Sequence[_Column], caption: str = ""
) -> Table:
    """Make a row per model; columns that no model has are left out."""
    kept = [c for c in columns if any((model, c.slice, c.metric) in summaries for model in models)]
    best = {column: _best_model(models, summaries, column) for column in kept}
    rows = []
    for model in models:
        found = [summaries.get((model, column.slice, column.metric)) for column in kept]
        num_seeds = max((one.num_seeds for one in found if one is not None), default=0)
        cells = [_cell(one, best[column] == model) for column, one in zip(kept, found, strict=True)]
        rows.append([Cell(model), Cell(str(num_seeds)), *cells])
    return Table(["model", "seeds", *(column.header for column in kept)], rows, caption)


def _best_model(models: Sequence[str], summaries: _Summaries, column: _Column) -> str | None:
    badness = {
        model: column.badness(summaries[model, column.slice, column.metric].mean)
        for model in models
        if column.badness is not None and (model, column.slice, column.metric) in summaries
    }
    badness = {model: value for model, value in badness.items() if not math.isnan(value)}
    return min(badness, key=lambda model: badness[model]) if len(badness) > 1 else None


def _cell(summary: Summary | None, best: bool) -> Cell:
    if summary is None or math.isnan(summary.mean):
        return Cell("n/a")
    detail = "" if math.isnan(summary.deviation) else f"± {summary.deviation:.4f}"
    return Cell(f"{summary.mean:.4f}", detail, best)


def _hour_sections(models: list[str], summaries: _Summaries) -> list[Section]:
    hours = sorted({int(name[5:]) for _, name, _ in summaries if name.startswith("hour=")})
    if not hours:
        return []
    names = {hour: f"hour={hour:02d}" for hour in hours}
    rows_of_hour = {
        hour: max(s.n for (_, name, metric), s in summaries.items() if (name, metric) == (names[hour], "auc"))
        for hour in hours
    }
    lines = [
        _series(model, [(hour, summaries.get((model, names[hour], "auc"))) for hour in hours])
        for model in models
    ]
    caption = (
        "AUC over the rows of each hour, of all test days together. Bands are one standard deviation over "
        "the seeds; they do not show that an hour has few rows. Below: rows in each hour."
    )
    columns = [
        [_cell(summaries.get((model, names[hour], "auc")), False) for model in models] for hour in hours
    ]
    table = Table(
        ["hour", "rows", *models],
        [
            [Cell(f"{hour:02d}"), Cell(f"{rows_of_hour[hour]:,}"), *cells]
            for hour, cells in zip(hours, columns, strict=True)
        ],
    )
    return [
        Section("AUC by hour", pictures=[Picture(plot_by_hour(lines, rows_of_hour), caption)]),
        Section("AUC by hour, as a table", tables=[table], folded=True),
    ]


def _series(model: str, points: Sequence[tuple[float, Summary | None]]) -> Series:
    kept = [(x, one) for x, one in points if one is not None]
    return Series(model, [x for x, _ in kept], [s.mean for _, s in kept], [s.deviation for _, s in kept])


def _test_sections(tests: list[PairedTest]) -> list[Section]:
    if not tests:
        return []
    names = {
        "auc": "AUC",
        _USER_PERIOD: "GAUC by user and period",
        _USER: "GAUC by user",
        "log_loss": "log loss",
    }
    header = ["comparison", "metric", "method", "difference", "95% interval", "p", "p (Holm)"]
    rows = [
        [
            Cell(f"{test.model} minus {test.baseline}"),
            Cell(names.get(test.metric, test.metric)),
            Cell(test.method),
            Cell(f"{test.difference:+.4f}"),
            Cell(f"{test.lower:+.4f} to {test.upper:+.4f}"),
            Cell(_p(test.p_value)),
            Cell(_p(test.p_value_holm)),
        ]
        for test in tests
    ]
    intervals = [
        Interval(f"{test.baseline}, {names[test.metric]}", test.difference, test.lower, test.upper)
        for test in tests
        if test.method == BOOTSTRAP and test.metric != "log_loss" and not math.isnan(test.lower)
    ]
    model = tests[0].model
    pictures = []
    if intervals:
        caption = (
            f"Bootstrap over users: right of 0, {model} is better. "
            "Drawn strong where the uncorrected 95% interval misses 0."
        )
        pictures.append(Picture(plot_intervals(intervals, f"{model} minus the baseline"), caption))
    # users' rows depend on each other, so the words are the bootstrap's; DeLong's test stands in the table
    verdicts = [
        test.verdict for test in tests if test.method == BOOTSTRAP and test.metric in ("auc", _USER_PERIOD)
    ]
    return [
        Section("Are the differences real?", _TEST_TEXT, verdicts, pictures=pictures),
        Section("All tests", tables=[Table(header, rows)], folded=True),
    ]


def _p(p_value: float) -> str:
    return "n/a" if math.isnan(p_value) else "< 0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def _reliability_sections(models: list[str], summaries: _Summaries) -> list[Section]:
    lines = []
    bins = sorted({name for _, name, _ in summaries if name.startswith("reliability_bin=")})
    for model in models:
        points = []
        for name in bins:
            score = summaries.get((model, name, "mean_score"))
            if score is not None:
                points.append((score.mean, summaries.get((model, name, "click_rate"))))
        if points:
            lines.append(_series(model, points))
    if not lines:
        return []
    caption = (
        "Each point is a bin of about equally many rows; mean over the seeds, bands one standard deviation. "
        "Below the diagonal a model promises more clicks than come."
    )
    return [Section("Calibration", pictures=[Picture(plot_reliability(lines), caption)])]


def _curve_sections(models: list[str], summaries: _Summaries) -> list[Section]:
    pictures = []
    for kind in _CURVE_SLICES:
        # {metric: {model: [(x, summary)]}}
        panels: dict[str, dict[str, list[tuple[float, Summary | None]]]] = {}
        for (model, name, metric), summary in summaries.items():
            if name.startswith(f"{kind}="):
                x = float(name.partition("=")[2])
                panels.setdefault(metric, {}).setdefault(model, []).append((x, summary))
        if panels:
            series = {
                metric: [_series(model, sorted(points[model])) for model in models if model in points]
                for metric, points in panels.items()
            }
            caption = f"By {kind}; mean over the seeds, bands one standard deviation."
            pictures.append(Picture(plot_curves(series, kind), caption))
    return [Section("Training", pictures=pictures)] if pictures else []


def _day_sections(models: list[str], summaries: _Summaries, days: list[str]) -> list[Section]:
    if len(days) < 2:
        return []
    tables = []
    for metric, words in (("auc", "AUC"), (_USER_PERIOD, "GAUC by user and period")):
        columns = [_Column(day, f"day={day}", metric, _negative) for day in days]
        tables.append(_table(models, summaries, columns, words))
    return [Section("By day", tables=tables, folded=True)]


def _run_sections(runs: list[RunRecord]) -> list[Section]:
    sections = []
    for run in runs:
        what = [
            ("data set", run.data),
            ("data fingerprint", run.data_fingerprint),
            ("days", ", ".join(run.days)),
        ]
        configuration = _flatten(run.configuration)
        tables = [
            Table(["of the data", "value"], [[Cell(name), Cell(value)] for name, value in what]),
            Table(["configuration", "value"], [[Cell(name), Cell(value)] for name, value in configuration]),
            Table(
                ["software", "version"], [[Cell(name), Cell(value)] for name, value in run.versions.items()]
            ),
        ]
        tables = [table for table in tables if table.rows]
        sections.append(Section(f"Configuration of run {run.run}", tables=tables, folded=True))
    return sections


def _flatten(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested dictionaries as dotted names."""
    if isinstance(value, dict):
        return [
            pair
            for key, one in value.items()
            for pair in _flatten(one, f"{name}.{key}" if name else str(key))
        ]
    return [(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_nan_to_none(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write(path: Path, text: str) -> None:
    """Write a file whole: a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
