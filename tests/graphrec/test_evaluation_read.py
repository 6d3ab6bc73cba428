"""Reading predictions: one result whatever the form, the chunks and the memory."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from graphrec.evaluation.predictions import Predictions
from graphrec.evaluation.read import ReadOptions, read_predictions

FIRST_MS = 1_651_600_000_123
NUM_ROWS = 500


def make_frame(seed: int = 0, num_rows: int = NUM_ROWS) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "click": rng.integers(0, 2, num_rows),
            "p": rng.random(num_rows),
            "user_id": rng.integers(0, 50, num_rows) * 10**12 - 7,
            "time_ms": FIRST_MS + rng.integers(0, 5 * 86_400_000, num_rows),
            "tab": rng.choice([2, 10, 1], num_rows),
            "qid": rng.integers(0, 200, num_rows),
        }
    )


def same(left: Predictions, right: Predictions) -> None:
    assert left.fingerprint == right.fingerprint
    np.testing.assert_array_equal(left.label, right.label)
    assert [*left.score] == [*right.score]
    for one, other in zip(left.score.values(), right.score.values(), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    for name in ("user", "request", "hour", "period"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    for one, other in zip(left.slicings, right.slicings, strict=True):
        assert (one.name, one.values) == (other.name, other.values)
        np.testing.assert_array_equal(one.code, other.code)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("predictions")
    frame = make_frame()
    frame.write_parquet(folder / "a.parquet", row_group_size=64)
    frame.write_csv(folder / "a.csv")
    (folder / "a.csv.gz").write_bytes(gzip.compress((folder / "a.csv").read_bytes()))
    frame.write_csv(folder / "a.tsv", separator="\t")
    frame.write_csv(folder / "semicolons.csv", separator=";")
    frame.write_csv(folder / "windows.csv", line_terminator="\r\n", include_bom=True, quote_style="always")
    (folder / "parts").mkdir()
    for number, start in enumerate(range(0, NUM_ROWS, 200)):
        frame.slice(start, 200).write_parquet(folder / "parts" / f"part-{number}.parquet")
    frame.head(0).write_parquet(folder / "parts" / "part-9.parquet")
    arrays = {name: frame[name].to_numpy() for name in frame.columns}
    pandas_frame = pd.DataFrame(arrays)
    return {
        "parquet": folder / "a.parquet",
        "csv": str(folder / "a.csv"),
        "gzip": folder / "a.csv.gz",
        "tsv": folder / "a.tsv",
        "semicolons": folder / "semicolons.csv",
        "windows": folder / "windows.csv",
        "folder": folder / "parts",
        "pattern": str(folder / "parts" / "part-*.parquet"),
        "list of files": sorted((folder / "parts").iterdir()),
        "list of frames": [frame.head(33), frame.slice(33)],
        "polars": frame,
        "lazy": frame.lazy(),
        "pandas": pandas_frame,
        "pandas nullable": pandas_frame.convert_dtypes(),
        "numpy": arrays,
        "lists": {name: frame[name].to_list() for name in frame.columns},
        "tensors": {name: torch.from_numpy(array.copy()) for name, array in arrays.items()},
        "narrow integers": frame.with_columns(pl.col("click").cast(pl.Boolean), pl.col("tab").cast(pl.Int8)),
        "float labels": frame.with_columns(pl.col("click").cast(pl.Float32)),
    }


FORMS = (
    "parquet", "csv", "gzip", "tsv", "semicolons", "windows", "folder", "pattern", "list of files",
    "list of frames", "polars", "lazy", "pandas", "pandas nullable", "numpy", "lists", "tensors",
    "narrow integers", "float labels",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("chunk_rows", "limit"), [(1_000_000, None), (7, None), (150, 0.0)])
def test_every_form_gives_what_the_frame_holds(sources, form, chunk_rows, limit) -> None:
    frame = make_frame()
    read = read_predictions(
        sources[form], ReadOptions(by=("tab", "hour"), memory_limit_gib=limit), chunk_rows=chunk_rows
    )
    np.testing.assert_array_equal(read.label, frame["click"])
    np.testing.assert_array_equal(read.score["p"], frame["p"])
    for codes, column in ((read.user, "user_id"), (read.request, "qid")):
        first_seen = {value: code for code, value in enumerate(frame[column].unique(maintain_order=True))}
        np.testing.assert_array_equal(codes, [first_seen[value] for value in frame[column]])
    np.testing.assert_array_equal(read.hour, frame["time_ms"] // 3_600_000)
    assert read.period is read.hour
    (tab,) = read.slicings
    assert (tab.name, tab.values) == ("tab", ("1", "2", "10"))
    assert [tab.values[code] for code in tab.code] == [str(value) for value in frame["tab"]]
    assert any("temporary files" in note for note in read.notes) == (limit == 0.0)
    same(read, read_predictions(frame, ReadOptions(by=("tab", "hour"))))


def test_the_fingerprint_tells_any_change() -> None:
    frame = make_frame()
    fingerprints = {
        read_predictions(changed, ReadOptions(by=("tab",))).fingerprint
        for changed in (
            frame,
            frame.with_columns(pl.col("p").cast(pl.Float32)),
            frame.with_columns(p=pl.when(pl.int_range(pl.len()) == 499).then(0.5).otherwise("p")),
            frame.with_columns(click=1 - pl.col("click")),
            frame.with_columns(user_id=pl.lit(1)),
            frame.with_columns(time_ms=pl.col("time_ms") + 3_600_000),
            frame.with_columns(tab=pl.col("tab") + 1),
            frame.rename({"p": "score"}),
        )
    }
    assert len(fingerprints) == 8


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Float16, pl.Int8, pl.Decimal(5, 3)])
def test_scores_keep_their_width(dtype) -> None:
    frame = pl.DataFrame({"click": [0, 1, 1], "p": pl.Series([0, 1, 0]).cast(dtype)})
    score = read_predictions(frame).score["p"]
    assert score.dtype == (np.float32 if dtype in (pl.Float32, pl.Float16) else np.float64)
    assert score.tolist() == [0.0, 1.0, 0.0]


def test_logits_pass_through_the_logistic_function() -> None:
    logits = np.array([-800.0, -2.0, 0.0, 3.0, 800.0])
    read = read_predictions({"click": [0, 1, 0, 1, 1], "p": logits}, ReadOptions(score_kind="logit"))
    np.testing.assert_allclose(
        read.score["p"], [0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-3)), 1], rtol=1e-15
    )
    assert read.is_probability
    ranked = read_predictions({"click": [0, 1, 0, 1, 1], "p": logits}, ReadOptions(score_kind="ranking"))
    assert ranked.score["p"].tolist() == logits.tolist()
    assert not ranked.is_probability


def test_ratings_become_clicks_above_the_threshold() -> None:
    read = read_predictions({"label": [1, 3, 4, 5], "p": [0.1] * 4}, ReadOptions(positive_threshold=3.0))
    assert read.label.tolist() == [0, 0, 1, 1]


def test_several_scores_are_read_at_once() -> None:
    frame = make_frame().with_columns(q=1 - pl.col("p"))
    read = read_predictions(frame, ReadOptions(score=("q", "p")))
    assert [*read.score] == ["q", "p"]
    np.testing.assert_array_equal(read.score["q"], frame["q"])


def test_one_name_is_not_its_letters() -> None:
    frame = make_frame()
    assert ReadOptions(score="p", key="qid", by="tab") == ReadOptions(score=("p",), key=("qid",), by=["tab"])
    read = read_predictions(frame, ReadOptions(score="p", by="tab"))
    same(read, read_predictions(frame, ReadOptions(score=("p",), by=("tab",))))
    by_key = read_predictions(
        frame.with_row_index("id"), ReadOptions(key="id"), against=[frame.with_row_index("id")]
    )
    assert any("matched by id" in note for note in by_key.notes)


@pytest.mark.parametrize("form", ["text", "path", "frame", "lazy", "pandas", "mapping", "list", "generator"])
def test_one_further_source_needs_no_list(form, tmp_path: Path) -> None:
    frame = make_frame()
    other = frame.with_columns(q=1 - pl.col("p")).drop("p")
    other.write_parquet(tmp_path / "other.parquet")
    one = {
        "text": str(tmp_path / "other.parquet"),
        "path": tmp_path / "other.parquet",
        "frame": other,
        "lazy": other.lazy(),
        "pandas": pd.DataFrame(other.to_dict(as_series=False)),
        "mapping": other.to_dict(),
        "list": [other],
        "generator": (source for source in [other]),
    }[form]
    read = read_predictions(frame, ReadOptions(score=("p", "q")), against=one)
    assert [*read.score] == ["p", "q"]
    np.testing.assert_array_equal(read.score["q"], 1 - frame["p"].to_numpy())


def test_rows_that_the_order_alone_matches_are_noted_first() -> None:
    frame = make_frame()
    notes = read_predictions(
        frame, against=[frame.select(q="p")], options=ReadOptions(score=("p", "q"))
    ).notes
    (note,) = [note for note in notes if note.startswith("unverified: ")]
    assert "against 1" in note
    assert "the order alone matches" in note
    assert "--key" in note
    for column in ("click", "user_id", "time_ms"):  # each of them verifies
        other = frame.select(column, q="p")
        notes = read_predictions(frame, ReadOptions(score=("p", "q")), against=other).notes
        assert not any(note.startswith("unverified: ") for note in notes)
        assert any(note.endswith(f"same order, verified by {column}") for note in notes)


def test_usual_names_are_guessed_and_noted_and_can_be_refused() -> None:
    frame = make_frame().rename({"click": "Is_Click", "p": "pCTR", "user_id": "UID", "time_ms": "Timestamp"})
    read = read_predictions(frame)
    text = "\n".join(read.notes)
    for role, name in (("label", "Is_Click"), ("score", "pCTR"), ("user", "UID"), ("time", "Timestamp")):
        assert f"{role}: column {name}" in text
    assert "in milliseconds" in text
    without = read_predictions(frame, ReadOptions(user="", time="", request=""))
    assert without.user is None
    assert without.hour is None
    assert without.period is None
    assert without.request is None


def test_progress_is_told_with_the_total_where_it_is_known(sources) -> None:
    calls: list[tuple[int, int | None]] = []
    read_predictions(
        sources["parquet"], progress=lambda done, total: calls.append((done, total)), chunk_rows=200
    )
    assert calls == [(200, 500), (400, 500), (500, 500)]
    calls.clear()
    read_predictions(sources["csv"], progress=lambda done, total: calls.append((done, total)))
    assert calls == [(500, None)]


def test_a_missing_value_is_a_slice_of_its_own(tmp_path: Path) -> None:
    values = ["b", None, "missing", "a", None]
    frame = pl.DataFrame({"click": [0, 1, 0, 1, 1], "p": [0.5] * 5, "by": values})
    frame.write_csv(tmp_path / "a.csv")
    for source in (frame, tmp_path / "a.csv"):
        for chunk_rows in (1, 5):
            (by,) = read_predictions(source, ReadOptions(by=("by",)), chunk_rows=chunk_rows).slicings
            assert by.values == ("a", "b", "missing", "missing (no value)")
            assert by.code.tolist() == [1, 3, 2, 0, 3]
    floats = frame.with_columns(by=pl.Series([1.5, float("nan"), 10.0, None, 2.0]))
    (by,) = read_predictions(floats, ReadOptions(by=("by",))).slicings
    assert by.values == ("1.5", "2.0", "10.0", "missing")
    assert by.code.tolist() == [0, 3, 2, 3, 1]


def test_history_lengths_become_buckets() -> None:
    lengths = [0, 1, 5, 6, 20, 21, 100, 101, 10**9, None]
    frame = pl.DataFrame({"click": [0, 1] * 5, "p": [0.5] * 10, "history": lengths})
    for options in (ReadOptions(history="history"), ReadOptions(by=("history",))):
        (history,) = read_predictions(frame, options).slicings
        assert [history.values[code] for code in history.code] == [
            "0", "1-5", "1-5", "6-20", "6-20", "21-100", "21-100", "101+", "101+", "missing",
        ]  # fmt: skip


class EvenUsers:
    """Slices rows by whether the raw user ID is even."""

    name = "even"
    values = ("odd", "even")

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []

    def slice(self, frame: pl.DataFrame) -> np.ndarray:
        self.frames.append(frame)
        return (frame["user"].to_numpy() % 2 == 0).astype(np.int16)


def test_slicers_see_raw_columns_and_times_in_milliseconds() -> None:
    frame = make_frame().with_columns(pl.int_range(pl.len()).alias("user_id"), item=pl.col("qid") * 3)
    slicer = EvenUsers()
    read = read_predictions(frame, ReadOptions(item="item"), slicers=[slicer], chunk_rows=99)
    seen = pl.concat(slicer.frames)
    assert seen.columns == ["user", "time_ms", "item"]
    assert seen["item"].equals(frame["item"].alias("item"))
    assert seen["time_ms"].equals(frame["time_ms"])
    assert read.slicings[-1].name == "even"
    assert read.slicings[-1].code.tolist() == [1, 0] * 250


def test_the_words_of_time_are_columns_only_without_times() -> None:
    frame = make_frame().with_columns(hour=pl.lit(99), day=pl.lit("monday"))
    assert read_predictions(frame, ReadOptions(by=("hour",))).slicings == ()
    slicings = read_predictions(frame.drop("time_ms"), ReadOptions(by=("hour", "day"))).slicings
    assert [(one.name, one.values) for one in slicings] == [("hour", ("99",)), ("day", ("monday",))]


class TestAgainst:
    def test_rows_in_order_are_verified(self, tmp_path: Path) -> None:
        frame = make_frame()
        other = frame.select("click", "user_id", "time_ms", p=1 - pl.col("p"))
        other.write_csv(tmp_path / "other.csv")
        frame.write_parquet(tmp_path / "mine.parquet")
        for chunk_rows in (17, 1000):
            read = read_predictions(
                tmp_path / "mine.parquet", against=[tmp_path / "other.csv"], chunk_rows=chunk_rows
            )
            assert [*read.score] == ["mine", "other"]
            np.testing.assert_array_equal(read.score["other"], other["p"])
            assert any("verified by click, user_id, time_ms" in note for note in read.notes)

    def test_nothing_shared_is_noted(self) -> None:
        read = read_predictions(make_frame(), against=[{"score": np.full(NUM_ROWS, 0.25)}])
        assert [*read.score] == ["p", "score"]
        assert any("the order alone matches its rows" in note for note in read.notes)

    @pytest.mark.parametrize("key", [("id",), ("id", "text"), ("text", "id", "half")])
    @pytest.mark.parametrize("chunk_rows", [1, 23, 1000])
    @pytest.mark.parametrize("limit", [None, 0.0])
    def test_keys_bring_rows_together(self, key, chunk_rows, limit) -> None:
        frame = make_frame(num_rows=60).with_columns(
            id=(pl.int_range(pl.len()) * 7919) % 1009 * 10**14,
            text=pl.format("u{}", pl.col("user_id")),
            half=pl.int_range(pl.len()) / 2,
        )
        other = frame.with_columns(q=pl.col("p") / 2).drop("p").sample(fraction=1, shuffle=True, seed=1)
        read = read_predictions(
            frame,
            ReadOptions(key=key, score=("p", "q"), memory_limit_gib=limit),
            against=[other],
            chunk_rows=chunk_rows,
        )
        np.testing.assert_array_equal(read.score["q"], frame["p"] / 2)
        np.testing.assert_array_equal(read.score["p"], frame["p"])

    def test_keys_are_compared_across_types(self, tmp_path: Path) -> None:
        frame = make_frame(num_rows=50).with_columns(id=pl.int_range(pl.len()))
        other = frame.with_columns(id=pl.col("id").cast(pl.String), p=pl.col("p") / 2).reverse()
        read = read_predictions(frame, ReadOptions(key=("id",)), against=[other])
        np.testing.assert_array_equal(read.score["against 1"], frame["p"] / 2)

    def test_names_of_scores(self, tmp_path: Path) -> None:
        frame = make_frame().with_columns(q=pl.col("p"))
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            frame.write_parquet(tmp_path / folder / "run.parquet")
        one, two = tmp_path / "one" / "run.parquet", tmp_path / "two" / "run.parquet"
        assert [*read_predictions(one, ReadOptions(score=("p",)), against=[two]).score] == ["run", "run (2)"]
        read = read_predictions(one, ReadOptions(score=("p", "q")), against=[two])
        assert [*read.score] == ["run: p", "run: q", "run: p (2)", "run: q (2)"]


INSTANTS = st.integers(631_152_000, 4_102_444_799)
ZONES = st.sampled_from(
    ["UTC", "Asia/Shanghai", "America/New_York", "Europe/London", "Australia/Lord_Howe", "Asia/Kathmandu",
     "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia"]
)  # fmt: skip


@given(
    instants=st.lists(INSTANTS.map(lambda second: min(second, 2_145_000_000)), min_size=1, max_size=20),
    zone=ZONES,
)
def test_hours_are_those_of_the_zone(instants, zone) -> None:
    read = read_predictions(
        {"click": [0] * len(instants), "p": [0.5] * len(instants), "time": instants},
        ReadOptions(time_zone=zone, period_seconds=1800),
        chunk_rows=7,
    )
    local = [
        datetime.fromtimestamp(instant, ZoneInfo(zone)).replace(tzinfo=UTC).timestamp()
        for instant in instants
    ]
    assert read.hour is not None
    assert read.period is not None
    assert read.hour.tolist() == [second // 3600 for second in local]
    assert read.period.tolist() == [second // 1800 for second in local]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London", "Australia/Lord_Howe"])
def test_the_clock_changes_at_its_second(zone) -> None:
    start = int(datetime(2022, 1, 1, tzinfo=UTC).timestamp())
    half_hours = np.arange(start, start + 366 * 86_400, 1800)
    instants = np.concatenate([half_hours - 1, half_hours])
    read = read_predictions(
        {"click": instants % 2, "p": instants % 2 / 2, "time": instants},
        ReadOptions(time_zone=zone, period_seconds=1),
    )
    assert read.period is not None
    local = [
        int(datetime.fromtimestamp(instant, ZoneInfo(zone)).replace(tzinfo=UTC).timestamp())
        for instant in instants.tolist()
    ]
    assert read.period.tolist() == local


def test_times_of_any_form_are_one_time() -> None:
    moment = datetime(2022, 5, 4, 8, 30, 59, 999_000, tzinfo=UTC)
    second = moment.timestamp()
    local = moment.replace(tzinfo=None)
    in_new_york = moment.astimezone(ZoneInfo("America/New_York"))
    forms: list[object] = [
        int(second),
        second,
        int(second * 1e3),
        int(second * 1e6),
        int(second * 1e9),
        "2022-05-04 08:30:59.999",
        "2022-05-04T08:30:59Z",
        "2022-05-04T16:30:59.999+08:00",
        "2022-05-04 08:30",
        local,
        np.datetime64(local, "s"),
        np.datetime64(local, "ns"),
        pl.Series([in_new_york]).dt.cast_time_unit("ns"),
    ]
    for form in forms:
        values = (
            form
            if isinstance(form, pl.Series)
            else np.array([form])
            if isinstance(form, np.datetime64)
            else [form]
        )
        read = read_predictions({"click": [1], "p": [0.5], "time": values}, ReadOptions(time_zone="+05:30"))
        assert read.hour is not None
        assert read.hour.tolist() == [(int(second) + 19_800) // 3600], form
    day = read_predictions({"click": [1], "p": [0.5], "date": [local.date()]})
    assert day.hour is not None
    assert day.hour.tolist() == [int((datetime(2022, 5, 4) - datetime(1970, 1, 1)) / timedelta(hours=1))]
    assert any("without a time of day" in note for note in day.notes)
    mixed = read_predictions(
        {"click": [1, 0], "p": [0.5] * 2, "time": ["2022-05-04 08:30", "2022-05-04T08:30Z"]}
    )
    assert any("1 without a zone, read as UTC" in note for note in mixed.notes)


def test_one_class_and_unsorted_times_are_noted() -> None:
    read = read_predictions({"click": [1, 1], "p": [0.5, 0.5], "time": [1_651_600_000, 1_651_500_000]})
    assert any("all 2 labels are 1" in note for note in read.notes)
    (note,) = [note for note in read_predictions({"click": [0], "p": [0.5]}).notes if "undefined" in note]
    assert note.startswith("the only label is 0: AUC")
    assert any("not ascending" in note for note in read.notes)


@given(
    ids=st.lists(
        st.one_of(
            st.integers(-(2**63), 2**63 - 1), st.integers(-3, 3), st.integers(2**62, 2**62 + 5)
        ),
        min_size=1, max_size=40,
    ),
    chunk_rows=st.integers(1, 41),
)  # fmt: skip
def test_integers_of_any_size_are_coded_as_they_appear(ids, chunk_rows) -> None:
    columns = {"click": [0] * len(ids), "p": [0.5] * len(ids), "user": np.array(ids, np.int64)}
    read = read_predictions(columns, chunk_rows=chunk_rows)
    first_seen = {value: code for code, value in enumerate(dict.fromkeys(ids))}
    assert read.user is not None
    assert read.user.tolist() == [first_seen[value] for value in ids]


TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
SLICES = st.sampled_from(["a", "", None, "b,c"])


@given(ids=st.lists(TEXTS, min_size=1, max_size=40), chunk_rows=st.integers(1, 41))
def test_texts_are_coded_as_they_appear(ids, chunk_rows, tmp_path_factory) -> None:
    frame = pl.DataFrame({"click": [0] * len(ids), "p": [0.5] * len(ids), "user": ids})
    path = tmp_path_factory.getbasetemp() / "texts.csv"
    frame.write_csv(path)
    first_seen = {value: code for code, value in enumerate(dict.fromkeys(ids))}
    for source in (frame, path):
        read = read_predictions(source, ReadOptions(by=("user",)), chunk_rows=chunk_rows)
        assert read.user is not None
        assert read.user.tolist() == [first_seen[value] for value in ids]
        (by,) = read.slicings
        assert [by.values[code] for code in by.code] == ids


@pytest.mark.parametrize("kind", ["unsigned", "float", "binary", "categorical", "uuid objects", "bool"])
def test_other_identifiers(kind) -> None:
    import uuid

    columns: dict[str, object] = {
        "unsigned": pl.Series([2**64 - 1, 1, 2**64 - 1], dtype=pl.UInt64),
        "float": [0.5, -0.0, 0.5],
        "binary": [b"\xff\x00", b"\x00", b"\xff\x00"],
        "categorical": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
        "uuid objects": [str(uuid.UUID(int=1)), str(uuid.UUID(int=2)), str(uuid.UUID(int=1))],
        "bool": [True, False, True],
    }
    read = read_predictions(
        {"click": [0, 1, 1], "p": [0.5] * 3, "user": columns[kind]}, ReadOptions(by=("user",)), chunk_rows=2
    )
    assert read.user is not None
    assert read.user.tolist() == [0, 1, 0]
    assert len(read.slicings[0].values) == 2


def test_ids_of_a_text_file_that_stop_being_integers_are_text_from_the_start(tmp_path: Path) -> None:
    ids = [str(number) for number in range(3000)] + ["x7", "5"]
    frame = pl.DataFrame({"click": [0] * 3002, "p": [0.5] * 3002, "user": ids})
    frame.write_csv(tmp_path / "a.csv")
    for chunk_rows in (100, 10_000):
        read = read_predictions(tmp_path / "a.csv", chunk_rows=chunk_rows)
        assert read.user is not None
        assert read.user.tolist() == [*range(3001), 5]


def test_quoted_fields_may_hold_separators_quotes_and_lines(tmp_path: Path) -> None:
    values = ['a,"b"', "two\nlines", 'say ""', "plain", "5' 3\""] * 20
    frame = pl.DataFrame({"click": [0, 1] * 50, "p": np.linspace(0, 1, 100), "by": values})
    frame.write_csv(tmp_path / "a.csv")
    for chunk_rows in (1, 3, 1000):
        read = read_predictions(tmp_path / "a.csv", ReadOptions(by=("by",)), chunk_rows=chunk_rows)
        same(read, read_predictions(frame, ReadOptions(by=("by",))))


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 1), st.floats(0, 1), st.integers(-5, 5), SLICES), min_size=1, max_size=30
    ),
    chunk_rows=st.integers(1, 31),
)
def test_parquet_and_text_files_give_what_was_written(rows, chunk_rows, tmp_path_factory) -> None:
    frame = pl.DataFrame(
        rows,
        schema={"click": pl.Int64, "p": pl.Float64, "user": pl.Int64, "by": pl.String},
        orient="row",
    )
    folder = tmp_path_factory.getbasetemp()
    expected = frame.with_columns(by=pl.when(pl.col("by") != "").then("by"))
    expected.write_parquet(folder / "round.parquet")
    expected.write_csv(folder / "round.csv")
    options = ReadOptions(by=("by",))
    read = read_predictions(folder / "round.parquet", options, chunk_rows=chunk_rows)
    same(read, read_predictions(folder / "round.csv", options, chunk_rows=chunk_rows))
    np.testing.assert_array_equal(read.score["p"], frame["p"])
    np.testing.assert_array_equal(read.label, frame["click"])
    (by,) = read.slicings
    assert [by.values[code] for code in by.code] == [value or "missing" for *_, value in rows]
