"""DUPN's tables as Markdown, and its pictures: transfer, incremental updating, where the attention looks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks.dupn import OUTPUT, dupn_benchmark_section
from experiments.figures import draw_curve, save_figure
from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.task_figures import MEAN
from experiments.task_report import METRICS, difference_cell, differences_table, figure_cell, method_table
from graphrec.encoders.sentences import FIRST

TABLES = "dupn_tables"
BENCHMARK = OUTPUT.name
DATA = ("kuairand", "complete_journey")
GAPS = {  # the last bucket of each group, each bucket twice as long as the one before, from a second on
    "< 1 min": 6,
    "< 17 min": 10,
    "< 1.1 h": 12,
    "< 4.6 h": 14,
    "< 18 h": 16,
    "< 1.5 d": 17,
    "< 3 d": 18,
    "< 6 d": 19,
    "< 12 d": 20,
    "older": 99,
}
WAYS = {
    "representation": "representation only",
    "fine-tune": "fine-tuned",
    "single": "trained on this task alone",
    "all": "trained on all tasks anew",
}


# ---- tables --------------------------------------------------------------------------------------


def update_dupn_page(results: Path, page: Path) -> None:
    """Put the tables of the result files, and the benchmark's, between the markers of the page.

    Args:
        results: folder of the result files.
        page: ``docs/dupn.md``, or a copy of it.

    Raises:
        ValueError: the page lacks a marker.

    """
    bodies = {data: dupn_section(results, data) for data in DATA}
    rows = read_lines(results / BENCHMARK)
    if rows:
        bodies["benchmark"] = dupn_benchmark_section(rows)
    put_sections({page: bodies})


def dupn_section(results: Path, data: str) -> str:
    """Return all tables of a data set.

    Args:
        results: folder of the result files.
        data: name of the data set.

    """
    figures, tests, rows, curves = (
        lines_of(results, suffix, data) for suffix in ("", ".tests", ".rows", ".curves")
    )
    if not rows:
        return "Nothing has been run yet."
    notes = [note for note in rows[0]["notes"] if note not in rows[0]["title"]]
    rows_of_tasks = ", ".join(f"{name} {count:,}" for name, count in rows[0]["training_rows"].items())
    found = [f"**{rows[0]['title'].rstrip('.')}.** Training rows: {rows_of_tasks}. {' '.join(notes)}", ""]
    for part, heading in (
        ("variants", "### Variants and baselines, a task at a time"),
        ("multi-task", "### All tasks together"),
    ):
        own = [[line for line in lines if line["part"] == part] for lines in (figures, tests)]
        if own[0]:
            found += [heading, "", *_figure_table(*own), ""]
    transfer = [line for line in curves if line["part"] == "transfer"]
    if transfer:
        picture = f"![AUC on the held-out task by the number of its labels](dupn_transfer_{data}.svg)"
        found += [*_transfer_table(transfer), "", picture, ""]
    updates = [line for line in curves if line["part"] == "incremental"]
    if updates:
        picture = f"![Figures and cost of each new day](dupn_incremental_{data}.svg)"
        found += [*_update_table(updates), "", picture, ""]
    if lines_of(results, ".attention", data):
        heading = "### Where the attention looks"
        picture = f"![Attention by type and age of the behaviour](dupn_attention_{data}.svg)"
        text = "A weight times the number of behaviours of its query: 1 would be a mean over them."
        found += [heading, "", text, "", picture, ""]
    return "\n".join([*found, *_choices(rows)]).rstrip()


def lines_of(results: Path, suffix: str, data: str) -> list[dict[str, Any]]:
    """Return a data set's lines of a result file; none where it does not exist."""
    path = results / f"{TABLES}{suffix}.jsonl"
    return [line for line in read_lines(path) if line["data"] == data]


def _figure_table(figures: Sequence[Mapping[str, Any]], tests: Sequence[Mapping[str, Any]]) -> list[str]:
    figures = [line for line in figures if line["figure"] != MEAN]
    first = dict[str, Mapping[str, Any]]()
    for line in figures:
        first.setdefault(line["figure"], line)
    asked = ", ".join(
        f"{task} {line['num_queries']:,} rows of {line['num_users']:,} users" for task, line in first.items()
    )
    headings = {
        (task, line["metric"]): f"{task}, {METRICS.get(line['metric'], line['metric'])}"
        for task, line in first.items()
    }
    found = [
        f"Test: {asked}. Mean ± deviation over the seeds.",
        "",
        *method_table(figures, headings),
    ]
    if tests:
        found += [
            "",
            f"{tests[0]['method']} minus each row: 95% interval of a bootstrap over users, p after Holm's "
            "correction over the rows; * marks the best baseline.",
            "",
            *differences_table(tests, list(first)),
        ]
    return found


def _transfer_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    by = {(line["way"], line["num_labels"]): line for line in lines}
    sizes = sorted({line["num_labels"] for line in lines})
    seeds = len(lines[0]["seeds"])
    found = [
        "### Transfer to the held-out task",
        "",
        f"{METRICS[lines[0]['metric']]} of {lines[0]['task']} by the number of its labels; {seeds} seeds, "
        "mean ± deviation, and processor seconds of training.",
        "",
        f"| | {' | '.join(f'{size:,} labels' for size in sizes)} |",
        "| --- |" + " ---: |" * len(sizes),
    ]
    for way in dict.fromkeys(line["way"] for line in lines):
        cells = [
            f"{figure_cell(by[way, size])} ({by[way, size]['training_seconds']:.0f} s)" for size in sizes
        ]
        found.append(f"| {WAYS[way]} | {' | '.join(cells)} |")
    found += [
        "",
        "Fine-tuned minus each other way; 95% interval of a bootstrap over users, p after Holm's correction.",
        "",
        f"| | {' | '.join(f'{size:,} labels' for size in sizes)} |",
        "| --- |" + " --- |" * len(sizes),
    ]
    tests = {(test["other"], line["num_labels"]): test for line in lines for test in line.get("tests", [])}
    for way in dict.fromkeys(way for way, _ in tests):
        found.append(f"| {WAYS[way]} | {' | '.join(difference_cell(tests[way, size]) for size in sizes)} |")
    return found


def _update_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    metric = {line["task"]: METRICS[line["metric"]] for line in lines}
    days = sorted({line["day"] for line in lines})
    found = [
        "### New days",
        "",
        f"Mean over {len(days)} days and {len(lines[0]['seeds'])} seeds; each day is scored by a network "
        "that was trained on earlier ones. Processor seconds are those of a day's update.",
        "",
        f"| | {' | '.join(f'{task}, {metric[task]}' for task in tasks)} | seconds a day |",
        "| --- |" + " ---: |" * (len(tasks) + 1),
    ]
    for way in dict.fromkeys(line["way"] for line in lines):
        own = [line for line in lines if line["way"] == way]
        cells = [f"{np.mean([line['values'] for line in own if line['task'] == task]):.4f}" for task in tasks]
        seconds = [line["training_seconds"] for line in own if line["day"] > days[0]]
        cost = f"{np.mean(seconds):.1f}" if seconds else ""
        found.append(f"| {way} | {' | '.join(cells)} | {cost} |")
    return found


def _choices(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [
        "### What validation chose, and what it cost",
        "",
        "CPU seconds of one thread beside other work; a test's are those of one seed, scoring included.",
        "",
        "| | task | chosen rate | validation | tuning | test |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    found += [
        f"| {row['method']} | {row['task']} | {row['rate']:g} | {_validation(row)} | "
        f"{row['tuning_seconds']:.0f} | {row['seconds_a_seed']:.0f} |"
        for row in rows
    ]
    return found


def _validation(row: Mapping[str, Any]) -> str:
    return "as in turn" if row["figure"] is None else f"{row['figure']:.4f}"


# ---- pictures ------------------------------------------------------------------------------------


def draw_pictures(results: Path, data: str, docs: Path) -> list[Path]:
    """Draw what is finished of transfer, updating and attention; return the files.

    Args:
        results: folder of the result files.
        data: name of the data set.
        docs: folder of the pictures.

    """
    curves, attention = lines_of(results, ".curves", data), lines_of(results, ".attention", data)
    drawn = []
    for part, draw in (("transfer", _draw_transfer), ("incremental", _draw_updates)):
        lines = [line for line in curves if line["part"] == part]
        if lines:
            path = docs / f"dupn_{part}_{data}.svg"
            save_figure(draw(lines), path)
            drawn.append(path)
    if attention:
        path = docs / f"dupn_attention_{data}.svg"
        save_figure(_draw_attention(attention[0]), path)
        drawn.append(path)
    return drawn


def _draw_transfer(lines: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for way in dict.fromkeys(line["way"] for line in lines):
        own = sorted((line for line in lines if line["way"] == way), key=lambda line: line["num_labels"])
        draw_curve(axes, [line["num_labels"] for line in own], [line["values"] for line in own], WAYS[way])
    axes.set(
        xscale="log",
        xlabel=f"labels of the held-out task ({lines[0]['task']})",
        ylabel=METRICS[lines[0]["metric"]],
    )
    axes.legend(frameon=False, fontsize="small")
    return figure


def _draw_updates(lines: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(line["task"] for line in lines))
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels = figure.subplots(2, -(-(len(tasks) + 1) // 2), squeeze=False).ravel()
    for axes, task in zip(panels, tasks, strict=False):
        for way in dict.fromkeys(line["way"] for line in lines):
            own = [line for line in lines if line["way"] == way and line["task"] == task]
            draw_curve(axes, [line["day"] + 1 for line in own], [line["values"] for line in own], way)
        metric = next(line["metric"] for line in lines if line["task"] == task)
        axes.set(title=task, xlabel="day of the log", ylabel=METRICS[metric])
        axes.xaxis.get_major_locator().set_params(integer=True)
    cost = panels[len(tasks)]
    for way in dict.fromkeys(line["way"] for line in lines):
        own = [line for line in lines if line["way"] == way and line["task"] == tasks[0]]
        cost.plot(
            [line["day"] + 1 for line in own],
            [line["training_seconds"] for line in own],
            marker="o",
            markersize=3,
            label=way,
        )
    cost.set(title="cost of the update", xlabel="day of the log", ylabel="processor seconds")
    cost.xaxis.get_major_locator().set_params(integer=True)
    cost.legend(frameon=False, fontsize="small")
    for axes in panels[len(tasks) + 1 :]:
        axes.set_axis_off()
    return figure


def _draw_attention(line: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    names, relative, count = grouped_attention(line)
    figure = Figure(figsize=(8.5, 0.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    shown = np.where(count >= 100, relative, np.nan)  # a cell of few behaviours says nothing
    image = axes.imshow(shown, aspect="auto", cmap="viridis")
    for place, value in np.ndenumerate(shown):
        if not np.isnan(value):
            dark = value < (np.nanmin(shown) + np.nanmax(shown)) / 2
            axes.text(
                place[1],
                place[0],
                f"{value:.2f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(GAPS)), list(GAPS), fontsize=8)
    axes.set(xlabel="age of the behaviour at the query")
    figure.colorbar(image, label="attention, 1 = a mean")
    return figure


def grouped_attention(line: Mapping[str, Any]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the types' names, and by type and group of ages the mean relative attention and the counts.

    Args:
        line: of the result file: sums and counts by code of type and code of gap.

    """
    names = [name.removeprefix("rev_").replace("_", " ") for name in line["behaviors"]]
    both = np.array([line["sum"], line["count"]])[:, FIRST : FIRST + len(names), FIRST:]
    last = np.array(list(GAPS.values()))
    group = np.searchsorted(last, np.arange(both.shape[2]))
    summed = np.zeros((2, len(names), len(GAPS)))
    for bucket, place in enumerate(group):
        summed[:, :, place] += both[:, :, bucket]
    return names, summed[0] / np.maximum(summed[1], 1), summed[1]
