"""Puts the tables of the result files into the README and the pages of ``docs``, between their markers."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.samplers.results import OURS, Row, markdown_table
from experiments.benchmarks.samplers.results import read_rows as read_samplers_rows
from experiments.benchmarks.samplers.settings import DEFAULT_OUT
from experiments.lsttm_report import lsttm_section
from experiments.report import read_page
from experiments.results_table import read_lines
from experiments.serving_report import SERVING_BENCHMARK, serving_section
from graphrec.evaluation.page import render_markdown

SECTIONS = {  # of each table of the main job, what docs/main_job.md shows; the rest is on its own page
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


TRAINING_BENCHMARK = "training_benchmark.jsonl"
TRAINING_COMMAND = "python -m experiments.benchmarks.training"


def update_pages(root: Path, results: Path, tables: dict[str, str]) -> None:
    """Replace what stands between markers by the figures and tests of the result files.

    The README has LSTTM's tables, the evaluation's benchmark and of the samplers' benchmark what has a
    target; ``docs/samplers.md`` has all of that, ``docs/serving.md`` the online ranker's,
    ``docs/lsttm_table.md`` LSTTM's tables on other data and the speed of training and scoring, and
    ``docs/main_job.md`` the tables of the main job. A part stays as it is where the results hold none.

    Args:
        root: folder of the README and of ``docs``.
        results: folder of the result files.
        tables: names of the main job's tables and the heading that each gets.

    Raises:
        ValueError: a page lacks a marker.

    """
    bodies: dict[Path, dict[str, str]] = {}

    def add(page: str, name: str, body: str) -> None:
        bodies.setdefault(root / page, {})[name] = body

    parts = []
    for table, heading in tables.items():
        page = read_page(results, table)
        sections = [section for section in page.sections if section.title in SECTIONS[table]]
        markdown = render_markdown(replace(page, title=heading, facts=(), sections=sections))
        parts.append(re.sub(r"^(#+) ", r"##\1 ", markdown, flags=re.MULTILINE).strip())
    if parts:
        add("docs/main_job.md", "results", "\n\n".join(parts))
    benchmark = results / DEFAULT_OUT.name
    if benchmark.exists():
        rows = read_samplers_rows(benchmark)
        with_target = {(row.case, row.system) for row in rows if row.target is not None}
        ours_with_target = {case for case, system in with_target}
        short = [
            row
            for row in rows
            if (row.case, row.system) in with_target or (row.system == OURS and row.case in ours_with_target)
        ]
        add("README.md", "samplers", benchmark_section(benchmark, short))
        add("docs/samplers.md", "samplers", benchmark_section(benchmark, rows))
    benchmark = results / EVALUATION_BENCHMARK
    if benchmark.exists():
        add("README.md", "evaluation", evaluation_section(benchmark))
    benchmark = results / TRAINING_BENCHMARK
    if benchmark.exists():
        add("docs/lsttm_table.md", "training", training_section(benchmark))
    if (results / "lsttm_table.jsonl").exists():
        add("README.md", "lsttm", lsttm_section(results, of_main_data=True))
        add("docs/lsttm_table.md", "other-data", lsttm_section(results, of_main_data=False))
    benchmark = results / SERVING_BENCHMARK
    if benchmark.exists():
        add("docs/serving.md", "serving", serving_section(benchmark))
    put_sections(bodies)


def benchmark_section(path: Path, rows: list[Row]) -> str:
    """Make the part on the samplers' speed: where it was measured, the command and a table of the rows."""
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
            markdown_table(rows).rstrip(),
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


def training_section(path: Path) -> str:
    """Make the part on LSTTM's speed beside DeepFM's, and where its time goes."""
    lines = read_lines(path)
    rows = [
        "| task | model | rows a second | times slower | one thread, times slower | where its time goes |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for line in lines:
        shares = ", ".join(f"{part} {share:.0%}" for part, share in line["share"].items())
        rows.append(
            f"| {line['task']} | {line['model']} | {line['rows_per_second']:,.0f} | "
            f"{line['times_slower']:.2f} | {line['times_slower_one_thread']:.2f} | {shares} |"
        )
    first = lines[0]
    return "\n".join(
        [
            f"Made by `{TRAINING_COMMAND}` on {first['date']}: {first['cpu']}, torch {first['torch']}.",
            "",
            *rows,
        ]
    )


def put_sections(bodies: Mapping[Path, Mapping[str, str]]) -> None:
    """Put bodies between the markers of pages, by page and marker; nothing is written by halves.

    Raises:
        ValueError: a page lacks a marker; no page has changed then.

    """
    texts = {}
    for path, named in bodies.items():
        text = path.read_text(encoding="utf-8")
        for name, body in named.items():
            text = put_between(text, name, body, path)
        texts[path] = text
    for path, text in texts.items():
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def put_between(text: str, name: str, body: str, page: Path) -> str:
    """Replace what stands between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: a marker is missing.

    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"{page} needs the lines {begin} and {end}, and the {name} go between them")
    first, last = text.index(begin) + len(begin), text.index(end)
    return f"{text[:first]}\n{body}\n{text[last:]}"
