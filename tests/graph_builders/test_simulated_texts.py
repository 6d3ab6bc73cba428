"""The simulated items' texts: what they tell, what they cannot tell, and that they change nothing else."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from graph_builders import build_behavior_graph
from graph_builders.datasets import SimulatorConfig, config_of_size, simulate
from graph_builders.datasets.simulated_texts import _WORDS, NUM_TOPIC_WORDS, item_texts
from graph_builders.datasets.simulated_world import draw_world

SMALL = config_of_size(20_000, num_days=2, random_seed=5, num_items=600, words_per_item=8)


@pytest.fixture(scope="module")
def small():
    return simulate(SMALL)


def words_of(config):
    """Return the items' topics and how often each item has each word of the vocabulary."""
    world = draw_world(config)
    words = item_texts(config, world)["text"].str.split(" ")
    number = {word: place for place, word in enumerate(_WORDS)}
    codes = np.array([[number[word] for word in text] for text in words])
    count = np.zeros((len(codes), len(_WORDS)))
    np.add.at(count, (np.arange(len(codes))[:, None], codes), 1)
    return np.concatenate([world.item_topic, world.external_topic]), count


def shared_words(config):
    """Return how many distinct words two items share on average: of one topic, of different topics."""
    topic, count = words_of(config)
    has = (count > 0).astype(float)
    shared, same = has @ has.T, topic[:, None] == topic
    others = ~np.eye(len(topic), dtype=bool)
    return shared[same & others].mean(), shared[~same].mean()


def told_topic(config):
    """Return how often the topic that the first half of the items makes most likely is the second half's."""
    topic, count = words_of(config)
    half = len(topic) // 2
    of_topic = np.zeros((config.num_topics, count.shape[1]))
    np.add.at(of_topic, topic[:half], count[:half])
    likely = np.log((of_topic + 0.1) / (of_topic + 0.1).sum(axis=1, keepdims=True))
    return ((count[half:] @ likely.T).argmax(axis=1) == topic[half:]).mean()


def test_nothing_else_changes_with_texts(small):
    without = simulate(replace(SMALL, words_per_item=0))
    assert without.text_tables == {}
    for name in ("impressions", "all_impressions", "user_table", "item_table"):
        assert getattr(small, name).equals(getattr(without, name)), name
    assert small.events.frame.equals(without.events.frame)
    assert small.click_probability.tobytes() == without.click_probability.tobytes()
    for name, value in vars(small.world).items():
        assert value.tobytes() == getattr(without.world, name).tobytes(), name


def test_texts_are_known_before_any_event(small):
    # other sizes and effects give other events, of the same items with the same texts
    other = simulate(
        replace(SMALL, num_impressions=3_000, num_users=50, bias=1.0, trend=0.0, external_interest=0.0)
    )
    assert not other.impressions.equals(small.impressions.head(3_000))
    assert other.text_tables["item"].equals(small.text_tables["item"])


def test_the_same_seed_has_the_same_texts(small):
    texts = small.text_tables["item"]
    assert texts.schema == {"item_id": pl.Int64, "text": pl.String}
    assert texts["item_id"].equals(small.item_table["item_id"])
    assert item_texts(SMALL, draw_world(SMALL)).equals(texts)
    other = replace(SMALL, random_seed=6)
    assert (item_texts(other, draw_world(other))["text"] == texts["text"]).mean() < 0.01
    assert (texts["text"].str.split(" ").list.len() == SMALL.words_per_item).all()
    assert len(set(_WORDS)) == len(_WORDS)


def test_items_of_one_topic_share_more_words():
    same, different = shared_words(SMALL)
    assert same > 1.4 * different > 0  # common words are shared by all
    nothing = shared_words(replace(SMALL, text_accuracy=0.0))
    assert nothing[0] == pytest.approx(nothing[1], rel=0.05)


def test_texts_tell_the_topic_but_not_perfectly():
    assert 0.5 < told_topic(SMALL) < 0.9
    assert told_topic(replace(SMALL, text_accuracy=0.0)) < 0.12  # one of 20 topics
    assert told_topic(replace(SMALL, text_accuracy=1.0)) > 0.85


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 1.0])
def test_the_share_of_topic_words(accuracy):
    _, count = words_of(replace(SMALL, text_accuracy=accuracy))
    share = count[:, :NUM_TOPIC_WORDS].sum() / count.sum()
    assert share == pytest.approx(accuracy, abs=0.03)


def test_another_accuracy_changes_the_words_that_it_concerns_alone():
    low, high = (
        item_texts(changed, draw_world(changed))["text"].str.split(" ").explode().to_numpy()
        for changed in (replace(SMALL, text_accuracy=accuracy) for accuracy in (0.5, 0.6))
    )
    assert (low == high).mean() == pytest.approx(0.9, abs=0.02)


def test_long_lives_with_texts_make_a_graph():
    config = SimulatorConfig(
        num_days=5,
        num_users=10,
        num_items=100,
        num_external_items=50,
        num_impressions=20_000,
        num_external_events=30_000,
        words_per_item=3,
    )
    data = simulate(config)
    lives = data.events.frame["user_id"].value_counts()["count"]
    assert lives.min() > 2_000
    graph = build_behavior_graph(
        data.events, user_table=data.user_table, item_table=data.item_table, texts=data.text_tables
    )
    texts = graph.texts["item"]
    assert texts.null_count() == 1  # the row of unseen items
    assert texts.head(150).to_list() == data.text_tables["item"]["text"].to_list()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"words_per_item": -1}, "words_per_item must be a whole number of at least 0, got -1"),
        ({"text_accuracy": 1.5}, "text_accuracy must be finite and at least 0 and at most 1, got 1.5"),
        ({"text_accuracy": float("nan")}, "text_accuracy must be finite"),
    ],
)
def test_options_that_make_no_text_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatorConfig(**options)
