"""Puts the tables of the result files into the README, between their markers."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.samplers.results import markdown_table, read_rows
from experiments.benchmarks.samplers.settings import DEFAULT_OUT
from experiments.lsttm_report import lsttm_section
from experiments.report import read_page
from experiments.results_table import read_lines
from graphrec.evaluation.page import render_markdown

SECTIONS = {  # of each table, what the README shows; the rest is on its page
    "main": ("All rows", "AUC by period of the day", "Are the differences real?"),
    "controls": ("All rows",),
    "baselines": ("All rows",),
}
BENCHMARK_COMMAND = "python -m experiments.benchmarks.samplers"
EVALUATION_BENCHMARK = "evaluation_benchmark.jsonl"
EVALUATION_COMMAND = (
    "python -m experiments.benchmarks.evaluation --large 100000000 "
    f"--out experiments/results/{EVALUATION_BENCHMARK}"
)


def update_readme(readme: Path, results: Path, tables: dict[str, str]) -> None:
    """Replace what stands between the markers by the tables' figures and tests.

    LSTTM's tables and the benchmarks of samplers and evaluation have markers of their own; a part stays as
    it is where the results hold none.

    Args:
        readme: the file.
        results: folder of the result files.
        tables: names of tables and the heading that each gets.

    Raises:
        ValueError: the README lacks a marker.

    """
    parts = []
    for table, heading in tables.items():
        page = read_page(results, table)
        sections = [section for section in page.sections if section.title in SECTIONS[table]]
        markdown = render_markdown(replace(page, title=heading, facts=(), sections=sections))
        parts.append(re.sub(r"^(#+) ", r"##\1 ", markdown, flags=re.MULTILINE).strip())
    text = put_between(readme.read_text(encoding="utf-8"), "results", "\n\n".join(parts), readme)
    benchmark = results / DEFAULT_OUT.name
    if benchmark.exists():
        text = put_between(text, "samplers", benchmark_section(benchmark), readme)
    benchmark = results / EVALUATION_BENCHMARK
    if benchmark.exists():
        text = put_between(text, "evaluation", evaluation_section(benchmark), readme)
    if (results / "lsttm_table.jsonl").exists():
        text = put_between(text, "lsttm", lsttm_section(results), readme)
    temporary = readme.with_name(readme.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(readme)


def benchmark_section(path: Path) -> str:
    """Make the README's part on the samplers' speed: where it was measured, the command and the table."""
    described: dict[str, Mapping[str, Any]] = {}
    for line in read_lines(path):  # parts may have been measured on several days
        described[f"{line['date']} {line['commit']} {line['cpu']} {line['cuda']}"] = line
    facts = [
        f"{line['date']}, commit {line['commit']}: {line['cpu']}"
        + (f"; {line['cuda']}" if line["cuda"] else "")
        + f"; {line['users']:,} users, {line['items']:,} items, {line['edges']:,} edges. "
        + ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        + "."
        for line in described.values()
    ]
    return "\n".join(
        [
            f"Made by `{BENCHMARK_COMMAND}`, put here by `python -m experiments readme`. A ratio is our",
            "speed over the peer's, or our time over the peer's where the case says so.",
            "",
            *(f"- {fact}" for fact in facts),
            "",
            markdown_table(read_rows(path)).rstrip(),
        ]
    )


def evaluation_section(path: Path) -> str:
    """Make the README's part on the evaluation's speed and memory."""
    lines = read_lines(path)
    ours = {line["case"]: line["seconds"] for line in lines if line["ratio"] is None}
    rows = ["| case | rows | ours | peer | ratio | target |", "| --- | ---: | ---: | --- | ---: | --- |"]
    for line in lines:
        own = f"{ours[line['case']]:.3g} s"
        if line["peak_gib"] is not None:
            rows.append(
                f"| {line['case']} | {line['rows']:,} | {own}, peak {line['peak_gib']:.2f} GiB | | | |"
            )
        elif line["ratio"] is not None:
            sampled = ", scaled from a sample of users" if line["measured_rows"] else ""
            target = f"at least {line['target']:g}" if line["target"] else ""
            peer = f"{line['system']}{sampled}: {line['seconds']:.3g} s"
            rows.append(
                f"| {line['case']} | {line['rows']:,} | {own} | {peer} | {line['ratio']:.3g} | {target} |"
            )
    first = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    return "\n".join(
        [
            f"Made by `{EVALUATION_COMMAND}` on {first['date']}: {first['cpu']}; {versions}.",
            "",
            *rows,
        ]
    )


def put_between(text: str, name: str, body: str, readme: Path) -> str:
    """Replace what stands between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: a marker is missing.

    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"{readme} needs the lines {begin} and {end}, and the {name} go between them")
    first, last = text.index(begin) + len(begin), text.index(end)
    return f"{text[:first]}\n{body}\n{text[last:]}"
