"""The encoders' table as Markdown, from its result files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.search import GAUC
from experiments.task_report import difference_cell, figure_cell, task_table

TABLE, FROZEN_USERS = "encoders_table", "frozen_users"
BENCHMARK = "encoders_benchmark.jsonl"
DATA = ("kuairand",)
CLICKS, PAST_EVENTS = "clicks", "clicks by the user's past events"


def update_encoders_page(results: Path, page: Path) -> None:
    """Put the tables of the result files between the markers of the page.

    Args:
        results: folder of the result files.
        page: ``docs/encoders_table.md``, or a copy of it.

    Raises:
        ValueError: the page lacks a marker.

    """
    bodies = {data: encoders_section(results, data) for data in DATA}
    bodies[FROZEN_USERS] = frozen_users_section(results)
    measured = read_lines(results / BENCHMARK)
    if measured:
        bodies["benchmark"] = encoders_benchmark_section(measured)
    put_sections({page: bodies})


def encoders_section(results: Path, data: str) -> str:
    """Return all tables of a data set.

    Args:
        results: folder of the result files.
        data: name of the data set.

    """
    figures, tests, rows = (
        [line for line in read_lines(results / f"{TABLE}{suffix}.jsonl") if line["data"] == data]
        for suffix in ("", ".tests", ".rows")
    )
    if not rows:
        return "Nothing has been run yet."
    clicks = [line for line in figures if line["family"] == CLICKS]
    buckets = [line for line in figures if line["family"] == PAST_EVENTS]
    tests_of = {
        family: [test for test in tests if test["family"] == family] for family in (CLICKS, PAST_EVENTS)
    }
    periods = [
        line["figure"]
        for line in clicks
        if line["method"] == rows[0]["method"] and line["metric"] == "mean_hourly_auc"
    ]
    headings = {("all", "auc"): "AUC", ("all", GAUC): "GAUC user, period"}
    headings |= {
        (name, "mean_hourly_auc"): "hourly AUC" if name == "all" else f"{name} h" for name in periods
    }
    first = clicks[0]
    return "\n".join(
        [
            f"{first['num_queries']:,} impressions of {first['num_users']:,} users on "
            f"{' and '.join(rows[0]['days'])}; mean ± deviation over the seeds.",
            "",
            *_table(clicks, headings),
            "",
            *_differences(tests_of[CLICKS]),
            "### By the user's past events",
            "",
            f"AUC of the impressions whose user had so many events of any kind before: {_sizes(buckets)}.",
            "",
            *_table(buckets, {(line["figure"], "auc"): line["figure"] for line in buckets}),
            "",
            *_differences(tests_of[PAST_EVENTS]),
            "### Costs",
            "",
            "Processor seconds of a seed and test day on one thread: pre-training, vectors computed "
            "beforehand, training, scoring; and the most memory of all that above the data's. The rate of "
            "the encoder's weights is the better one on the validation day.",
            "",
            "| | seconds | peak MiB | parameters | rate | validation AUC by rate |",
            "| --- | ---: | ---: | ---: | ---: | --- |",
            *(_cost(row) for row in rows),
        ]
    ).rstrip()


def frozen_users_section(results: Path) -> str:
    """Return the tables of the encoders as frozen representations of users."""
    figures, tests, rows = (
        read_lines(results / f"{FROZEN_USERS}{suffix}.jsonl") for suffix in ("", ".tests", ".rows")
    )
    if not rows:
        return "Nothing has been run yet."
    found = [f"{rows[0]['title']}", ""]
    for family in dict.fromkeys(line["family"] for line in figures):
        own = [[line for line in kind if line["family"] == family] for kind in (figures, tests)]
        found += [f"### {family.capitalize()}", "", *task_table(*own), ""]
    return "\n".join(found).rstrip()


def encoders_benchmark_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    first = rows[0]
    lines = [
        f"Made by `python -m experiments.benchmarks.encoders` on {first['date']}: {first['cpu']}, torch "
        f"{first['torch']}, one thread; encoders end to end, KuaiRand-Pure.",
        "",
        "| | encoder | device | impressions a step | fan-out | encoded | ms a step | peak MiB |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        step = (
            f"{row['batch_size']:,}"
            if row["accumulate"] == 1
            else f"{row['accumulate']} x {row['batch_size']}"
        )
        name = row["encoder"] + (", checkpoints" if row["checkpoint_activations"] else "")
        cells = [row["group"], name, row["device"], step, row["num_neighbors"], row["nodes"]]
        cells += [f"{row['milliseconds_a_step']:,.0f}", f"{row['peak_mib']:,.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _table(figures: Sequence[Mapping[str, Any]], headings: Mapping[tuple[str, str], str]) -> list[str]:
    by = {(line["method"], line["figure"], line["metric"]): line for line in figures}
    found = [f"| | seeds | {' | '.join(headings.values())} |", "| --- |" + " ---: |" * (len(headings) + 1)]
    for method in dict.fromkeys(line["method"] for line in figures):
        cells = [figure_cell(by.get((method, *column))) for column in headings]
        seeds = max(len(line["seeds"]) for line in figures if line["method"] == method)
        found.append(f"| {method} | {seeds} | {' | '.join(cells)} |")
    return found


def _differences(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    if not tests:
        return []
    names = list(dict.fromkeys(test["figure"] for test in tests))
    by = {(test["other"], test["figure"]): test for test in tests}
    found = [
        f"{tests[0]['method']} minus each row, AUC: 95% interval of a bootstrap over users, p after Holm's "
        "correction over the rows. Below zero the row is better.",
        "",
        f"| | {' | '.join(names)} |",
        "| --- |" + " --- |" * len(names),
    ]
    for method in dict.fromkeys(test["other"] for test in tests):
        cells = [difference_cell(by.get((method, name))) for name in names]
        found.append(f"| {method} | {' | '.join(cells)} |")
    return [*found, ""]


def _sizes(buckets: Sequence[Mapping[str, Any]]) -> str:
    sizes = {line["figure"]: line["num_queries"] for line in buckets}
    return ", ".join(f"{name} ({count:,} rows)" for name, count in sizes.items())


def _cost(row: Mapping[str, Any]) -> str:
    rate = "" if row["rate"] is None or not row["validation"] else f"{row['rate']:g}"
    trials = ", ".join(f"{name}: {value:.4f}" for name, value in row["validation"].items())
    peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:,}"
    cells = [row["method"], f"{row['cpu_seconds']:,.0f}", peak, f"{row['num_parameters']:,}", rate, trials]
    return f"| {' | '.join(cells)} |"
