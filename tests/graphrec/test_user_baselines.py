"""Baselines without networks: by hand, on planted tasks, and that labels of a test stay unread."""

import numpy as np
import pytest
import torch

from graphrec.encoders.behavior_words import long_words
from graphrec.encoders.sentence_batches import take_sentences
from graphrec.encoders.sentences import FIRST, UserSentences
from graphrec.evaluation import auc
from graphrec.evaluation.genre_ranking import average_precision_at_k
from graphrec.models.trees import TreesConfig
from graphrec.models.user_baselines import (
    AggregateTrees,
    TfidfLogistic,
    choose_half_life,
    code_of_classes,
    own_frequency,
    popular_classes,
)
from tests.graphrec.toy_sentences import words_from_lists
from tests.graphrec.toy_tasks import TOY_SIZES, toy_task

CLASSES, VOCABULARY = ("bread", "soup", "tea"), ("soup", "coupon", "bread")
SOUP, COUPON, BREAD = FIRST, FIRST + 1, FIRST + 2
KINDS = {"long": long_words([("item", "buy", "user")], days=10)}
# the words of two users: the second has none
WORDS = [[(0, [(SOUP,), (SOUP,)]), (2, [(SOUP,), (COUPON,)]), (10, [(BREAD,)])], []]
SENTENCES = UserSentences(
    words={"long": words_from_lists(WORDS, 1)}, profile=torch.zeros(2, 0, dtype=torch.int64)
)
POPULARITY = torch.tensor([0.5, 0.25, 1.0], dtype=torch.float64)


def scores(**options):
    code = code_of_classes(CLASSES, VOCABULARY)
    return own_frequency(SENTENCES, {"long": 0}, FIRST + 3, code, POPULARITY, **options)


def test_popularity_is_a_share_of_rows():
    # one class below 0 is unknown: it does not count
    got = popular_classes(torch.tensor([0, 2, 2, -1]), num_rows=4, num_classes=3)
    assert got.tolist() == [0.25, 0.0, 0.5]
    with pytest.raises(ValueError, match="needs a labelled row"):
        popular_classes(torch.tensor([0]), num_rows=0, num_classes=3)


def test_own_frequency_by_hand():
    assert code_of_classes(CLASSES, VOCABULARY).tolist() == [BREAD, SOUP, -1]
    expected = [[1 + 0.0005, 2 + 0.00025, 0.001], [0.0005, 0.00025, 0.001]]
    np.testing.assert_allclose(scores(), expected)
    np.testing.assert_allclose(scores(popularity_weight=2.0)[1], [1.0, 0.5, 2.0])


def test_own_frequency_with_decay_by_hand():
    got = scores(kinds=KINDS, half_life=4.0, popularity_weight=0.0)
    # ages: ten and eight days, and none
    np.testing.assert_allclose(got, [[1.0, 0.5**2.5 + 0.5**2, 0.0], [0, 0, 0]], rtol=1e-6)
    with pytest.raises(ValueError, match="half_life needs the ages"):
        scores(half_life=4.0)


def test_the_half_life_with_the_highest_figure_is_taken():
    figure = {None: 0.2, 3.0: 0.5, 9.0: 0.5}
    chosen, figures = choose_half_life([None, 3.0, 9.0], lambda one: _constant(figure[one]), _mean)
    assert (chosen, figures) == (3.0, figure)
    with pytest.raises(ValueError, match="no half-life"):
        choose_half_life([], lambda one: _constant(0.0), _mean)


def _constant(value):
    return torch.full((1, 1), value, dtype=torch.float64)


def _mean(score):
    return float(score.mean())


@pytest.mark.parametrize(("life", "best"), [(None, 0.5), (1.0, 1.0)])
def test_a_habit_that_changed_needs_decay(life, best):
    """Many old words of one genre, one new word of another, which comes next."""
    old = [(day, [(SOUP,)]) for day in range(5)]
    sentences = UserSentences(
        words={"long": words_from_lists([[*old, (10, [(BREAD,)])]], 1)},
        profile=torch.zeros(1, 0, dtype=torch.int64),
    )
    code = code_of_classes(CLASSES, VOCABULARY)
    score = own_frequency(sentences, {"long": 0}, FIRST + 3, code, POPULARITY, kinds=KINDS, half_life=life)
    value = average_precision_at_k(score, torch.tensor([0, 1]), torch.tensor([0]))
    assert value.tolist() == [best]


def split(planted):
    task, sentences, _ = toy_task(planted=planted)
    label = task.queries["label"].to_numpy()
    return take_sentences(sentences, torch.arange(200)), label[:200], sentences, label


@pytest.mark.parametrize("planted", [True, False])
@pytest.mark.parametrize("name", ["tfidf", "trees"])
def test_a_planted_label_is_learnt_and_without_it_nothing_is(name, planted):
    train, train_label, sentences, label = split(planted)
    size = TOY_SIZES.words["long"].num_codes
    model = (
        TfidfLogistic([{"long": 0, "short": 0}, {"long": 1}], size, strength=10.0)
        if name == "tfidf"
        else AggregateTrees(TOY_SIZES, TreesConfig(num_trees=40, learning_rate=0.1, min_samples_leaf=5))
    )
    value = auc(label[200:], model.fit(train, train_label).predict(sentences)[200:])
    low, high = (0.95, 1.0) if planted else (0.35, 0.65)
    assert low <= value <= high


def test_a_prediction_does_not_depend_on_who_else_is_asked_for():
    train, train_label, sentences, _ = split(True)
    model = TfidfLogistic([{"long": 0}], [FIRST + 8]).fit(train, train_label)
    some = torch.tensor([300, 7])
    np.testing.assert_allclose(
        model.predict(take_sentences(sentences, some)), model.predict(sentences)[some.numpy()]
    )


def test_labels_other_than_0_and_1_are_refused():
    label = torch.zeros(len(SENTENCES))
    for model in (TfidfLogistic([{"long": 0}], [FIRST + 8]), AggregateTrees(TOY_SIZES)):
        with pytest.raises(ValueError, match=r"label must be 0 or 1, got .*7\.0.* in row 0"):
            model.fit(SENTENCES, label + 7)
        with pytest.raises(ValueError, match=r"must be 0 or 1, got .*yes.* in row 0"):
            model.fit(SENTENCES, ["yes"] * len(SENTENCES))
        with pytest.raises(ValueError, match="one label: "):
            model.fit(SENTENCES, label[1:])


def test_refuses_wrong_options_and_predictions_before_a_fit():
    with pytest.raises(ValueError, match="fit the regression before"):
        TfidfLogistic([{"long": 0}], [5]).predict(SENTENCES)
    with pytest.raises(ValueError, match="fit the trees before"):
        AggregateTrees(TOY_SIZES).predict(toy_task()[1])
    with pytest.raises(ValueError, match="each attribute needs its num_codes"):
        TfidfLogistic([{"long": 0}], [5, 6])
    with pytest.raises(ValueError, match="strength must be above 0"):
        TfidfLogistic([{"long": 0}], [5], strength=0.0)
