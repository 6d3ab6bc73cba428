"""Amazon pairs: reading, and negatives that know nothing of what comes later."""

import gzip
import hashlib
import json
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import torch

from graph_builders import EventLogError, build_behavior_graph, build_impressions
from graph_builders.datasets import amazon, load_amazon_pair, month_start, months
from graph_builders.datasets.negatives import sample_impressions

SHARED = Path(__file__).parents[3] / "shared/data/amazon-abxi-cross-domain"
DAY = 86_400
START = 1_356_998_400  # 2013-01-01
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the files in {SHARED}")

ITEMS = {f"A{number}": [number, int(number > 4)] for number in range(1, 9)}  # 1..4 food, 5..8 kitchen
EVENTS = {  # user: (item, day)
    0: [(1, 0), (2, 0), (5, 3), (3, 40)],
    1: [(1, 1), (5, 2), (6, 2), (4, 5), (2, 40)],
    2: [(3, 1), (4, 6), (1, 6), (2, 7), (7, 30), (6, 31)],
}


def event_lines(events=EVENTS):
    return [
        " ".join([str(user), *(f"{item}|{START + day * DAY}" for item, day in pairs)])
        for user, pairs in events.items()
    ]


def write_pair(folder, lines=None, items=ITEMS, pair="afk"):
    lines = event_lines() if lines is None else lines
    (folder / f"{pair}_50_preprocessed.txt").write_text("\n".join(lines) + "\n")
    (folder / "map_item_50.txt").write_text(json.dumps(items))
    return folder


@pytest.fixture
def tables(tmp_path):
    return load_amazon_pair("afk", write_pair(tmp_path), num_negatives=2)


def check_negatives(tables):
    """Every negative existed before its day, and was not the user's by the end of the day."""
    events = tables.events.frame.select("user_id", "item_id", "time", pl.col("domain").cast(pl.String))
    rows = tables.all_impressions
    negatives, positives = rows.filter(pl.col("label") == 0), rows.filter(pl.col("label") == 1)
    first = events.group_by("item_id", "domain").agg(first=pl.col("time").min())
    for part in (negatives, positives):
        seen = part.join(first, on=["item_id", "domain"], how="left")  # an item of its own domain
        assert seen["first"].null_count() == 0
        assert (seen["first"] < seen["time"]).all()
    known = negatives.join(events, on=["user_id", "item_id"], suffix="_event")
    assert (known["time_event"] > known["time"]).all()
    assert positives.join(events, on=["user_id", "item_id", "time", "domain"], how="anti").is_empty()
    assert not rows.select("user_id", "item_id", "time").is_duplicated().any()


# ---- tiny files ----------------------------------------------------------------------------------


def test_events_are_the_pairs_of_the_file_in_order_of_time(tables):
    frame = tables.events.frame
    found = set(frame.select("user_id", "item_id", "time").iter_rows())
    assert found == {(user, i, START + d * DAY) for user, pairs in EVENTS.items() for i, d in pairs}
    assert len(frame) == len(found)
    assert frame["time"].is_sorted()
    assert frame["behavior"].cast(pl.String).unique().to_list() == ["review"]
    domains = {i: ("internal", "external")[d] for i, d in ITEMS.values()}
    assert [domains[i] for i in frame["item_id"]] == frame["domain"].cast(pl.String).to_list()
    # a review of a day is not known before the day has ended
    assert (frame["available_time"] == frame["time"] + DAY - 1).all()


def test_the_other_domain_can_be_internal(tmp_path):
    tables = load_amazon_pair("afk", write_pair(tmp_path), internal="kitchen")
    internal = tables.events.frame.filter(pl.col("domain") == "internal")
    assert set(internal["item_id"]) == {5, 6, 7}
    assert set(tables.impressions["item_id"]) <= {5, 6, 7}
    assert "kitchen internal" in tables.name


def test_first_events_of_an_item_are_no_positives_and_are_counted(tables):
    positives = tables.all_impressions.filter(pl.col("label") == 1)
    found = {(u, i, (t - START) // DAY) for u, i, t in positives.select("user_id", "item_id", "time").rows()}
    # first days: 1 and 2 on day 0, 3 on day 1, 4 on day 5, 5 and 6 on day 2, 7 on day 30
    assert found == {
        (1, 1, 1),
        (0, 3, 40),
        (1, 2, 40),
        (2, 4, 6),
        (2, 1, 6),
        (2, 2, 7),
        (0, 5, 3),
        (2, 6, 31),
    }
    assert any(note.startswith("4 of 10 internal events") for note in tables.notes)
    assert any(note.startswith("3 of 5 external events") for note in tables.notes)


def test_negatives_of_the_tiny_file(tables):
    check_negatives(tables)
    rows = tables.impressions.with_columns(day=(pl.col("time") - START) // DAY)
    negative = rows.filter(pl.col("label") == 0).group_by("user_id", "day").agg(pl.col("item_id").sort())
    found = {(user, day): items for user, day, items in negative.iter_rows()}
    # where two or fewer are allowed, all of them come: what exists less what the user has or gets that day
    assert found == {
        (1, 1): [2],  # 1 and 2 exist, 1 is the positive; 3 has its first review on this very day
        (2, 6): [2],  # 1..4 exist; 1 and 4 are of this day and 3 was the user's before
        (0, 40): [4],
        (1, 40): [3],
    }
    # the user of day 7 has all four: no negative, and the missing ones are counted
    # wanted 2 for each of 6 positives, drawn 4
    assert any("8 negatives could not be drawn" in note for note in tables.notes)


def test_impressions_are_ordered_by_time_and_not_by_label(tables):
    assert tables.impressions["time"].is_sorted()
    assert tables.impressions.columns == ["user_id", "item_id", "time", "label", "month"]
    within = tables.impressions.group_by("time", "user_id", maintain_order=True).agg("item_id")
    assert all(items == sorted(items) for items in within["item_id"].to_list())
    assert set(tables.impressions["label"]) == {0.0, 1.0}
    assert set(tables.impressions["month"]) == {0, 1}
    assert tables.contexts == ("month",)


def test_the_item_table_has_asin_and_domain(tables):
    wanted = [(number, asin, ("food", "kitchen")[domain]) for asin, (number, domain) in ITEMS.items()]
    assert tables.item_table.rows() == wanted


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_packed_files_are_read(tables, tmp_path, packed):
    names = ("afk_50_preprocessed.txt", "map_item_50.txt")
    target = tmp_path / "packed"
    if packed == "gz":
        target.mkdir()
        for name in names:
            (target / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    else:
        with zipfile.ZipFile(target, "w") as archive:
            for name in names:
                archive.write(tmp_path / name, name)
    again = load_amazon_pair("afk", target, num_negatives=2)
    assert again.events.frame.equals(tables.events.frame)
    assert again.all_impressions.equals(tables.all_impressions)


def test_without_a_path_the_pinned_files_are_fetched(tmp_path, monkeypatch):
    asked = []

    def fake_fetch(url, sha256, *, file_name):
        asked.append((url.removeprefix(amazon.BASE_URL), sha256, file_name))
        return write_pair(tmp_path, pair="abe") / url.rsplit("/", 1)[1]

    monkeypatch.setattr(amazon, "fetch", fake_fetch)
    assert load_amazon_pair("abe").item_table["domain"].unique().sort().to_list() == ["beauty", "electronics"]
    names = ("abe_50_preprocessed.txt", "map_item_50.txt")
    assert asked == [(f"/abe/{n}", amazon.SHA256[f"abe/{n}"], f"abxi_abe_{n}") for n in names]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3 1|x", r"column 'time' is no number in 1 rows: 4 \(values \['x'\]\)"),
        ("3 1:1", r"column 'item\|time' is no pair in 1 rows: 4 \(values \['1:1'\]\)"),
        ("3", r"column 'item\|time' is missing in 1 rows: 4"),
        ("u 1|1356998400", r"column 'user_id' is no number in 1 rows: 4 \(values \['u'\]\)"),
        ("2 1|1356998400", r"column 'user' occurs twice in 2 rows: 3, 4"),
        ("3 99|1356998400", r"column 'item' is not in map_item_50.txt in 1 rows: 4 \(values \[99\]\)"),
        ("3 1|1356998401", r"column 'time' is no whole day in 1 rows: 4"),
        ("3 1|86400", r"column 'time' lies outside time_bounds"),
    ],
)
def test_errors_name_file_column_row_and_remedy(tmp_path, line, message):
    write_pair(tmp_path, [*event_lines(), line])
    with pytest.raises(EventLogError, match=rf"afk_50_preprocessed.txt: {message}") as error:
        load_amazon_pair("afk", tmp_path)
    assert "Remedy: " in str(error.value)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"A": [1, 2]}, r"1 entries are no \[number, domain 0 or 1\], first that of 'A'"),
        ({"A": "x"}, "first that of 'A': 'x'"),
        ({"A": [1, 0], "B": [1, 1]}, r"the items \['A', 'B'\] share the number 1"),
        ([1], "holds a list, not a JSON object"),
    ],
)
def test_errors_of_the_item_map(tmp_path, items, message):
    with pytest.raises(EventLogError, match=rf"map_item_50.txt: .*{message}"):
        load_amazon_pair("afk", write_pair(tmp_path, items=items))


def test_errors_of_damaged_and_missing_files(tmp_path):
    with pytest.raises(EventLogError, match=r"no such folder.*get afk_50_preprocessed.txt.*ABXI"):
        load_amazon_pair("afk", tmp_path / "absent")
    with pytest.raises(EventLogError, match=r"no such file: abe_50_preprocessed.txt.*raw.githubusercontent"):
        load_amazon_pair("abe", write_pair(tmp_path))
    (tmp_path / "map_item_50.txt").write_text('{"A": [1, 0')
    with pytest.raises(EventLogError, match=r"map_item_50.txt: no valid JSON"):
        load_amazon_pair("afk", tmp_path)
    (tmp_path / "map_item_50.txt").write_bytes(b'{"\xff": [1, 0]}')
    with pytest.raises(EventLogError, match=r"map_item_50.txt: row 1 is no utf-8 text"):
        load_amazon_pair("afk", tmp_path)
    (tmp_path / "map_item_50.txt").write_text("")
    with pytest.raises(EventLogError, match=r"map_item_50.txt: the file is empty"):
        load_amazon_pair("afk", tmp_path)
    (tmp_path / "map_item_50.txt").unlink()
    packed = gzip.compress(json.dumps(ITEMS).encode())
    (tmp_path / "map_item_50.txt.gz").write_bytes(packed[:-12])
    with pytest.raises(EventLogError, match=r"map_item_50.txt.gz: the gzip file is cut short"):
        load_amazon_pair("afk", tmp_path)
    (tmp_path / "map_item_50.txt.gz").write_bytes(b"no gzip")
    with pytest.raises(EventLogError, match=r"map_item_50.txt.gz: the file is damaged"):
        load_amazon_pair("afk", tmp_path)
    (tmp_path / "file.zip").write_bytes(b"no zip")
    with pytest.raises(EventLogError, match=r"file.zip: neither a folder nor a zip archive"):
        load_amazon_pair("afk", tmp_path / "file.zip")


def test_arguments_are_checked(tmp_path):
    write_pair(tmp_path)
    with pytest.raises(ValueError, match=r"internal must be one of \('food', 'kitchen'\)"):
        load_amazon_pair("afk", tmp_path, internal="beauty")
    with pytest.raises(ValueError, match="num_negatives must be at least 1, got 0"):
        load_amazon_pair("afk", tmp_path, num_negatives=0)


# ---- sampling ------------------------------------------------------------------------------------


@pytest.fixture
def random_events():
    generator = torch.Generator().manual_seed(1)
    user, item, day = (torch.randint(high, (4000,), generator=generator) for high in (60, 400, 90))
    item = (item * item) // 400  # small numbers are frequent
    frame = pl.DataFrame(
        {"user_id": user.numpy(), "item_id": item.numpy(), "time": (START + day * DAY).numpy()}
    )
    return frame.unique(["user_id", "item_id"], maintain_order=True)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_sampling_knows_nothing_of_the_future(random_events, distribution):
    arguments = {"num_negatives": 3, "distribution": distribution, "random_seed": 5}
    whole = sample_impressions(random_events, **arguments)
    cut = START + 50 * DAY
    past = sample_impressions(random_events.filter(pl.col("time") < cut), **arguments)
    assert past.frame.height > 1000
    assert past.frame.equals(whole.frame.filter(pl.col("time") < cut))


def test_sampling_is_seeded_and_does_not_see_the_order_of_rows(random_events):
    first = sample_impressions(random_events, num_negatives=3, random_seed=1)
    shuffled = random_events.sample(fraction=1, shuffle=True, seed=3)
    assert sample_impressions(shuffled, num_negatives=3, random_seed=1).frame.equals(first.frame)
    other = sample_impressions(random_events, num_negatives=3, random_seed=2)
    assert not other.frame.equals(first.frame)
    positives = [part.frame.filter(pl.col("label") == 1) for part in (first, other)]
    assert positives[0].equals(positives[1])


def test_each_positive_has_its_negatives(random_events):
    sampled = sample_impressions(random_events, num_negatives=3)
    groups = sampled.frame.group_by("user_id", "time").agg(
        pl.col("label").sum(), num_rows=pl.len(), num_items=pl.col("item_id").n_unique()
    )
    late = groups.filter(pl.col("time") > START + 30 * DAY)
    assert late["label"].max() > 1  # days with several positives
    assert (late["num_rows"] == 4 * late["label"]).all()
    assert (groups["num_items"] == groups["num_rows"]).all()
    num_positives = int(groups["label"].sum())
    assert num_positives + sampled.num_left_out == sampled.num_events == random_events.height
    assert groups["num_rows"].sum() == 4 * num_positives - sampled.num_missing


def test_popularity_draws_what_many_have_and_uniform_does_not():
    # items 0..9: item k had (k + 1) ** 2 reviews of other users before; then 300 users take a new item each
    before = [(1000 + j, k, START) for k in range(10) for j in range((k + 1) ** 2)]
    new = [(2000 + j, 10, START + DAY * (j > 0)) for j in range(301)]
    events = pl.DataFrame([*before, *new], schema=["user_id", "item_id", "time"], orient="row")
    count = {}
    for distribution in ("uniform", "popularity"):
        frame = sample_impressions(events, num_negatives=1, distribution=distribution).frame
        count[distribution] = Counter(frame.filter(pl.col("label") == 0)["item_id"])
        assert count[distribution].total() == 300
    # shares of the upper five: one half, and by counts to the power 0.75 more than 5 in 6
    upper = {name: sum(c[k] for k in range(5, 10)) / 300 for name, c in count.items()}
    power = [(k + 1) ** 1.5 for k in range(10)]
    for name, share in (("uniform", 0.5), ("popularity", sum(power[5:]) / sum(power))):
        assert abs(upper[name] - share) < 4 * (share * (1 - share) / 300) ** 0.5


# ---- months --------------------------------------------------------------------------------------


def seconds(*date):
    return int(datetime(*date, tzinfo=UTC).timestamp())


def test_months_are_calendar_months():
    time = torch.tensor([[seconds(2012, 2, 29, 23, 59, 59)], [seconds(2012, 3, 1)]])
    assert month_start(time).tolist() == [[seconds(2012, 2, 1)], [seconds(2012, 3, 1)]]
    bounds = [seconds(2011, 12, 1), *(seconds(2012, m, 1) for m in (1, 2, 3))]
    pairs = [tuple(bounds[i : i + 2]) for i in range(3)]
    assert list(months(seconds(2011, 12, 15), seconds(2012, 2, 10))) == pairs
    assert list(months(bounds[0], bounds[3])) == pairs  # the end is excluded
    assert list(months(bounds[0], bounds[0])) == []
    assert list(months(bounds[0], bounds[0] + 1)) == pairs[:1]
    assert month_start(torch.tensor([], dtype=torch.int64)).tolist() == []
    with pytest.raises(ValueError, match="lies before the start"):
        months(1, 0)


# ---- the files themselves ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["afk", "abe"])
def real(request):
    return request.param, load_amazon_pair(request.param, SHARED / request.param)


@needs_shared
def test_counts_are_those_of_the_description(real):
    pair, tables = real
    counts = {  # users; items, events by domain; first and last day
        "afk": (7_144, (11_837, 16_258), (83_663, 89_885), "2000-05-02"),
        "abe": (4_474, (10_379, 14_188), (50_329, 63_800), "2000-01-06"),
    }
    num_users, num_items, num_events, first_day = counts[pair]
    frame = tables.events.frame
    for index, domain in enumerate(("internal", "external")):
        part = frame.filter(pl.col("domain") == domain)
        assert part.height == num_events[index]
        assert part["item_id"].n_unique() == num_items[index]
        assert part["user_id"].n_unique() == num_users  # every user is in both
        name = amazon.DOMAINS[pair][index]
        assert tables.item_table.filter(pl.col("domain") == name).height == num_items[index]
    per_user = frame.group_by("user_id").len()["len"]
    assert (per_user.min(), per_user.max()) == (10, 50)
    assert frame["time"].is_sorted()
    days = frame.select(pl.from_epoch("time", time_unit="s").dt.date()).to_series()
    assert (str(days.min()), str(days.max())) == (first_day, "2014-07-23")
    share = frame.select(pl.struct("user_id", "time").is_duplicated().mean()).item()
    assert 0.44 < share < 0.46


@needs_shared
def test_impressions_of_the_files(real):
    pair, tables = real
    check_negatives(tables)
    frame, rows = tables.events.frame, tables.all_impressions
    assert rows["time"].is_sorted()
    assert tables.impressions.equals(rows.filter(pl.col("domain") == "internal").drop("domain"))
    positives = int(rows["label"].sum())
    is_first = pl.col("time") == pl.col("time").min().over("item_id")
    num_first = frame.select(is_first.sum()).item()
    assert positives == frame.height - num_first
    assert 0.16 < num_first / frame.height < 0.23  # as described
    assert abs(rows["label"].mean() - 0.2) < 1e-4
    lost = frame["user_id"].n_unique() - tables.impressions["user_id"].n_unique()
    assert lost == {"afk": 3, "abe": 12}[pair]
    assert any(note.startswith(f"{lost} of ") for note in tables.notes)


@needs_shared
def test_checksums_are_those_of_the_files():
    for name, sha256 in amazon.SHA256.items():
        content = gzip.decompress((SHARED / f"{name}.gz").read_bytes())
        assert hashlib.sha256(content).hexdigest() == sha256


@needs_shared
def test_a_graph_knows_every_row(real):
    _, tables = real
    graph = build_behavior_graph(tables.events, item_table=tables.item_table)
    assert graph.domains == ("external", "internal")
    rows = build_impressions(
        tables.impressions,
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
        context=tables.contexts,
        time_resolution=tables.time_resolution,
    )
    assert int(rows.user.max()) < graph.ids["user"].unseen_row
    assert int(rows.item.max()) < graph.ids["item"].unseen_row
    assert bool((month_start(rows.time) <= rows.time).all())
