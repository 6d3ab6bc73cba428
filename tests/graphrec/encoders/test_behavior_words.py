"""Behavioural words: a history written out by hand, and a slow tokenisation of random ones."""

from dataclasses import replace
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import EventSchema, build_behavior_graph, read_events
from graph_builders.behavior_graph import Relation
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.behavior_words import (
    ACTION,
    HOUR,
    SentenceTokenizer,
    WordKind,
    long_words,
    short_words,
)
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentence_encoder import SentenceEncoder
from graphrec.encoders.sentences import FIRST, MISSING, RARE
from graphrec.encoders.userbert import SentenceSizes, WordSizes
from graphrec.encoders.vocabulary import fit_profile, fit_vocabularies

NEW_YORK = ZoneInfo("America/New_York")
BUY, VIEW = Relation("shop", "buy"), Relation("shop", "view")
EDGE_TYPES = (BUY.reverse_edge_type, VIEW.reverse_edge_type)
ITEMS = pl.DataFrame({"item_id": [0, 1, 2], "genre": ["food", "toys", None]})
USERS = pl.DataFrame({"user_id": [0, 1, 2], "city": ["York", None, "York"], "age": [30.0, 40.0, None]})


def at(*parts, fold=0):
    """Unix time of what the clocks of New York show."""
    return int(datetime(*parts, tzinfo=NEW_YORK, fold=fold).timestamp())


def graph_of(rows, *, resolution="s"):
    """A graph of rows (user, item, behaviour, time, store)."""
    frame = pl.DataFrame(
        rows, schema=["user_id", "item_id", "behavior", "time", "store"], orient="row", strict=False
    ).with_columns(pl.col("store").cast(pl.String))
    schema = EventSchema(
        behavior="behavior",
        default_domain="shop",
        attributes=("store",),
        time_unit=resolution,
        resolution=resolution,
    )
    return build_behavior_graph(read_events(frame, schema=schema), user_table=USERS, item_table=ITEMS)


def fitted(graph, kinds, *, fit_until, time_zone="America/New_York"):
    """A tokenizer, and a reader of its input."""
    requests = [kind.request for kind in kinds.values()]
    tokenizer = SentenceTokenizer(
        kinds=kinds,
        vocabularies=fit_vocabularies(graph, requests, fit_until=fit_until, min_count=1),
        profile=fit_profile(graph, "user", ["city", "age"], min_count=1),
        time_zone=time_zone,
    )
    return tokenizer, InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)


def sentences_of(tokenizer, reader, queries):
    user, time = (torch.tensor(column) for column in zip(*queries, strict=True))
    return tokenizer.tokenize(reader.read(user, time))


def written_out(words, query):
    """The words of a query as [(position, [codes of each action])]."""
    first, last = words.ptr[query : query + 2].tolist()
    bounds = words.action_ptr.tolist()
    return [
        (int(words.position[word]), words.code[bounds[word] : bounds[word + 1]].tolist())
        for word in range(first, last)
    ]


BUYING, VIEWING = FIRST, FIRST + 1
FOOD, TOYS = FIRST, FIRST + 1
NORTH, SOUTH = FIRST, FIRST + 1
BY_HAND = [
    # user 0: a night's two purchases are one day; the clocks of 2017-03-12 jump from 2 AM to 3 AM
    (0, 0, "buy", at(2017, 3, 11, 23, 50), "north"),
    (0, 1, "buy", at(2017, 3, 12, 3, 59), "south"),
    (0, 0, "buy", at(2017, 3, 12, 4, 0), "north"),
    (0, 2, "buy", at(2017, 3, 15, 9, 0), None),
    # the last week: three views in one session, gaps of 30 minutes sharp and of one second more
    (0, 0, "view", at(2017, 3, 18, 10, 0), None),
    (0, 0, "view", at(2017, 3, 18, 10, 30), None),
    (0, 1, "buy", at(2017, 3, 18, 11, 0), "south"),
    (0, 0, "view", at(2017, 3, 18, 11, 30, 1), None),
    (0, 2, "view", at(2017, 3, 22, 12, 0), None),  # at the query's time: not seen
    # user 1: a purchase just inside and one just outside the last week; a store that was not fitted
    (1, 1, "buy", at(2017, 3, 15, 11, 59, 59), "new"),
    (1, 0, "buy", at(2017, 3, 15, 12, 0), "north"),
    # before anyone's window, so that the vocabulary is known whole: north before south, food before toys
    (2, 0, "buy", at(2016, 1, 1, 12, 0), "north"),
    (2, 0, "buy", at(2016, 1, 1, 12, 0), "north"),
    (2, 1, "view", at(2016, 1, 1, 12, 0), "south"),
]
QUERY_TIME = at(2017, 3, 22, 12, 0)


@pytest.mark.parametrize("resolution", ["s", "ms"])
def test_words_written_by_hand(resolution):
    units = 1 if resolution == "s" else 1000
    graph = graph_of([(*row[:3], row[3] * units, row[4]) for row in BY_HAND], resolution=resolution)
    kinds = {
        "long": long_words(EDGE_TYPES, attributes=["store"], fields=["genre"], days=21),
        "short": short_words(EDGE_TYPES, attributes=["store"], fields=["genre"]),
    }
    queries = [(0, QUERY_TIME * units), (1, QUERY_TIME * units), (2, QUERY_TIME * units)]
    tokenizer, reader = fitted(graph, kinds, fit_until=at(2017, 1, 1) * units)
    sentences = sentences_of(tokenizer, reader, queries)
    # Columns: action, hour, store, genre. The window begins 21 times 24 hours before: 2017-03-01, 11 AM EST.
    assert written_out(sentences.words["long"], 0) == [
        (10, [[BUYING, FIRST + 23, NORTH, FOOD], [BUYING, FIRST + 3, SOUTH, TOYS]]),
        (11, [[BUYING, FIRST + 4, NORTH, FOOD]]),
        (14, [[BUYING, FIRST + 9, MISSING, MISSING]]),
    ]
    assert written_out(sentences.words["long"], 1) == [(14, [[BUYING, FIRST + 11, RARE, TOYS]])]
    assert written_out(sentences.words["short"], 0) == [
        (
            2 * 24 + 22,
            [
                [VIEWING, FIRST + 10, MISSING, FOOD],
                [VIEWING, FIRST + 10, MISSING, FOOD],
                [BUYING, FIRST + 11, SOUTH, TOYS],
            ],
        ),
        (2 * 24 + 23, [[VIEWING, FIRST + 11, MISSING, FOOD]]),
    ]
    assert written_out(sentences.words["short"], 1) == [(0, [[BUYING, FIRST + 12, NORTH, FOOD]])]
    assert [written_out(words, 2) for words in sentences.words.values()] == [[], []]
    # York is the one city; three ages make three bins at most
    assert sentences.profile.tolist() == [[FIRST, FIRST], [MISSING, FIRST + 1], [FIRST, MISSING]]
    num_codes = (FIRST + 2, FIRST + 24, FIRST + 2, FIRST + 2)
    assert tokenizer.sizes == SentenceSizes(
        words={
            "long": WordSizes(num_codes=num_codes, num_positions=14 + 2),
            "short": WordSizes(num_codes=num_codes, num_positions=7 * 24),
        },
        profile=(FIRST + 1, FIRST + 2),
    )
    tokenizer.sizes.check(sentences)
    tokenizer.check_before(at(2017, 1, 1) * units)
    with pytest.raises(ValueError, match="labels begin at"):
        tokenizer.check_before(at(2017, 1, 1) * units - 1)


def test_every_action_may_be_a_word_of_its_own():
    graph = graph_of(BY_HAND)
    kinds = {
        "long": replace(long_words(EDGE_TYPES, days=21), word="action", derived=(HOUR,)),
        "short": replace(short_words(EDGE_TYPES, max_words=2), word="action", derived=(ACTION,)),
    }
    sentences = sentences_of(*fitted(graph, kinds, fit_until=at(2017, 1, 1)), [(0, QUERY_TIME)])
    assert written_out(sentences.words["long"], 0) == [
        (10, [[FIRST + 23]]),
        (10, [[FIRST + 3]]),
        (11, [[FIRST + 4]]),
        (14, [[FIRST + 9]]),
    ]
    # the latest two
    assert written_out(sentences.words["short"], 0) == [(70 + 1, [[BUYING]]), (70 + 1, [[VIEWING]])]


# Random histories around the turns of the clocks of 2017, minutes apart, so that many sessions and days meet.

# what vocabularies are fitted on: stores a and b are known, and food is more frequent than toys
KNOWN = [(2, 0, "buy", 10**9, "a"), (2, 0, "view", 10**9, "a"), (2, 1, "buy", 10**9, "b")]
STORES = {"a": FIRST, "b": FIRST + 1}
BASES = (at(2017, 3, 12, 0, 0), at(2017, 11, 5, 0, 0))


@st.composite
def histories(draw):
    base = draw(st.sampled_from(BASES))
    minute = st.one_of(st.integers(-3 * 24 * 60, 3 * 24 * 60), st.integers(0, 8 * 60))
    row = st.tuples(
        st.integers(0, 2),
        st.integers(0, 2),
        st.sampled_from(["buy", "view"]),
        minute.map(lambda value: base + 30 * value),
        st.sampled_from([None, "a", "b", "c"]),
    )
    rows = draw(st.lists(row, min_size=1, max_size=30))
    query = st.tuples(st.integers(0, 2), st.integers(-24, 72).map(lambda hour: base + 3600 * hour))
    return rows, draw(st.lists(query, min_size=1, max_size=5))


# plain values: run-time checks of containers draw random numbers, which strategies must not
drawn_kinds = st.fixed_dictionaries(
    {
        "window": st.sampled_from([12 * 3600, 24 * 3600 + 1800, 4 * 24 * 3600]),
        "offset": st.sampled_from([0, 6 * 3600]),
        "word": st.sampled_from(["day", "session", "action"]),
        "position": st.sampled_from(["days", "hours"]),
        "max_words": st.sampled_from([1, 2, 128]),
    }
)


def kind_of(*, window, offset, **options):
    request = HistoryRequest(
        edge_types=EDGE_TYPES, window=window, offset=offset, attributes=("store",), fields=("genre",)
    )
    return WordKind(request=request, **options)


def local_day(time):
    return (datetime.fromtimestamp(time, NEW_YORK).replace(tzinfo=None) - timedelta(hours=4)).toordinal()


def slow_words(rows, kind, user, time):
    """The words of a query from their definition, all of them: [(position, codes of each action)]."""
    start = time - kind.request.window
    events = []
    for number, behavior in enumerate(("buy", "view")):
        own = [row for row in [*KNOWN, *rows] if row[2] == behavior]
        events += [(row[3], edge_id, number, row) for edge_id, row in enumerate(own) if row[0] == user]
    events = sorted(event for event in events if start <= event[0] < time - kind.request.offset)
    words, last = [], None
    for when, _, number, row in events:
        genre = ITEMS["genre"][row[1]]
        codes = [
            FIRST + number,
            FIRST + datetime.fromtimestamp(when, NEW_YORK).hour,
            MISSING if row[4] is None else STORES.get(row[4], RARE),
            MISSING if genre is None else {"food": FIRST, "toys": FIRST + 1}[genre],
        ]
        if last is None or not together(kind.word, last, when):
            words.append((local_day(when) - local_day(start), (when - start) // 3600, []))
        words[-1][2].append(codes)
        last = when
    return [(days if kind.position == "days" else hours, codes) for days, hours, codes in words]


def together(word, last, when):
    """Whether an action is in the word of the action before."""
    if word == "day":
        return local_day(last) == local_day(when)
    return word == "session" and when - last <= 1800


def fitted_on_random(rows, kinds):
    return fitted(graph_of([*KNOWN, *rows]), kinds, fit_until=10**9 + 1)


@settings(max_examples=60)
@given(drawn=histories(), chosen=drawn_kinds)
def test_words_match_the_slow_reference(drawn, chosen):
    (rows, queries), kind = drawn, kind_of(**chosen)
    tokenizer, reader = fitted_on_random(rows, {"some": kind})
    words = sentences_of(tokenizer, reader, queries).words["some"]
    for query, (user, time) in enumerate(queries):
        wanted = slow_words(rows, kind, user, time)
        assert written_out(words, query) == wanted[-kind.max_words :]  # the latest are kept
    assert words.action_ptr[0] == 0
    assert words.action_ptr[-1] == len(words.code)
    if words.num_words:
        assert int(words.position.min()) >= 0
        assert int(words.position.max()) < tokenizer.sizes.words["some"].num_positions
        assert bool((words.action_ptr.diff() > 0).all())


@settings(max_examples=60)
@given(drawn=histories(), chosen=drawn_kinds)
def test_every_event_is_in_one_word_in_the_order_of_time(drawn, chosen):
    rows, queries = drawn
    kind = replace(kind_of(**chosen), max_words=1000, derived=(ACTION,))
    tokenizer, reader = fitted_on_random(rows, {"some": kind})
    user, time = (torch.tensor(column) for column in zip(*queries, strict=True))
    inputs = reader.read(user, time)
    words, events = tokenizer.tokenize(inputs).words["some"], inputs.histories["some"].events
    # an action a row, in the order of the events, of which none lies at or after its query's time
    assert (words.code[:, 0] - FIRST).tolist() == events.edge_type.tolist()
    assert bool((events.time < time[events.query_of_event()]).all())
    actions = words.action_ptr[words.ptr].diff()
    assert actions.tolist() == events.ptr.diff().tolist()
    first = events.time[words.action_ptr[:-1]]
    query_of_word = torch.arange(len(queries)).repeat_interleave(words.ptr.diff())
    same_query = query_of_word[1:] == query_of_word[:-1]
    assert bool((first.diff() >= 0)[same_query].all())
    assert bool((words.position.diff() >= 0)[same_query].all())


@settings(max_examples=50)
@given(drawn=histories(), chosen=drawn_kinds, other=drawn_kinds, data=st.data())
def test_other_queries_change_nothing(drawn, chosen, other, data):
    rows, queries = drawn
    order = data.draw(st.permutations(range(len(queries))))
    kinds = {"some": kind_of(**chosen), "other": kind_of(**other)}
    tokenizer, reader = fitted_on_random(rows, kinds)
    together = sentences_of(tokenizer, reader, queries)
    shuffled = sentences_of(tokenizer, reader, [queries[place] for place in order])
    for place, query in enumerate(order):
        alone = sentences_of(tokenizer, reader, [queries[query]])
        for name in kinds:
            wanted = written_out(together.words[name], query)
            assert written_out(shuffled.words[name], place) == wanted
            assert written_out(alone.words[name], 0) == wanted
        assert (
            together.profile[query].tolist() == shuffled.profile[place].tolist() == alone.profile[0].tolist()
        )


def test_impossible_kinds_are_refused():
    request = HistoryRequest(edge_types=EDGE_TYPES, window=10)
    kind = WordKind(request=request, word="day", position="days")
    for changes, message in (
        ({"word": "week"}, 'word must be "day", "session" or "action"'),
        ({"position": "weeks"}, 'position "days" or "hours"'),
        ({"request": HistoryRequest(edge_types=EDGE_TYPES)}, "give the request a window"),
        ({"request": replace(request, fields=("hour",))}, r"beside \['hour'\]"),
        ({"derived": ("minute",)}, "derived attributes are"),
        ({"derived": ()}, "words need an attribute"),
        ({"max_words": 0}, "max_words of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(kind, **changes)


def test_a_tokenizer_names_what_is_missing():
    graph = graph_of(BY_HAND)
    kinds = {"long": long_words(EDGE_TYPES, attributes=["store"], days=21)}
    vocabularies = fit_vocabularies(graph, [kinds["long"].request], fit_until=QUERY_TIME)
    with pytest.raises(ValueError, match=r"attributes \['genre'\] were not fitted, there are \['store'\]"):
        SentenceTokenizer(
            kinds={"long": long_words(EDGE_TYPES, fields=["genre"])},
            vocabularies=vocabularies,
            time_zone="UTC",
        )
    with pytest.raises(ValueError, match="time zone 'Mars' is unknown"):
        SentenceTokenizer(kinds=kinds, vocabularies=vocabularies, time_zone="Mars")
    for names in ([], [""], ["a.b"], ["keys"], ["training"]):
        with pytest.raises(ValueError, match="kinds need a name each"):
            SentenceTokenizer(
                kinds=dict.fromkeys(names, kinds["long"]), vocabularies=vocabularies, time_zone="UTC"
            )
    tokenizer = SentenceTokenizer(kinds=kinds, vocabularies=vocabularies, time_zone="UTC")
    inputs = InputReader(graph, "user", {}).read(torch.tensor([0]), torch.tensor([QUERY_TIME]))
    with pytest.raises(ValueError, match=r"no histories \['long'\], there are \[\]"):
        tokenizer.tokenize(inputs)
    reader = InputReader(graph, "user", tokenizer.requests)
    without_profile = tokenizer.tokenize(reader.read(torch.tensor([0, 1]), torch.tensor([QUERY_TIME] * 2)))
    assert without_profile.profile.shape == (2, 0)


class MeanAction(torch.nn.Module):
    """The mean code of each query's actions, and its profile."""

    def forward(self, sentences):
        words = sentences.words["long"]
        actions = words.action_ptr[words.ptr]
        query = torch.arange(len(sentences)).repeat_interleave(actions.diff())
        total = torch.zeros(len(sentences), words.code.shape[1]).index_add_(0, query, words.code.float())
        return torch.cat([total / actions.diff()[:, None].clamp(min=1), sentences.profile], dim=1)


def test_a_model_of_sentences_is_an_encoder_of_nodes():
    graph = graph_of(BY_HAND)
    kinds = {"long": replace(long_words(EDGE_TYPES, days=21), derived=(HOUR,))}
    tokenizer, _ = fitted(graph, kinds, fit_until=at(2017, 1, 1))
    encoder = SentenceEncoder(tokenizer, MeanAction(), out_channels=3)
    reader = InputReader(graph, "user", encoder.requests, fields=encoder.fields)
    vectors = encoder(encoder.prepare(reader.read(torch.tensor([2, 1]), torch.tensor([QUERY_TIME] * 2))))
    # user 2 has no word; user 1 one of 11 o'clock
    assert vectors.tolist() == [[0.0, FIRST, MISSING], [FIRST + 11, MISSING, FIRST + 1]]
    assert vectors.shape[1] == encoder.out_channels
