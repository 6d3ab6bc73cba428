"""Each planted effect is there at its default and gone at zero; labels follow the stated probabilities."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from graph_builders.datasets import SimulatorConfig, simulate

DEFAULT = SimulatorConfig()
STRENGTHS = ("trend", "short_interest", "lasting_interest", "user_activity", "item_quality", "position_bias")
NOTHING = dict.fromkeys(STRENGTHS, 0.0)
START = 1_704_067_200


@pytest.fixture(scope="module")
def default():
    return simulate(DEFAULT)


def columns(data):
    """User, item, topic, hour of the log and label of the impressions."""
    user, item, time, label = (
        data.impressions[name].to_numpy() for name in ("user_id", "item_id", "time", "label")
    )
    return user, item, data.world.item_topic[item].astype(np.int64), (time - START) // 3600, label


def topic_hour_score(data):
    """Standard score of the chi-square of click rates by (topic, hour) against the topic's own rate."""
    _, _, topic, hour, label = columns(data)
    key = topic * data.config.num_hours + hour
    num_keys = data.config.num_topics * data.config.num_hours
    count, clicks = np.bincount(key, minlength=num_keys), np.bincount(key, label, num_keys)
    rate = np.bincount(topic, label) / np.bincount(topic)
    expected = count * np.repeat(rate, data.config.num_hours)
    used = expected > 5
    variance = (expected * (1 - np.repeat(rate, data.config.num_hours)))[used]
    statistic = ((clicks - expected)[used] ** 2 / variance).sum()
    freedom = used.sum() - data.config.num_topics
    assert freedom > 1000
    return (statistic - freedom) / np.sqrt(2 * freedom)


def test_without_trends_topics_click_alike_at_all_hours():
    # all else is zero too: users and moods of an hour would make its clicks depend on each other
    flat = simulate(replace(DEFAULT, **NOTHING))
    assert abs(topic_hour_score(flat)) < 4
    assert flat.click_probability.std() < 1e-12
    trending = simulate(replace(DEFAULT, **{**NOTHING, "trend": DEFAULT.trend}))
    assert topic_hour_score(trending) > 100


def test_without_trends_clicks_depend_on_no_heat(default):
    """With all other effects on: labels against heat, within topic, across days of other heat."""

    def correlation(data):
        _, _, topic, hour, label = columns(data)
        heat = data.world.heat[hour, topic]
        rate = np.bincount(topic, label) / np.bincount(topic)
        mean = np.bincount(topic, heat) / np.bincount(topic)
        return np.corrcoef(label - rate[topic], heat - mean[topic])[0, 1]

    assert correlation(default) > 0.15
    assert abs(correlation(simulate(replace(DEFAULT, trend=0.0)))) < 4 / np.sqrt(DEFAULT.num_impressions / 5)


def test_trends_rise_in_their_hours_and_decay(default):
    heat = default.world.heat
    assert heat.shape == (240, 20)
    assert heat.min() == 0
    assert not heat[: int(DEFAULT.trend_start_hours[0])].any()
    assert 0.5 < heat.max() < 2.5
    one = simulate(replace(DEFAULT, num_days=3, trends_per_day=1)).world.heat
    first = one[:24].max(axis=0).argmax()
    peak = one[:24, first].argmax()
    assert 6 <= peak <= 20
    if one[24:30, first].max() <= one[23, first]:
        np.testing.assert_allclose(one[22, first] / one[21, first], np.exp(-1 / 8), rtol=1e-9)
    by_hour = heat[24:].reshape(-1, 24, 20).mean(axis=(0, 2))
    assert by_hour[18] > 2 * by_hour[6]  # the day's trends add up until the evening


def external_information(data, num_shuffles=30):
    """Mutual information of a click and the user's external share of its topic, given topic and day.

    Also its mean and deviation when users' external histories change hands.
    """
    config = data.config
    user, _, topic, _, label = columns(data)
    views = data.events.frame.filter(pl.col("domain") == "external")
    viewed = data.world.external_topic[views["item_id"].to_numpy() - config.num_items].astype(np.int64)
    count = np.zeros((config.num_users, config.num_topics))
    np.add.at(count, (views["user_id"].to_numpy(), viewed), 1)
    share = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
    level = (share > np.median(share, axis=0)).astype(np.int64) + (share > np.quantile(share, 0.85, axis=0))

    def information(order):
        key = (topic * 3 + level[order][user, topic]) * 2 + label.astype(np.int64)
        p = np.bincount(key, minlength=config.num_topics * 6).reshape(-1, 3, 2) / len(key)
        within = p.sum(axis=(1, 2), keepdims=True)
        independent = p.sum(axis=2, keepdims=True) * p.sum(axis=1, keepdims=True) / np.maximum(within, 1e-300)
        there = p > 0
        return (p[there] * np.log(p[there] / np.broadcast_to(independent, p.shape)[there])).sum()

    random = np.random.default_rng(0)
    shuffled = [information(random.permutation(config.num_users)) for _ in range(num_shuffles)]
    return information(np.arange(config.num_users)), np.mean(shuffled), np.std(shuffled)


def test_external_events_tell_of_clicks_as_strongly_as_asked(default):
    found, mean, deviation = external_information(default)
    assert found > mean + 30 * deviation
    weaker, *_ = external_information(simulate(replace(DEFAULT, external_interest=0.3)))
    assert mean + 10 * deviation < weaker < found
    none, mean, deviation = external_information(simulate(replace(DEFAULT, external_interest=0.0)))
    assert none < mean + 4 * deviation


def test_without_lasting_interests_external_events_have_nothing_to_tell():
    # moods are off too: an item that was not chosen for the taste more often meets the mood
    data = simulate(replace(DEFAULT, lasting_interest=0.0, short_interest=0.0))
    found, mean, deviation = external_information(data)
    assert found < mean + 4 * deviation


def last_hours_repeat(data):
    """Excess of clicks in the topic that the user clicked within two hours before, over other topics.

    In standard errors; the user's own rate is taken out.
    """
    user, _, topic, hour, label = columns(data)
    config = data.config
    rows = pl.DataFrame({"user": user, "topic": topic, "hour": hour, "label": label}).with_row_index("row")
    clicked = rows.filter(pl.col("label") == 1).select("user", "topic", before="hour").unique()
    recent = (
        pl.concat([clicked.with_columns(hour=pl.col("before") + lag) for lag in (1, 2)])
        .select("user", "topic", "hour")
        .unique()
    )
    again = rows.join(recent, on=["user", "topic", "hour"])["row"].to_numpy()
    same = np.zeros(len(user), bool)
    same[again] = True
    # others: topics of the same user-hours in which a recent click was made elsewhere
    active = rows.join(recent.select("user", "hour").unique(), on=["user", "hour"])["row"].to_numpy()
    other = np.setdiff1d(active, again)
    assert min(len(again), len(other)) > 1000
    difference = label[again].mean() - label[other].mean()
    rate = label[active].mean()
    return difference / np.sqrt(rate * (1 - rate) * config.page_size * (1 / len(again) + 1 / len(other)))


def test_short_lived_interests():
    alone = {**NOTHING, "short_interest": DEFAULT.short_interest}
    assert last_hours_repeat(simulate(replace(DEFAULT, **alone))) > 10
    assert abs(last_hours_repeat(simulate(replace(DEFAULT, **NOTHING)))) < 4


def test_strengths_change_labels_and_no_exposure(default):
    other = simulate(replace(DEFAULT, **NOTHING, external_interest=0.0))
    assert default.impressions.drop("label").equals(other.impressions.drop("label"))
    assert not default.impressions["label"].equals(other.impressions["label"])
    same = ["user_id", "time", "domain"]
    assert default.events.frame.select(same).equals(other.events.frame.select(same))
    assert not default.events.frame["item_id"].equals(other.events.frame["item_id"])


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_are_drawn_from_the_probabilities(seed):
    data = simulate(replace(DEFAULT, random_seed=seed))
    probability, label = data.click_probability, data.impressions["label"].to_numpy()
    assert probability.dtype == np.float64
    assert 0 < probability.min() < 0.05
    assert 0.9 < probability.max() < 1
    bins = np.searchsorted(np.quantile(probability, np.linspace(0, 1, 51)[1:-1]), probability, side="right")
    clicks, expected = np.bincount(bins, label), np.bincount(bins, probability)
    statistic = ((clicks - expected) ** 2 / np.bincount(bins, probability * (1 - probability))).sum()
    assert len(clicks) == 50
    assert abs(statistic - 50) < 4 * np.sqrt(100)


def test_the_probability_is_the_formula(default):
    """With one effect at a time, from the world's own columns."""
    world = default.world
    user, item, topic, hour, _ = columns(default)

    def logit(**strengths):
        probability = simulate(replace(DEFAULT, **{**NOTHING, **strengths})).click_probability
        return np.log(probability / (1 - probability))

    root = np.sqrt(world.interest)
    affinity = ((root - root.mean()) / root.std())[user, topic]
    assert abs(affinity.mean()) < 1.5  # the policy shows what users like
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(logit(lasting_interest=0.9), -2 + 0.9 * affinity, **close)
    np.testing.assert_allclose(logit(trend=3.0), -2 + 3 * world.heat[hour, topic], **close)
    np.testing.assert_allclose(logit(item_quality=0.5), -2 + 0.5 * world.item_quality[item], **close)
    np.testing.assert_allclose(logit(user_activity=0.5), -2 + 0.5 * world.user_bias[user], **close)
    position = default.impressions["position"].to_numpy().astype(float)
    np.testing.assert_allclose(logit(position_bias=0.2), -2 - 0.2 * np.log1p(position), **close)
    mood = (logit(short_interest=2.0) + 2) / 2
    assert ((np.abs(mood) < 1e-9) | ((mood > np.exp(-1) - 1e-6) & (mood < 1 + 1e-6))).all()
    # the policy draws a fifth from the mood; others meet it by chance
    assert 0.2 < (mood > 0.3).mean() < 0.3


def test_moods_last_some_hours_and_decay():
    """A user who is shown one topic after another is in one mood at a time."""
    data = simulate(replace(DEFAULT, **{**NOTHING, "short_interest": 2.0}))
    user, _, topic, hour, _ = columns(data)
    weight = (np.log(data.click_probability / (1 - data.click_probability)) + 2) / 2
    moody = pl.DataFrame({"user": user, "hour": hour, "topic": topic, "weight": weight}).filter(
        pl.col("weight") > 1e-6
    )
    one = moody.group_by("user", "hour").agg(
        pl.col("topic").n_unique(), spread=pl.col("weight").max() - pl.col("weight").min()
    )
    assert one["topic"].max() == 1
    assert one["spread"].max() < 1e-6
    start = (moody["hour"] + DEFAULT.mood_hours * np.log(moody["weight"].to_numpy())).to_numpy()
    np.testing.assert_allclose(start, np.round(start), atol=1e-3)  # a mood's weight tells when it came
    assert set(np.round(moody["hour"].to_numpy() - start).astype(int)) == set(range(6))


def test_the_oracle_is_far_above_item_and_user_rates(default):
    user, item, _, _, label = columns(default)
    later = np.zeros(len(label), bool)
    later[len(label) * 4 // 5 :] = True

    def rate(key):
        count, clicks = (
            np.bincount(key[~later], minlength=12_000),
            np.bincount(key[~later], label[~later], 12_000),
        )
        return ((clicks + 3) / (count + 10))[key]

    oracle = default.oracle_auc(later)
    assert oracle == roc_auc_score(label[later], default.click_probability[later])
    assert 0.8 < oracle < 0.87
    for key in (item, user):
        simple = roc_auc_score(label[later], rate(key)[later])
        assert 0.52 < simple < oracle - 0.15
    assert default.oracle_auc() == roc_auc_score(label, default.click_probability)
    with pytest.raises(ValueError, match="needs clicks and skips, got 0 rows"):
        default.oracle_auc(np.zeros(len(label), bool))


def test_user_and_item_fields_say_little(default):
    """The most that fields alone could reach, by their own rates on the rows that are scored."""
    user, item, _, _, label = columns(default)
    table = default.user_table.with_columns(pl.all().exclude("user_id").cast(pl.Categorical).to_physical())
    for name in ("segment", "age_group", "region"):
        code = table[name].to_numpy()[user]
        rate = (np.bincount(code, label) / np.maximum(np.bincount(code), 1))[code]
        assert roc_auc_score(label, rate) < 0.56
    category = default.item_table["category"].head(DEFAULT.num_items).cast(pl.Categorical).to_physical()
    code = category.to_numpy()[item]
    rate = (np.bincount(code, label) / np.maximum(np.bincount(code), 1))[code]
    assert roc_auc_score(label, rate) < 0.58
