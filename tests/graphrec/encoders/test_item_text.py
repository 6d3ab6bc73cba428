"""Words of items: the rule on worked examples, what describes an item without text, and the vocabulary."""

import polars as pl
import pytest
import torch

from graph_builders import EventSchema, build_behavior_graph, read_events
from graphrec.encoders.item_text import (
    MAX_WORDS,
    ItemWords,
    WordVocabulary,
    fit_word_vocabulary,
    item_words,
    known_items,
    split_words,
)

ITEMS = pl.DataFrame(
    {
        "item_id": list("abcde"),
        "genre": ["g", "h", None, "g", None],
        "tags": [["x", "y"], [], None, ["y"], []],
        "price": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
)
TEXTS = pl.DataFrame({"item_id": list("ab"), "text": ["Red Mug, red 2-PACK", "!!"]})


@pytest.fixture(scope="module")
def graph():
    events = pl.DataFrame({"user_id": [0] * 5, "item_id": list("abcda"), "time": [1, 2, 3, 4, 9]})
    events = events.with_columns(available_time=pl.Series([1, 2, 8, 4, 9]))
    schema = EventSchema(time_bounds=None, available_time="available_time")
    return build_behavior_graph(read_events(events, schema=schema), item_table=ITEMS, texts={"item": TEXTS})


def gone_by(words, vocabulary=None):
    """The words that each item goes by, by default where all are known."""
    if vocabulary is None:
        vocabulary = fit_word_vocabulary(words, torch.arange(words.height), fit_until=10, min_count=1)
    codes = vocabulary.encode(words)
    known = vocabulary.words.to_list()
    ends = zip(codes.ptr[:-1].tolist(), codes.ptr[1:].tolist(), strict=True)
    return [[known[code] for code in codes.code[start:stop].tolist()] for start, stop in ends]


def test_the_rule():
    texts = pl.Series(
        [
            "WHITE HEART T-LIGHT",
            "Gläser (3er)",
            "\uff21\uff22\uff23 \uff11\uff12",
            "\ufb01ne",
            "中文 字",
            "हिन्दी किताब",
            "tea \u2615\ufe0f cup",
            "--",
            None,
        ]
    )
    assert split_words(texts).to_list() == [
        ["white", "heart", "t", "light"],
        ["gläser", "3er"],
        ["abc", "12"],
        ["fine"],
        ["中文", "字"],
        ["हिन्दी", "किताब"],
        ["tea", "cup"],
        [],
        [],
    ]
    many = pl.Series([" ".join(map(str, range(40)))])
    assert split_words(many).to_list() == [[str(number) for number in range(MAX_WORDS)]]
    assert split_words(many, max_words=2).to_list() == [["0", "1"]]
    with pytest.raises(ValueError, match="max_words must be a whole number of at least 1, got 0"):
        split_words(many, max_words=0)


def test_attributes_or_the_id_stand_for_a_missing_text(graph):
    words = item_words(graph, fields=["genre", "tags"])
    assert words.to_dict(as_series=False) == {
        "text": [["red", "mug", "red", "2", "pack"], [], [], [], [], []],
        "attributes": [["genre=g", "tags=x", "tags=y"], ["genre=h"], [], ["genre=g", "tags=y"], [], []],
        "id": [["id=a"], ["id=b"], ["id=c"], ["id=d"], ["id=e"], []],
    }
    assert gone_by(words) == [
        ["red", "mug", "red", "2", "pack"],
        ["genre=h"],
        ["id=c"],
        ["genre=g", "tags=y"],
        ["id=e"],
        [],
    ]
    assert gone_by(item_words(graph))[1:] == [["id=b"], ["id=c"], ["id=d"], ["id=e"], []]
    given = item_words(graph, texts=pl.Series(["p", None, "q", "r s", ""]))
    assert gone_by(given) == [["p"], ["id=b"], ["q"], ["r", "s"], ["id=e"], []]
    short = item_words(graph, fields=["genre", "tags"], max_words=2)
    assert short.row(0) == (["red", "mug"], ["genre=g", "tags=x"], ["id=a"])
    with pytest.raises(ValueError, match="5 items, there are 2 texts"):
        item_words(graph, texts=pl.Series(["a", "b"]))
    with pytest.raises(ValueError, match="no field 'colour', they have"):
        item_words(graph, fields=["colour"])
    with pytest.raises(ValueError, match="'price' of items holds numbers"):
        item_words(graph, fields=["price"])


def test_items_of_rare_words_alone_go_by_their_attributes_or_id():
    words = pl.DataFrame(
        {
            "text": [["red", "mug"], ["red"], ["rare"], ["odd", "one"], ["sole"], ["new"], ["mug"]],
            "attributes": [["g=1"], ["g=2"], ["g=1"], ["g=1"], ["g=2"], ["g=1"], ["g=2"]],
            "id": [[f"id={number}"] for number in range(7)],
        }
    )
    # the last two come later
    vocabulary = fit_word_vocabulary(words, torch.arange(5), fit_until=10)
    # mug has one item that is known, g=2 one that needs it
    assert vocabulary.words.to_list() == ["g=1", "red", "id=4"]
    assert gone_by(words, vocabulary) == [["red"], ["red"], ["g=1"], ["g=1"], ["id=4"], ["g=1"], []]
    # the most frequent of all are kept, whatever column they are of
    cut = fit_word_vocabulary(words, torch.arange(5), fit_until=10, max_size=1)
    assert gone_by(words, cut) == [["g=1"], [], ["g=1"], ["g=1"], [], ["g=1"], []]


def test_values_that_a_list_lacks_are_no_words():
    items = pl.DataFrame({"item_id": list("abc"), "tags": [[None, "q"], [None], ["p", None, "q"]]})
    events = pl.DataFrame({"user_id": [0] * 3, "item_id": list("abc"), "time": [1, 2, 3]})
    log = read_events(events, schema=EventSchema(time_bounds=None))
    words = item_words(build_behavior_graph(log, item_table=items), fields=["tags"])
    assert words["attributes"].to_list() == [["tags=q"], [], ["tags=p", "tags=q"], []]


def test_only_items_known_before_are_looked_at(graph):
    assert known_items(graph, 5).tolist() == [0, 1, 3]
    assert known_items(graph, 9).tolist() == [0, 1, 2, 3]
    assert known_items(graph, 1).tolist() == []


def test_vocabulary_counts_items_and_codes_leave_unknown_words_out():
    words = pl.DataFrame(
        {
            "text": [["a", "b", "b"], ["b", "a"], [], ["c", "b"], ["c"], []],
            "id": [["id=5"], ["id=6"], ["id=7"], ["id=8"], ["id=9"], []],
        }
    )
    vocabulary = fit_word_vocabulary(words, torch.tensor([0, 1, 2, 3]), fit_until=10)
    assert vocabulary.words.to_list() == ["b", "a", "id=7"]  # c is in two items, one of which came later
    codes = vocabulary.encode(words)
    assert codes.ptr.tolist() == [0, 3, 5, 6, 7, 7, 7]
    assert codes.code.tolist() == [1, 0, 0, 0, 1, 2, 0]
    assert codes.is_known.tolist() == [True, True, True, True, False, False]
    taken = codes.take(torch.tensor([2, 4, 1, 1]))
    assert (taken.ptr.tolist(), taken.code.tolist()) == ([0, 1, 1, 3, 5], [2, 0, 1, 0, 1])
    assert fit_word_vocabulary(words, torch.arange(4), fit_until=10, max_size=1).words.to_list() == ["b"]
    again = WordVocabulary.from_state(vocabulary.state())
    assert (again.words.to_list(), again.fit_until) == (vocabulary.words.to_list(), 10)
    vocabulary.check_before(10)
    with pytest.raises(ValueError, match="until 10, labels begin at 9"):
        vocabulary.check_before(9)
    with pytest.raises(ValueError, match="no word is in 9 of the 2 items"):
        fit_word_vocabulary(words.drop("id"), torch.tensor([0, 1]), fit_until=10, min_count=9)
    with pytest.raises(ValueError, match="must be at least 1, got 0 and None"):
        fit_word_vocabulary(words, torch.arange(4), fit_until=10, min_count=0)


def test_items_of_the_same_words_in_the_same_order_share_a_number():
    texts = [[1, 0], [0, 1], [1, 0], [], [1], [1, 0, 0], [], [1]]
    flat = [code for text in texts for code in text]
    ptr = torch.tensor([0] + [len(text) for text in texts]).cumsum(0)
    number = ItemWords(ptr, torch.tensor(flat)).text_number().tolist()
    for one in range(len(texts)):
        for other in range(len(texts)):
            assert (number[one] == number[other]) == (texts[one] == texts[other])
    assert (
        len(ItemWords(torch.zeros(1, dtype=torch.int64), torch.tensor([], dtype=torch.int64)).text_number())
        == 0
    )
