"""The report of an evaluation, from its figures and comparisons alone: JSON, Markdown, one HTML page."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from graphrec.evaluation.figures import Comparison, Figure
from graphrec.evaluation.page import Page, Section, render_html, render_markdown
from graphrec.evaluation.report_files import write_file
from graphrec.evaluation.report_sections import (
    all_rows_sections,
    comparison_sections,
    fact_sections,
    group_sections,
    note_sections,
    period_sections,
    preferred,
    reliability_sections,
    show_fact,
    slice_sections,
)
from graphrec.evaluation.report_tables import Summaries, Summary

if TYPE_CHECKING:
    from graphrec.evaluation.evaluate import Evaluation

_TILES = ("rows", "clicks", "users", "requests", "first hour", "last hour")


class ReportPaths(NamedTuple):
    """The files of a report; those that are None are not written."""

    json: Path | None = None
    markdown: Path | None = None
    html: Path | None = None


def build_page(
    figures: Sequence[Figure],
    comparisons: Sequence[Comparison],
    *,
    title: str,
    subtitle: str,
    facts: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
    extra_sections: Sequence[Section] = (),
    headline: str | None = None,
) -> Page:
    """Make the report of models (and seeds) from their figures and comparisons.

    With several seeds of a model its figures are means with standard deviations; with one, the figures' own
    95% intervals stand beside them. Sections without figures are left out.

    Args:
        figures: all figures; a (model, slice, metric, seed) may be there once.
        comparisons: paired tests, corrected and with verdicts.
        title: of the page.
        subtitle: below it; may be empty.
        facts: names and values that stand above the tables.
        notes: what was guessed or is worth knowing.
        extra_sections: further sections, such as training curves, at the end.
        headline: the main finding; by default `headline_in_words`.

    Raises:
        ValueError: there is no figure, or one is there twice.

    """
    summaries = Summaries(figures)
    if not summaries.models:
        raise ValueError("there is no figure to report")
    sections = [
        *all_rows_sections(summaries),
        *period_sections(summaries),
        *group_sections(summaries),
        *slice_sections(summaries),
        *comparison_sections(comparisons, notes),
        *reliability_sections(summaries),
        *note_sections(notes),
        *extra_sections,
    ]
    if headline is None:
        headline = headline_in_words(figures, comparisons)
    return Page(title, subtitle, headline, list(facts), sections)


def headline_in_words(
    figures: Sequence[Figure],
    comparisons: Sequence[Comparison],
    family: Callable[[str], str] = str,
    *,
    say_seeds: bool = False,
) -> str:
    """Name the best AUC and the best of another model, and whether the two can be told apart.

    Models of one ``family`` (say, one model with and without updates) are no rivals.
    ``say_seeds`` warns of a figure that rests on one seed.
    """
    summaries = Summaries([one for one in figures if (one.slice, one.metric) == ("all", "auc")])
    found = {model: summaries.get(model, "all", "auc") for model in summaries.models}
    defined = {model: one for model, one in found.items() if one is not None and not math.isnan(one.mean)}
    if not defined:
        return "No model has an AUC: there is none without both clicks and other rows."
    ranked = sorted(defined, key=lambda model: -defined[model].mean)
    best = defined[ranked[0]]
    if len(found) == 1:
        return f"{ranked[0]} has an AUC of {best.mean:.4f}{_spread(best, say_seeds)}."
    sentence = f"{ranked[0]} has the highest AUC, {best.mean:.4f}{_spread(best, say_seeds)}"
    rivals = [model for model in ranked if family(model) != family(ranked[0])]
    if not rivals:
        return sentence + "."
    sentence += f"; the best other model is {rivals[0]} with {defined[rivals[0]].mean:.4f}."
    for test in preferred(comparisons):
        pair = {family(test.model), family(test.baseline)}
        wanted = rivals[0] in (test.model, test.baseline) and pair == {family(ranked[0]), family(rivals[0])}
        if wanted and (test.slice, test.metric) == ("all", "auc"):
            return f"{sentence} {test.verdict}".rstrip()
    return sentence


def _spread(summary: Summary, say_seeds: bool) -> str:
    if summary.num_seeds > 1:
        return f" ± {summary.deviation:.4f} over {summary.num_seeds} seeds"
    if not math.isnan(summary.lower):
        return f" (95% interval {summary.lower:.4f} to {summary.upper:.4f})"
    return " with one seed" if say_seeds else ""


def evaluation_page(evaluation: "Evaluation") -> Page:
    """Make the report of one evaluation."""
    models = evaluation.models
    others = f" against {', '.join(models[1:])}" if len(models) > 1 else ""
    facts = [(name, show_fact(evaluation.facts[name])) for name in _TILES if name in evaluation.facts]
    click_rate = [one for one in evaluation.figures if (one.slice, one.metric) == ("all", "click_rate")]
    if click_rate and not math.isnan(click_rate[0].value):
        facts.append(("click rate", f"{100 * click_rate[0].value:.2f}%"))
    sources = evaluation.facts.get("sources")
    return build_page(
        evaluation.figures,
        evaluation.comparisons,
        title=f"Click prediction: {models[0]}{others}",
        subtitle=f"Predictions of {sources}" if sources else "",
        facts=facts,
        notes=evaluation.notes,
        extra_sections=fact_sections(evaluation.facts),
    )


def evaluation_json(evaluation: "Evaluation") -> dict[str, Any]:
    """Return an evaluation as what JSON can hold; NaN becomes None.

    ``{"title", "headline": str, "models": [str], "figures": [...], "comparisons": [...], "notes": [str],
    "facts": {name: value}, "curves": {model: {...}}}``, where a figure has the fields of
    `graphrec.evaluation.figures.Figure` (model, slice, metric, value, n, lower, upper, seed), a comparison
    those of `Comparison`, and a curve those of `ReliabilityCurve`, each a list with one entry per bin.
    """
    page = evaluation_page(evaluation)
    content = {
        "title": page.title,
        "headline": page.headline,
        "models": list(evaluation.models),
        "figures": [figure._asdict() for figure in evaluation.figures],
        "comparisons": [comparison._asdict() for comparison in evaluation.comparisons],
        "notes": list(evaluation.notes),
        "facts": dict(evaluation.facts),
        "curves": {model: curve._asdict() for model, curve in evaluation.curves.items()},
    }
    plain: dict[str, Any] = _plain(content)
    return plain


def write_report(evaluation: "Evaluation", paths: ReportPaths) -> None:
    """Write the files of a report that have a path: `evaluation_json`, Markdown and the HTML page.

    Each file is written by `write_file`: whole, so that a reader sees the old one or the new one. Raises
    ``OSError`` where a file cannot be written.
    """
    write_page(evaluation_page(evaluation), evaluation_json(evaluation) if paths.json else {}, paths)


def write_page(page: Page, content: dict[str, Any], paths: ReportPaths) -> None:
    """Write a page as HTML and Markdown, and ``content`` as JSON, where each has a path."""
    if paths.json is not None:
        write_file(paths.json, to_json(content))
    if paths.markdown is not None:
        write_file(paths.markdown, render_markdown(page))
    if paths.html is not None:
        write_file(paths.html, render_html(page))


def to_json(content: dict[str, Any]) -> str:
    """Return JSON text; NaN, which JSON lacks, becomes null."""
    return json.dumps(_plain(content), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Turn numpy's values into Python's, and NaN into None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    # an infinite figure cannot be a number of JSON either
    return None if isinstance(value, float) and not math.isfinite(value) else value
