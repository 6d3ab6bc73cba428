"""The encoders' table as Markdown, from its result files alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.search import GAUC
from experiments.task_figures import MEAN
from experiments.task_report import differences_table, method_table, task_table

TABLE, FROZEN_USERS = "encoders_table", "frozen_users"
BENCHMARK, STALE = "encoders_benchmark.jsonl", "stale_vectors.jsonl"
DATA = ("kuairand",)
CLICKS, GROUPED, PAST_EVENTS = "clicks", "clicks of a user and period", "clicks by the user's past events"
FAMILIES = (CLICKS, GROUPED, PAST_EVENTS)
HOURLY = "mean_hourly_auc"


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
    stale = read_lines(results / STALE)
    if stale:
        bodies["stale"] = stale_vectors_section(stale)
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
    clicks, grouped, buckets = (
        [line for line in figures if line["family"] == family] for family in (CLICKS, GROUPED, PAST_EVENTS)
    )
    tests_of = {family: [test for test in tests if test["family"] == family] for family in FAMILIES}
    hourly = [line["figure"] for line in clicks if line["metric"] == HOURLY]
    headings = {("all", "auc"): "AUC"}
    headings |= {(name, HOURLY): "hourly AUC" if name == "all" else f"{name} h" for name in hourly}
    within = {(line["figure"], GAUC): line["figure"] for line in grouped}
    within = {column: "GAUC" if name == "all" else f"{name} h" for column, name in within.items()}
    first = clicks[0]
    return "\n".join(
        [
            f"{first['num_queries']:,} impressions of {first['num_users']:,} users on "
            f"{' and '.join(rows[0]['days'])}; mean ± deviation over the seeds.",
            "",
            *method_table(clicks, headings),
            "",
            *_differences(tests_of[CLICKS]),
            "### Within what one user was shown in one period",
            "",
            "GAUC: the mean AUC of the groups of a user's impressions in a period, weighted by impressions; "
            f"groups of one class are left out. Impressions: {_sizes(grouped)}.",
            "",
            *method_table(grouped, within),
            "",
            *_differences(tests_of[GROUPED]),
            "### By the user's past events",
            "",
            "AUC of the impressions whose user had clicked or skipped so many videos before: "
            f"{_sizes(buckets)} impressions.",
            "",
            *method_table(buckets, {(line["figure"], "auc"): line["figure"] for line in buckets}),
            "",
            *_differences(tests_of[PAST_EVENTS]),
            "### Costs",
            "",
            "Processor seconds of a seed and test day on one thread: pre-training, vectors computed "
            "beforehand, training, scoring; the most memory of training and scoring above the data's; the "
            "parameters that learn. The rate of the encoder's weights is the better one on the validation "
            "day.",
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
        own, compared, described = (
            [line for line in kind if line["family"] == family] for kind in (figures, tests, rows)
        )
        by_base = {
            base: [test for test in compared if test["method"] == base]
            for base in dict.fromkeys(test["method"] for test in compared)
        }
        first, *others = by_base.values() or [[]]
        found += [f"### {family.capitalize()}", "", *task_table(own, first), ""]
        for more in others:
            main = MEAN if any(test["figure"] == MEAN for test in more) else more[0]["figure"]
            found += [
                f'"{more[0]["method"]}" minus each row, in the same way:',
                "",
                *differences_table(more, [main]),
                "",
            ]
        chosen = [f"{row['method']}: {_counted(row['probe'])}" for row in described]
        found += [f"Probes that validation chose: {'; '.join(chosen)}.", ""]
    return "\n".join(found).rstrip()


def _counted(names: Sequence[str]) -> str:
    """Return each name once, with how often it is there if that is not always."""
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    return " and ".join(name if len(counts) == 1 else f"{name} ({count})" for name, count in counts.items())


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
        name += ", mixed precision" if row["mixed_precision"] else ""
        cells = [row["group"], name, row["device"], step, row["num_neighbors"], row["nodes"]]
        cells += [f"{row['milliseconds_a_step']:,.0f}", _mib(row["peak_mib"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def stale_vectors_section(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of the table of stored vectors as Markdown."""
    first = rows[0]
    lines = [
        f"Made by `python -m experiments.benchmarks.stale_vectors` on {first['date']}: {first['cpu']}, torch "
        f"{first['torch']}, one thread; {first['num_rows']:,} impressions of training, {first['epochs']} "
        f"epochs, one layer of {first['num_neighbors']} neighbours, one seed; AUC of "
        f"{first['num_scored']:,} impressions of the next day.",
        "",
        "| encoder | users beside the impressions' own | CPU s | peak MiB | AUC | in the table | "
        "error by epoch | mean age, h |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: |",
    ]
    for row in rows:
        cells = [row["encoder"], _others(row), f"{row['cpu_seconds']:,.0f}", _mib(row["peak_mib"])]
        cells.append(f"{row['auc']:.4f}")
        known, age = (row[name][-1] if row[name] else None for name in ("known_share", "mean_age_hours"))
        cells.append("" if known is None else f"{known:.0%}")
        cells.append(
            ", ".join("none" if error is None else f"{error:.2f}" for error in row["relative_error"])
        )
        cells.append("" if age is None else f"{age:.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _others(row: Mapping[str, Any]) -> str:
    stored = row["stored"]
    if row["nodes"] == "all":
        return "encoded"
    if stored is None:
        return "one learned vector"
    words = f"table of {stored['num_periods']} periods"
    if stored["max_age_hours"] is not None:
        words += f", at most {stored['max_age_hours']} h old"
    return words + (f", {stored['share']:.0%} encoded" if stored["share"] else "")


def _differences(tests: Sequence[Mapping[str, Any]]) -> list[str]:
    found = list[str]()
    for base in dict.fromkeys(test["method"] for test in tests):
        own = [test for test in tests if test["method"] == base]
        names = list(dict.fromkeys(test["figure"] for test in own))
        found += [
            f'"{base}" minus each row, {"GAUC" if own[0]["metric"] == GAUC else "AUC"}: 95% interval of a '
            "bootstrap over users, p after Holm's correction over the rows. Below zero the row is better.",
            "",
            *differences_table(own, names),
            "",
        ]
    return found


def _sizes(buckets: Sequence[Mapping[str, Any]]) -> str:
    sizes = {line["figure"]: line["num_queries"] for line in buckets}
    return ", ".join(f"{name}: {count:,}" for name, count in sizes.items())


def _cost(row: Mapping[str, Any]) -> str:
    rate = "" if row["rate"] is None or not row["validation"] else f"{row['rate']:g}"
    trials = ", ".join(f"{name}: {value:.4f}" for name, value in row["validation"].items())
    cells = [row["method"], f"{row['cpu_seconds']:,.0f}", _mib(row["peak_mib"])]
    cells += [f"{row['num_parameters']:,}", rate, trials]
    return f"| {' | '.join(cells)} |"


def _mib(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"
