"""Counts, ages and features of a fixed length: by hand and beside loops over words."""

import math

import numpy as np
import pytest
import torch

from graphrec.encoders.behavior_words import WordKind, long_words, short_words
from graphrec.encoders.sentence_batches import take_sentences
from graphrec.encoders.sentences import UserSentences
from graphrec.encoders.userbert import SentenceSizes, WordSizes
from graphrec.models.user_counts import (
    aggregate,
    code_counts,
    half_life_weights,
    num_aggregates,
    tree_features,
    word_ages,
)
from tests.graphrec.toy_sentences import SIZES, random_sentences, words_from_lists

BUY = ("item", "buy", "user")
KINDS = {"long": long_words([BUY], days=10), "short": short_words([BUY], days=7)}
# (position, actions), each action the codes of two attributes in long words, of one in short ones
LONG = [[(3, [(2, 9), (2, 8), (4, 8)]), (5, [(2, 8)])], [], [(0, [(1, 9)])]]
SHORT = [[(6, [(2,), (3,)])], [], [(100, [(3,), (3,)]), (160, [(3,)])]]
TOY = UserSentences(
    words={"long": words_from_lists(LONG, 2), "short": words_from_lists(SHORT, 1)},
    profile=torch.tensor([[0, 2], [1, 0], [3, 1]]),
)
TOY_SIZES = SentenceSizes(
    words={
        "long": WordSizes(num_codes=(5, 10), num_positions=11),
        "short": WordSizes(num_codes=(5,), num_positions=168),
    },
    profile=(4, 3),
)


def test_a_code_counts_once_a_word():
    counts = code_counts(TOY, {"long": 0, "short": 0}, 5).toarray()
    assert counts.tolist() == [[0, 0, 3, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 2, 0]]
    assert code_counts(TOY, {"long": 1}, 10).toarray()[:, 8:].tolist() == [[2, 1], [0, 0], [0, 1]]


def test_counts_beside_a_loop():
    sentences = random_sentences([(3, 2), (0, 0), (5, 0), (0, 4), (2, 2)])
    got = code_counts(sentences, {"short": 1, "long": 0}, 5).toarray()
    expected = np.zeros((5, 5))
    for kind, attribute in (("long", 0), ("short", 1)):
        words = sentences.words[kind]
        for query in range(5):
            for word in range(int(words.ptr[query]), int(words.ptr[query + 1])):
                actions = slice(int(words.action_ptr[word]), int(words.action_ptr[word + 1]))
                for code in set(words.code[actions, attribute].tolist()):
                    expected[query, code] += 1
    np.testing.assert_array_equal(got, expected)


def test_ages_in_days_and_what_is_left_after_half_lives():
    ages = word_ages(TOY, KINDS)
    assert ages["long"].tolist() == [7.0, 5.0, 10.0]
    assert ages["short"].tolist() == pytest.approx([(168 - 6) / 24, (168 - 100) / 24, (168 - 160) / 24])
    weights = half_life_weights(ages, 2.5)
    assert weights["long"].tolist() == pytest.approx([0.5**2.8, 0.25, 0.0625])
    counts = code_counts(TOY, {"long": 0}, 5, weights=weights).toarray()
    assert counts[0].tolist() == pytest.approx([0, 0, 0.5**2.8 + 0.25, 0, 0.5**2.8])
    with pytest.raises(ValueError, match="half_life must be above 0 days, got 0"):
        half_life_weights(ages, 0.0)
    with pytest.raises(ValueError, match=r"kinds of words \['short'\] are not given"):
        word_ages(TOY, {"long": KINDS["long"]})


def test_ages_follow_the_window():
    kind = WordKind(request=KINDS["long"].request, word="day", position="days")
    one = UserSentences(words={"long": TOY.words["long"]}, profile=TOY.profile)
    assert word_ages(one, {"long": kind})["long"].tolist() == [7.0, 5.0, 10.0]


def test_features_by_hand():
    features = aggregate(TOY, TOY_SIZES, max_codes=3)
    assert features.shape == (3, num_aggregates(TOY_SIZES, 3)) == (3, 4 + 3 + 3 + 4 + 3)
    log = math.log1p
    # words, actions, last, first; codes 0 to 2 of each attribute: 4, 8 and 9 are not among them
    expected = [log(2), log(4), 6 / 11, 4 / 11, 0, 0, log(3), 0, 0, 0]
    expected += [log(1), log(2), 7 / 168, 7 / 168, 0, 0, log(1)]
    torch.testing.assert_close(features[0], torch.tensor(expected))
    assert not features[1].any()


def test_features_do_not_depend_on_the_other_queries():
    sentences = random_sentences([(3, 2), (0, 0), (5, 0), (0, 4), (2, 2)])
    features = aggregate(sentences, SIZES, max_codes=4)
    for query in range(5):
        alone = aggregate(take_sentences(sentences, torch.tensor([query])), SIZES, max_codes=4)
        assert torch.equal(alone[0], features[query])


def test_trees_read_the_profile_too():
    features = tree_features(TOY, TOY_SIZES, max_codes=3)
    assert features[:, -2:].nan_to_num(-1).tolist() == [[-1, 2], [1, -1], [3, 1]]
    assert torch.equal(features[:, :-2], aggregate(TOY, TOY_SIZES, max_codes=3))


def test_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="no attribute 2 of 'long' words"):
        code_counts(TOY, {"long": 2}, 10)
    with pytest.raises(ValueError, match="no attribute 0 of 'late' words"):
        code_counts(TOY, {"late": 0}, 10)
    with pytest.raises(ValueError, match="codes up to 9, num_codes is 9"):
        code_counts(TOY, {"long": 1}, 9)
