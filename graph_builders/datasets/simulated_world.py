"""The hidden state of a simulated world: tastes, items, hot topics, and how users and items are drawn."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float32, Float64, Int8, Int16, Int64

from graph_builders.datasets.simulator_config import SimulatorConfig

# kinds of users: the hour of day when each is most active, and its share of the users
PEAK_HOUR = np.array([8.0, 13.0, 20.0, 23.0])
KIND_SHARE = np.array([0.15, 0.25, 0.45, 0.15])
COMMON = -1  # in place of a topic: draw by popularity, whatever the topic
_ACTIVITY_SPREAD = 0.7  # standard deviation of the logarithm of how often users come
_FEWEST_HALVINGS = 60.0  # an item's weight falls no further than to 2^-60


class Draw(IntEnum):
    """What a generator is for: each purpose (and hour) has draws of its own."""

    INTERESTS = 0
    USERS = 1
    ITEMS = 2
    EXTERNAL_ITEMS = 3
    TRENDS = 4
    HOUR_SIZES = 5
    VISITS = 6
    EXPOSURES = 7
    LABELS = 8
    EXTERNAL_EVENTS = 9
    FIELDS = 10
    TEXTS = 11


def generator_for(config: SimulatorConfig, purpose: Draw, hour: int = 0) -> np.random.Generator:
    """Return the generator of a purpose; another purpose's draws change none of its numbers."""
    return np.random.default_rng([config.random_seed, int(purpose), hour])


@dataclass(frozen=True, eq=False)
class World:
    """What the simulator knows and a model does not.

    Attributes:
        interest: lasting interests: each user's probabilities of the topics.
        user_bias: standard normal: how readily the user clicks.
        user_kind: places in ``PEAK_HOUR``.
        user_activity: how often the user comes, relative to others of their kind.
        item_topic, external_topic: topics of internal and of external items.
        item_quality: standard normal: how well the item is received.
        item_popularity, external_popularity: weights of the draw by popularity.
        birth_hour: hours from the start of the log; negative for items that were there before.
        heat: how hot each topic is in the middle of each hour.

    """

    interest: Float32[np.ndarray, "num_users num_topics"]
    user_bias: Float32[np.ndarray, " num_users"]
    user_kind: Int8[np.ndarray, " num_users"]
    user_activity: Float64[np.ndarray, " num_users"]
    item_topic: Int16[np.ndarray, " num_items"]
    item_quality: Float32[np.ndarray, " num_items"]
    item_popularity: Float64[np.ndarray, " num_items"]
    birth_hour: Float64[np.ndarray, " num_items"]
    external_topic: Int16[np.ndarray, " num_external_items"]
    external_popularity: Float64[np.ndarray, " num_external_items"]
    heat: Float64[np.ndarray, "num_hours num_topics"]


def draw_world(config: SimulatorConfig) -> World:
    """Draw everything that does not depend on who comes when."""
    random = generator_for(config, Draw.INTERESTS)
    shape = (config.num_users, config.num_topics)
    interest = random.standard_gamma(config.interest_concentration, shape, dtype=np.float32)
    interest += 1e-20  # a row of zeros has no probabilities
    interest /= interest.sum(axis=1, keepdims=True)
    random = generator_for(config, Draw.USERS)
    user_bias = random.standard_normal(config.num_users, dtype=np.float32)
    user_kind = random.choice(len(PEAK_HOUR), config.num_users, p=KIND_SHARE).astype(np.int8)
    user_activity = np.exp(_ACTIVITY_SPREAD * random.standard_normal(config.num_users))
    random = generator_for(config, Draw.ITEMS)
    num_old = int(config.num_items * config.initial_items)
    item_topic = _topics(config, config.num_items, random)
    item_quality = random.standard_normal(config.num_items, dtype=np.float32)
    item_popularity = _zipf(config, config.num_items, random)
    birth_hour = config.num_hours * random.random(config.num_items)
    birth_hour[:num_old] -= config.num_hours
    random = generator_for(config, Draw.EXTERNAL_ITEMS)
    return World(
        interest=interest,
        user_bias=user_bias,
        user_kind=user_kind,
        user_activity=user_activity,
        item_topic=item_topic,
        item_quality=item_quality,
        item_popularity=item_popularity,
        birth_hour=birth_hour,
        external_topic=_topics(config, config.num_external_items, random),
        external_popularity=_zipf(config, config.num_external_items, random),
        heat=_draw_heat(config),
    )


def _topics(config: SimulatorConfig, num_items: int, random: np.random.Generator) -> np.ndarray:
    """Draw topics; the first items take one each, so that no topic is ever without an item."""
    topic = random.integers(0, config.num_topics, num_items, dtype=np.int16)
    topic[: config.num_topics] = random.permutation(config.num_topics)
    return topic


def _zipf(config: SimulatorConfig, num_items: int, random: np.random.Generator) -> np.ndarray:
    return (1.0 + random.permutation(num_items)) ** -config.popularity_exponent


def _draw_heat(config: SimulatorConfig) -> np.ndarray:
    """Sum the trends of each topic: a straight rise to the peak, then an exponential decay."""
    random = generator_for(config, Draw.TRENDS)
    heat = np.zeros((config.num_hours, config.num_topics))
    middle = np.arange(config.num_hours) + 0.5
    hot = [random.permutation(config.num_topics)[: config.trends_per_day] for _ in range(config.num_days)]
    for number, topic in enumerate(np.concatenate(hot)):
        day = number // config.trends_per_day
        start = 24 * day + random.uniform(*config.trend_start_hours)
        peak = random.uniform(0.6, 1.4)
        since_peak = middle - start - config.trend_rise_hours
        rise = np.clip(1 + since_peak / config.trend_rise_hours, 0, 1)
        decay = np.exp(-np.maximum(since_peak, 0) / config.trend_decay_hours)
        heat[:, topic] += peak * rise * decay
    return heat


def kind_rhythm(config: SimulatorConfig) -> Float64[np.ndarray, "24 num_kinds"]:
    """Return how active each kind of users is in each hour of the day; each kind's mean is 1."""
    middle = np.arange(24)[:, None] + 0.5
    rate = np.exp(config.rhythm * np.cos((middle - PEAK_HOUR) * (2 * np.pi / 24)))
    return rate / rate.mean(axis=0)


class VisitorDraw:
    """Draws users: a kind by the hour of day, then a user of that kind by weight."""

    def __init__(self, config: SimulatorConfig, world: World, weight: np.ndarray) -> None:
        self._order = np.argsort(world.user_kind, kind="stable")
        self._cumulative = np.cumsum(weight[self._order])
        num_of_kind = np.bincount(world.user_kind, minlength=len(PEAK_HOUR))
        self._kind_bounds = np.concatenate([[0.0], self._cumulative])[np.cumsum([0, *num_of_kind])]
        self._kind_rate = kind_rhythm(config) * np.diff(self._kind_bounds)

    def rate(self) -> Float64[np.ndarray, "24"]:
        """Return how many visits each hour of the day has, relative to the others."""
        return self._kind_rate.sum(axis=1)

    def draw(self, uniform: np.ndarray, hour: int) -> Int64[np.ndarray, " num_draws"]:
        """Turn uniform numbers into users."""
        kinds = np.cumsum([0.0, *self._kind_rate[hour % 24]])
        place = np.interp(uniform, kinds / kinds[-1], self._kind_bounds)
        found = np.searchsorted(self._cumulative, place, side="right")
        return self._order[np.minimum(found, len(self._order) - 1)]


class ItemDraw:
    """Draws items by popularity, from one topic or from all, among those that are there."""

    def __init__(self, topic: np.ndarray, weight: np.ndarray, num_topics: int) -> None:
        self._order = np.argsort(topic, kind="stable")
        self._sorted_topic = topic[self._order].astype(np.int64)
        self._sorted_weight = weight[self._order]
        self._num_topics = num_topics
        self.refresh(None, np.ones(len(topic)))

    def refresh(self, present: np.ndarray | None, factor: np.ndarray) -> None:
        """Set which items can be drawn (None: all), and what each one's weight is multiplied by."""
        order, topic, weight = self._order, self._sorted_topic, self._sorted_weight * factor[self._order]
        if present is not None:
            kept = present[order]
            order, topic, weight = order[kept], topic[kept], weight[kept]
        self._present = order
        self._cumulative = np.cumsum(weight)
        count = np.bincount(topic, minlength=self._num_topics)
        # the last row is for COMMON, which is -1: from the first item to the last
        self._first = np.concatenate([np.cumsum(count) - count, [0]])
        self._last = np.concatenate([np.cumsum(count) - 1, [len(order) - 1]])
        before = np.concatenate([[0.0], self._cumulative])
        self._low = before[self._first]
        self._width = before[self._last + 1] - self._low

    def draw(self, uniform: np.ndarray, topic: np.ndarray) -> Int64[np.ndarray, " num_draws"]:
        """Turn uniform numbers into items of the given topics, or of any topic where it is ``COMMON``."""
        place = self._low[topic] + uniform * self._width[topic]
        found = np.searchsorted(self._cumulative, place, side="right")
        return self._present[np.clip(found, self._first[topic], self._last[topic])]

    def draw_uniform(self, uniform: np.ndarray) -> Int64[np.ndarray, " num_draws"]:
        """Turn uniform numbers into items that are all equally likely."""
        return self._present[(uniform * len(self._present)).astype(np.int64)]


def item_fading(config: SimulatorConfig, world: World, hour: int) -> Float64[np.ndarray, " num_items"]:
    """Return what an item's age leaves of its popularity at the start of an hour."""
    halvings = (hour - world.birth_hour) / config.item_half_life_hours
    return np.exp2(-np.clip(halvings, 0, _FEWEST_HALVINGS))


class TopicDraw:
    """Draws topics from users' lasting interests."""

    def __init__(self, world: World) -> None:
        # the last topic takes what is left: float32 sums need not reach 1
        self._cumulative = np.cumsum(world.interest, axis=1)[:, :-1].copy()

    def draw(self, uniform: np.ndarray, user: np.ndarray) -> Int64[np.ndarray, " num_draws"]:
        """Turn uniform numbers into one topic for each user given."""
        return (self._cumulative[user] <= uniform[:, None]).sum(axis=1)
