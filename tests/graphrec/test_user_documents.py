"""Users as documents and nodes on walks: slow counts, planted groups, nothing from later, same results."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.encoders.item_text import ItemWords, fit_word_vocabulary, item_words, known_items
from graphrec.models import user_documents as module
from graphrec.models.user_documents import (
    Doc2VecConfig,
    UserDoc2Vec,
    UserDocuments,
    UserTfidf,
    user_documents,
    word_counts,
)
from graphrec.models.walk_vectors import WalkVectorsConfig, fit_walk_vectors
from samplers import EventHistory, EventHistorySampler
from tests.graphrec.toy_interests import BUY, DAY, END, NUM_GROUPS, gap, shop

WORDS = ItemWords(torch.tensor([0, 2, 2, 5]), torch.tensor([0, 1, 3, 1, 3]))
FIT_UNTIL = END - 30 * DAY
GROUP = torch.arange(24) % NUM_GROUPS
DOC2VEC = Doc2VecConfig(channels=8, epochs=8, learning_rate=0.1)
WALKS = WalkVectorsConfig(channels=8, walk_length=20, walks_per_node=10, epochs=4, learning_rate=0.1)


def history(lives):
    item = torch.tensor([item for life in lives for item in life], dtype=torch.int64)
    ptr = torch.tensor([0, *(len(life) for life in lives)]).cumsum(0)
    return EventHistory(ptr, item, torch.arange(len(item)), torch.arange(len(item)))


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 2), max_size=5), max_size=4))
def test_documents_and_counts_are_those_of_the_items(lives):
    of_item = [[0, 1], [], [3, 1, 3]]
    expected = [[word for item in life for word in of_item[item]] for life in lives]
    documents = user_documents(history(lives), WORDS)
    found = [documents.code[a:b].tolist() for a, b in zip(documents.ptr, documents.ptr[1:], strict=False)]
    assert found == expected
    for number, words in enumerate(expected):
        assert list(documents.pieces(number)) == ([[str(word) for word in words]] if words else [])
    counts = word_counts(history(lives), WORDS, 5)
    assert counts.shape == (len(lives), 5)
    for row, words in zip(counts.toarray(), expected, strict=True):
        assert {word: int(n) for word, n in enumerate(row) if n} == Counter(words)


def test_tfidf_by_hand():
    counts = word_counts(history([[0, 2], [0], [1]]), WORDS, 5)
    tfidf = UserTfidf().fit(counts, fit_until=9)
    rows = tfidf.transform(counts).toarray()

    def idf(documents):  # scikit-learn adds a document that holds every word
        return math.log((1 + 3) / (1 + documents)) + 1

    first = np.array([idf(2), (1 + math.log(2)) * idf(2), 0, (1 + math.log(2)) * idf(1), 0])
    np.testing.assert_allclose(rows[0], first / np.linalg.norm(first), rtol=1e-6)
    assert rows[2].tolist() == [0.0] * 5
    tfidf.check_before(9)
    with pytest.raises(ValueError, match="TF-IDF was pre-trained on data until 9, labels begin at 8"):
        tfidf.check_before(8)
    with pytest.raises(ValueError, match="fit document frequencies before"):
        UserTfidf().transform(counts)


def test_documents_of_alike_users_come_together():
    graph = shop()
    # words of single items are rare here: take the attributes as texts
    words = item_words(graph, texts=graph.texts["item"].str.replace("Thing", "Thing "))
    vocabulary = fit_word_vocabulary(words, known_items(graph, FIT_UNTIL), fit_until=FIT_UNTIL, min_count=1)
    events = EventHistorySampler(graph.csr(BUY)).sample(torch.arange(24), torch.full((24,), FIT_UNTIL))
    documents = user_documents(events, vocabulary.encode(words))
    model = UserDoc2Vec(DOC2VEC).fit(documents, fit_until=FIT_UNTIL)
    found = model.transform(documents)
    assert gap(found, GROUP) > 0.3
    # of the document alone: no other one, no order, no earlier call
    some = UserDocuments(torch.tensor([0, 0, int(documents.ptr[1])]), documents.code[: int(documents.ptr[1])])
    again = model.transform(some)
    assert torch.equal(again[1], found[0])
    assert torch.equal(again[0], torch.zeros(8))
    other = UserDoc2Vec(DOC2VEC).fit(documents, fit_until=FIT_UNTIL)
    assert torch.equal(other.transform(documents), found)
    assert model.fit_until == FIT_UNTIL


def test_long_documents_are_read_to_the_end(monkeypatch):
    monkeypatch.setattr(module, "_MAX_WORDS", 4)
    documents = UserDocuments(torch.tensor([0, 10, 10]), torch.arange(10))
    assert [len(piece) for piece in documents.pieces(0)] == [4, 4, 2]
    assert list(documents.pieces(1)) == []
    pieces = [(one.tags, one.words) for one in module._Corpus(documents)]
    assert pieces == [([0], list("0123")), ([0], list("4567")), ([0], list("89"))]


def test_walks_bring_users_of_one_group_together_and_see_nothing_later():
    found = fit_walk_vectors(shop(), fit_until=FIT_UNTIL, config=WALKS)
    assert found.vectors["user"].shape == (25, 8)
    assert gap(found.vectors["user"][:24], GROUP) > 0.5
    assert torch.equal(found.vectors["user"][24], torch.zeros(8))  # the unseen row
    later = fit_walk_vectors(shop(change_from=FIT_UNTIL), fit_until=FIT_UNTIL, config=WALKS)
    for name, vectors in found.vectors.items():
        assert torch.equal(later.vectors[name], vectors)
    assert found.fit_until == FIT_UNTIL
    with pytest.raises(ValueError, match="no edge was known before fit_until=0"):
        fit_walk_vectors(shop(), fit_until=0, config=WALKS)


def test_what_cannot_be_fitted_is_refused():
    documents = UserDocuments(torch.tensor([0, 1]), torch.tensor([0]))
    with pytest.raises(ValueError, match="no word occurs 2 times"):
        UserDoc2Vec(DOC2VEC).fit(documents, fit_until=0)
    with pytest.raises(ValueError, match="fit words and documents before"):
        UserDoc2Vec(DOC2VEC).transform(documents)
    with pytest.raises(
        ValueError, match=r"WalkVectorsConfig.walk_length must be a whole number of at least 2"
    ):
        WalkVectorsConfig(walk_length=1)
