import gzip
import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import EventLogError, EventSchema, concat_event_logs, read_events, read_table
from tests.reference.graph_builders import count_duplicates

SYNTHETIC = EventSchema(time_bounds=None)
T = 1_650_000_000
FULL = EventSchema(
    user="u",
    item="i",
    time="t",
    time_unit="ms",
    resolution="ms",
    behavior="b",
    behaviors=("click", "like"),
    domain="d",
    available_time="known",
    attributes=("price",),
)


def frame(**columns):
    """Three good rows, with columns changed or (None) left out."""
    base = {"user_id": [1, 2, 1], "item_id": ["a", "b", "c"], "time": [T, T + 1, T + 2]}
    return pl.DataFrame({name: values for name, values in {**base, **columns}.items() if values is not None})


def full_frame():
    return pl.DataFrame(
        {
            "price": [0.5, None],
            "d": ["app", "web"],
            "u": ["x", "y"],
            "i": [3, 4],
            "b": ["like", "click"],
            "t": [T * 1000, T * 1000 + 7],
            "known": [T * 1000 + 3, None],
        }
    )


def test_defaults_and_column_order():
    log = read_events(frame(), EventSchema(default_behavior="listen", default_domain="radio"))
    assert log.frame.columns == ["user_id", "item_id", "time", "behavior", "domain"]
    assert log.frame["time"].dtype == pl.Int64
    assert log.frame["behavior"].cast(pl.String).to_list() == ["listen"] * 3
    assert log.frame["domain"].cast(pl.String).to_list() == ["radio"] * 3
    assert (len(log), log.report.num_rows_read, log.report.num_duplicates) == (3, 3, 0)


def test_every_column_is_mapped():
    log = read_events(full_frame(), FULL)
    assert log.frame.rows() == [
        ("x", 3, T * 1000, "like", "app", T * 1000 + 3, 0.5),
        ("y", 4, T * 1000 + 7, "click", "web", T * 1000 + 7, None),
    ]
    assert log.attributes == ("price",)
    assert log.time_resolution == "ms"


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_files_give_the_same_log_as_frames(tmp_path, suffix):
    path = tmp_path / f"log{suffix}"
    if suffix == ".parquet":
        full_frame().write_parquet(path)
    elif suffix == ".csv":
        full_frame().write_csv(path)
    else:
        path.write_bytes(gzip.compress(full_frame().write_csv().encode()))
    assert read_events(path, FULL).frame.equals(read_events(full_frame(), FULL).frame)
    assert read_events(str(path), FULL).report.sources[0].name == str(path)


def test_lazy_and_pandas_frames():
    wanted = read_events(full_frame(), FULL).frame
    assert read_events(full_frame().lazy(), FULL).frame.equals(wanted)
    assert read_events(full_frame().to_pandas(), FULL).frame.equals(wanted)


def test_many_sources_keep_their_order():
    log = read_events([frame(), frame(time=[T + 9, T + 8, T + 7]).lazy()], EventSchema(), name="part")
    assert log.frame["time"].to_list() == [T, T + 1, T + 2, T + 9, T + 8, T + 7]
    assert [(source.name, source.num_rows) for source in log.report.sources] == [("part 1", 3), ("part 2", 3)]


@pytest.mark.parametrize(
    ("values", "unit", "resolution", "wanted"),
    [
        ([T, T + 1, T + 2], "s", "ms", [T * 1000, T * 1000 + 1000, T * 1000 + 2000]),
        ([T * 1000 + 999, T * 1000 + 1000, T * 1000], "ms", "s", [T, T + 1, T]),
        ([T * 10**9 + 999_999_999] * 3, "ns", "ms", [T * 1000 + 999] * 3),
        ([T + 0.75, T + 0.5, float(T)], "s", "ms", [T * 1000 + 750, T * 1000 + 500, T * 1000]),
        ([str(T * 10**9 + 1), f" {T * 10**9}", str(T * 10**9)], "ns", "s", [T, T, T]),
    ],
)
def test_units_and_resolutions(values, unit, resolution, wanted):
    log = read_events(frame(time=values), EventSchema(time_unit=unit, resolution=resolution))
    assert log.frame["time"].to_list() == wanted


def test_datetimes_are_utc_unless_they_say():
    times = pl.Series(["2022-05-08 00:00:00"] * 3).str.to_datetime()
    naive = read_events(frame(time=times), EventSchema()).frame["time"]
    local = read_events(frame(time=times.dt.replace_time_zone("Asia/Shanghai")), EventSchema()).frame["time"]
    assert naive[0] == 1_651_968_000
    assert naive[0] - local[0] == 8 * 3600


@pytest.mark.parametrize(
    ("source", "schema", "message"),
    [
        (frame(time=None), EventSchema(), r"column 'time' is missing.*\['user_id', 'item_id'\]"),
        (frame(), EventSchema(user="userid"), r"'userid' is missing.*did you mean 'user_id'"),
        (frame(time=[str(T), "soon", None]), EventSchema(), r"'time' is null in 1 rows: 3\."),
        (frame(time=[str(T), "soon", "12:30"]), EventSchema(), r"cannot be parsed in 2 rows: 2, 3 .*'soon'"),
        (frame(time=[float(T), float("nan"), float(T)]), EventSchema(), r"cannot be parsed in 1 rows: 2 "),
        (frame(time=[T, -5, T]), EventSchema(), r"is negative in 1 rows: 2 .*-5"),
        (frame(time=[[T]] * 3), EventSchema(), r"'time' has type List"),
        (frame(user_id=[1, None, None]), EventSchema(), r"'user_id' is null in 2 rows: 2, 3"),
        (frame(item_id=["a", "", "c"]), EventSchema(), r"'item_id' is empty in 1 rows: 2"),
        (frame(user_id=[1.0, 2.5, 3.0]), EventSchema(), r"no whole number in 1 rows: 2"),
        (frame(user_id=[[1], [2], [3]]), EventSchema(), r"'user_id' has type List.*cast IDs"),
        (frame(time=[T, T * 1000, T]), EventSchema(), r"mixes time units: 2 .*'s', 1 .*'ms'.* rows: 2 "),
        (frame(time=[T, T * 1000, T]), SYNTHETIC, r"mixes time units"),
        (frame(time=[T * 1000] * 3), EventSchema(), r"looks like 'ms'.*time_unit='s'.*set time_unit='ms'"),
        (frame(time=[T] * 3), EventSchema(time_unit="ms"), r"looks like 's'.*time_unit='ms'"),
        (frame(time=[1, 2, 3]), EventSchema(), r"outside time_bounds.*rows: 1, 2, 3.*time_bounds=None"),
        (
            frame(time=["x"] * 9, user_id=[1] * 9, item_id=[1] * 9),
            SYNTHETIC,
            r"9 rows: 1, 2, 3, 4, 5, \.\.\.",
        ),
        (frame().clear(), EventSchema(), r"holds no rows"),
        (
            full_frame().with_columns(b=pl.Series(["like", "buy"])),
            FULL,
            r"'b' is unknown.*2 .*buy.*known are",
        ),
        (full_frame().with_columns(b=pl.Series([None, "like"])), FULL, r"'b' is null in 1 rows: 1"),
        (full_frame().with_columns(d=pl.lit(None)), FULL, r"'d' is null in 2 rows"),
        (
            full_frame().with_columns(known=pl.Series([None, T * 1000])),
            FULL,
            r"'known' is before the event's own time in 1 rows: 2",
        ),
        (full_frame().with_columns(known=pl.Series(["", "x"])), FULL, r"'known' cannot be parsed"),
        ([1, 2], EventSchema(), r"a source is a path, .* got int"),
        ([], EventSchema(), r"no source"),
        (Path("absent.csv"), EventSchema(), r"absent.csv: no such file"),
    ],
)
def test_what_is_wrong_is_told(source, schema, message):
    with pytest.raises(EventLogError, match=message):
        read_events(source, schema)


def test_row_numbers_of_late_times_are_those_of_the_source():
    late = full_frame().with_columns(known=pl.Series([None, "never"]))
    with pytest.raises(EventLogError, match=r"'known' cannot be parsed in 1 rows: 2 "):
        read_events(late, FULL)


def test_a_synthetic_clock_may_begin_at_zero():
    assert read_events(frame(time=[0, 5, 3]), SYNTHETIC).frame["time"].to_list() == [0, 5, 3]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b"user_id,item_id,time\n", "holds no rows"),
        ("a.csv", b"user_id,item_id,time\n1,a,1650000000\n2,b", "cut short: the last row has 2 of 3"),
        ("a.csv", b'user_id,item_id,time\n1,"a,1650000000\n', "CSV|null|cut short"),
        (
            "a.csv.gz",
            gzip.compress(b"user_id,item_id,time\n" + b"1,a,1650000000\n" * 99, mtime=0)[:-12],
            "gzip .* cut short",
        ),
        ("a.csv.gz", b"plain text", "gzip file is damaged"),
        ("a.parquet", b"plain text", "not a Parquet file"),
        ("a.tsv", b"user_id\n1\n", "must end with"),
    ],
)
def test_damaged_files(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(EventLogError, match=re.escape(str(path)) + ".*(" + message + ")"):
        read_events(path, EventSchema())


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_truncated_parquet(tmp_path, kept):
    path = tmp_path / "log.parquet"
    frame(user_id=[1, 2, 3]).write_parquet(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(EventLogError, match="cut short"):
        read_events(path, EventSchema())


def test_parquet_damaged_in_the_middle(tmp_path):
    path = tmp_path / "log.parquet"
    frame().write_parquet(path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(len(data) - 8) + data[-4:])
    with pytest.raises(EventLogError, match="damaged"):
        read_events(path, EventSchema())


def test_csv_without_a_last_line_end_is_whole(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user_id,item_id,time\n1,a,1650000000\n2,b,1650000001")
    assert len(read_events(path, EventSchema())) == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=12))
def test_duplicates_are_counted_kept_and_dropped(rows):
    data = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    kept = read_events(data, SYNTHETIC)
    assert kept.report.num_duplicates == count_duplicates(rows)
    assert kept.frame.select("user_id", "item_id", "time").rows() == rows
    dropped = read_events(data, SYNTHETIC, duplicates="drop")
    assert dropped.frame.select("user_id", "item_id", "time").rows() == list(dict.fromkeys(rows))
    assert dropped.report.num_dropped == len(rows) - len(dropped)
    by_user = read_events(data, SYNTHETIC, duplicates="drop", duplicate_key=["user_id"])
    assert by_user.frame["user_id"].to_list() == list(dict.fromkeys(row[0] for row in rows))


def test_logs_that_do_not_fit_together():
    seconds, milliseconds = (
        read_events(frame(), EventSchema()),
        read_events(frame(), EventSchema(resolution="ms")),
    )
    with pytest.raises(EventLogError, match="time resolution"):
        concat_event_logs([seconds, milliseconds])
    with pytest.raises(EventLogError, match=r"user_id must have one type.*String in part 2"):
        read_events([frame(), frame(user_id=["1", "2", "3"])], EventSchema(), name="part")


def test_concat_fills_what_a_log_lacks():
    first = read_events(frame(item_id=[1, 2, 3], user_id=["x"] * 3), EventSchema(resolution="ms"))
    both = concat_event_logs([first, read_events(full_frame(), FULL)])
    assert both.frame["available_time"].to_list()[:3] == [T * 1000, T * 1000 + 1000, T * 1000 + 2000]
    assert both.frame["price"].to_list() == [None, None, None, 0.5, None]
    assert both.report.num_rows_read == 5


def test_schema_mistakes():
    with pytest.raises(ValueError, match="may not be named"):
        EventSchema(attributes=("time",))


def test_read_table_checks_columns(tmp_path):
    frame().write_csv(tmp_path / "t.csv")
    assert read_table(tmp_path / "t.csv", ["item_id"]).columns == ["item_id"]
    with pytest.raises(EventLogError, match="'items' is missing"):
        read_table(tmp_path / "t.csv", ["items"])


def test_leading_zeros_keep_ids_apart(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,time\n007,1,1650000000\n7,2,1650000001\n")
    log = read_events(path, EventSchema())
    assert log.frame["user_id"].to_list() == ["007", "7"]
    assert log.frame["item_id"].to_list() == [1, 2]


def test_pandas_ids_of_mixed_types_are_told():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"user_id": [1, "2"], "item_id": [1, 2], "time": [1650000000, 1650000001]})
    with pytest.raises(EventLogError, match=r"\['user_id'\] mix types"):
        read_events(frame, EventSchema())


def test_a_default_must_be_known():
    with pytest.raises(ValueError, match="default_behavior='buy'"):
        EventSchema(default_behavior="buy", behaviors=("click",))
