"""MovieLens in each of its forms."""

import gzip
import zipfile
from pathlib import Path

import polars as pl
import pytest

from graph_builders import EventLogError, build_behavior_graph
from graph_builders.datasets import load_movielens, movielens

SHARED = Path(__file__).parents[3] / "shared/data"
START = 978_300_000
RATINGS = [(2, 20, 5, START + 9), (1, 10, 3, START + 5), (1, 20, 4, START + 5), (1, 30, 1, START)]
USERS_1M = ["1::F::1::10::48067", "2::M::56::16::00070"]
MOVIES_1M = [
    "10::Toy Story (1995)::Animation|Children's|Comedy",
    "20::Misérables, Les (1995)::Drama|Musical",
    "30::Hamlet: Part (2) (1964)::Drama",
]
ITEM_100K = [
    "10|Toy Story (1995)|01-Jan-1995||http://x|0|0|0|1|1|1" + "|0" * 13,
    "20|Misérables, Les (1995)|22-Jan-1996||http://x" + "|0" * 8 + "|1" + "|0" * 10,
    "30|unknown||||1" + "|0" * 18,
    "40|Land (1994) (V)|01-Jan-1994||http://x|0|0|0|0|0|1" + "|0" * 13,
]


def write(path, lines, encoding="utf-8"):
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))


def write_1m(folder, ratings="ratings.dat"):
    write(folder / ratings, ["::".join(map(str, row)) for row in RATINGS])
    write(folder / "users.dat", USERS_1M)
    write(folder / "movies.dat", MOVIES_1M, "latin-1")
    return folder


def write_100k(folder):
    write(folder / "u.data", ["\t".join(map(str, row)) for row in RATINGS])
    write(folder / "u.user", ["1|24|M|technician|85711", "2|53|F|other|94043"])
    write(folder / "u.item", ITEM_100K, "latin-1")
    return folder


def write_recbole(folder):
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    write(folder / "ml-100k.inter", [header, *("\t".join(map(str, row)) for row in RATINGS)])
    header = "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"
    write(folder / "ml-100k.user", [header, "1\t24\tM\ttechnician\t85711", "2\t53\tF\tother\t94043"])
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    items = [
        "10\tToy Story\t1995\tAnimation Children's Comedy",
        "20\tMisérables, Les\t1995\tDrama",
        "30\tunkonwn\tunkonwn\tunknown",
        "40\tLand (1994)\tV\tComedy",
    ]
    write(folder / "ml-100k.item", [header, *items])
    return folder


WRITERS = {"ml-1m": write_1m, "ml-100k": write_100k}


@pytest.mark.parametrize(
    ("edition", "writer"), [("ml-1m", write_1m), ("ml-100k", write_100k), ("ml-100k", write_recbole)]
)
def test_ratings_become_clicks_and_skips(tmp_path, edition, writer):
    tables = load_movielens(edition, writer(tmp_path))
    frame = tables.events.frame
    found = frame.select("user_id", "item_id", "time", pl.col("behavior").cast(pl.String), "rating").rows()
    assert found == [  # by time; rows of one second as in the file
        (1, 30, START, "skip", 1.0),
        (1, 10, START + 5, "skip", 3.0),
        (1, 20, START + 5, "click", 4.0),
        (2, 20, START + 9, "click", 5.0),
    ]
    assert frame["domain"].cast(pl.String).unique().to_list() == ["internal"]
    hour = START // 3600 % 24
    assert tables.impressions.columns == ["user_id", "item_id", "time", "label", "hour"]
    assert tables.impressions.select("item_id", "label", "hour").rows() == [
        (30, 0.0, hour), (10, 0.0, hour), (20, 1.0, hour), (20, 1.0, hour),
    ]  # fmt: skip
    assert tables.all_impressions.drop("domain").equals(tables.impressions)
    assert tables.contexts == ("hour",)
    assert any(note.startswith("2 of 4 ratings share user and second") for note in tables.notes)
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    assert graph.num_events == 4


@pytest.mark.parametrize("edition", WRITERS)
def test_the_threshold_is_an_argument(tmp_path, edition):
    folder = WRITERS[edition](tmp_path)
    for threshold in (2.0, 3.0, 3.5, 5.0):
        tables = load_movielens(edition, folder, click_threshold=threshold)
        assert (tables.events.frame["rating"] >= threshold).to_list() == tables.impressions["label"].to_list()
        assert tables.notes[0].startswith(f"A rating of {threshold:g} or more")
    for threshold in (1.0, 5.5, float("nan")):
        with pytest.raises(ValueError, match=r"click_threshold must lie in \(1, 5\]"):
            load_movielens(edition, folder, click_threshold=threshold)


def test_fields_of_1m(tmp_path):
    tables = load_movielens("ml-1m", write_1m(tmp_path))
    assert tables.user_table.columns == ["user_id", "gender", "age", "occupation", "zip_code"]
    assert tables.user_table.rows() == [(1, "F", "1", "10", "48067"), (2, "M", "56", "16", "00070")]
    assert tables.item_table.columns == ["item_id", "release_year", "genres"]
    assert tables.item_table.rows() == [
        (10, 1995, ["Animation", "Children's", "Comedy"]), (20, 1995, ["Drama", "Musical"]),
        (30, 1964, ["Drama"]),
    ]  # fmt: skip
    assert tables.text_tables["item"].rows() == [
        (10, "Toy Story"), (20, "Misérables, Les"), (30, "Hamlet: Part (2)"),
    ]  # fmt: skip


@pytest.mark.parametrize("writer", [write_100k, write_recbole])
def test_fields_of_100k(tmp_path, writer):
    tables = load_movielens("ml-100k", writer(tmp_path))
    assert tables.user_table.columns == ["user_id", "gender", "age", "occupation", "zip_code"]
    assert tables.user_table.rows() == [
        (1, "M", 24, "technician", "85711"), (2, "F", 53, "other", "94043"),
    ]  # fmt: skip
    assert tables.item_table.rows() == [
        (10, 1995, ["Animation", "Children's", "Comedy"]), (20, 1995, ["Drama"]), (30, None, ["unknown"]),
        (40, 1994, ["Comedy"]),
    ]  # fmt: skip
    titles = tables.text_tables["item"]["text"].to_list()
    assert titles[:2] == ["Toy Story", "Misérables, Les"]
    assert titles[3] == "Land"


def test_the_part_of_1m_is_named(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert load_movielens("ml-1m", write_1m(whole)).name == "MovieLens 1M"
    part = load_movielens("ml-1m", write_1m(tmp_path, "ratings_users_1_to_2999.dat"))
    assert part.name == "MovieLens 1M (users 1 to 2999)"
    assert part.notes[-1] == "Only users 1 to 2999 have ratings here."


@pytest.mark.parametrize("edition", WRITERS)
def test_the_official_archive_is_fetched_and_read(tmp_path, monkeypatch, edition):
    folder = tmp_path / edition
    folder.mkdir()
    WRITERS[edition](folder)
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.mkdir(edition)
        for file in folder.iterdir():
            zipped.write(file, f"{edition}/{file.name}")
    asked = []

    def fake_fetch(url, sha256):
        asked.append((url, sha256))
        return archive

    monkeypatch.setattr(movielens, "fetch", fake_fetch)
    fetched = load_movielens(edition)
    assert asked == [
        (f"https://files.grouplens.org/datasets/movielens/{edition}.zip", movielens.SHA256[edition])
    ]
    wanted = load_movielens(edition, folder)
    assert fetched.events.frame.equals(wanted.events.frame)
    assert fetched.item_table.equals(wanted.item_table)
    # the folder that the archive unpacks into will do as well
    assert load_movielens(edition, tmp_path).events.frame.equals(wanted.events.frame)
    content = archive.read_bytes().replace(b"2", b"3")
    archive.write_bytes(content)
    with pytest.raises(EventLogError, match=r"archive.zip.*damaged|archive.zip: neither"):
        load_movielens(edition)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1::10::five::978300000", r"column 'rating' is no number in 1 rows: 5 \(values \['five'\]\)"),
        ("1::10::6::978300000", r"column 'rating' is no rating in 1 rows: 5 \(values \[6.0\]\)"),
        ("1::1x::5::978300000", r"column 'item_id' is no number in 1 rows: 5 \(values \['1x'\]\)"),
        ("1::10::5", r"row 5 has 3 of 4 fields"),
        ("1::10::5::9783", r"column 'time' lies outside time_bounds.* in 1 rows"),
        ("1::10::5::978300000000", r"column 'time' mixes time units"),
    ],
)
def test_errors_name_file_column_and_row(tmp_path, line, message):
    write_1m(tmp_path)
    with (tmp_path / "ratings.dat").open("a") as file:
        file.write(line)
    with pytest.raises(EventLogError, match=rf"ratings.dat: {message}"):
        load_movielens("ml-1m", tmp_path)


def test_errors_of_missing_files_and_columns(tmp_path):
    with pytest.raises(EventLogError, match=r"no such folder or archive: get https://files.grouplens.org"):
        load_movielens("ml-1m", tmp_path / "absent")
    with pytest.raises(EventLogError, match=r"no such file: ratings.dat or .*: get https://files.*ml-1m.zip"):
        load_movielens("ml-1m", tmp_path)
    write_recbole(tmp_path)
    (tmp_path / "ml-100k.user").unlink()
    with pytest.raises(EventLogError, match=r"no such file: ml-100k.user"):
        load_movielens("ml-100k", tmp_path)
    write_recbole(tmp_path)
    text = (tmp_path / "ml-100k.inter").read_text()
    (tmp_path / "ml-100k.inter").write_text(text.replace("rating:float", "stars:float"))
    with pytest.raises(EventLogError, match=r"ml-100k.inter: columns \['rating'\] are missing"):
        load_movielens("ml-100k", tmp_path)
    (tmp_path / "ml-100k.inter").write_text(text.replace("1\t30\t1\t", "1\t30\tone\t"))
    with pytest.raises(EventLogError, match=r"ml-100k.inter: column 'rating' is no number in 1 rows: 5 "):
        load_movielens("ml-100k", tmp_path)
    (tmp_path / "ml-100k.inter").write_text(text.split("\n")[0] + "\n")
    with pytest.raises(EventLogError, match=r"ml-100k.inter: holds no rows"):
        load_movielens("ml-100k", tmp_path)


# ---- the files themselves ------------------------------------------------------------------------

needs_1m = pytest.mark.skipif(not (SHARED / "ml-1m").is_dir(), reason=f"needs {SHARED / 'ml-1m'}")
needs_100k = pytest.mark.skipif(not (SHARED / "ml-100k").is_dir(), reason=f"needs {SHARED / 'ml-100k'}")


def days(tables):
    time = tables.events.frame.select(pl.from_epoch("time", time_unit="s").dt.date()).to_series()
    return str(time.min()), str(time.max())


@needs_1m
def test_counts_of_the_part_of_1m():
    tables = load_movielens("ml-1m", SHARED / "ml-1m")
    frame = tables.events.frame
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (487_650, 2_999, 3_615)
    assert set(frame["user_id"]) == set(range(1, 3_000))
    assert frame["time"].is_sorted()
    assert days(tables) == ("2000-10-04", "2003-02-27")
    assert round(100 * tables.impressions["label"].mean(), 1) == 57.2
    assert "users 1 to 2999" in tables.name
    assert (tables.user_table.height, tables.item_table.height) == (6_040, 3_883)
    assert tables.user_table["gender"].value_counts().sort("count").rows() == [("F", 1_709), ("M", 4_331)]
    assert tables.item_table["release_year"].null_count() == 0
    assert tables.item_table["genres"].explode().n_unique() == 18
    assert set(frame["item_id"]) <= set(tables.item_table["item_id"])
    raw = gzip.decompress((SHARED / "ml-1m/ratings_users_1_to_2999.dat.gz").read_bytes())
    assert raw.startswith(b"1::1193::5::978300760\n")
    first = frame.filter((pl.col("user_id") == 1) & (pl.col("item_id") == 1193))
    assert first.select("time", "rating").rows() == [(978_300_760, 5.0)]


@needs_100k
def test_counts_of_100k():
    tables = load_movielens("ml-100k", SHARED / "ml-100k")
    frame = tables.events.frame
    assert (frame.height, frame["user_id"].n_unique(), frame["item_id"].n_unique()) == (100_000, 943, 1_682)
    assert frame["time"].is_sorted()
    assert days(tables) == ("1997-09-20", "1998-04-22")
    assert round(100 * tables.impressions["label"].mean(), 1) == 55.4
    assert (tables.user_table.height, tables.item_table.height) == (943, 1_682)
    assert tables.item_table.filter(pl.col("release_year").is_null())["item_id"].to_list() == [267]
    row = frame.filter((pl.col("user_id") == 196) & (pl.col("item_id") == 242))
    assert row.select("time", "rating").rows() == [(881_250_949, 3.0)]
