"""The report of a results table, from its files alone: JSON, Markdown, one HTML page, a terminal table."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.paired_tests import read_tests
from experiments.results_table import ResultRow, RunRecord, read_rows, read_run_records
from graphrec.evaluation import report
from graphrec.evaluation.figures import Comparison, Figure
from graphrec.evaluation.page import Cell, Page, Picture, Section, Table, print_page
from graphrec.evaluation.plots import plot_curves
from graphrec.evaluation.report import build_page, headline_in_words, write_page
from graphrec.evaluation.report_tables import Summaries, Summary, series_of

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["ReportPaths", "build_report", "print_report", "read_page"]

_CURVE_SLICES = ("epoch", "step")


class ReportPaths(NamedTuple):
    """The files of a table's report, all of which are written."""

    json: Path
    markdown: Path
    html: Path


def build_report(results_dir: Path, table: str, output_dir: Path) -> ReportPaths:
    """Write ``<table>.json``, ``<table>.md`` and ``<table>.html`` into ``output_dir``.

    Everything comes from the files of ``table`` in ``results_dir`` (`experiments.results_table` lists them).
    Raises ``ValueError`` where there is no row, or where a figure is there twice.
    """
    rows, curves, tests, runs = _read_table(results_dir, table)
    page = _page(rows, curves, tests, runs)
    figures = []
    for (model, name, metric), one in Summaries(map(_figure, [*rows, *curves])).items():
        spread = {"mean": one.mean, "deviation": one.deviation, "num_seeds": one.num_seeds, "n": one.n}
        figures.append({"model": model, "slice": name, "metric": metric, **spread})
    content = {
        "title": page.title,
        "subtitle": page.subtitle,
        "headline": page.headline,
        "figures": figures,
        "tests": [test._asdict() for test in tests],
        "runs": [vars(run) for run in runs],
    }
    paths = ReportPaths(*(output_dir / f"{table}.{suffix}" for suffix in ("json", "md", "html")))
    write_page(page, content, report.ReportPaths(*paths))
    return paths


def read_page(results_dir: Path, table: str) -> Page:
    """Return the report as plain values, as `build_report` shows them."""
    return _page(*_read_table(results_dir, table))


def print_report(results_dir: Path, table: str, console: "Console | None" = None) -> None:
    """Print the report's tables and verdicts to the terminal."""
    from rich.console import Console

    print_page(read_page(results_dir, table), console or Console())


def _read_table(
    results_dir: Path, table: str
) -> tuple[list[ResultRow], list[ResultRow], list[Comparison], list[RunRecord]]:
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


def _figure(row: ResultRow) -> Figure:
    return Figure(row.model, row.slice, row.metric, row.value, row.n, seed=row.seed)


def _page(
    rows: list[ResultRow], curves: list[ResultRow], tests: list[Comparison], runs: list[RunRecord]
) -> Page:
    figures = list(map(_figure, rows))
    summaries = Summaries(figures)
    data = ", ".join(dict.fromkeys(row.data for row in rows))
    days = sorted({row.slice[4:] for row in rows if row.slice.startswith("day=")})
    seeds = sorted({row.seed for row in rows})
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}" if days else "days not given"
    facts = [
        ("Data set", data),
        ("Test days", f"{len(days)}" if days else "not given"),
        ("Impressions", f"{summaries.num_rows('all'):,}"),
        ("Models", str(len(summaries.models))),
        ("Seeds", str(len(seeds))),
    ]
    click_rate = summaries.first("all", "click_rate")
    if click_rate is not None:
        facts.insert(3, ("Click rate", f"{100 * click_rate.mean:.1f}%"))
    return build_page(
        figures,
        tests,
        title=f"Click prediction, hour by hour: {data}",
        subtitle=f"Test days: {span}. Seeds: {', '.join(map(str, seeds))}.",
        facts=facts,
        notes=["The paired tests are on each model's predictions averaged over its seeds."] if tests else [],
        extra_sections=[*_curve_sections(summaries.models, curves), *_run_sections(runs)],
        headline=headline_in_words(figures, tests, _without_update, say_seeds=True),
    )


def _without_update(model: str) -> str:
    """Return the name of a model without its form of online update: "LSTTM, updated (union)" is LSTTM."""
    return model.partition(", updated (")[0]


def _curve_sections(models: Sequence[str], rows: list[ResultRow]) -> list[Section]:
    pictures = []
    summaries = Summaries(map(_figure, rows))
    for kind in _CURVE_SLICES:
        # {metric: {model: [(x, summary)]}}
        panels: dict[str, dict[str, list[tuple[float, Summary | None]]]] = {}
        for (model, name, metric), summary in summaries.items():
            if name.startswith(f"{kind}="):
                x = float(name.partition("=")[2])
                panels.setdefault(metric, {}).setdefault(model, []).append((x, summary))
        if panels:
            series = {
                metric: [series_of(model, sorted(points[model])) for model in models if model in points]
                for metric, points in panels.items()
            }
            caption = f"By {kind}; mean over the seeds, bands one standard deviation."
            pictures.append(Picture(plot_curves(series, kind), caption))
    return [Section("Training", pictures=pictures)] if pictures else []


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
