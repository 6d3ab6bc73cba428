"""Lines of ``experiments.task_figures`` as a Markdown table: a row a method, a column a figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.task_figures import MEAN

METRICS = {"auc": "AUC", "aupr": "AUPR", "accuracy": "accuracy", "map@10": "mAP@10", "mean": "precision"}


def task_table(
    figures: Sequence[Mapping[str, Any]],
    tests: Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[tuple[str, str]] | None = None,
    notes: str = "",
) -> list[str]:
    """Return the lines of one family as a sentence and a table.

    The last column has the candidate's lead over each method in the family's main figure: the mean over its
    tasks, or that of its only task.

    Args:
        figures: of ``figure_rows``, all of one family.
        tests: of ``compare_methods`` for it; none where there is nothing to compare with.
        columns: (figure, metric) pairs to show; default all, the main figure's first.
        notes: stands in the sentence after the numbers of queries and users.

    """
    by = {(line["method"], line["figure"], line["metric"]): line for line in figures}
    shown = list(dict.fromkeys((line["figure"], line["metric"]) for line in figures))
    names = list(dict.fromkeys(figure for figure, _ in shown if figure != MEAN))
    main = MEAN if len(names) > 1 else names[0]
    if columns is not None:
        shown = [column for column in shown if column in columns]
    shown.sort(key=lambda column: column[0] != main)
    compared = {test["other"]: test for test in tests if test["figure"] == main}
    candidate = f"{tests[0]['method']} minus the row" if compared else ""
    first = next(line for line in figures if line["figure"] == main)
    sentence = (
        f"{first['num_queries']:,} test queries of {first['num_users']:,} users; mean ± deviation over the "
        f"seeds{notes}."
    )
    if compared:
        metric = METRICS.get(tests[0]["metric"], tests[0]["metric"])
        sentence += (
            f" The last column: {tests[0]['method']}'s {metric} ({main}) minus the row's, 95% interval of a "
            "bootstrap over users, p after Holm's correction"
        )
        sentence += "; * marks the best baseline." if any(t["best_baseline"] for t in tests) else "."
    headings = [f"{figure}, {METRICS.get(metric, metric)}" for figure, metric in shown]
    found = [
        sentence,
        "",
        f"| | seeds | {' | '.join(headings)} |" + (f" {candidate} |" if compared else ""),
        "| --- | ---: |" + " ---: |" * len(shown) + (" --- |" if compared else ""),
    ]
    for method in dict.fromkeys(line["method"] for line in figures):
        lines = [by.get((method, *column)) for column in shown]
        seeds = next(len(line["seeds"]) for line in figures if line["method"] == method)
        row = f"| {method} | {seeds} | {' | '.join(figure_cell(line) for line in lines)} |"
        found.append(row + (f" {difference_cell(compared.get(method))} |" if compared else ""))
    return found


def method_table(figures: Sequence[Mapping[str, Any]], headings: Mapping[tuple[str, str], str]) -> list[str]:
    """Return a row a method, with its seeds and the figures that the headings name.

    Args:
        figures: of ``figure_rows``.
        headings: of the columns, by (figure, metric).

    """
    by = {(line["method"], line["figure"], line["metric"]): line for line in figures}
    found = [f"| | seeds | {' | '.join(headings.values())} |", "| --- |" + " ---: |" * (len(headings) + 1)]
    for method in dict.fromkeys(line["method"] for line in figures):
        cells = [figure_cell(by.get((method, *column))) for column in headings]
        seeds = max(len(line["seeds"]) for line in figures if line["method"] == method)
        found.append(f"| {method} | {seeds} | {' | '.join(cells)} |")
    return found


def differences_table(tests: Sequence[Mapping[str, Any]], figures: Sequence[str]) -> list[str]:
    """Return a row for each method that the candidate of ``compare_methods`` is compared with, by figure."""
    by = {(test["other"], test["figure"]): test for test in tests}
    found = [f"| | {' | '.join(figures)} |", "| --- |" + " --- |" * len(figures)]
    for method in dict.fromkeys(test["other"] for test in tests):
        cells = [difference_cell(by.get((method, figure))) for figure in figures]
        found.append(f"| {method} | {' | '.join(cells)} |")
    return found


def figure_cell(line: Mapping[str, Any] | None) -> str:
    """Return mean ± deviation over the seeds of a figure; nothing where there is none."""
    if line is None:
        return ""
    values = line["values"]
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def difference_cell(test: Mapping[str, Any] | None) -> str:
    """Return a difference with its interval and corrected p; nothing where there is none."""
    if test is None:
        return ""
    p_value = test["p_value_corrected"]
    proof = "p < 0.001" if p_value < 1e-3 else f"p = {p_value:.2g}"
    mark = " *" if test["best_baseline"] else ""
    return f"{test['difference']:+.4f} [{test['lower']:+.4f}, {test['upper']:+.4f}], {proof}{mark}"
