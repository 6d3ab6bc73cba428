"""A report as plain values, and three ways to show it: an HTML page, Markdown, the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    """A table whose first ``num_keys`` columns name the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    num_keys: int = 1
    group_size: int = 1
    """So many rows belong together: the models of one slice."""

    def __post_init__(self) -> None:
        widths = {len(self.header), *(len(row) for row in self.rows)}
        if len(widths) != 1:
            raise ValueError(f"header and rows must have one length, got the lengths {sorted(widths)}")


@dataclass(frozen=True)
class Picture:
    """An inline SVG of `graphrec.evaluation.plots`, or what draws it when it is needed, and a caption."""

    drawing: str | Callable[[], str]
    caption: str

    @cached_property
    def svg(self) -> str:
        """The picture as text; the first access draws it."""
        return self.drawing if isinstance(self.drawing, str) else self.drawing()


@dataclass(frozen=True)
class Section:
    """One part of a report. A ``folded`` one opens by a click."""

    title: str
    text: str = ""
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    folded: bool = False
    in_terminal: bool | None = None
    """Whether the terminal shows its tables and points; None: unless folded."""


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
    """Print the facts, the tables of the sections, then their points, then the headline, to a rich console.

    No figure is ever cut: what does not fit beside each other goes below each other, first a cell's detail,
    then a table's columns.
    """
    from rich.text import Text

    console.print(Text(page.title, style="bold"))
    if page.subtitle:
        console.print(Text(page.subtitle, style="dim"))
    if page.facts:
        console.print(Text(", ".join(f"{name} {value}" for name, value in page.facts)))
    shown = [one for one in page.sections if (not one.folded if one.in_terminal is None else one.in_terminal)]
    for section in shown:
        for position, table in enumerate(section.tables):
            title = section.title if position == 0 else ""
            if table.caption:
                title = f"{title}: {table.caption}" if title else table.caption
            _print_table(table, title, console)
    for section in shown:
        if section.points:
            console.print()
            console.print(Text(section.title, style="bold"))
        for point in section.points:
            console.print(Text(f"- {point}"))
    console.print()
    console.print(Text(page.headline, style="bold"))


def _print_table(table: Table, title: str, console: "Console") -> None:
    """Print a table as wide as the console allows, in several parts where it must be."""
    for with_detail_beside in (True, False):
        columns = [_Column(table, position, with_detail_beside) for position in range(len(table.header))]
        if sum(column.width + 2 for column in columns) <= console.width:
            break
    keys, rest = columns[: table.num_keys], columns[table.num_keys :]
    # long names may take half of the console, and are wrapped there
    room_for_keys = max(sum(2 + min(key.width, 8) for key in keys), console.width // 2)
    while sum(key.width + 2 for key in keys) > room_for_keys:
        longest = max(keys, key=lambda key: key.width)
        longest.width -= 1
    room = console.width - sum(key.width + 2 for key in keys)
    parts: list[list[_Column]] = [[]]
    for column in rest:
        column.width = max(1, min(column.width, room - 2))
        if parts[-1] and sum(one.width + 2 for one in [*parts[-1], column]) > room:
            parts.append([])
        parts[-1].append(column)
    for position, part in enumerate(parts):
        _print_part(table, [*keys, *part], title if position == 0 else "", console)


class _Column:
    """A table's column as the terminal shows it; ``width`` is in character cells."""

    def __init__(self, table: Table, position: int, with_detail_beside: bool) -> None:
        from rich.cells import cell_len

        self.cells = [
            _terminal_cell(row[position], " " if with_detail_beside else "\n") for row in table.rows
        ]
        self.header = table.header[position]
        self.is_key = position < table.num_keys
        lines = [line for cell in self.cells for line in cell.plain.split("\n")]
        # a header is wrapped between its words
        self.width = max(map(cell_len, [*lines, *self.header.split(), ""]))


def _print_part(table: Table, columns: Sequence[_Column], title: str, console: "Console") -> None:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    console.print()
    if title:
        console.print(Text(title, style="bold"))
    # one cell of padding and one between columns: a column takes its width and two
    rich_table = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        rich_table.add_column(
            Text(column.header),
            width=column.width,
            overflow="fold",
            justify="left" if column.is_key else "right",
        )
    for position in range(len(table.rows)):
        # groups are told apart by an empty line
        end = table.group_size > 1 and (position + 1) % table.group_size == 0
        rich_table.add_row(*(column.cells[position] for column in columns), end_section=end)
    console.print(rich_table)


def _terminal_cell(cell: Cell, between: str) -> "Text":
    from rich.text import Text

    text = f"{cell.text}{between}{cell.detail}" if cell.detail else cell.text
    return Text(text, style="bold green" if cell.best else "")


def _markdown_table(table: Table) -> str:
    lines = [
        "| " + " | ".join(_escape(name) for name in table.header) + " |",
        "|" + "|".join([" :-- "] * table.num_keys + [" --: "] * (len(table.header) - table.num_keys)) + "|",
    ]
    lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in table.rows]
    caption = f"{_escape(table.caption)}:\n\n" if table.caption else ""
    return caption + "\n".join(lines)


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_escape(cell.text)}**" if cell.best else _escape(cell.text)
    return f"{text} {_escape(cell.detail)}".strip()


def _escape(text: str) -> str:
    """Keep names with Markdown's own characters as they are."""
    for character in "\\`*_<>|":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")
