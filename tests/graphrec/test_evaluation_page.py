"""The page needs nothing from elsewhere, and the terminal shows every figure at every width."""

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from graphrec.evaluation.page import Cell, Page, Section, Table, print_page, render_html, render_markdown
from graphrec.evaluation.report import evaluation_page
from tests.graphrec.evaluation_example import invented_evaluation


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


@pytest.fixture(scope="module")
def page():
    return evaluation_page(invented_evaluation(("new model with a rather long name", "old", "trees")))


def printed(page, width, **options):
    stream = io.StringIO()
    print_page(page, Console(file=stream, width=width, **options))
    return stream.getvalue()


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(page):
    text = render_html(page)
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
    # hour, tab, all tests, tests by hour and by tab, calibration
    assert elements.tags.count("svg") == 6
    assert not re.search(r"#fe0[01]", text)  # every colour comes from the style sheet
    assert text == render_html(page)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_terminal_shows_every_figure_at_every_width(page, width):
    text = printed(page, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    shown = [s for s in page.sections if (not s.folded if s.in_terminal is None else s.in_terminal)]
    figures = [
        cell.text
        for section in shown
        for table in section.tables
        for row in table.rows
        for cell in row[table.num_keys :]
        if cell.text
    ]
    assert len(figures) > 500
    words = re.findall(r"\S+", text)
    for figure in set(figures):
        assert words.count(figure) >= figures.count(figure), figure


def test_names_are_repeated_in_each_part_of_a_table_that_is_split():
    header = ["model", *(f"metric {number}" for number in range(20))]
    rows = [[Cell(name), *(Cell(f"0.{number:04d}") for number in range(20))] for name in ("alpha", "beta")]
    text = printed(Page("T", "", "H", [], [Section("S", tables=[Table(header, rows)])]), 60)
    parts = text.count("alpha")
    assert parts == text.count("beta") > 2
    assert parts == text.count("model")


def test_detail_stands_beside_where_it_fits_and_below_where_it_does_not():
    table = Table(["model", "a", "b"], [[Cell("m", ""), Cell("0.1", "± 0.2"), Cell("0.3", "± 0.4")]])
    page = Page("T", "", "H", [], [Section("S", tables=[table])])
    assert "0.1 ± 0.2  0.3 ± 0.4" in printed(page, 80)
    narrow = printed(page, 24)
    assert re.search(r"0\.1 +0\.3", narrow)
    assert re.search(r"± 0\.2 +± 0\.4", narrow)


def test_no_colour_codes_reach_a_file_but_a_terminal_gets_them(page):
    assert "\x1b" not in printed(page, 80)
    assert "\x1b[" in printed(page, 80, force_terminal=True, color_system="standard")


def test_markup_of_the_terminal_in_a_name_is_shown_as_it_is():
    name = "[bold]m[/bold]"
    page = Page(name, name, name, [], [Section(name, points=[name], tables=[Table([name], [[Cell(name)]])])])
    assert (
        printed(page, 80).count(name) == 8
    )  # title, subtitle, two of a section, header, cell, point, headline


def test_wide_characters_keep_the_columns_straight():
    table = Table(["model", "AUC"], [[Cell("模型"), Cell("0.1")], [Cell("m"), Cell("0.2")]])
    lines = printed(Page("T", "", "H", [], [Section("S", tables=[table])]), 40).splitlines()
    (wide,) = [line for line in lines if "0.1" in line]
    (narrow,) = [line for line in lines if "0.2" in line]
    assert narrow.index("0.2") - wide.index("0.1") == 2  # two characters of two cells each


def test_folded_sections_are_in_the_terminal_only_where_they_say_so():
    def one(title, **options):
        return Section(title, points=[f"point of {title}"], **options)

    page = Page(
        "T",
        "",
        "H",
        [],
        [
            one("a"),
            one("b", folded=True),
            one("c", folded=True, in_terminal=True),
            one("d", in_terminal=False),
        ],
    )
    text = printed(page, 80)
    assert [name for name in "abcd" if f"point of {name}" in text] == ["a", "c"]
    html = render_html(page)
    assert html.count("<details>") == 2
    assert all(f"point of {name}" in html for name in "abcd")


def test_markdown_has_one_row_a_row_and_keys_to_the_left():
    table = Table(
        ["tab", "model", "AUC"], [[Cell("1"), Cell("a|b"), Cell("0.5", "± 0.1", best=True)]], "C", num_keys=2
    )
    text = render_markdown(Page("T", "", "H", [], [Section("S", tables=[table])]))
    assert "C:\n\n| tab | model | AUC |\n| :-- | :-- | --: |\n| 1 | a\\|b | **0.5** ± 0.1 |" in text
