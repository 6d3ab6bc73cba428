"""Reads predictions of any form and size into compact, checked columns; every guess becomes a note.

Sources are read in chunks, of which only labels, scores and small codes are kept: a row with a label, one
float64 score, a user, an hour and one slicing column takes 19 bytes.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphrec.evaluation.predictions import Predictions
from graphrec.evaluation.reading.errors import PredictionsError
from graphrec.evaluation.reading.options import ReadOptions, Slicer, check_options
from graphrec.evaluation.reading.reader import ReadAsText, Reader
from graphrec.evaluation.reading.sources import open_source

__all__ = ["PredictionsError", "ReadOptions", "Slicer", "read_predictions"]


def read_predictions(
    source: Any,
    options: ReadOptions | None = None,
    *,
    against: Any = (),
    progress: Callable[[int, int | None], None] | None = None,
    slicers: Sequence[Slicer] = (),
    chunk_rows: int = 1_000_000,
) -> Predictions:
    """Read predictions into checked columns, in the order of ``source``.

    Columns that are not named are looked for by usual names (`reading.roles.USUAL_NAMES`). Numbers of all
    kinds become float64 scores, only float32 (and shorter) stays float32. A missing value is a mistake,
    except in a slicing column, where it is a slice of its own, ``missing``. Columns beyond the memory limit
    lie in temporary files that vanish with the arrays.

    Args:
        source: a path to Parquet (``.parquet``) or text (``.csv``, ``.csv.gz``, ``.tsv``), a pattern, a
            folder or a list of paths (parts of one table), a polars frame (lazy too), a pandas frame, or a
            mapping of names to arrays (numpy, lists, tensors).
        options: names of columns, units and zone.
        against: a further source, or a list of several (a list in it holds parts of one), with scores of
            the same rows. A score is called by its column; where two sources use one name, by the file's
            name.
        progress: called after each chunk with the rows done and, where it is known, the total.
        slicers: further slices; each is handed chunks with the columns ``user``, ``time_ms`` (UTC) and,
            where ``options`` name it, ``item``.
        chunk_rows: rows read at a time; has no effect on the result.

    Raises:
        PredictionsError: rows or columns that cannot be evaluated as they are: which, where, how many, and
            what to do.

    """
    options = options if options is not None else ReadOptions()
    check_options(options, chunk_rows)
    tables = [
        open_source(source, "predictions"),
        *(open_source(one, f"against {number}") for number, one in enumerate(_several(against), 1)),
    ]
    while True:
        try:
            return Reader(tables, options, slicers, progress, chunk_rows).run()
        except ReadAsText as retry:
            # IDs that looked like integers and are not: text from the first row on
            for table in tables:
                table.read_as_text(retry.column)


def _several(against: Any) -> list[Any]:
    """Return a list of sources; what is one source itself, such as a path or a frame, is its only entry."""
    if isinstance(against, str | os.PathLike | Mapping) or not isinstance(against, Iterable):
        return [against]
    is_frame = type(against).__module__.split(".")[0] in ("pandas", "polars")
    return [against] if is_frame else list(against)
