"""The Meta-Profile Network's tables as Markdown, its curves, and a picture of a customer's heatmap."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.benchmarks.heatmaps import OUTPUT, heatmaps_benchmark_section
from experiments.figures import save_figure
from experiments.meta_profile_data import MODALITY, ProfileData
from experiments.meta_profile_methods import CANDIDATE, IMBALANCE, LEAST_POSITIVES, MASKING, METHODS, NORMAL
from experiments.readme import put_sections
from experiments.results_table import read_lines
from experiments.task_figures import MEAN
from experiments.task_report import METRICS, difference_cell, figure_cell, task_table
from graph_builders.events import UNITS_PER_SECOND
from graphrec.encoders.heatmap import HOURS
from graphrec.encoders.heatmap_cnn import compress

TABLES = "meta_profile_tables.jsonl"
Lines = Sequence[Mapping[str, Any]]


# ---- tables --------------------------------------------------------------------------------------


def update_meta_profile_page(results: Path, page: Path) -> None:
    """Put the tables of the result files, and the benchmark's, between the markers of the page.

    Args:
        results: folder of the result files.
        page: ``docs/meta_profile.md``, or a copy of it.

    Raises:
        ValueError: the page lacks a marker.

    """
    bodies = {data: meta_profile_section(results, data) for data in ("complete_journey", "online_retail")}
    rows = read_lines(results / OUTPUT.name)
    if rows:
        bodies["benchmark"] = heatmaps_benchmark_section(rows)
    put_sections({page: bodies})


def meta_profile_section(results: Path, data: str) -> str:
    """Return the tables of a data set's three experiments, and what validation chose."""
    figures, tests, levels, rows = (
        _read(results, data, suffix) for suffix in ("", ".tests", ".levels", ".rows")
    )
    if not rows:
        return "Nothing has been run yet."
    folds = ", ".join(str(fold) for fold in rows[0]["folds"])
    found = [
        f"**{rows[0]['title']}**",
        "",
        f"Test customers of folds {folds} (of {rows[0]['num_folds']}). A seed counts where all of these are "
        "finished.",
        "",
    ]
    for experiment, section in (("ood", _unseen), ("masking", _masking), ("imbalance", _imbalance)):
        of_one = [[one for one in lines if one["experiment"] == experiment] for lines in (figures, tests)]
        counts = [line for line in levels if line["experiment"] == experiment]
        found += [*section(of_one[0], of_one[1], counts), ""]
    return "\n".join([*found, *_choices(rows)]).rstrip()


def _unseen(figures: Lines, tests: Lines, counts: Lines) -> list[str]:
    found = ["### Eight unseen targets (the form of the paper's Table 3)", ""]
    if not figures:
        return [*found, "Not finished."]
    missing = [one.name for one in METHODS if one.name not in {line["method"] for line in figures}]
    for metric in ("auc", "aupr"):
        compared = [line for line in tests if line["metric"] == metric]
        found += [*task_table(figures, compared, columns=[(MEAN, metric)]), ""]
    if missing:
        found += [f"Not finished, and so not here: {'; '.join(missing)}.", ""]
    found += _against_normal(figures, tests, counts)
    for metric in ("auc", "aupr"):
        found += ["", f"Each target, {METRICS[metric]}:", "", *_by_target(figures, metric)]
    return found


def _against_normal(figures: Lines, tests: Lines, counts: Lines) -> list[str]:
    """Return the paper's Table 3: each target by normal training, by meta-training, and the difference."""
    by = {(line["method"], line["figure"], line["metric"]): line for line in figures}
    shown = [(f"{metric}", METRICS[metric]) for metric in ("auc", "aupr")]
    leads = {
        (test["figure"], test["metric"]): test
        for test in tests
        if test["other"] == NORMAL and test["method"] == CANDIDATE
    }
    if not leads:
        return []
    headings = [
        f"{name}, {word}" for _, name in shown for word in ("normal", "meta", "relative", "meta minus normal")
    ]
    found = [
        "Meta-training with f adapted against normal training, target by target: the 95% interval of a "
        "bootstrap over customers, and p after Holm's correction over the rows of the table above (not over "
        "targets).",
        "",
        f"| target | labels: positive / negative | {' | '.join(headings)} |",
        "| --- | ---: |" + " ---: | ---: | ---: | --- |" * len(shown),
    ]
    labels = {line["target"]: f"{line['positives']:.0f} / {line['negatives']:,.0f}" for line in counts}
    for target in dict.fromkeys(line["figure"] for line in figures):
        cells = []
        for metric, _ in shown:
            normal, meta = (by[name, target, metric] for name in (NORMAL, CANDIDATE))
            means = [float(np.mean(line["values"])) for line in (normal, meta)]
            cells += [
                figure_cell(normal),
                figure_cell(meta),
                f"{means[1] / means[0] - 1:+.1%}",
                difference_cell({**leads[target, metric], "best_baseline": False}),
            ]
        found.append(f"| {target} | {labels.get(target, '')} | {' | '.join(cells)} |")
    return found


def _by_target(figures: Lines, metric: str) -> list[str]:
    by = {(line["method"], line["figure"]): line for line in figures if line["metric"] == metric}
    targets = [target for target in dict.fromkeys(target for _, target in by) if target != MEAN]
    found = [f"| | {' | '.join(targets)} |", "| --- |" + " ---: |" * len(targets)]
    for method in dict.fromkeys(method for method, _ in by):
        cells = [f"{np.mean(by[method, target]['values']):.3f}" for target in targets]
        found.append(f"| {method} | {' | '.join(cells)} |")
    return found


def _masking(figures: Lines, tests: Lines, counts: Lines) -> list[str]:
    found = ["### Masked labels", ""]
    if not figures:
        return [*found, "Not finished."]
    positives = {level: [line["positives"] for line in counts if line["level"] == level] for level in MASKING}
    bites = [
        level
        for level in MASKING
        if any(round(level * full) < LEAST_POSITIVES for full in positives[MASKING[0]])
    ]
    words = ", ".join(f"{level:.1%}" for level in bites) or "no share"
    found.append(
        f"Of each class so large a share is kept, but never below {LEAST_POSITIVES}: the floor holds the "
        f"positives at {words}. A mean over the targets, then over the seeds."
    )
    found += ["", _picture(figures), ""]
    return [*found, *_levels(figures, tests, counts, {level: f"{level:.1%}" for level in MASKING})]


def _imbalance(figures: Lines, tests: Lines, counts: Lines) -> list[str]:
    found = ["### Imbalanced classes", ""]
    if not figures:
        return [*found, "Not finished."]
    found += [
        "Positives over negatives in training; the test is always the same. The figure is AUPR, and in "
        "brackets the mean with that of the ratio before (a moving average over two).",
        "",
        _picture(figures),
        "",
    ]
    return [*found, *_levels(figures, tests, counts, {level: f"1 : {1 / level:.0f}" for level in IMBALANCE})]


def _levels(figures: Lines, tests: Lines, counts: Lines, names: Mapping[float, str]) -> list[str]:
    """Return a table with a row a level: labels, each method's AUPR, the lead over normal training."""
    is_masking = figures[0]["experiment"] == "masking"
    methods = list(dict.fromkeys(line["method"] for line in figures))
    metrics = ("auc", "aupr") if is_masking else ("aupr",)
    found = []
    for metric in metrics:
        means = _means(figures, metric, MEAN)
        leads = {
            test["level"]: test
            for test in tests
            if test["other"] == NORMAL and test["figure"] == MEAN and test["metric"] == metric
        }
        found += [
            f"| {METRICS[metric]} | labels: positive / negative | {' | '.join(methods)} | "
            f"{CANDIDATE} minus {NORMAL} |",
            "| --- | ---: |" + " ---: |" * len(methods) + " --- |",
        ]
        for level, name in names.items():
            of_level = [line for line in counts if line["level"] == level]
            labels = [f"{np.mean([line[kind] for line in of_level]):,.0f}" for kind in _CLASSES]
            cells = []
            for method in methods:
                averages = moving_average([means[method, one] for one in names])
                average = "" if is_masking else f" ({averages[list(names).index(level)]:.4f})"
                cells.append(f"{means[method, level]:.4f}{average}")
            lead = leads.get(level)
            lead = None if lead is None else {**lead, "best_baseline": False}
            found.append(f"| {name} | {' / '.join(labels)} | {' | '.join(cells)} | {difference_cell(lead)} |")
        found.append("")
    return found[:-1]


def _picture(figures: Lines) -> str:
    """Return the link to the curves that :func:`draw_curves` draws of the same lines."""
    experiment, data = figures[0]["experiment"], figures[0]["data"]
    return f"![Curves: {experiment}](meta_profile_{experiment}_{data}.svg)"


_CLASSES = ("positives", "negatives")


def _means(figures: Lines, metric: str, figure: str) -> dict[tuple[str, float], float]:
    """Return each method's mean over the seeds at each level."""
    return {
        (line["method"], line["level"]): float(np.mean(line["values"]))
        for line in figures
        if line["metric"] == metric and line["figure"] == figure
    }


def moving_average(values: Sequence[float]) -> list[float]:
    """Return the mean of each value with the one before; the first is alone."""
    return [float(np.mean(values[max(place - 1, 0) : place + 1])) for place in range(len(values))]


def _choices(rows: Lines) -> list[str]:
    first = rows[0]
    methods = [row for row in rows if row["method"]]
    found = [
        "### What validation chose, and what it cost",
        "",
        f"Chosen by the mean AUC of {', '.join(first['tuned'])} on the validation customers of fold 0, seed "
        "0. CPU seconds of one thread beside other work, of everything that is finished.",
        "",
        "| | settings tried | chosen | validation AUC | tuning, s | tests, s |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in methods:
        setting = ", ".join(f"{name} {value:g}" for name, value in row["setting"].items())
        costs = [f"{seconds:,.0f}" for seconds in row["seconds"].values()]
        found.append(
            f"| {row['method']} | {row['num_settings']} | {setting} | {row['figure']:.4f} | "
            f"{' | '.join(costs)} |"
        )
    for row in rows:
        if not row["method"]:
            auc = ", ".join(f"{name} {value:.3f}" for name, value in row["source_auc"].items())
            found += [
                "",
                f"Shared by all targets: starts {row['seconds']['start']:,.0f} s, meta-trainings "
                f"{row['seconds']['meta']:,.0f} s. AUC of the start on its source tasks, test customers: "
                f"{auc}.",
            ]
    return found


def _read(results: Path, data: str, suffix: str) -> list[dict[str, Any]]:
    lines = read_lines(results / TABLES.replace(".jsonl", f"{suffix}.jsonl"))
    return [line for line in lines if line["data"] == data]


# ---- curves --------------------------------------------------------------------------------------


def draw_curves(results: Path, data: str, docs: Path) -> list[Path]:
    """Draw masking and imbalance where they are finished; return the pictures' paths.

    A panel for each figure and target; bands are one deviation over the seeds. With imbalance lines are
    moving averages over two ratios, dots the values.

    Args:
        results: folder of the result files.
        data: name of the data set.
        docs: folder of the pictures.

    """
    figures, drawn = _read(results, data, ""), list[Path]()
    for experiment, levels in (("masking", MASKING), ("imbalance", IMBALANCE)):
        lines = [line for line in figures if line["experiment"] == experiment and line["figure"] != MEAN]
        if lines:
            path = docs / f"meta_profile_{experiment}_{data}.svg"
            _draw(lines, levels, path)
            drawn.append(path)
    return drawn


def _draw(lines: Lines, levels: Sequence[float], path: Path) -> None:
    from matplotlib.figure import Figure

    is_masking = lines[0]["experiment"] == "masking"
    metrics = ("auc", "aupr") if is_masking else ("aupr",)
    targets = list(dict.fromkeys(line["figure"] for line in lines))
    methods = list(dict.fromkeys(line["method"] for line in lines))
    values = {(line["method"], line["figure"], line["metric"], line["level"]): line for line in lines}
    figure = Figure(figsize=(4.6 * len(targets), 0.9 + 2.9 * len(metrics)), layout="constrained")
    panels = figure.subplots(len(metrics), len(targets), squeeze=False)
    for panels_of_row, metric in zip(panels, metrics, strict=True):
        for axes, target in zip(panels_of_row, targets, strict=True):
            for number, method in enumerate(methods):
                of_levels = np.array([values[method, target, metric, one]["values"] for one in levels])
                mean, color = of_levels.mean(axis=1), f"C{number}"
                line = mean if is_masking else np.array(moving_average(mean.tolist()))
                axes.plot(levels, line, color=color, label=method)
                axes.plot(levels, mean, "o", color=color, markersize=3, alpha=0.6)
                if of_levels.shape[1] > 1:
                    spread = of_levels.std(axis=1, ddof=1)
                    axes.fill_between(levels, line - spread, line + spread, color=color, alpha=0.12)
            axes.set_xscale("log")
            axes.invert_xaxis()
            x_label = "share of the labels" if is_masking else "positives over negatives in training"
            axes.set(xlabel=x_label, ylabel=METRICS[metric], title=target)
            axes.grid(alpha=0.3)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)


# ---- a customer's heatmap ------------------------------------------------------------------------


def draw_heatmap(data: ProfileData, path: Path, *, num_cells: int = 600) -> None:
    """Draw all channels of one customer: days from left (oldest) to right, hours from bottom to top.

    The row is the first target row whose number of cells is nearest to ``num_cells``: a busy customer.
    """
    from matplotlib.figure import Figure

    heatmaps = data.inputs.heatmaps[MODALITY].take(torch.arange(data.num_target_rows))
    row = int((heatmaps.ptr.diff() - num_cells).abs().argmin())
    image = compress(heatmaps.take(torch.tensor([row])).dense())[0].flip(1).numpy()
    channels = data.encoding.channels
    columns = 2
    figure = Figure(figsize=(10, 1.25 * -(-len(channels) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(channels) // columns), columns, squeeze=False, sharex=True, sharey=True)
    for axes in panels.flat[len(channels) :]:
        axes.set_axis_off()
    for axes, channel, values in zip(panels.flat, channels, image, strict=False):
        shown = np.ma.masked_equal(values.T, 0)
        extent = (-data.encoding.num_days, 0, 0, HOURS)
        axes.imshow(
            shown, aspect="auto", origin="lower", extent=extent, interpolation="nearest", cmap="viridis"
        )
        axes.set_title(f"{channel.name} ({channel.aggregate})", fontsize=8)
        axes.set_yticks((0, 12, 24))
        axes.tick_params(labelsize=7)
    for axes in panels[-1]:
        axes.set_xlabel("days before the query", fontsize=8)
    for axes in panels[:, 0]:
        axes.set_ylabel("hour", fontsize=8)
    second = int(data.queries["time"][row]) // UNITS_PER_SECOND[data.graph.time_resolution]
    day = datetime.fromtimestamp(second, UTC).date().isoformat()
    cells = int(heatmaps.ptr[row + 1] - heatmaps.ptr[row])
    figure.suptitle(
        f"One customer's {data.encoding.num_days} days before {day}: {cells} of {image.size:,} cells set "
        f"({data.title.partition('.')[0]})",
        fontsize=9,
    )
    save_figure(figure, path)
