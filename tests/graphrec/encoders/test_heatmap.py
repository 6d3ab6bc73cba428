"""Heatmaps beside a slow loop, on days when clocks turn, as text, on disk and dense."""

from collections import defaultdict
from dataclasses import replace
from datetime import datetime, timedelta

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import FeatureTable
from graphrec.encoders.base import History
from graphrec.encoders.heatmap import (
    HeatmapChannel,
    HeatmapEncoding,
    Heatmaps,
    concatenate_heatmaps,
    heatmap_texts,
    parse_heatmap_texts,
)
from graphrec.encoders.heatmap_files import CorruptedHeatmapsError, open_heatmaps, save_heatmaps
from graphrec.encoders.input_reader import InputReader
from samplers import EventHistory
from samplers.tables import with_zero
from tests.graphrec.encoders.toy_heatmaps import (
    BUY,
    CHANNELS,
    GENRES,
    LONDON,
    RETURN,
    TAGS,
    ZONE,
    at,
    encoding_of,
    graph_of,
)

DAY = 86_400
# around the two turns of London's clocks in 2011, and between them
TURNS = [at("2011-03-27 12:00"), at("2011-10-30 12:00"), at("2011-07-01 12:00")]


def encode(encoding, graph, user, time):
    reader = InputReader(graph, "user", {"some": encoding.request})
    inputs = reader.read(torch.tensor(user), torch.tensor(time))
    return encoding.encode(inputs.histories["some"], inputs.time, inputs.units_per_second)


def cells_of(heatmaps, query=0):
    """A query's cells as {(day, hour, channel): value}."""
    part = slice(*heatmaps.ptr[query : query + 2].tolist())
    columns = (heatmaps.day, heatmaps.hour, heatmaps.channel)
    return dict(
        zip(
            zip(*(c[part].tolist() for c in columns), strict=True), heatmaps.value[part].tolist(), strict=True
        )
    )


def belongs(number, event):
    _, item, _, is_return, amount, shop = event
    return (
        True,
        not is_return,
        not is_return and GENRES[item] == "food" and amount is not None,
        is_return and amount is not None,
        amount is not None,
        amount is not None and "new" in TAGS[item],
        shop in ("x", "z"),
    )[number]


def slow_cells(events, user, time, num_days):
    """Every event of the window into one cell of each channel that it belongs to."""
    inside = defaultdict(list)
    now = datetime.fromtimestamp(time, LONDON).replace(tzinfo=None)
    seen = [e for e in events if e[0] == user and time - num_days * DAY <= e[2] < time]
    # ties in time are in the order of the log, purchases before returns
    for event in sorted(seen, key=lambda e: (e[2], e[3])):
        local = datetime.fromtimestamp(event[2], LONDON).replace(tzinfo=None)
        day = min(max((now - timedelta(seconds=1) - local) // timedelta(days=1), 0), num_days - 1)
        for number in range(len(CHANNELS)):
            if belongs(number, event):
                inside[day, local.hour, number].append(event)
    values = {}
    for (day, hour, number), own in inside.items():
        amounts = [event[4] for event in own]
        aggregate = CHANNELS[number].aggregate
        if aggregate == "count":
            values[day, hour, number] = float(len(own))
        elif aggregate == "last":
            values[day, hour, number] = amounts[-1]
        else:
            values[day, hour, number] = sum(amounts) / (1 if aggregate == "sum" else len(own))
    return {cell: value for cell, value in values.items() if value}


moments = st.builds(
    lambda turn, hours, seconds: turn + 3600 * hours + seconds,
    st.sampled_from(TURNS),
    st.integers(-60, 24),
    st.sampled_from([-1, 0, 1, 1234]),
)
events_lists = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(0, 2),
        moments,
        st.booleans(),
        st.sampled_from([None, 0.0, 1.5, 2.0, 7.25]),
        st.sampled_from([None, "x", "y", "z"]),
    ),
    max_size=30,
)


@settings(max_examples=12)  # each builds a graph, and asks it six times
@given(events=events_lists, times=st.lists(moments, min_size=3, max_size=3), num_days=st.integers(1, 4))
def test_every_event_of_the_window_is_in_one_cell_of_each_matching_channel(events, times, num_days):
    # the log's order decides between events of one time, relation by relation: unique times keep it simple
    events = list({(e[0], e[2]): e for e in events}.values())
    queries = [(user, time) for time in times for user in (1, 0)]
    heatmaps = encode(encoding_of(num_days), graph_of(events), *map(list, zip(*queries, strict=True)))
    for query, (user, when) in enumerate(queries):
        assert cells_of(heatmaps, query) == pytest.approx(slow_cells(events, user, when, num_days))
        seen = [e for e in events if e[0] == user and when - num_days * DAY <= e[2] < when]
        of_query = heatmaps.query_of_cell() == query
        for number, channel in enumerate(CHANNELS[:4]):
            matching = [e for e in seen if belongs(number, e)]
            wanted = len(matching) if channel.aggregate == "count" else sum(e[4] for e in matching)
            total = heatmaps.value[of_query & (heatmaps.channel == number)].sum()
            assert total == pytest.approx(wanted)


def test_day_0_is_the_newest_and_the_window_is_half_open():
    time = at("2011-07-10 04:00")
    moments = [time, time - 1, time - DAY, time - DAY - 1, time - 2 * DAY, time - 2 * DAY - 1]
    graph = graph_of([(0, 0, moment, False, 1.0, None) for moment in moments])
    heatmaps = encode(encoding_of(2, CHANNELS[:1]), graph, [0, 1], [time, time])
    # the event at the query's time and the one before the window are not there; user 1 has none
    assert cells_of(heatmaps) == {(0, 3, 0): 1, (0, 4, 0): 1, (1, 3, 0): 1, (1, 4, 0): 1}
    assert cells_of(heatmaps, 1) == {}
    assert heatmaps.dense().sum(dim=(1, 2, 3)).tolist() == [4, 0]


@pytest.mark.parametrize(
    ("query", "event", "cell"),
    [
        # 23 hours after: the clock on the wall shows a whole day
        ("2011-03-27 12:00", "2011-03-26 12:00", (0, 12)),
        ("2011-03-27 12:00", "2011-03-26 11:59", (1, 11)),
        # 25 hours after
        ("2011-10-30 12:00", "2011-10-29 12:00", (0, 12)),
        ("2011-10-30 12:00", "2011-10-29 11:59", (1, 11)),
    ],
)
def test_days_are_of_the_clock_on_the_wall(query, event, cell):
    graph = graph_of([(0, 0, at(event), False, 1.0, None)])
    assert cells_of(encode(encoding_of(3, CHANNELS[:1]), graph, [0], [at(query)])) == {(*cell, 0): 1}


def test_where_clocks_turned_within_the_window_no_event_is_lost():
    again = at("2011-10-30 01:00") + 3600  # 1 o'clock for the second time
    graph = graph_of([(0, 0, again - 600, False, 1.0, None)])
    # by the clock, 1:50 comes after 1:05: the event is of the newest day
    assert cells_of(encode(encoding_of(2, CHANNELS[:1]), graph, [0], [again + 300])) == {(0, 1, 0): 1}
    time = at("2011-03-27 12:00")
    graph = graph_of([(0, 0, time - DAY, False, 1.0, None), (0, 0, time - DAY - 1, False, 1.0, None)])
    # by the clock, 25 hours have passed since the window began: the event is of the oldest day
    assert cells_of(encode(encoding_of(1, CHANNELS[:1]), graph, [0], [time])) == {(0, 11, 0): 1}
    assert cells_of(encode(encoding_of(2, CHANNELS[:1]), graph, [0], [time])) == {
        (1, 11, 0): 1,
        (1, 10, 0): 1,
    }


def test_times_may_be_milliseconds():
    time = at("2011-07-10 04:00")
    log = [(0, item, time - seconds, False, 2.0, "x") for item, seconds in ((0, 1), (1, DAY), (2, 40_000))]
    encoding = encoding_of(2)
    history = InputReader(graph_of(log), "user", {"some": encoding.request})
    events = history.read(torch.tensor([0]), torch.tensor([time])).histories["some"]
    milliseconds = replace(events, events=replace(events.events, time=events.events.time * 1000 + 999))
    whole = encoding.encode(events, torch.tensor([time]))
    assert len(whole.value) > 3
    same(encoding.encode(milliseconds, torch.tensor([time * 1000]), 1000), whole)


def test_a_million_events_are_a_few_cells():
    num_events = 1_000_000
    time = torch.arange(num_events) % (3 * 3600) + at("2011-07-01 12:00")
    history = EventHistory(
        torch.tensor([0, 0, num_events]),
        *(torch.zeros(num_events, dtype=torch.int64), time.sort().values),
        torch.arange(num_events),
        torch.zeros(num_events, dtype=torch.int64),
    )
    encoding = encoding_of(365, CHANNELS[:2])
    now = torch.full((2,), at("2011-07-02 00:00"))
    heatmaps = encoding.encode(History(events=history, columns=FeatureTable(num_events)), now)
    assert heatmaps.ptr.tolist() == [0, 0, 6]
    assert set(cells_of(heatmaps, 1)) == {(0, hour, channel) for hour in (12, 13, 14) for channel in (0, 1)}
    assert heatmaps.value.sum() == 2 * num_events


@pytest.mark.parametrize("aggregate", ["sum", "mean", "last"])
@pytest.mark.parametrize("amounts", [(torch.inf,), (1.0, -torch.inf), (3e38, 3e38), (1e39,)])
def test_numbers_that_no_image_can_hold_are_refused(aggregate, amounts):
    time = at("2011-07-10 04:00")
    channel = HeatmapChannel(name="spent", aggregate=aggregate, attribute="amount")
    graph = graph_of([(0, 0, time - 9 + place, False, amount, "x") for place, amount in enumerate(amounts)])
    encoding = encoding_of(2, (HeatmapChannel(name="events"), channel))
    if amounts[0] == amounts[-1] == 3e38 and aggregate != "sum":  # it is the sum alone that is too large
        values = encode(encoding, graph, [0], [time]).value
        assert values.isfinite().all()
        return
    message = f"channel 'spent': the {aggregate} of 'amount' is infinite or too large for float32 in 1 cells"
    with pytest.raises(ValueError, match=message):
        encode(encoding, graph, [0, 1], [time, time])


# ---- cells that are there, moved about ----------------------------------------------------------


@st.composite
def heatmaps_of_any_kind(draw):
    num_days, num_channels, num_queries = (draw(st.integers(1, high)) for high in (5, 3, 4))
    cell = st.tuples(
        st.integers(0, num_queries - 1),
        st.integers(0, num_days - 1),
        st.integers(0, 23),
        st.integers(0, num_channels - 1),
    )
    value = st.floats(-1e6, 1e6, width=32, allow_subnormal=False).filter(bool)
    cells = sorted(draw(st.dictionaries(cell, value, max_size=12)).items())
    columns = [torch.tensor([key[place] for key, _ in cells], dtype=torch.int64) for place in range(4)]
    count = torch.bincount(columns[0], minlength=num_queries)
    return Heatmaps(
        num_days,
        num_channels,
        with_zero(count.cumsum(0)),
        columns[1].short(),
        columns[2].to(torch.int8),
        columns[3].short(),
        torch.tensor([value for _, value in cells], dtype=torch.float32),
    )


def same(first, second):
    assert (first.num_days, first.num_channels) == (second.num_days, second.num_channels)
    for name, column in first.columns().items():
        assert column.dtype == second.columns()[name].dtype
        assert torch.equal(column, second.columns()[name]), name


@settings(max_examples=50)
@given(heatmaps=heatmaps_of_any_kind())
def test_text_is_read_back(heatmaps):
    texts = heatmap_texts(heatmaps)
    sizes = {"num_days": heatmaps.num_days, "num_channels": heatmaps.num_channels}
    same(parse_heatmap_texts(texts, **sizes), heatmaps)


@settings(max_examples=30)
@given(heatmaps=heatmaps_of_any_kind(), data=st.data())
def test_taken_rows_are_those_of_the_dense_images(heatmaps, data):
    image = heatmaps.dense()
    assert image.shape == (len(heatmaps), heatmaps.num_channels, heatmaps.num_days, 24)
    assert int((image != 0).sum()) == len(heatmaps.value)
    for query in range(len(heatmaps)):
        for (day, hour, channel), value in cells_of(heatmaps, query).items():
            assert image[query, channel, day, hour] == value
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(heatmaps) - 1), max_size=5)), dtype=torch.int64)
    assert torch.equal(heatmaps.take(rows).dense(), image[rows])
    both = concatenate_heatmaps([heatmaps, heatmaps.take(rows)])
    assert torch.equal(both.dense(), torch.cat([image, image[rows]]))


def test_text_is_that_of_the_paper():
    texts = pl.Series("texts", ["2, 10, 28: 5000; 100, 20, 25: 6000; ", None, "365,0,0:1.5"])
    heatmaps = parse_heatmap_texts(texts, num_days=365, num_channels=29)
    # the second day of the year is the last but one as seen from its end
    assert cells_of(heatmaps) == {(363, 10, 28): 5000, (265, 20, 25): 6000}
    assert cells_of(heatmaps, 1) == {}
    assert cells_of(heatmaps, 2) == {(0, 0, 0): 1.5}
    written = heatmap_texts(heatmaps).to_list()
    assert written == ["2, 10, 28: 5000; 100, 20, 25: 6000", "", "365, 0, 0: 1.5"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1, 2: 3", r"texts: entry '1, 2: 3' of row 2 is no 'day, hour, channel: value' of 9 days and 2"),
        ("10, 2, 0: 3", "entry '10, 2, 0: 3' of row 2 is no"),
        ("0, 2, 0: 3", "of row 2 is no"),
        ("1, 24, 0: 3", "of row 2 is no"),
        ("1, 2, 2: 3", "of row 2 is no"),
        ("1, 2, 0: many", "of row 2 is no"),
        ("1, 2, 0: inf", "of row 2 is no"),
        ("1, 2, 0: 3; 1, 2, 0: 4", "entry '1, 2, 0: 3' of row 2 names a cell twice .2 entries"),
    ],
)
def test_texts_that_are_no_heatmap_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_heatmap_texts(pl.Series("texts", ["9, 0, 0: 1", text]), num_days=9, num_channels=2)


def test_texts_of_more_than_16_bits_are_refused():
    for num_days, num_channels in ((2**15, 2), (2, 2**15)):
        with pytest.raises(ValueError, match="a heatmap has at most 32,767 days and 32,767 channels"):
            parse_heatmap_texts(pl.Series([""]), num_days=num_days, num_channels=num_channels)
    with pytest.raises(ValueError, match="num_channels must be a whole number of at least 1, got 0"):
        parse_heatmap_texts(pl.Series([""]), num_days=1, num_channels=0)
    most = parse_heatmap_texts(pl.Series(["1, 0, 32766: 2"]), num_days=2**15 - 1, num_channels=2**15 - 1)
    assert cells_of(most) == {(32766, 0, 32766): 2}


def test_files_are_opened_as_they_were_saved_and_damage_is_named(tmp_path):
    texts = pl.Series(["2, 10, 1: 5; 7, 20, 0: 6.5", "", "1, 0, 0: 1"])
    heatmaps = parse_heatmap_texts(texts, num_days=9, num_channels=2)
    assert heatmaps.num_bytes == 3 * 9 + 4 * 8
    save_heatmaps(heatmaps, tmp_path / "saved")
    same(open_heatmaps(tmp_path / "saved", verify=True), heatmaps)
    empty = heatmaps.take(torch.tensor([1]))
    save_heatmaps(empty, tmp_path / "empty")
    same(open_heatmaps(tmp_path / "empty"), empty)
    with pytest.raises(FileExistsError, match="saved exists"):
        save_heatmaps(heatmaps, tmp_path / "saved")
    file = tmp_path / "saved" / "value.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + b"\x00")
    open_heatmaps(tmp_path / "saved")  # sizes alone do not tell
    with pytest.raises(CorruptedHeatmapsError, match=r"value.npy has changed .*: write the heatmaps again"):
        open_heatmaps(tmp_path / "saved", verify=True)
    file.write_bytes(data[:-1])
    with pytest.raises(CorruptedHeatmapsError, match=r"value.npy should have \d+ bytes"):
        open_heatmaps(tmp_path / "saved")
    header = tmp_path / "saved" / "header.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CorruptedHeatmapsError, match=r"has format \('Heatmaps', 2\), this release reads"):
        open_heatmaps(tmp_path / "saved")
    header.write_text("{}")
    with pytest.raises(CorruptedHeatmapsError, match=r"holds no readable header.json"):
        open_heatmaps(tmp_path / "saved")


def test_channels_and_encodings_that_cannot_be_are_refused():
    def channel(**options):
        return HeatmapChannel(name="some", **options)

    with pytest.raises(
        ValueError, match="'some': aggregate must be 'count', 'sum', 'mean' or 'last', got 'm"
    ):
        HeatmapChannel.__init__.__wrapped__(object.__new__(HeatmapChannel), name="some", aggregate="median")
    for options in ({"attribute": "amount"}, {"aggregate": "sum"}):
        with pytest.raises(ValueError, match="a count has no attribute, all other aggregates need one"):
            channel(**options)
    with pytest.raises(ValueError, match=r"the filters of \['genre'\] let nothing through"):
        channel(fields={"genre": ()})
    made = object.__new__(HeatmapChannel)
    for words in ("fo", ("food", 3)):
        with pytest.raises(ValueError, match="'some', filter 'genre': words must be a tuple of strings, got"):
            HeatmapChannel.__init__.__wrapped__(made, name="some", fields={"genre": words})
    with pytest.raises(ValueError, match="the filters of edge types let nothing through"):
        channel(edge_types=())
    with pytest.raises(ValueError, match=r"a heatmap needs channels, each name once, got \['some', 'some'\]"):
        encoding_of(3, (channel(), channel()))
    with pytest.raises(
        ValueError, match=r"HeatmapEncoding.num_days must be a whole number of at least 1, got 0"
    ):
        encoding_of(0)
    for num_days in (True, 14.5):
        with pytest.raises(
            ValueError, match=f"num_days must be a whole number of at least 1, got {num_days}"
        ):
            HeatmapEncoding.__init__.__wrapped__(
                object.__new__(HeatmapEncoding),
                edge_types=(BUY,),
                channels=(channel(),),
                num_days=num_days,
                time_zone=ZONE,
            )
    with pytest.raises(ValueError, match="at most 32,767 days and 32,767 channels, got 32,768 and 1: take a"):
        encoding_of(2**15, (channel(),))
    with pytest.raises(ValueError, match="at most 32,767 days and 32,767 channels, got 3 and 32,768"):
        encoding_of(3, tuple(HeatmapChannel(name=str(number)) for number in range(2**15)))
    with pytest.raises(ValueError, match=r"channel 'some' has edge types .* the history has"):
        HeatmapEncoding(
            edge_types=(BUY,), channels=(channel(edge_types=(RETURN,)),), num_days=3, time_zone=ZONE
        )
    with pytest.raises(ValueError, match="time zone 'Mars' is unknown"):
        HeatmapEncoding(edge_types=(BUY,), channels=(channel(),), num_days=3, time_zone="Mars")
    with pytest.raises(ValueError, match="need names of their own"):
        encoding_of(3, (channel(attributes={"shop": ("x",)}, fields={"shop": ("x",)}),))


def test_columns_that_a_channel_cannot_read_are_named():
    graph = graph_of([])
    for options, message in (
        ({"attributes": {"amount": ("1",)}}, "filter 'amount': holds numbers, filters need words"),
        ({"fields": {"genre": ("fod",)}}, r"filter 'genre': the words \['fod'\] are not known, there are"),
        ({"fields": {"genre": ("food", "typo")}}, r"filter 'genre': the words \['typo'\] are not known"),
        ({"attributes": {"shop": ("x", "y")}}, r"filter 'shop': the words \['y'\] are not known"),
        ({"aggregate": "sum", "attribute": "shop"}, "'shop' is words, a sum needs numbers"),
    ):
        encoding = encoding_of(3, (HeatmapChannel(name="some", **options),))
        with pytest.raises(ValueError, match=message):
            encode(encoding, graph, [0], [at("2011-07-01 12:00")])
    with pytest.raises(ValueError, match="at least one part is needed"):
        concatenate_heatmaps([])
    some = parse_heatmap_texts(pl.Series([""]), num_days=9, num_channels=2)
    other = parse_heatmap_texts(pl.Series([""]), num_days=8, num_channels=2)
    with pytest.raises(ValueError, match=r"the same days and channels, got \[\(8, 2\), \(9, 2\)\]"):
        concatenate_heatmaps([some, other])
