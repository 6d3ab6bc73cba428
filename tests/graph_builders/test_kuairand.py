"""Each point at which the data says something wrongly, or too early."""

import importlib.resources

import polars as pl
import pytest

from graph_builders import EventLogError, build_behavior_graph, build_impressions, day_bounds
from graph_builders.datasets import load_kuairand_pure
from graph_builders.datasets.kuairand import EARLY_FILE, LOG_FILE, USER_FILE
from samplers import EventHistorySampler

FOLDER = importlib.resources.files("graph_builders.datasets") / "kuairand_pure"
LEAKY = (
    "user_active_degree",
    "is_lowactive_period",
    "follow_user_num",
    "fans_user_num_range",
    "friend_user_num",
)


@pytest.fixture(scope="module")
def tables():
    return load_kuairand_pure()


@pytest.fixture(scope="module")
def raw():
    """The log as it came, without repeated rows, by plain means."""
    log = pl.read_parquet(FOLDER / LOG_FILE)
    return log.unique(["user_id", "video_id", "time_ms", "tab"], keep="first", maintain_order=True)


def events(tables, domain, behavior):
    return tables.events.frame.filter((pl.col("domain") == domain) & (pl.col("behavior") == behavior))


def same_rows(left, right):
    columns = left.columns
    assert left.height > 0
    assert left.sort(columns).equals(right.select(columns).sort(columns))


def test_duplicates_are_dropped_and_counted(tables, raw):
    shown = tables.events.frame.filter(
        (pl.col("behavior") == "impression") & pl.col("domain").is_in(["internal", "external"])
    )
    assert shown.height == raw.height == 222_444
    assert not shown.select("user_id", "item_id", "time", "tab").is_duplicated().any()
    assert tables.notes[0].startswith("5885 of 228329 ")


def test_the_clock_is_time_ms_and_local_days_begin_at_16_utc(tables, raw):
    assert tables.time_resolution == "ms"
    assert tables.utc_offset_hours == 8
    assert {"date", "hourmin"}.isdisjoint({*tables.events.frame.columns, *tables.all_impressions.columns})
    local = pl.from_epoch(pl.col("time"), time_unit="ms").dt.replace_time_zone("UTC")
    hour = tables.impressions.select(local.dt.convert_time_zone("Asia/Shanghai").dt.hour().cast(pl.Int64))
    assert hour.to_series().to_list() == tables.impressions["hour"].to_list()
    _, end = day_bounds("2022-05-08", utc_offset_hours=tables.utc_offset_hours, time_resolution="ms")
    assert end - 3_600_000 < tables.events.frame["time"].max() < end
    true_hour = (pl.col("time_ms") + 8 * 3_600_000) // 3_600_000 % 24
    wrong = raw.select((pl.col("hourmin") // 100 != true_hour).mean()).item()
    assert 0.15 < wrong < 0.20  # the column that is not read tells another hour for one row in six


def test_tab_1_is_internal_and_the_others_external(tables, raw):
    internal = events(tables, "internal", "impression")
    assert internal["tab"].unique().to_list() == [1]
    assert internal.height == raw.filter(pl.col("tab") == 1).height
    external = events(tables, "external", "impression")
    assert sorted(external["tab"].unique()) == [0, *range(2, 15)]
    assert set(tables.internal_domains) == {"internal"}


def test_constant_click_labels_are_no_clicks_and_no_labels(tables, raw):
    assert raw.filter(pl.col("tab").is_in([11, 14]))["is_click"].max() == 0
    assert raw.filter(pl.col("tab") == 10)["is_click"].min() == 1
    for behavior in ("click", "skip"):
        assert {10, 11, 14}.isdisjoint(events(tables, "external", behavior)["tab"])
    assert {10, 11, 14}.isdisjoint(tables.all_impressions["tab"])
    assert {10, 11, 14} <= set(events(tables, "external", "impression")["tab"])
    assert {10, 11, 14} <= set(events(tables, "external", "long_view")["tab"])


@pytest.mark.parametrize(
    ("behavior", "column", "value"),
    [
        ("click", "is_click", 1),
        ("skip", "is_click", 0),
        ("long_view", "long_view", 1),
        ("like", "is_like", 1),
    ],
)
@pytest.mark.parametrize("domain", ["internal", "external"])
def test_edges_are_the_rows_of_the_log_and_known_when_they_happen(
    tables, raw, domain, behavior, column, value
):
    rows = raw.filter((pl.col("tab") == 1) == (domain == "internal")).filter(pl.col(column) == value)
    if column == "is_click":
        rows = rows.filter(~pl.col("tab").is_in([10, 11, 14]))
    late = behavior in ("long_view", "like")  # what a play ends in is known when it ends
    known = pl.col("time_ms") + (pl.col("play_time_ms") if late else 0)
    wanted = rows.select(
        "user_id",
        pl.col("video_id").alias("item_id"),
        pl.col("time_ms").alias("time"),
        known.alias("available_time"),
    )
    same_rows(wanted, events(tables, domain, behavior))
    if late:
        assert (wanted["available_time"] > wanted["time"]).mean() > 0.9


def test_impressions_are_internal_rows_labelled_by_clicks(tables, raw):
    wanted = raw.filter(pl.col("tab") == 1).select(
        "user_id",
        pl.col("video_id").alias("item_id"),
        pl.col("time_ms").alias("time"),
        pl.col("is_click").cast(pl.Float32).alias("label"),
    )
    same_rows(wanted, tables.impressions)
    assert tables.impressions["time"].is_sorted()
    assert tables.all_impressions.filter(pl.col("domain") == "internal").height == wanted.height


def test_early_sequences_are_no_clicks_and_keep_their_order(tables):
    sequences = pl.read_parquet(FOLDER / EARLY_FILE)
    early = tables.events.frame.filter(pl.col("domain") == "early")
    assert sorted(early["behavior"].unique().cast(pl.String)) == ["like", "long_watch"]
    last = dict(sequences.select("user_id", "last_time_ms").iter_rows())
    for column, behavior in (("long_watch_seq", "long_watch"), ("like_seq", "like")):
        found = events(tables, "early", behavior)
        grouped = found.group_by("user_id", maintain_order=True).agg("item_id", pl.col("time").unique())
        wanted = {user: items for user, items in sequences.select("user_id", column).iter_rows() if items}
        assert dict(grouped.select("user_id", "item_id").iter_rows()) == wanted
        assert all(times == [last[user]] for user, times in grouped.select("user_id", "time").iter_rows())


def test_exposures_are_an_option(tables):
    with_exposures = load_kuairand_pure(include_exposures=True)
    shown = events(with_exposures, "early", "impression")
    sequences = pl.read_parquet(FOLDER / EARLY_FILE)
    assert shown.height == sequences["watch_seq"].list.len().sum() == 817_187
    assert len(with_exposures.events) - len(tables.events) == shown.height
    assert events(with_exposures, "early", "click").is_empty()


def test_user_fields_of_the_end_of_the_log_are_left_out(tables):
    fields = set(tables.user_table.columns)
    assert {"user_id", "registration_day", *(f"onehot_feat{i}" for i in range(18))} <= fields
    raw_columns = pl.read_csv((FOLDER / USER_FILE).read_bytes(), n_rows=1).columns
    snapshot = {c for c in raw_columns if c != "user_id" and not c.startswith("onehot_feat")}
    assert set(LEAKY) < snapshot
    assert snapshot.isdisjoint(fields)
    leaky = set(load_kuairand_pure(leaky_user_fields=True).user_table.columns)
    assert set(LEAKY) <= leaky
    assert "SEES THE FUTURE" in load_kuairand_pure.__doc__


def test_the_registration_date_is_counted_back_from_the_last_day(tables):
    users = pl.read_csv((FOLDER / USER_FILE).read_bytes(), infer_schema_length=None)
    assert users["user_id"].to_list() == tables.user_table["user_id"].to_list()
    date = pl.date(2022, 5, 8) - pl.duration(days=pl.col("register_days"))
    assert (
        users.select(date).to_series().to_list()
        == tables.user_table["registration_day"].cast(pl.Int32).cast(pl.Date).to_list()
    )


def test_item_fields_were_known_at_upload(tables):
    assert set(tables.item_table.columns) == {
        *("item_id", "author_id", "video_type", "upload_dt", "upload_type", "video_duration"),
        *("server_width", "server_height", "music_id", "music_type", "tag"),
    }
    assert tables.item_table["tag"].dtype == pl.List(pl.String)
    assert tables.item_table.filter(pl.col("item_id") == 7581)["tag"].to_list() == [["12", "62"]]
    assert tables.item_table["upload_dt"].max() < "2022-04-12"  # no new items in the log


def test_the_package_ships_the_licence_and_no_statistics():
    names = {file.name for file in FOLDER.iterdir()}
    assert {"LICENSE", "ATTRIBUTION.md", LOG_FILE} <= names
    assert not any("statistic" in name for name in names)
    assert "Attribution-ShareAlike 4.0" in (FOLDER / "LICENSE").read_text()
    attribution = (FOLDER / "ATTRIBUTION.md").read_text()
    assert "CC BY-SA 4.0" in attribution
    assert "10.1145/3511808.3557624" in attribution


def test_graph_and_impressions_share_rows(tables):
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    rows = build_impressions(
        tables.impressions,
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
        context=tables.contexts,
        time_resolution=tables.time_resolution,
    )
    assert int(rows.user.max()) < graph.ids["user"].unseen_row
    assert int(rows.item.max()) < graph.ids["item"].unseen_row
    # a like is unseen until its play has ended
    by_user = graph.csr(("item", "rev_internal:like", "user"))
    late = graph.edges(("user", "internal:like", "item"))
    user, time, known = (
        c[late.available_time > late.time][:50] for c in (late.user, late.time, late.available_time)
    )
    sampler = EventHistorySampler(by_user)
    during = sampler.sample(user, known).ptr.diff()  # strict: not yet known at the very end of the play
    after = sampler.sample(user, known + 1).ptr.diff()
    assert bool((after > during).all())
    assert bool((time < known).all())


def test_a_folder_can_be_given(tables, tmp_path):
    with pytest.raises(EventLogError, match="no such file"):
        load_kuairand_pure(tmp_path)
    for file in FOLDER.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert load_kuairand_pure(tmp_path).events.frame.equals(tables.events.frame)
    (tmp_path / LOG_FILE).write_bytes((FOLDER / LOG_FILE).read_bytes()[:-100])
    with pytest.raises(EventLogError, match=r"log_standard.*cut short"):
        load_kuairand_pure(tmp_path)
