"""Puts the tables of the result files into the README, between its two markers."""

import re
from dataclasses import replace
from pathlib import Path

from experiments.report import read_page
from graphrec.evaluation.page import render_markdown

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
SECTIONS = {  # of each table, what the README shows; the rest is on its page
    "main": ("All test rows", "AUC by period of the day", "Are the differences real?"),
    "controls": ("All test rows",),
}


def update_readme(readme: Path, results: Path, tables: dict[str, str]) -> None:
    """Replace what stands between the markers by the tables' figures and tests.

    Args:
        readme: the file.
        results: folder of the result files.
        tables: names of tables and the heading that each gets.

    Raises:
        ValueError: the README lacks a marker.

    """
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme} needs the lines {BEGIN} and {END}, and the results go between them")
    parts = []
    for table, heading in tables.items():
        page = read_page(results, table)
        sections = [section for section in page.sections if section.title in SECTIONS[table]]
        markdown = render_markdown(replace(page, title=heading, facts=(), sections=sections))
        parts.append(re.sub(r"^(#+) ", r"##\1 ", markdown, flags=re.MULTILINE).strip())
    body = "\n\n".join(parts)
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    temporary = readme.with_name(readme.name + ".tmp")
    temporary.write_text(f"{text[:start]}\n{body}\n{text[end:]}", encoding="utf-8")
    temporary.replace(readme)
