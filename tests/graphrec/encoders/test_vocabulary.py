"""Vocabularies: what is known, rare and missing, what the future may not change, and their files."""

import json
from collections import Counter

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import build_feature_table, read_events
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentences import FIRST, MISSING, RARE
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_profile, fit_vocabularies
from tests.graphrec.encoders.toy_histories import (
    ITEM_FIELDS,
    LAST,
    MAX_TIME,
    RELATIONS,
    SCHEMA,
    Event,
    frame_of,
    graph_of,
    logs,
    values_of,
)

TO_USERS = tuple(relation.reverse_edge_type for relation in RELATIONS)
REQUEST = HistoryRequest(
    edge_types=TO_USERS, attributes=("shop", "price", "words"), fields=("genre", "size", "tags")
)
# what every graph of these tests knows from the start
EARLY = [event._replace(time=0, available_time=0) for event in LAST]


def words_of(event, name):
    """The category that an event has, the first of a list, or None."""
    value = ITEM_FIELDS[name][event.item] if name in ITEM_FIELDS else getattr(event, name)
    return (value[0] if value else None) if isinstance(value, list) else value


@settings(max_examples=50)
@given(
    log=logs(),
    fit_until=st.integers(1, MAX_TIME),
    min_count=st.integers(1, 3),
    max_size=st.one_of(st.none(), st.integers(1, 2)),
)
def test_vocabularies_hold_the_frequent_values_known_in_time(log, fit_until, min_count, max_size):
    events = [*EARLY, *log]
    graph = graph_of(events)
    fitted = fit_vocabularies(
        graph, [REQUEST], fit_until=fit_until, min_count=min_count, max_size=max_size, num_bins=3
    )
    assert fitted.fit_until == fit_until
    history = InputReader(graph, "user", {"life": REQUEST}).read(torch.arange(3), torch.full((3,), 10**7))
    columns = history.histories["life"].columns
    for name in ("shop", "words", "genre", "tags"):
        known = [e for e in events if max(e.time, e.available_time) < fit_until]
        count = Counter(word for e in known if (word := words_of(e, name)) is not None)
        order = sorted((-number, word) for word, number in count.items() if number >= min_count)
        wanted = [word for _, word in order][:max_size]
        assert fitted.num_codes[name] == FIRST + len(wanted)
        for value, code in zip(
            values_of(columns[name]), fitted.codes(columns, [name])[:, 0].tolist(), strict=True
        ):
            word = (value[0] if value else None) if isinstance(value, list) else value
            if word is None:
                assert code == MISSING
            else:
                assert code == (FIRST + wanted.index(word) if word in wanted else RARE)


@settings(max_examples=50)
@given(log=logs(), late=logs(), fit_until=st.integers(1, MAX_TIME))
def test_what_becomes_known_later_changes_no_code(log, late, fit_until):
    """Nor does it where the later events come first in the log."""
    later = [e._replace(time=fit_until + e.time, available_time=fit_until + e.time) for e in late]
    late_known = [e._replace(available_time=fit_until) for e in late if e.time < fit_until]
    options = {"fit_until": fit_until, "min_count": 1, "max_size": 2, "num_bins": 2}
    alone = fit_vocabularies(graph_of([*EARLY, *log]), [REQUEST], **options)
    with_later = fit_vocabularies(graph_of([*later, *late_known, *EARLY, *log]), [REQUEST], **options)
    assert alone.state() == with_later.state()


def test_numbers_go_to_the_bins_of_what_was_known():
    prices = [1.0, 2.0, 3.0, 4.0, 100.0]
    events = [Event(0, 0, 0, time, time, None, price, None) for time, price in enumerate(prices)]
    fitted = fit_vocabularies(graph_of([*events, *LAST]), [REQUEST], fit_until=4, num_bins=2)
    table = build_feature_table(pl.DataFrame({"price": [None, 1.0, 2.0, 2.5, 4.0, 100.0, -5.0]}))
    assert fitted.codes(table, ["price"])[:, 0].tolist() == [
        MISSING, FIRST, FIRST, FIRST + 1, FIRST + 1, FIRST + 1, FIRST
    ]  # fmt: skip
    assert fitted.num_codes["price"] == FIRST + 2


def test_codes_hold_on_a_graph_that_grew():
    """Its own codes are others there: words decide."""
    graph = graph_of([*EARLY, Event(0, 0, 0, 1, 1, "y", 1.0, None), Event(1, 1, 1, 1, 1, "y", None, None)])
    fitted = fit_vocabularies(graph, [REQUEST], fit_until=5, min_count=1)
    reader = InputReader(graph, "user", {"life": REQUEST})
    nodes, times = torch.arange(3), torch.full((3,), 5)
    before = reader.read(nodes, times).histories["life"].columns
    added = [Event(1, 2, 2, 6, 6, "new", None, ["v"]), Event(0, 2, 2, 6, 6, "x", None, None)]
    grown = graph.append(read_events(frame_of(added), schema=SCHEMA))
    after = InputReader(grown, "user", {"life": REQUEST}).read(nodes, times).histories["life"].columns
    names = fitted.names
    assert torch.equal(fitted.codes(before, names), fitted.codes(after, names))
    last = InputReader(grown, "user", {"life": REQUEST}).read(nodes[2:], times[2:] + 5)
    assert fitted.codes(last.histories["life"].columns, ["shop"])[:, 0].tolist() == [
        FIRST + list(fitted.fitted.fields["shop"].words).index("x"),
        RARE,
    ]


def test_profiles_are_fitted_over_nodes():
    fitted = fit_profile(graph_of(LAST), "user", ["age"], min_count=1)
    table = build_feature_table(pl.DataFrame({"age": ["young", "old", None, "unknown"]}))
    assert fitted.codes(table, ["age"])[:, 0].tolist() == [FIRST + 1, FIRST, MISSING, RARE]
    assert fitted.fit_until is None
    fitted.check_before(-(10**9))  # what never changes fits any label
    with pytest.raises(ValueError, match=r"no fields \['color'\], they have \['age'\]"):
        fit_profile(graph_of(LAST), "user", ["color"])


def fitted_example():
    log = [*EARLY, Event(0, 0, 0, 1, 1, "zażółć", 0.1, ["v"]), Event(0, 1, 1, 2, 2, "x", 0.2, ["u"])]
    return fit_vocabularies(graph_of(log), [REQUEST], fit_until=3, min_count=1)


def test_labels_before_the_end_of_the_fit_are_an_error():
    fitted = fitted_example()
    fitted.check_before(3)
    with pytest.raises(ValueError, match="fitted on data until 3, labels begin at 2"):
        fitted.check_before(2)


def test_files_say_the_same(tmp_path):
    fitted = fitted_example()
    path = tmp_path / "deep" / "vocabularies.json"
    fitted.save(path)
    fitted.save(path)  # in the place of the earlier one
    loaded = AttributeVocabularies.load(path)
    assert loaded.state() == fitted.state()
    assert [file.name for file in path.parent.iterdir()] == ["vocabularies.json"]
    table = build_feature_table(
        pl.DataFrame({"shop": ["x", "zażółć", "q", None], "price": [0.1, 0.2, 7.0, None]})
    )
    assert torch.equal(loaded.codes(table, ["shop", "price"]), fitted.codes(table, ["shop", "price"]))
    assert loaded.num_codes == fitted.num_codes


def test_a_save_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "vocabularies.json"
    fitted_example().save(path)
    before = path.read_bytes()

    def failing(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", failing)
    with pytest.raises(OSError, match="no space"):
        fitted_example().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "vocabularies.json"
    fitted_example().save(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"vocabularies.json holds no whole vocabularies"):
            AttributeVocabularies.load(path)
    path.write_text(json.dumps({**json.loads(whole), "version": 2}))
    with pytest.raises(ValueError, match=r"version 2, this release reads .* version 1"):
        AttributeVocabularies.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="no whole vocabularies"):
        AttributeVocabularies.load(path)
    with pytest.raises(FileNotFoundError):
        AttributeVocabularies.load(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_count": 0}, "min_count, max_size and num_bins must be at least 1"),
        ({"max_size": 0}, "must be at least 1"),
        ({"num_bins": 0}, "must be at least 1"),
        ({"fit_until": 0}, "known before fit_until=0: take a later one"),
        (
            {"requests": [HistoryRequest(edge_types=TO_USERS, attributes=("color",))]},
            r"no edge type of the histories has \['color'\]: their attributes are \['.*'\], their neigh",
        ),
        (
            {"requests": [REQUEST, HistoryRequest(edge_types=TO_USERS, fields=("shop",))]},
            r"\['shop'\] are attributes in one history and fields in another",
        ),
    ],
)
def test_impossible_fits_are_refused(changes, message):
    arguments = {"requests": [REQUEST], "fit_until": 5, **changes}
    with pytest.raises(ValueError, match=message):
        fit_vocabularies(graph_of([*EARLY]), **arguments)


def test_columns_that_do_not_fit_are_named():
    fitted = fitted_example()
    with pytest.raises(ValueError, match="attribute 'color' was not fitted"):
        fitted.codes(build_feature_table(pl.DataFrame({"color": ["x"]})), ["color"])
    with pytest.raises(ValueError, match="'shop' was fitted as Vocabulary, it came as NumericColumn"):
        fitted.codes(build_feature_table(pl.DataFrame({"shop": [1.0]})), ["shop"])
    with pytest.raises(ValueError, match="'price' was fitted as Bins, it came as CategoricalColumn"):
        fitted.codes(build_feature_table(pl.DataFrame({"price": ["x"]})), ["price"])
    with pytest.raises(ValueError, match="one attribute at least"):
        fitted.codes(build_feature_table(pl.DataFrame({"price": [1.0]})), [])
