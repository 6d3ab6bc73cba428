"""What is wrong with predictions is told: where, how often, and what to do; nothing is dropped."""

import gzip
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from graphrec.evaluation.read import PredictionsError, ReadOptions, read_predictions

NUM_ROWS = 40
HEADER = "click,p,user,time,tab\n"


@pytest.fixture
def frame() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "click": rng.integers(0, 2, NUM_ROWS),
            "p": rng.random(NUM_ROWS),
            "user": rng.integers(0, 5, NUM_ROWS),
            "time": 1_651_600_000 + np.arange(NUM_ROWS),
            "tab": rng.integers(0, 3, NUM_ROWS),
            "id": np.arange(NUM_ROWS) + 100,
        }
    )


def refused(*parts: str) -> "pytest.RaisesExc[PredictionsError]":
    """Expect one `PredictionsError` whose message holds the parts in this order."""
    return pytest.raises(PredictionsError, match="(?s)" + ".*".join(re.escape(part) for part in parts))


def at(column: str, row: int, value: object, num_rows: int = 1) -> pl.Expr:
    """Put ``value`` into ``num_rows`` rows from ``row`` (from 0)."""
    position = pl.int_range(pl.len())
    return (
        pl.when((position >= row) & (position < row + num_rows))
        .then(pl.lit(value))
        .otherwise(pl.col(column))
        .alias(column)
    )


CELLS: list[tuple[pl.Expr, ReadOptions, tuple[str, ...]]] = [
    (
        at("p", 6, float("nan"), 3),
        ReadOptions(),
        ("row 7", "'p'", "missing or NaN, got nan", "3 such rows", "mend the model"),
    ),
    (at("p", 6, None), ReadOptions(), ("row 7", "'p'", "missing or NaN, got nothing", "1 such row")),
    (at("p", 39, float("-inf")), ReadOptions(), ("row 40", "'p'", "infinite, got -inf", "1 such row")),
    (
        at("p", 2, 1.5, 2),
        ReadOptions(),
        ("row 3", "'p'", "[0, 1], got 1.5", "2 such rows", "--score-kind logit", "ranking"),
    ),
    (at("p", 2, float("inf")), ReadOptions(score_kind="ranking"), ("row 3", "infinite")),
    (at("p", 2, float("nan")), ReadOptions(score_kind="logit"), ("row 3", "NaN")),
    (
        at("click", 4, 3, 5),
        ReadOptions(),
        ("row 5", "'click'", "0 or 1, got 3", "5 such rows", "--positive-threshold"),
    ),
    (at("click", 4, None), ReadOptions(), ("row 5", "'click'", "a label is missing")),
    (at("click", 4, None), ReadOptions(positive_threshold=0.5), ("row 5", "a label is missing")),
    (
        at("user", 8, None, 2),
        ReadOptions(),
        ("row 9", "'user'", "a user is missing, got nothing", "2 such rows"),
    ),
    (at("user", 8, None, 2), ReadOptions(user="", request="user"), ("row 9", "a request is missing")),
    (at("time", 8, None), ReadOptions(), ("row 9", "'time'", "a time is missing")),
    (
        at("time", 3, 1_651_600_000_000),
        ReadOptions(),
        ("row 4", "outside 1990 to 2100", "milliseconds", "must not be mixed"),
    ),
    (at("time", 3, 0), ReadOptions(), ("row 4", "outside 1990 to 2100, got 0", "no unit makes sense")),
    (at("time", 0, 5), ReadOptions(), ("row 1", "5 is no time from 1990 to 2100")),
    (at("time", 0, 20_220_504), ReadOptions(), ("row 1", "a calendar date written as a number", "--time")),
    (at("time", 0, 20_220_504), ReadOptions(time_unit="s"), ("row 1", "a calendar date written as a number")),
    (
        at("time", 99, 0),
        ReadOptions(time_unit="ns"),
        ("row 1", "it would make sense in seconds", "--time-unit s"),
    ),
    (
        at("tab", 1, -1, 2),
        ReadOptions(history="tab"),
        ("row 2", "'tab'", "whole numbers from 0, got -1", "2 such rows"),
    ),
    (
        at("id", 5, 100),
        ReadOptions(key=("id",)),
        ("row 6", "the key id=100", "an earlier row", "1 such row", "--key"),
    ),
    (at("id", 5, 7, 3), ReadOptions(key=("id", "click")), ("the key id=7, click=", "an earlier row")),
    (
        at("id", 5, None, 3),
        ReadOptions(key=("id",)),
        ("row 6", "the key id=None has no value", "3 such rows"),
    ),
]


@pytest.mark.parametrize(("change", "options", "parts"), CELLS)
@pytest.mark.parametrize("form", ["frame", "csv", "parts"])
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
def test_a_wrong_value_is_told_with_its_row(
    frame, change, options, parts, form, chunk_rows, tmp_path
) -> None:
    changed = frame.with_columns(change)
    source: object = changed
    row = re.fullmatch(r"row (\d+)", parts[0])
    if form == "csv":
        source = tmp_path / "a.csv"
        changed.write_csv(tmp_path / "a.csv", float_precision=None)
        if row:
            parts = (f"a.csv, row {row[1]} (line {int(row[1]) + 1})", *parts[1:])
        # numbers of a text file are floats, and an empty cell is none
        parts = tuple(
            re.sub(r"(?<=, got )(-?\d+)$", r"\1.0", part)
            if "time" not in str(parts) and "outside" not in part
            else part
            for part in parts
        )
    elif form == "parts":
        changed.head(5).write_parquet(tmp_path / "one.parquet")
        changed.slice(5).write_parquet(tmp_path / "two.parquet")
        source = tmp_path
        if row:
            number = int(row[1])
            parts = (
                f"one.parquet, row {number}" if number <= 5 else f"two.parquet, row {number - 5}",
                *parts[1:],
            )
    with refused(*parts):
        read_predictions(source, options, chunk_rows=chunk_rows)


def test_kinds_of_mistakes_are_all_told(frame) -> None:
    wrong = frame.with_columns(at("p", 9, 2.0, 2), at("click", 3, 7), at("user", 1, None, 4))
    with refused("row 2, column 'user'", "4 such rows", "also", "row 4, column 'click'", "also", "row 10"):
        read_predictions(wrong)


OPTIONS: list[tuple[ReadOptions, tuple[str, ...]]] = [
    (ReadOptions(label="clik"), ("no column 'clik'", "--label", "click, p, user", "did you mean 'click'")),
    (ReadOptions(score=("zzz",)), ("no column 'zzz'", "--score", "click, p, user")),
    (ReadOptions(user="usr"), ("--user", "did you mean 'user'")),
    (ReadOptions(time="tme"), ("--time", "did you mean 'time'")),
    (ReadOptions(request="q"), ("no column 'q'", "--request")),
    (ReadOptions(item="q"), ("no column 'q'", "--item")),
    (ReadOptions(history="q"), ("no column 'q'", "--history")),
    (ReadOptions(by=("taab",)), ("--by", "did you mean 'tab'")),
    (ReadOptions(key=("idd",)), ("--key", "did you mean 'id'")),
    (ReadOptions(by=("hour",), time=""), ("slices by hour need times", "--time")),
    (ReadOptions(by=("tab", "tab")), ("--by names 'tab' twice",)),
    (ReadOptions(score=("p", "p")), ("--score names 'p' twice",)),
    (ReadOptions(key=("id", "id")), ("--key names 'id' twice",)),
    (ReadOptions(label="click", score=("click",)), ("'click' is named both",)),
    (ReadOptions(time_zone="Asia/Nowhere"), ("'Asia/Nowhere' is not a time zone", "Asia/Shanghai")),
    (ReadOptions(time_zone=""), ("'' is not a time zone", "Asia/Shanghai")),
    (ReadOptions(label="p"), ("no other column is called like a score: p is taken by --label", "--score")),
    (ReadOptions(user="p", item="p"), ("called like a score: p is taken by --",)),
    (ReadOptions(score=("click",)), ("no other column is called like a label: click is taken by --score",)),
    (ReadOptions(time_zone="+25:00"), ("+25:00", "between -15:59 and +15:59")),
    (ReadOptions(by=("id",), max_values=39), ("'id' has more than 39 values", "--max-values")),
    (ReadOptions(period_seconds=0), ("--period-seconds must be at least 1",)),
    (ReadOptions(max_values=0), ("--max-values must be at least 1",)),
    (ReadOptions(memory_limit_gib=-1.0), ("--memory-limit-gib",)),
]


@pytest.mark.parametrize(("options", "parts"), OPTIONS)
def test_a_wrong_option_is_told(frame, options, parts) -> None:
    with refused(*parts):
        read_predictions(frame, options)


def test_as_many_values_as_allowed_are_slices(frame) -> None:
    (by,) = read_predictions(frame, ReadOptions(by=("id",), max_values=NUM_ROWS)).slicings
    assert len(by.values) == NUM_ROWS


def test_nothing_to_guess_is_told(frame) -> None:
    with refused("called like a label", "click_through, p, user", "--label"):
        read_predictions(frame.rename({"click": "click_through"}))
    with refused("called like a score", "click, mine, user", "--score"):
        read_predictions(frame.rename({"p": "mine"}))
    with refused("against 1", "called like a score", "--score"):
        read_predictions(frame, against=[frame.drop("p")])


def test_slicers_need_users_and_times(frame) -> None:
    class Slicer:
        name, values = "s", ("a",)

        def slice(self, frame: pl.DataFrame) -> np.ndarray:
            return np.full(frame.height, 1)

    for missing in ("user", "time"):
        with refused(f"need a column of {missing}s", f"--{missing}"):
            read_predictions(frame.drop(missing), slicers=[Slicer()])
    with refused("'s' must give each row an index below 1"):
        read_predictions(frame, slicers=[Slicer()])


class TestTextFiles:
    def check(self, path: Path, content: str | bytes, *parts: str) -> None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        for chunk_rows in (1, 2, 1000):
            with refused(path.name, *parts):
                read_predictions(path, chunk_rows=chunk_rows)

    ROW = "1,0.5,7,1651600000,3\n"

    def test_rows_with_too_few_or_too_many_fields(self, tmp_path) -> None:
        path = tmp_path / "a.csv"
        good = HEADER + self.ROW * 5
        self.check(
            path,
            good + "0,0.5\n" + self.ROW + "0\n" + self.ROW,
            "row 6 (line 7) has 2 fields, the header 5",
            "2 such rows",
        )
        self.check(
            path,
            good + self.ROW[:-1] + ",9\n" + self.ROW,
            "row 6 (line 7) has 6 fields",
            "1 such row",
            "quote fields",
        )
        self.check(
            path,
            good + "\n" + self.ROW,
            "row 6 (line 7) is blank",
            "1 row is without",
            "5 fields",
            "blank lines",
        )
        self.check(path, HEADER + "1\n", "row 1 (line 2) has 1 field, the header 5")

    def test_lines_count_those_inside_quotes(self, tmp_path) -> None:
        rows = '1,0.5,"a\n\nb",1651600000,3\n' * 3
        self.check(tmp_path / "a.csv", HEADER + rows + "1,2\n" + self.ROW, "row 4 (line 11) has 2 fields")
        self.check(
            tmp_path / "a.csv", HEADER + rows + self.ROW.replace("0.5", "x"), "row 4 (line 11)", "'p'", "'x'"
        )

    def test_a_file_cut_short(self, tmp_path) -> None:
        whole = HEADER + self.ROW * 200
        self.check(tmp_path / "a.csv", whole[:-10], "row 200 (line 201) has 4 fields", "cut short")
        self.check(tmp_path / "a.csv", HEADER + self.ROW + '1,0.5,"7', "quote", "never closed", "cut short")
        zipped = gzip.compress(whole.encode())
        self.check(tmp_path / "a.csv.gz", zipped[:-9], "cut short", "write it again")
        self.check(tmp_path / "a.csv.gz", whole, "not a sound gzip file")

    def test_a_last_line_without_its_end_is_noted(self, tmp_path) -> None:
        path = tmp_path / "a.csv"
        path.write_text((HEADER + self.ROW * 2)[:-1])
        assert any("does not end in a newline" in note for note in read_predictions(path).notes)
        path.write_text(HEADER + self.ROW * 2 + "\n\n")
        read = read_predictions(path)
        assert read.num_rows == 2
        assert not any("newline" in note for note in read.notes)

    def test_empty_files(self, tmp_path) -> None:
        self.check(tmp_path / "a.csv", "", "is empty")
        self.check(tmp_path / "a.csv", "\n\n", "is empty")
        self.check(tmp_path / "a.csv", HEADER, "holds no row")
        self.check(tmp_path / "a.csv", HEADER[:-1], "holds no row")

    def test_headers(self, tmp_path) -> None:
        self.check(tmp_path / "a.csv", "click,p,p\n1,0,0\n", "names the column 'p' twice")
        self.check(tmp_path / "a.csv", "1,0.5\n0,0.5\n", "called like a label", "1, 0.5")

    def test_cells_that_are_no_numbers_or_times(self, tmp_path) -> None:
        path = tmp_path / "a.csv"
        for column, text, name in (
            ("click", "yes", "a label must be a number"),
            ("p", "n/a", "a score must be a number"),
            ("time", "soon", "a time cannot be read"),
        ):
            position = HEADER.strip().split(",").index(column)
            cells = self.ROW.strip().split(",")
            cells[position] = text
            wrong = ",".join(cells) + "\n"
            self.check(
                path,
                HEADER + self.ROW * 3 + wrong * 2 + self.ROW,
                "row 4 (line 5)",
                f"{column!r}: {name}, got {text!r}",
                "2 such rows",
            )

    def test_iso_times_that_are_none(self, tmp_path) -> None:
        rows = "1,0.5,7,2022-05-04 08:00:00,3\n" * 3
        self.check(
            tmp_path / "a.csv",
            HEADER + rows + rows.replace("05-04", "13-04"),
            "row 4",
            "a time cannot be read",
            "2022-13-04",
            "3 such rows",
            "ISO 8601",
        )
        self.check(
            tmp_path / "a.csv",
            HEADER + rows + rows.replace("2022", "1800"),
            "row 4",
            "outside 1990 to 2100",
            "--time",
        )

    def test_other_encodings(self, tmp_path) -> None:
        self.check(tmp_path / "a.csv", "click,p,é\n1,0.5,x\n".encode("latin-1"), "not UTF-8")


class TestFiles:
    def test_missing_and_unknown_files(self, tmp_path, frame) -> None:
        frame.write_csv(tmp_path / "there.csv")
        with refused("no file", "nothing.csv", "there.csv"):
            read_predictions(tmp_path / "nothing.csv")
        with refused("no file matches", "*.parquet"):
            read_predictions(str(tmp_path / "*.parquet"))
        (tmp_path / "empty").mkdir()
        with refused("holds no Parquet or CSV file"):
            read_predictions(tmp_path / "empty")
        (tmp_path / "a.xlsx").write_bytes(b"x")
        with refused("a.xlsx", ".parquet, .csv"):
            read_predictions(tmp_path / "a.xlsx")
        with refused("a path, several paths", "int"):
            read_predictions(3)
        with refused("a path, several paths", "nothing"):
            read_predictions([])

    @pytest.mark.parametrize("kept", [0, 3, 200, -1])
    def test_parquet_cut_short(self, tmp_path, frame, kept) -> None:
        frame.write_parquet(tmp_path / "a.parquet")
        (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:kept])
        with refused("a.parquet", "empty" if not kept else "cut short"):
            read_predictions(tmp_path / "a.parquet")

    def test_parts_that_differ(self, tmp_path, frame) -> None:
        frame.write_parquet(tmp_path / "one.parquet")
        frame.drop("user").write_parquet(tmp_path / "two.parquet")
        with refused("two.parquet has no column 'user'", "parts of one table"):
            read_predictions(tmp_path)
        frame.with_columns(pl.col("user").cast(pl.String)).write_parquet(tmp_path / "two.parquet")
        with refused("two.parquet", "'user' holds String", "one.parquet", "integers"):
            read_predictions(tmp_path)
        frame.with_columns(pl.col("user").cast(pl.Int8)).write_parquet(tmp_path / "two.parquet")
        assert read_predictions(tmp_path).num_rows == 2 * NUM_ROWS

    def test_no_rows(self, frame, tmp_path) -> None:
        frame.head(0).write_parquet(tmp_path / "a.parquet")
        for source in (frame.head(0), tmp_path / "a.parquet", {"click": [], "p": []}):
            with refused("holds no row"):
                read_predictions(source)

    def test_one_file_twice_in_a_source(self, tmp_path, frame) -> None:
        one, link = tmp_path / "one.parquet", tmp_path / "link.parquet"
        frame.write_parquet(one)
        frame.write_parquet(tmp_path / "two.parquet")
        link.symlink_to(one)
        detour = tmp_path / "x" / ".." / "one.parquet"
        (tmp_path / "x").mkdir()
        for source in ([one, one], [one, link], [tmp_path / "two.parquet", detour, link]):
            with refused("is there twice", "name it once"):
                read_predictions(source)
        (tmp_path / "x").rmdir()
        with refused("link.parquet is there twice", "also as", "one.parquet"):
            read_predictions([one, link])
        with refused("one.parquet is there twice"):
            read_predictions([frame, one, str(one)])
        link.unlink()
        for source in (tmp_path, str(tmp_path / "*.parquet")):
            with refused("two.parquet is there twice"):
                read_predictions([source, str(tmp_path / "two.parquet")])
        # a pattern that finds a folder and its files, and two sources with one file, are no mistake
        assert read_predictions(str(tmp_path / "**")).num_rows == 2 * NUM_ROWS
        assert read_predictions(one, against=[one]).num_rows == NUM_ROWS

    def test_an_empty_pipe(self, tmp_path) -> None:
        with refused("/dev/null is empty"):
            read_predictions("/dev/null")


class TestArrays:
    @pytest.mark.parametrize(
        ("arrays", "parts"),
        [
            ({"click": [0, 1], "p": [0.5]}, ("'p' has 1 rows", "'click' 2")),
            ({"click": [0, 1], "p": np.zeros((2, 1))}, ("'p'", "one axis", "(2, 1)")),
            ({"click": [0, 1], "p": 0.5}, ("'p'", "one value a row", "float")),
            ({"click": [0, 1], "p": [0.5, 0.5], "user": [1, "x"]}, ("'user'", "several types")),
            ({"click": [0, 1], "p": [[0.5], [0.5]]}, ("'p'", "a score must be a number", "2 such rows")),
            ({"click": ["no", "yes"], "p": [0.5, 0.5]}, ("a label must be a number, got 'no'",)),
            ({"click": [0, 1], "p": [0.5, 0.5], "time": [b"x", b"y"]}, ("'time' holds Binary, not times",)),
        ],
    )
    def test_arrays_that_are_no_columns(self, arrays, parts) -> None:
        with refused(*parts):
            read_predictions(arrays)

    @pytest.mark.parametrize(
        "values", [[[1], [2]], [{"a": 1}, {"a": 2}], pl.Series([[1], [2]], dtype=pl.Array(int, 1))]
    )
    @pytest.mark.parametrize("option", ["user", "request", "key", "by"])
    def test_lists_are_no_identifiers(self, values, option) -> None:
        frame = pl.DataFrame({"click": [0, 1], "p": [0.5, 0.5], "x": values})
        with refused("predictions: column 'x' holds", str(frame["x"].dtype), f"--{option} needs one number"):
            read_predictions(frame, ReadOptions(**{option: "x"}))

    def test_pandas_missing_values(self) -> None:
        table = pd.DataFrame(
            {"click": [0, 1, 1], "p": [0.5] * 3, "user": pd.array([1, None, 3], dtype="Int64")}
        )
        with refused("row 2", "'user'", "a user is missing"):
            read_predictions(table)
        table["user"] = ["a", "b", None]
        with refused("row 3", "'user'", "a user is missing"):
            read_predictions(table)
        doubled = pd.concat([table, table[["p"]]], axis="columns")
        with refused("two columns of one name"):
            read_predictions(doubled)


class TestAgainst:
    """Rows that two sources do not share."""

    def in_forms(self, frame: pl.DataFrame, tmp_path: Path) -> list[object]:
        frame.write_csv(tmp_path / "other.csv")
        return [frame, frame.lazy(), tmp_path / "other.csv"]

    @pytest.mark.parametrize("chunk_rows", [1, 7, 40, 1000])
    def test_other_numbers_of_rows(self, frame, tmp_path, chunk_rows) -> None:
        for others in (frame.head(30), pl.concat([frame, frame.head(2)])):
            for other in self.in_forms(others, tmp_path):
                with refused("40 rows", f"{others.height}", "the same rows"):
                    read_predictions(frame, against=[other], chunk_rows=chunk_rows)

    @pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
    @pytest.mark.parametrize(
        ("change", "parts"),
        [
            (lambda frame: at("user", 4, 77, 3), ("row 5", "'user' holds 77", "3 such rows", "--key")),
            (
                lambda frame: at("time", 4, 1_651_600_000),
                ("row 5", "'time' holds 1651600000", "1651600004", "--key"),
            ),
            (lambda frame: (1 - pl.col("click")).alias("click"), ("row 1", "'click' holds", "40 such rows")),
        ],
    )
    def test_rows_that_differ(
        self, frame, tmp_path, chunk_rows, change: Callable[[pl.DataFrame], pl.Expr], parts
    ) -> None:
        for other in self.in_forms(frame.with_columns(change(frame)), tmp_path):
            with refused(*parts):
                read_predictions(frame, against=[other], chunk_rows=chunk_rows)

    def test_wrong_scores_of_another_source(self, frame, tmp_path) -> None:
        for other in self.in_forms(frame.with_columns(at("p", 5, float("nan"), 2)), tmp_path):
            for options in (ReadOptions(), ReadOptions(key=("id",))):
                with refused("row 6", "'p'", "NaN", "2 such rows"):
                    read_predictions(frame, options, against=[other])

    @pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
    @pytest.mark.parametrize("key", [("id",), ("id", "tab"), ("tab", "id", "user")])
    def test_keys_that_do_not_match(self, frame, tmp_path, key, chunk_rows) -> None:
        def name(row: int) -> str:
            return "the key " + ", ".join(f"{column}={frame[column][row]}" for column in key)

        twice = pl.concat([frame, frame.slice(3, 2)])
        changed = frame.with_columns(
            click=pl.when(pl.col("id").is_in([105, 110])).then(1 - pl.col("click")).otherwise("click")
        )
        for other, parts in (
            (
                frame.filter(pl.col("id").is_in([111, 120]).not_()),
                ("predictions, row 12", name(11), "is not in", "2 such rows"),
            ),
            (twice, ("row 41", name(3), "an earlier row", "2 such rows")),
            (changed, ("row 6", name(5), "another label", "2 such rows")),
        ):
            for source in self.in_forms(other, tmp_path):
                with refused(*parts):
                    read_predictions(frame, ReadOptions(key=key), against=[source], chunk_rows=chunk_rows)
        with refused("against 1, row 3", name(2), "is not in predictions", "1 such row"):
            read_predictions(
                frame.filter(pl.col("id") != 102),
                ReadOptions(key=key),
                against=[frame],
                chunk_rows=chunk_rows,
            )

    @pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
    def test_the_cause_is_told_before_what_follows_from_it(self, frame, chunk_rows) -> None:
        # the labels of the first rows belong to other rows, since the key is no key there
        twice = frame.with_columns(at("id", 20, 125, 20), click=1 - pl.col("click"))
        with refused("against 1, row 22", "an earlier row", "also against 1, row 1,", "another label"):
            read_predictions(frame, ReadOptions(key="id"), against=twice, chunk_rows=chunk_rows)
        # users differ later than labels do, and say more
        moved = frame.with_columns(at("user", 30, 77, 10), click=1 - pl.col("click"))
        with refused("against 1, row 31", "'user' holds 77", "also against 1, row 1,", "'click'"):
            read_predictions(frame, against=moved, chunk_rows=chunk_rows)

    def test_a_key_that_another_source_lacks(self, frame) -> None:
        with refused("against 1 has no column 'id'", "--key"):
            read_predictions(frame, ReadOptions(key=("id",)), against=[frame.drop("id")])
