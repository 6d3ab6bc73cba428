import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from experiments import report
from experiments.results_table import ResultRow, append_rows, read_rows
from graphrec.evaluation.page import Cell, Page, Section, Table, render_html, render_markdown
from graphrec.evaluation.plots import Series, plot_by_hour
from tests.experiments.fake_results import NOISE, write_invented_table


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    _, tests = write_invented_table(folder / "results", num_rows=2500)
    return folder, tests, report.build_report(folder / "results", "main", folder / "out")


class Elements(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(built):
    text = built[2].html.read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.open == []
    assert "http" not in text
    assert "@import" not in text
    assert not {"script", "img", "iframe", "object"} & set(elements.tags)
    for name, value in elements.attributes:
        if name in {"href", "src", "xlink:href"}:
            assert value.startswith(("#", "data:"))
    ids = [value for name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert referred
    assert set(referred) <= set(ids)
    # hour, period, day; all tests and those by the same three; calibration; training
    assert elements.tags.count("svg") == 9
    assert not re.search(r"#fe0[01]", text)  # every colour comes from the style sheet


def test_page_tells_data_days_seeds_configuration_and_versions(built):
    text = built[2].html.read_text()
    for words in ("KuaiRand-Pure", "2022-05-04 to 2022-05-05", "Seeds: 0, 1, 2", "sha256:0123456789abcdef",
                  "model.embedding_dim", "2.13.0", "2,500"):  # fmt: skip
        assert words in text


def test_tables_hold_mean_and_deviation_over_seeds(built):
    folder, tests, paths = built
    rows = read_rows(folder / "results" / "main.jsonl")
    text = paths.markdown.read_text()
    content = json.loads(paths.json.read_text())
    figures = {(f["model"], f["slice"], f["metric"]): f for f in content["figures"]}
    means = {}
    for model in NOISE:
        for slice_name, metric in [("all", "auc"), ("period=8-16", "mean_hourly_auc"), ("hour=14", "auc")]:
            values = [r.value for r in rows if (r.model, r.slice, r.metric) == (model, slice_name, metric)]
            assert len(values) == 3
            mean, deviation = np.mean(values), np.std(values, ddof=1)
            figure = figures[model, slice_name, metric]
            assert (figure["mean"], figure["deviation"]) == (pytest.approx(mean), pytest.approx(deviation))
            assert figure["num_seeds"] == 3
            assert re.search(rf"\*{{0,2}}{mean:.4f}\*{{0,2}} ± {deviation:.4f}", text)
            if metric == "auc" and slice_name == "all":
                means[model] = mean
    best = max(means, key=means.get)
    assert f"| **{means[best]:.4f}** ±" in text
    assert content["headline"].startswith(f"{best} has the highest AUC, {means[best]:.4f} ±")
    assert len(content["tests"]) == len(tests)
    by_user = [t for t in tests if (t.slice, t.metric, t.method) == ("all", "auc", "DeLong, by user")]
    assert {t.baseline for t in by_user} == set(means) - {"LSTTM"}
    assert all(t.verdict in text.replace("\\", "") for t in by_user)


def test_training_curves_are_no_test_figures(built):
    page = report.read_page(built[0] / "results", "main")
    titles = [section.title for section in page.sections]
    assert titles[:3] == ["All rows", "AUC by period of the day", "GAUC by grouping and weighting"]
    assert {"Training", "Calibration", "Are the differences real?", "By day", "By hour of the day"} <= set(
        titles
    )
    assert "epoch=" not in render_markdown(page)
    (training,) = [section for section in page.sections if section.title == "Training"]
    assert all(metric in training.pictures[0].svg for metric in ("train_loss", "validation_auc"))


def test_report_is_the_same_when_made_again(built):
    folder, _, paths = built
    again = report.build_report(folder / "results", "main", folder / "again")
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_shows_every_model_and_verdict(built, width):
    from rich.console import Console

    stream = io.StringIO()
    report.print_report(built[0] / "results", "main", Console(file=stream, width=width))
    text = stream.getvalue()
    assert "has the highest AUC" in text
    assert "±" in text.split("has the highest")[0]
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for model in NOISE:
        assert model in text


def row(model="m", seed=0, metric="auc", value=0.6, slice_name="all", run="r"):
    return ResultRow(run, model, "data", seed, slice_name, metric, value, 9)


def test_one_seed_and_few_rows_make_a_report(tmp_path):
    append_rows(tmp_path / "t.jsonl", [row(), row("other", value=float("nan"))])
    paths = report.build_report(tmp_path, "t", tmp_path)
    content = json.loads(paths.json.read_text())
    assert content["figures"][0]["deviation"] is None
    assert content["headline"] == "m has the highest AUC, 0.6000 with one seed."
    assert "n/a" in paths.markdown.read_text()
    assert "±" not in paths.markdown.read_text()


def test_models_of_several_runs_are_told_apart(tmp_path):
    append_rows(tmp_path / "t.jsonl", [row(), row(run="second"), row("other")])
    text = report.build_report(tmp_path, "t", tmp_path).markdown.read_text()
    assert "m [r]" in text
    assert "m [second]" in text
    assert "other [" not in text


def test_no_rows_and_double_rows_are_told(tmp_path):
    with pytest.raises(ValueError, match="holds no row"):
        report.build_report(tmp_path, "absent", tmp_path)
    append_rows(tmp_path / "t.jsonl", [row(), row(value=0.7)])
    with pytest.raises(ValueError, match="twice for m, seed 0"):
        report.build_report(tmp_path, "t", tmp_path)


def test_odd_names_are_shown_as_they_are(tmp_path):
    name = "<b>x|y</b> $a_1$ & *z*"
    append_rows(tmp_path / "t.jsonl", [row(name), row(name, slice_name="hour=03")])
    paths = report.build_report(tmp_path, "t", tmp_path)
    html = paths.html.read_text()
    assert "<b>" not in html
    assert "&lt;b&gt;x|y&lt;/b&gt; $a_1$ &amp; *z*" in html
    assert r"\<b\>x\|y\</b\> $a\_1$ & \*z\*" in paths.markdown.read_text()


def test_best_is_by_the_metric_s_own_direction(tmp_path):
    figures = {"a": (0.5, 0.9), "b": (0.4, 1.3), "c": (0.6, 0.6)}
    for model, (loss, ratio) in figures.items():
        append_rows(tmp_path / "t.jsonl", [row(model, metric="log_loss", value=loss)])
        append_rows(tmp_path / "t.jsonl", [row(model, metric="calibration_ratio", value=ratio)])
    (table,) = report.read_page(tmp_path, "t").sections[0].tables
    assert table.caption == "Probabilities"
    best = {
        header: [line[0].text for line in table.rows if line[i].best] for i, header in enumerate(table.header)
    }
    assert best["log loss"] == ["b"]
    assert best["predicted / observed clicks"] == ["a"]


def test_tables_of_uneven_rows_are_refused():
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        Table(["a", "b"], [[Cell("x")]])


def test_a_page_of_words_alone_is_shown():
    page = Page("T", "S", "H", [], [Section("Only words", "here", ["point"])])
    assert "## Only words\n\nhere\n\n- point" in render_markdown(page)
    assert "<li>point</li>" in render_html(page)


def test_band_is_drawn_only_with_several_seeds():
    one = Series("m", [0, 1, 2], [0.6, 0.7, 0.8], [float("nan")] * 3, [float("nan")] * 3)
    banded = one._replace(lower=[0.59, 0.69, 0.79], upper=[0.61, 0.71, 0.81])
    rows_of_hour = {0: 5, 1: 6, 2: 7}
    assert "FillBetween" not in plot_by_hour([one], rows_of_hour)
    assert "FillBetween" in plot_by_hour([banded], rows_of_hour)
