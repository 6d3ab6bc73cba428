"""Where a run's tables go: over the stored ones, or, where these have more, into a folder of the run's own.

Stored tables and their page are of the default options. What a trial, a single row or a fresh clone makes
must not take their place unasked.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results_table import read_lines, write_lines

Line = dict[str, Any]
Tables = dict[str, list[Line]]
"""Lines by the suffix of their result file: "" for figures, ".tests", ".rows" and others."""
MEASURED = ("values", "seeds", "num_queries", "num_users")  # of a line of figures; the rest says which it is


def marked(data: str, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> Tables:
    """Return tables as their files give them back, each line with the name of its data set."""
    return {
        suffix: json.loads(json.dumps([{"data": data, **line} for line in lines]))
        for suffix, lines in tables.items()
    }


def stored_lines(folder: Path, name: str, suffix: str, data: str) -> list[Line]:
    """Return the lines of a data set in ``name`` + ``suffix`` + ".jsonl"; none where there is no file."""
    return [line for line in read_lines(folder / f"{name}{suffix}.jsonl") if line["data"] == data]


def lost_rows(stored: Sequence[Line], new: Sequence[Line]) -> list[str]:
    """Return the rows of which stored figures have a line, a seed or a query that new ones lack.

    Args:
        stored: lines of figures (``experiments.task_figures.figure_rows``) of one data set.
        new: the same, that would take their place.

    """
    found = {_which(line): line for line in new}
    lost = dict[str, None]()
    for line in stored:
        other = found.get(_which(line))
        if (
            other is None
            or not set(line["seeds"]) <= set(other["seeds"])
            or line["num_queries"] > other["num_queries"]
        ):
            lost[f"{line['method']} ({line['family']})"] = None
    return list(lost)


def put_tables(
    name: str,
    tables: Tables,
    *,
    stored: Path,
    own: Path,
    has_default_options: bool,
    replace_stored: bool,
) -> Path | None:
    """Write tables of data sets in the place of theirs, and return the folder that they went to.

    Without a figure nothing is written, and there is no folder.

    Args:
        name: of the files, before their suffix.
        tables: of :func:`marked`, of one data set or more; "" are the figures.
        stored: folder of the stored tables.
        own: folder of the run's own.
        has_default_options: whether the tables were made as the stored ones are.
        replace_stored: put them over the stored ones whatever these have.

    """
    data = list(dict.fromkeys(line["data"] for line in tables[""]))
    if not data:
        return None
    lost = [
        row
        for one in data
        for row in lost_rows(
            stored_lines(stored, name, "", one), [line for line in tables[""] if line["data"] == one]
        )
    ]
    folder = stored if replace_stored or (has_default_options and not lost) else own
    if folder == own:
        why = "these tables were made with other options"
        if has_default_options:
            why = f"these tables lack rows, seeds or queries that are there ({'; '.join(lost)})"
        print(
            f"{stored / name}.jsonl stays, since {why}: they are in {own}. --replace-stored puts them there.",
            flush=True,
        )
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, lines in tables.items():
        path = folder / f"{name}{suffix}.jsonl"
        kept = [line for line in read_lines(path) if line["data"] not in data]
        write_lines(path, [*kept, *lines])
    return folder


def folder_to_show(folder: Path | None, own: Path) -> Path:
    """Return the folder of :func:`put_tables` whose tables are drawn and shown.

    Raises:
        ValueError: there is none, since nothing is finished.

    """
    if folder is None:
        raise ValueError(
            f"no row is finished in {own.parent} with these options: run the command without --only-tables, "
            "or with the options of an earlier run; stored tables and the page stay as they are"
        )
    return folder


def _which(line: Line) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((name, value) for name, value in line.items() if name not in MEASURED))
