"""A report as plain values, and three ways to show it: an HTML page, Markdown, the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class Cell:
    """One entry of a table; ``detail`` stands smaller beside it, ``best`` marks the best of its column."""

    text: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        widths = {len(self.header), *(len(row) for row in self.rows)}
        if len(widths) != 1:
            raise ValueError(f"header and rows must have one length, got the lengths {sorted(widths)}")


@dataclass(frozen=True)
class Picture:
    """An inline SVG of `graphrec.evaluation.plots` and what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Section:
    """One part of a report. A ``folded`` one opens by a click, and is left out in the terminal."""

    title: str
    text: str = ""
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A whole report: what it is about, its main finding, its facts by name, its sections."""

    title: str
    subtitle: str
    headline: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]


def render_html(page: Page) -> str:
    """One self-contained HTML page: no script, no font and no picture from elsewhere; light and dark."""
    import jinja2

    template = resources.files("graphrec.evaluation") / "templates" / "report.html.jinja"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(template.read_text(encoding="utf-8")).render(page=page)


def render_markdown(page: Page) -> str:
    """Show the report's words and tables as GitHub's Markdown; pictures are left out."""
    parts = [f"# {_escape(page.title)}", _escape(page.subtitle), f"**{_escape(page.headline)}**"]
    parts.append("\n".join(f"- {_escape(name)}: {_escape(value)}" for name, value in page.facts))
    for section in page.sections:
        if not (section.text or section.points or section.tables):
            continue
        parts.append(f"## {_escape(section.title)}")
        if section.text:
            parts.append(_escape(section.text))
        if section.points:
            parts.append("\n".join(f"- {_escape(point)}" for point in section.points))
        parts += [_markdown_table(table) for table in section.tables]
    return "\n\n".join(part for part in parts if part) + "\n"


def print_page(page: Page, console: "Console") -> None:
    """Print tables and points of the sections that are not folded, and the headline, to a rich console.

    In fewer than 110 columns the cells' details are left out, so that the figures stay readable.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    console.print(Text(page.title, style="bold"))
    console.print(Text(page.subtitle, style="dim"))
    for section in page.sections:
        if section.folded:
            continue
        for table in section.tables:
            title = Text(table.caption or section.title, style="bold")
            rich_table = RichTable(title=title, title_justify="left")
            for position, name in enumerate(table.header):
                rich_table.add_column(Text(name), justify="left" if position == 0 else "right")
            for row in table.rows:
                rich_table.add_row(*(_terminal_cell(cell, console.width >= 110) for cell in row))
            console.print(rich_table)
        for point in section.points:
            console.print(Text(f"- {point}"))
    console.print(Text(page.headline, style="bold"))


def _terminal_cell(cell: Cell, with_detail: bool) -> "Text":
    from rich.text import Text

    text = f"{cell.text} {cell.detail}".strip() if with_detail else cell.text
    return Text(text, style="bold green" if cell.best else "")


def _markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(_escape(name) for name in table.header) + " |",
        "|" + "|".join([" :-- ", *[" --: "] * (len(table.header) - 1)]) + "|",
    ]
    lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in table.rows]
    caption = f"*{_escape(table.caption)}*\n\n" if table.caption else ""
    return caption + "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text)
    return f"{text} {_escape(cell.detail)}".strip()


def _escape(text: str) -> str:
    """Keep names with Markdown's own characters as they are."""
    for character in "\\`*_<>|":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
