"""The sections of a report: all rows, groups, each slicing column, comparisons, calibration, notes."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

from graphrec.evaluation.comparison import LOWER_IS_BETTER, metric_in_words, summary_in_words
from graphrec.evaluation.figures import Comparison
from graphrec.evaluation.page import Cell, Picture, Section, Table
from graphrec.evaluation.plots import (
    Interval,
    plot_by_hour,
    plot_intervals,
    plot_reliability,
    plot_values,
)
from graphrec.evaluation.report_tables import (
    Column,
    Summaries,
    best_model,
    cell_of,
    grouping_in_words,
    parse_grouped,
    series_of,
    share_cell,
    value_of,
)

MOST_ROWS_UNFOLDED = 12
MOST_VALUES_DRAWN = 30
UNVERIFIED = "unverified: "  # how notes begin that comparisons depend on
_MOST_VERDICTS = 12
_WEIGHTS = {"impressions": "impressions", "clicks": "clicks", "groups": "each group alike"}

_ALL_TEXT = (
    "GAUC is the AUC inside groups, here weighted by impressions; groups of one class have none and are left "
    "out. Within a user and period all that is known of the user is constant, so GAUC by user and period "
    "measures how well a user's own items are ranked. "
)
_PROBABILITY_TEXT = (
    "Normalised entropy is the log loss over that of the constant click rate. The calibration error is over "
    "bins, by default 20 of equal numbers of rows. "
)
_PERIOD_TEXT = (
    "The mean of hours is over the AUCs of single hours of single days that have both classes, each hour "
    "counting alike; beside it the AUC over all rows of the period, where hours with more rows count more."
)
_GAUC_TEXT = (
    "The mean of the AUCs inside groups depends on what a group is and on its weight, so both are named. "
    "Groups of one class have no AUC and are left out, whatever the weight."
)
_RANKING_TEXT = "Groups without a click have no ranking and are left out; ties count by their expected rank."
_COMPARISON_TEXT = (
    "Both models are scored on the same rows. Tests by user draw or sum users with all their rows; DeLong's "
    "test without users takes rows as independent. P-values are corrected by Holm's method over the tests "
    "that are made together, the 95% intervals are not."
)


def spread_in_words(summaries: Summaries) -> str:
    """Say what stands beside the figures: deviations, intervals or nothing."""
    if any(not math.isnan(one.deviation) for _, one in summaries.items()):
        return "Mean over the seeds, and their standard deviation. "
    if any(not math.isnan(one.lower) for _, one in summaries.items()):
        return "Beside a figure its 95% interval. "
    return ""


def all_rows_sections(summaries: Summaries) -> list[Section]:
    """All rows: how well clicks are ranked, and how good the probabilities are."""
    groupings = summaries.groupings("gauc")
    ranked = [
        Column("AUC", "auc"),
        *(Column(f"GAUC by {grouping_in_words(one)}", f"gauc[{one}; impressions]") for one in groupings),
        Column("average precision", "average_precision"),
    ]
    probability = [
        Column("log loss", "log_loss"),
        Column("normalised entropy", "normalized_entropy"),
        Column("information gain", "relative_information_gain"),
        Column("Brier score", "brier_score"),
        Column("calibration error", "ece"),
        Column("predicted / observed clicks", "calibration_ratio"),
    ]
    tables = [
        summaries.table(ranked, "Ranking"),
        summaries.table(probability, "Probabilities"),
    ]
    kept = [table for table in tables if not set(table.header) <= {"model", "seeds"}]
    text = spread_in_words(summaries) + (_ALL_TEXT if groupings else "")
    text += _PROBABILITY_TEXT if tables[1] in kept else ""
    return [Section("All rows", text.strip(), tables=kept)]


def period_sections(summaries: Summaries) -> list[Section]:
    """AUC by period of the day, as LSTTM's section 5.4 gives it."""
    names = summaries.values.get("period", [])
    columns = [
        *(Column(f"{value_of(name)} h, mean of hours", "mean_hourly_auc", name) for name in names),
        Column("whole day, mean of hours", "mean_hourly_auc"),
        *(Column(f"{value_of(name)} h, all rows", "auc", name) for name in names),
    ]
    if not any(summaries.first(name, "mean_hourly_auc") for name in names):
        return []
    return [Section("AUC by period of the day", _PERIOD_TEXT, tables=[summaries.table(columns)])]


def group_sections(summaries: Summaries) -> list[Section]:
    """Show GAUC by grouping and weighting, and the ranking figures, with what each leaves out."""
    sections = []
    groupings = summaries.groupings("gauc")
    parts = [parse_grouped(metric) for metric in summaries.metrics]
    weights = list(dict.fromkeys(one.weight for one in parts if one is not None and one.base == "gauc"))
    if groupings:
        header = [f"weight: {_WEIGHTS.get(weight, weight)}" for weight in weights]
        metrics = [
            ([f"gauc[{grouping}; {weight}]" for weight in weights], f"gauc_rows_left_out[{grouping}]")
            for grouping in groupings
        ]
        table = _grouped_table(summaries, groupings, header, metrics)
        sections.append(Section("GAUC by grouping and weighting", _GAUC_TEXT, tables=[table]))
    ranking = ("ndcg", "mrr", "hit_rate")
    bases = list(
        dict.fromkeys(one.base for one in parts if one is not None and one.base.partition("@")[0] in ranking)
    )
    if bases:
        groupings = list(
            dict.fromkeys(one.grouping for one in parts if one is not None and one.base in bases)
        )
        names = {"ndcg": "NDCG", "mrr": "MRR", "hit_rate": "hit rate"}
        header = [names[base.partition("@")[0]] + "".join(base.partition("@")[1:]) for base in bases]
        metrics = [
            ([f"{base}[{grouping}]" for base in bases], f"ranking_rows_left_out[{grouping}]")
            for grouping in groupings
        ]
        table = _grouped_table(summaries, groupings, header, metrics)
        sections.append(Section("Ranked lists", _RANKING_TEXT, tables=[table]))
    return sections


def _grouped_table(
    summaries: Summaries,
    groupings: Sequence[str],
    header: Sequence[str],
    metrics: Sequence[tuple[list[str], str]],
) -> Table:
    """Make a row per grouping and model."""
    rows = []
    for grouping, (shown, left_out) in zip(groupings, metrics, strict=True):
        best = {m: best_model({o: summaries.get(o, "all", m) for o in summaries.models}, m) for m in shown}
        for position, model in enumerate(summaries.models):
            rows.append(
                [
                    Cell(grouping_in_words(grouping) if position == 0 else ""),
                    Cell(model),
                    *(cell_of(summaries.get(model, "all", m), best[m] == model) for m in shown),
                    share_cell(summaries.get(model, "all", left_out)),
                ]
            )
    return Table(
        ["group", "model", *header, "rows left out"], rows, num_keys=2, group_size=len(summaries.models)
    )


def slice_sections(summaries: Summaries) -> list[Section]:
    """For each slicing column a picture of AUC and a table of the main figures."""
    sections = []
    for position, (column, names) in enumerate(summaries.values.items()):
        table = _slice_table(summaries, column, names)
        picture = _slice_picture(summaries, column, names, f"slice{position}")
        words = "hour of the day" if column == "hour" else column
        if len(table.rows) <= MOST_ROWS_UNFOLDED and column != "hour":
            sections.append(Section(f"By {words}", tables=[table], pictures=picture))
            continue
        sections.append(Section(f"By {words}", pictures=picture))
        folded = Section(f"By {words}, as a table", tables=[table], folded=True, in_terminal=True)
        sections.append(folded)
    return [section for section in sections if section.tables or section.pictures]


def _slice_table(summaries: Summaries, column: str, names: Sequence[str]) -> Table:
    metrics = [
        ("AUC", "auc"),
        *(
            (f"GAUC by {grouping_in_words(grouping)}", f"gauc[{grouping}; impressions]")
            for grouping in summaries.groupings("gauc")
        ),
        ("log loss", "log_loss"),
        ("predicted / observed clicks", "calibration_ratio"),
    ]
    metrics = [one for one in metrics if any(summaries.first(name, one[1]) for name in names)]
    several = len(summaries.models) > 1
    rows = []
    for name in names:
        clicks = summaries.num_clicks(name)
        counts = [f"{summaries.num_rows(name):,}", "n/a" if clicks is None else f"{clicks:,}"]
        best = {
            m: best_model({o: summaries.get(o, name, m) for o in summaries.models}, m) for _, m in metrics
        }
        for position, model in enumerate(summaries.models):
            first = position == 0
            rows.append(
                [
                    Cell(value_of(name) if first else ""),
                    *([Cell(model)] if several else []),
                    *(Cell(count if first else "") for count in counts),
                    # intervals of all figures would bury the figures: AUC's alone
                    *(
                        cell_of(summaries.get(model, name, m), best[m] == model, with_detail=m == "auc")
                        for _, m in metrics
                    ),
                ]
            )
    header = [column, *(["model"] if several else []), "rows", "clicks", *(words for words, _ in metrics)]
    return Table(header, rows, num_keys=1 + several, group_size=len(summaries.models))


def _slice_picture(summaries: Summaries, column: str, names: Sequence[str], name: str) -> list[Picture]:
    drawn = [one for one in names if summaries.first(one, "auc") is not None]
    if not drawn:
        return []
    band = (
        "one standard deviation over the seeds; they do not show that a value has few rows"
        if any(not math.isnan(one.deviation) for _, one in summaries.items())
        else "95% intervals, not corrected for the number of values"
    )
    if column == "hour":
        hours = {int(value_of(one)): one for one in drawn}
        lines = [
            series_of(model, [(float(hour), summaries.get(model, one, "auc")) for hour, one in hours.items()])
            for model in summaries.models
        ]
        rows_of_hour = {hour: summaries.num_rows(one) for hour, one in hours.items()}
        caption = f"AUC over the rows of each hour, of all days together. Bands are {band}."
        return [Picture(partial(plot_by_hour, lines, rows_of_hour, name=name), caption)]
    caption = f"AUC of each value of {column}. Lines are {band}."
    if len(drawn) > MOST_VALUES_DRAWN:
        caption += f" Drawn are the {MOST_VALUES_DRAWN} values with the most rows, of {len(drawn)}."
        largest = sorted(drawn, key=lambda one: -summaries.num_rows(one))[:MOST_VALUES_DRAWN]
        drawn = [one for one in drawn if one in set(largest)]
    lines = [
        series_of(
            model, [(float(position), summaries.get(model, one, "auc")) for position, one in enumerate(drawn)]
        )
        for model in summaries.models
    ]
    values = [value_of(one) for one in drawn]
    num_rows = [summaries.num_rows(one) for one in drawn]
    return [Picture(partial(plot_values, lines, values, num_rows, "AUC", name), caption)]


def comparison_sections(comparisons: Sequence[Comparison], notes: Sequence[str] = ()) -> list[Section]:
    """Verdicts and intervals over all rows, then by slice.

    What ``notes`` call unverified stands above the verdicts: they hold only if it is so.
    """
    if not comparisons:
        return []
    overall = [one for one in comparisons if one.slice == "all"]
    chosen = preferred(overall)
    sections = []
    if overall:
        said = [one for one in chosen if one.verdict]
        if len(said) > _MOST_VERDICTS:
            gauc = next((one.metric for one in said if one.metric.startswith("gauc[user,period")), "")
            gauc = gauc or next((one.metric for one in said if one.metric.startswith("gauc[")), "")
            said = [one for one in said if one.metric in ("auc", gauc)]
        verdicts = [note for note in notes if note.startswith(UNVERIFIED)]
        verdicts += [one.verdict for one in said]
        panels: dict[str, list[Interval]] = {}
        for one in chosen:
            if not math.isnan(one.lower):
                lower_is_better = one.metric.partition("[")[0] in LOWER_IS_BETTER
                title = metric_in_words(one.metric) + (", lower is better" if lower_is_better else "")
                panel = panels.setdefault(title, [])
                panel.append(
                    Interval(f"{one.model} minus {one.baseline}", one.difference, one.lower, one.upper)
                )
        pictures = []
        if panels:
            caption = (
                "Drawn strong where the uncorrected 95% interval misses 0. Each metric has its own scale."
            )
            draw = partial(plot_intervals, panels, "difference, with its 95% interval")
            pictures.append(Picture(draw, caption))
        sections.append(Section("Are the differences real?", _COMPARISON_TEXT, verdicts, pictures=pictures))
        sections.append(Section("All tests", tables=[_test_table(overall)], folded=True))
    by_column: dict[str, list[Comparison]] = {}
    for one in comparisons:
        if one.slice != "all":
            by_column.setdefault(one.slice.partition("=")[0], []).append(one)
    for position, (column, found) in enumerate(by_column.items()):
        sections += _slice_comparison_sections(column, found, f"compared{position}")
    return sections


def _slice_comparison_sections(column: str, found: list[Comparison], name: str) -> list[Section]:
    tests = [one for one in preferred(found) if one.metric == "auc"]
    pictures = []
    by_pair: dict[str, list[Comparison]] = {}
    for one in tests:
        by_pair.setdefault(f"{one.model} minus {one.baseline}", []).append(one)
    points = [summary_in_words(pair) for pair in by_pair.values()]
    largest = sorted({one.slice: one.n for one in tests}.items(), key=lambda item: -item[1])
    drawn = {slice_name for slice_name, _ in largest[:MOST_VALUES_DRAWN]}
    panels = {
        title: [
            Interval(value_of(one.slice), one.difference, one.lower, one.upper)
            for one in pair
            if one.slice in drawn
        ]
        for title, pair in list(by_pair.items())[:3]
    }
    if panels:
        caption = (
            "Difference in AUC with its uncorrected 95% interval, drawn strong where it misses 0; among many "
            "values some miss it by chance, which the corrected p-values of the table account for."
        )
        if len(largest) > MOST_VALUES_DRAWN:
            caption += f" Drawn are the {MOST_VALUES_DRAWN} values with the most rows, of {len(largest)}."
        draw = partial(plot_intervals, panels, "difference in AUC", name, beside=True)
        pictures.append(Picture(draw, caption))
    words = "hour of the day" if column == "hour" else column
    return [
        Section(f"Differences by {words}", points=points, pictures=pictures),
        Section(f"All tests by {words}", tables=[_test_table(found)], folded=True),
    ]


def preferred(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Of several tests of one difference keep one that takes a user's rows together, if there is one."""
    chosen: dict[tuple[str, str, str, str], Comparison] = {}
    for one in comparisons:
        key = (one.metric, one.model, one.baseline, one.slice)
        if key not in chosen or (" by " in one.method) > (" by " in chosen[key].method):
            chosen[key] = one
    return list(chosen.values())


def _test_table(tests: Sequence[Comparison]) -> Table:
    sliced = any(one.slice != "all" for one in tests)
    header = [
        *(["slice"] if sliced else []),
        "comparison",
        "metric",
        "method",
        "rows",
        "difference",
        "95% interval",
        "p",
        "p (Holm)",
        "tests",
    ]
    rows = [
        [
            *([Cell(one.slice)] if sliced else []),
            Cell(f"{one.model} minus {one.baseline}"),
            Cell(metric_in_words(one.metric)),
            Cell(one.method),
            Cell(f"{one.n:,}"),
            Cell("n/a" if math.isnan(one.difference) else f"{one.difference:+.4f}"),
            Cell("n/a" if math.isnan(one.lower) else f"{one.lower:+.4f} to {one.upper:+.4f}"),
            Cell(_p_value(one.p_value)),
            Cell(_p_value(one.p_value_corrected)),
            Cell(str(one.num_tests)),
        ]
        for one in tests
    ]
    return Table(header, rows, num_keys=3 + sliced)


def _p_value(p_value: float) -> str:
    return "n/a" if math.isnan(p_value) else "< 0.0001" if p_value < 0.0001 else f"{p_value:.4f}"


def reliability_sections(summaries: Summaries) -> list[Section]:
    """Click rate against mean score, in the bins of the calibration error."""
    bins = sorted({name for (_, name, _), _ in summaries.items() if name.startswith("reliability_bin=")})
    lines = []
    for model in summaries.models:
        points = []
        for name in bins:
            score = summaries.get(model, name, "mean_score")
            if score is not None:
                points.append((score.mean, summaries.get(model, name, "click_rate")))
        if points:
            lines.append(series_of(model, points))
    if not lines:
        return []
    caption = "Each point is a bin of rows. Below the diagonal a model promises more clicks than come."
    if any(one.num_seeds > 1 for _, one in summaries.items()):
        caption += " Mean over the seeds, bands one standard deviation."
    return [Section("Calibration", pictures=[Picture(partial(plot_reliability, lines), caption)])]


def note_sections(notes: Sequence[str]) -> list[Section]:
    """Tell what was guessed or is worth knowing."""
    return [Section("How this was read", points=list(notes), in_terminal=False)] if notes else []


def fact_sections(facts: Mapping[str, str | int | float]) -> list[Section]:
    """Everything that is known of the data, the options and the software."""
    rows = [[Cell(name), Cell(show_fact(value))] for name, value in facts.items()]
    if not rows:
        return []
    return [Section("Data, options and software", tables=[Table(["fact", "value"], rows)], folded=True)]


def show_fact(value: str | int | float) -> str:
    """Show whole numbers with separators and floats without noise."""
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
