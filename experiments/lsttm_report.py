"""LSTTM's tables as Markdown and the figure of AUC by hour, from their result files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures import draw_curve, save_figure
from experiments.results_table import read_lines
from experiments.search import GAUC

TITLES = {
    "lsttm_table": "All rows",
    "lsttm_ablations": "Ablations of LSTTM",
}
DATA_IN_WORDS = {
    "kuairand": "KuaiRand-Pure",
    "kuairand, as of the query": "KuaiRand-Pure as of the instant of each query",
    "kuairand, periods of 8 hours": "KuaiRand-Pure as of the start of periods of eight hours",
    "kuairand, periods of 24 hours": "KuaiRand-Pure as of the start of each day",
    "simulator": "SIMULATED behaviour",
    "amazon-afk": "Amazon, Food with Kitchen as the external domain",
}
MAIN_DATA = "kuairand"
COLUMNS = (  # heading, form, slice, metric, digits
    ("AUC 0-8", "none", "period=0-8", "mean_hourly_auc", 4),
    ("8-16", "none", "period=8-16", "mean_hourly_auc", 4),
    ("16-24", "none", "period=16-24", "mean_hourly_auc", 4),
    ("AUC", "none", "all", "auc", 4),
    ("GAUC user, period", "none", "all", GAUC, 4),
    ("GAUC user", "none", "all", "gauc[user; impressions]", 4),
    ("log loss", "none", "all", "log_loss", 4),
    ("calibration", "none", "all", "calibration_ratio", 3),
    ("ECE", "none", "all", "ece", 4),
    ("AUC, updated", "updated", "all", "auc", 4),
    ("GAUC user, period, updated", "updated", "all", GAUC, 4),
)
COSTS = (
    ("parameters", "num_parameters", "{:,.0f}"),
    ("training, s a day", "training_seconds_a_day", "{:.1f}"),
    ("scored rows a second", "scored_rows_a_second", "{:,.0f}"),
)
HOURS = tuple(f"hour={hour:02d}" for hour in range(24))

Values = Mapping[tuple[str, str, str, str], Sequence[float]]


def lsttm_section(results: Path, *, of_main_data: bool) -> str:
    """Return the tables of the main data set, or of the others, with LSTTM's tests against each row."""
    parts = []
    for name, title in TITLES.items():
        lines = read_lines(results / f"{name}.jsonl")
        tests = read_lines(results / f"{name}.tests.jsonl")
        described = read_lines(results / f"{name}.rows.jsonl")
        for data in dict.fromkeys(line["data"] for line in lines):
            if (data == MAIN_DATA) is not of_main_data:
                continue
            of_data = [[one for one in kind if one["data"] == data] for kind in (lines, tests, described)]
            parts += [f"### {title}: {DATA_IN_WORDS.get(data, data)}", "", *_tables(*of_data), ""]
    return "\n".join(parts).rstrip()


def draw_hours(results: Path, data: str, path: Path) -> bool:
    """Draw AUC by hour of the models that have it, mean over the seeds; return whether there was any.

    Bands are one deviation over the seeds. Data whose events have a day and no hour has no such figure.
    """
    values = _values(line for line in read_lines(results / "lsttm_table.jsonl") if line["data"] == data)
    models = [model for model in _models(values) if any((model, "none", h, "auc") in values for h in HOURS)]
    if not models or len({name for _, _, name, _ in values if name in HOURS}) < 2:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for model in models:
        hours = [hour for hour, name in enumerate(HOURS) if (model, "none", name, "auc") in values]
        draw_curve(axes, hours, [values[model, "none", HOURS[hour], "auc"] for hour in hours], model)
    axes.set(xlabel="hour of the day", ylabel="AUC", title=DATA_IN_WORDS.get(data, data))
    axes.legend(frameon=False, ncols=2)
    save_figure(figure, path)
    return True


def _tables(
    lines: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]
) -> list[str]:
    values = _values(lines)
    days, seeds = (max((row[name] for row in rows), key=len) for name in ("days", "seeds"))
    num_rows = max(line["n"] for line in lines)
    # events that have a day and no hour all lie in the first period of it
    has_hours = len({name for _, _, name, _ in values if name.startswith("period=")}) > 1
    columns = [column for column in COLUMNS if has_hours or not column[2].startswith("period=")]
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)})"
    found = [
        f"Test days {span}, {num_rows:,} impressions, seeds {', '.join(map(str, seeds))}: mean ± deviation."
        + " Periods of the day: mean of the hourly AUCs." * has_hours,
        "",
        f"| | {' | '.join(heading for heading, *_ in columns)} |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for model in _models(values):
        cells = [
            _cell(values.get((model, form, name, metric)), digits)
            for _, form, name, metric, digits in columns
        ]
        found.append(f"| {model} | {' | '.join(cells)} |")
    found += ["", "Times are of one thread beside other work, and serve for orders of magnitude.", ""]
    found += [f"| | search | {' | '.join(heading for heading, *_ in COSTS)} |"]
    found.append("| --- | ---: |" + " ---: |" * len(COSTS))
    trials = {row["model"]: row["trials"] for row in rows}
    for model in _models(values):
        costs = [
            format_.format(np.mean(cost)) if (cost := values.get((model, "none", "all", metric))) else ""
            for _, metric, format_ in COSTS
        ]
        found.append(f"| {model} | {trials[model]} trials | {' | '.join(costs)} |")
    return [*found, "", *_tests(tests)] if tests else found


def _tests(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    by = {(test["baseline"], test["form"], test["metric"]): test for test in tests}
    columns = [(form, metric) for form in ("none", "updated") for metric in ("auc", GAUC)]
    first = tests[0]
    found = [
        f"{first['model']} minus each row, on predictions averaged over the seeds; p after Holm's correction "
        f"over {first['num_tests']} rows (AUC: DeLong by user; GAUC: bootstrap by user). Positive: "
        f"{first['model']} is better.",
        "",
        "| against | AUC | GAUC user, period | AUC, both updated | GAUC user, period, both updated |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for baseline in dict.fromkeys(test["baseline"] for test in tests):
        cells = [_difference(by.get((baseline, *column))) for column in columns]
        found.append(f"| {baseline} | {' | '.join(cells)} |")
    return found


def _difference(test: Mapping[str, Any] | None) -> str:
    if test is None or "difference" not in test:
        return ""
    p_value = test.get("p_value_corrected")
    proof = "" if p_value is None else f" (p {'< 0.0001' if p_value < 1e-4 else f'= {p_value:.2g}'})"
    return f"{test['difference']:+.4f}{proof}"


def _cell(values: Sequence[float] | None, digits: int) -> str:
    if not values:
        return ""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def _values(lines: Any) -> Values:
    """Collect the defined values of all seeds by (model, form, slice, metric)."""
    return {
        (line["model"], line["form"], line["slice"], line["metric"]): [
            v for v in line["values"] if v is not None
        ]
        for line in lines
        if any(value is not None for value in line["values"])
    }


def _models(values: Values) -> list[str]:
    return list(dict.fromkeys(model for model, *_ in values))
