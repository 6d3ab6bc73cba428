"""The report shows the figures and tests that it is given, and writes them whole."""

import io
import json
import math
import re
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from graphrec.evaluation import Comparison, Figure, report_sections
from graphrec.evaluation.page import print_page, render_html, render_markdown
from graphrec.evaluation.report import (
    ReportPaths,
    build_page,
    evaluation_json,
    evaluation_page,
    headline_in_words,
    to_json,
    write_report,
)
from graphrec.evaluation.report_sections import MOST_VALUES_DRAWN, preferred
from graphrec.evaluation.report_tables import Summaries
from tests.graphrec.evaluation_example import TABS, invented_evaluation


@pytest.fixture(scope="module")
def evaluation():
    return invented_evaluation()


@pytest.fixture(scope="module")
def page(evaluation):
    return evaluation_page(evaluation)


def section(page, title):
    (found,) = [one for one in page.sections if one.title == title]
    return found


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def test_headline_names_the_best_its_interval_and_the_verdict_by_user(page):
    assert page.headline.startswith(
        "new has the highest AUC, 0.7000 (95% interval 0.6877 to 0.7123); "
        "the best other model is old with 0.6900."
    )
    assert "DeLong, by user, p = 0.008 after Holm's correction over 2 baselines" in page.headline


def test_all_rows_have_interval_and_best(page):
    ranking, probabilities = section(page, "All rows").tables
    assert ranking.header == ["model", "AUC", "GAUC by user", "GAUC by request"]
    assert texts(ranking)[1] == ["old", "0.6900", "0.6110", "0.6300"]
    assert ranking.rows[1][1].detail == "0.6777 to 0.7023"
    assert [[cell.best for cell in row] for row in ranking.rows] == [
        [False, True, False, False],  # all three tie in GAUC by request: none is best
        [False, False, False, False],
        [False, False, True, False],
    ]
    assert probabilities.header == ["model", "log loss", "predicted / observed clicks"]
    # the lowest loss is the first's; the ratio that is nearest to 1 is the second's
    assert [row[1].best for row in probabilities.rows] == [True, False, False]
    assert [row[2].best for row in probabilities.rows] == [False, True, False]


def test_gauc_names_weighting_grouping_and_what_it_leaves_out(page):
    (table,) = section(page, "GAUC by grouping and weighting").tables
    assert table.header == ["group", "model", "weight: impressions", "weight: clicks", "rows left out"]
    assert texts(table)[:2] == [
        ["user", "new", "0.6100", "0.6200", "23.4%"],
        ["", "old", "0.6110", "0.6200", "23.4%"],
    ]
    assert texts(table)[3] == ["request", "new", "0.6300", "n/a", "34.5%"]
    (ranked,) = section(page, "Ranked lists").tables
    assert ranked.header == ["group", "model", "NDCG@7", "MRR", "hit rate@7", "rows left out"]
    assert texts(ranked)[0] == ["user", "new", "0.4321", "0.3210", "0.8760", "12.3%"]


def test_each_slicing_column_has_a_picture_and_a_table_of_every_value_and_model(page):
    (hours,) = section(page, "By hour of the day, as a table").tables
    assert len(hours.rows) == 24 * 3
    assert texts(hours)[3][:5] == ["01", "new", "1,000", "250", "0.7000"]
    assert texts(hours)[4][:5] == ["", "old", "", "", "0.6900"]
    (tabs,) = section(page, "By tab, as a table").tables
    assert [row[0] for row in texts(tabs)[::3]] == [str(tab) for tab in range(TABS)]
    for title in ("By hour of the day", "By tab"):
        (picture,) = section(page, title).pictures
        assert "new" in picture.svg
    assert "1" in re.findall(r">([^<>]+)</text>", section(page, "By tab").pictures[0].svg)


def test_pictures_are_drawn_where_they_are_looked_at(evaluation, tmp_path, monkeypatch):
    drawn = []
    plots = ("plot_by_hour", "plot_values", "plot_intervals", "plot_reliability")
    for plot in plots:
        monkeypatch.setattr(
            report_sections, plot, lambda *_, plot=plot, **__: drawn.append(plot) or "<svg></svg>"
        )
    write_report(evaluation, ReportPaths(json=tmp_path / "e.json", markdown=tmp_path / "e.md"))
    print_page(evaluation_page(evaluation), Console(file=io.StringIO()))
    assert drawn == []
    write_report(evaluation, ReportPaths(html=tmp_path / "e.html"))
    assert set(drawn) == set(plots)
    assert len(drawn) == 6  # each once


def test_names_beyond_matplotlibs_font_are_in_the_pictures(recwarn):
    page = evaluation_page(invented_evaluation(("模型", "हिन्दी", "old")))
    html = render_html(page)
    assert all(re.search(f">[^<]*{name}[^<]*</text>", html) for name in ("模型", "हिन्दी"))
    assert not recwarn.list


def test_rows_clicks_and_users_stand_above_the_first_table(page):
    stream = io.StringIO()
    print_page(page, Console(file=stream, width=200))
    above = stream.getvalue().partition("All rows")[0]
    assert "rows 24,000, clicks 6,000, users 1,234" in above
    above = render_markdown(page).partition("## ")[0]
    assert "- rows: 24,000\n- clicks: 6,000\n- users: 1,234\n" in above
    above = render_html(page).partition("<table")[0]
    assert [above.count(value) > 0 for value in ("24,000", "6,000", "1,234")] == [True] * 3


def test_what_is_unverified_stands_above_the_verdicts(evaluation):
    note = "unverified: b.csv shares no column; the order alone matches its rows"
    page = evaluation_page(replace(evaluation, notes=(*evaluation.notes, note)))
    real = section(page, "Are the differences real?")
    assert real.points[0] == note
    assert len(real.points) == 3
    stream = io.StringIO()
    print_page(page, Console(file=stream, width=200))
    html, markdown = (
        text.partition("Are the differences real?")[2].partition("All tests")[0]
        for text in (render_html(page), render_markdown(page))
    )
    for text in (stream.getvalue().partition("Are the differences real?")[2], html, markdown):
        assert note in text


def test_tests_by_user_are_told_and_all_tests_are_in_the_table(page, evaluation):
    real = section(page, "Are the differences real?")
    assert len(real.points) == 2
    assert all("DeLong, by user" in point for point in real.points)
    (table,) = section(page, "All tests").tables
    assert len(table.rows) == 4
    first = texts(table)[1]
    assert first[:3] == ["new minus old", "AUC", "DeLong, by user"]
    assert first[4:] == ["+0.0100", "+0.0080 to +0.0120", "0.0040", "0.0080", "2"]
    by_hour = section(page, "Differences by hour of the day")
    assert by_hour.points == [
        f"new leads {model} in 24 of 24 hours, significantly in none after correction; "
        f"{model} leads significantly in none."
        for model in ("old", "trees")
    ]
    assert len(section(page, "All tests by tab").tables[0].rows) == 2 * 2 * TABS


def test_a_picture_of_losses_says_that_lower_is_better():
    figures = [Figure(model, "all", "auc", 0.6, 9) for model in "ab"]
    made = {"method": "bootstrap by user", "model_value": 0.5, "baseline_value": 0.6, "difference": -0.1}
    made |= {
        "lower": -0.2,
        "upper": -0.05,
        "p_value": 0.01,
        "p_value_corrected": 0.01,
        "num_tests": 1,
        "n": 9,
    }
    tests = [Comparison("a", "b", "all", metric, **made) for metric in ("log_loss", "auc")]
    page = build_page(figures, tests, title="t", subtitle="", facts=[])
    words = re.findall(r">([^<>]+)</text>", section(page, "Are the differences real?").pictures[0].svg)
    assert {"log loss, lower is better", "AUC"} <= set(words)


def test_a_test_by_user_is_preferred_wherever_it_stands(evaluation):
    overall = [one for one in evaluation.comparisons if one.slice == "all"]
    for order in (overall, overall[::-1]):
        assert {one.method for one in preferred(order)} == {"DeLong, by user"}
        assert len(preferred(order)) == 2


def test_every_figure_goes_through_json(evaluation, tmp_path):
    path = tmp_path / "deep" / "e.json"
    write_report(evaluation, ReportPaths(json=path))
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    back = [Figure(**{k: math.nan if v is None else v for k, v in one.items()}) for one in content["figures"]]
    assert list(map(repr, back)) == list(map(repr, evaluation.figures))
    tests = [Comparison(**one) for one in content["comparisons"]]
    assert tests == evaluation.comparisons
    assert content["models"] == ["new", "old", "trees"]
    assert content["notes"] == list(evaluation.notes)
    assert content["facts"] == evaluation.facts
    assert content["curves"]["old"]["mean_score"] == [0.1, 0.2, None]
    assert content["curves"]["old"]["num_rows"] == [8000, 8000, 8000]


def test_only_the_files_that_are_named_are_written_and_no_rest_stays(evaluation, tmp_path):
    write_report(evaluation, ReportPaths(html=tmp_path / "e.html", markdown=tmp_path / "e.md"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.html", "e.md"]
    assert (tmp_path / "e.html").read_text() == render_html(evaluation_page(evaluation))
    assert (tmp_path / "e.html").stat().st_mode & 0o777 == 0o644


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, evaluation):
    path = tmp_path / "e.md"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_report(evaluation, ReportPaths(markdown=path))
    assert [one.name for one in tmp_path.iterdir()] == ["e.md"]
    assert path.read_text() == "old"


def test_infinite_and_undefined_figures_become_null():
    assert json.loads(to_json({"a": [math.nan, math.inf, 1.5]})) == {"a": [None, None, 1.5]}


def test_seeds_become_mean_and_deviation():
    values = [0.6, 0.63, 0.69]
    summaries = Summaries(
        Figure("m", "all", "auc", v, 10, v - 1, v + 1, seed) for seed, v in enumerate(values)
    )
    one = summaries.get("m", "all", "auc")
    assert one is not None
    assert one.mean == pytest.approx(0.64)
    assert one.deviation == pytest.approx(statistics.stdev(values))
    assert one.num_seeds == 3
    assert math.isnan(one.lower)  # the interval of one seed is not that of the mean


def test_a_figure_given_twice_is_told():
    with pytest.raises(ValueError, match="auc of all is there twice for m, seed 0"):
        Summaries([Figure("m", "all", "auc", 0.5, 1), Figure("m", "all", "auc", 0.6, 1)])
    with pytest.raises(ValueError, match="no figure"):
        build_page([], [], title="t", subtitle="", facts=[])


def test_rankings_alone_make_a_report():
    page = build_page([Figure("m", "all", "auc", 0.5, 9)], [], title="t", subtitle="", facts=[])
    assert [one.title for one in page.sections] == ["All rows"]
    assert page.headline == "m has an AUC of 0.5000."
    assert render_html(page).count("<svg") == 0


def test_one_class_is_told():
    figures = [Figure(model, "all", "auc", math.nan, 9) for model in "ab"]
    assert headline_in_words(figures, []).startswith("No model has an AUC")
    page = build_page(figures, [], title="t", subtitle="", facts=[])
    assert texts(page.sections[0].tables[0]) == [["a", "n/a"], ["b", "n/a"]]


def test_one_family_has_no_rival_in_itself():
    figures = [
        Figure(model, "all", "auc", value, 9) for model, value in (("a1", 0.7), ("a2", 0.69), ("b1", 0.6))
    ]
    assert "best other model is b1" in headline_in_words(figures, [], lambda model: model[0])
    assert "best other model is a2" in headline_in_words(figures, [])


def test_of_very_many_values_the_largest_are_drawn_and_all_are_in_the_table():
    figures = [Figure("m", "all", "auc", 0.7, 99)]
    figures += [Figure("m", f"city=c{i}", "auc", 0.6, 1000 + i) for i in range(100)]
    page = build_page(figures, [], title="t", subtitle="", facts=[])
    (picture,) = section(page, "By city").pictures
    names = set(re.findall(r">(c\d+)</text>", picture.svg))
    assert names == {f"c{i}" for i in range(100 - MOST_VALUES_DRAWN, 100)}
    assert f"the {MOST_VALUES_DRAWN} values with the most rows, of 100" in picture.caption
    assert len(section(page, "By city, as a table").tables[0].rows) == 100


def test_odd_names_are_escaped_everywhere():
    name, column = '<script>"x"&y', "<b>c=|"
    other = name + "2"
    figures = [
        Figure(model, slice_name, "auc", 0.6, 9, 0.5, 0.7)
        for model in (name, other)
        for slice_name in ("all", f"{column}=<i>v", "hour=03")
    ]
    tests = [
        Comparison(name, other, s, "auc", "DeLong", 0.6, 0.6, 0.0, -0.1, 0.1, 1.0, 1.0, 1, 9, f"{name} ties")
        for s in ("all", f"{column}=<i>v")
    ]
    page = build_page(figures, tests, title=name, subtitle=name, facts=[(name, name)], notes=[name])
    html = render_html(page)
    assert "&lt;script&gt;" in html
    for tag in ("<script", "<b>", "<i>"):
        assert tag not in html
    assert "<script" not in render_markdown(page).replace("\\<", "")


def test_notes_and_facts_are_on_the_page(page, evaluation):
    html = render_html(page)
    assert "label: column click (guessed by its name)" in html
    assert "f00d" in html
    assert ("rows", "24,000") in page.facts
    assert ("users", "1,234") in page.facts
    assert ("click rate", "25.00%") in page.facts
    assert evaluation_json(evaluation)["headline"] == page.headline
