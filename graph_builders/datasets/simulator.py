"""A behaviour simulator with planted effects and known click probabilities. Its data are SIMULATED.

Users with lasting interests act in an internal domain, where a policy shows them items, and in an external
one, where they choose. Moods of some hours, topics that become hot for some hours, daily rhythm and the
birth and fading of items come on top. The effects are those that LSTTM (WSDM 2022) claims to use, each with
a strength that can be set to zero; all laws are our own and stand in ``SimulatorConfig``.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from graph_builders.datasets.simulated_texts import item_texts
from graph_builders.datasets.simulated_world import (
    COMMON,
    Draw,
    ItemDraw,
    TopicDraw,
    VisitorDraw,
    World,
    draw_world,
    generator_for,
    item_fading,
)
from graph_builders.datasets.simulator_config import SimulatorConfig
from graph_builders.datasets.tables import DatasetTables
from graph_builders.events import EventLog, EventLogReport, SourceReport
from graph_builders.splits import day_bounds

SECONDS_PER_HOUR = 3600
SECONDS_PER_POSITION = 10
_BEHAVIORS = ("skip", "click", "view")  # codes 0 and 1 are labels
_DOMAINS = ("internal", "external")
_NAME = "simulated behaviour"


@dataclass(frozen=True, kw_only=True, eq=False)
class SimulatedData(DatasetTables):
    """The tables of a simulated log, with the truth that real data do not tell.

    Attributes:
        config: what was simulated.
        click_probability: the probability with which each row of ``impressions`` drew its label.
        world: the hidden state, for analyses. A model that reads it cheats.

    """

    config: SimulatorConfig
    click_probability: Float64[np.ndarray, " num_impressions"]
    world: World

    def oracle_auc(self, rows: Bool[np.ndarray, " num_impressions"] | None = None) -> float:
        """Return the AUC of the true probabilities: what no model passes but by chance.

        Args:
            rows: the impressions that count; default: all.

        Raises:
            ValueError: the rows hold no click, or nothing else.

        """
        from sklearn.metrics import roc_auc_score  # slow to import

        chosen = np.ones(self.impressions.height, dtype=bool) if rows is None else rows
        label = self.impressions["label"].to_numpy()[chosen]
        if len(np.unique(label)) < 2:
            raise ValueError(
                f"AUC needs clicks and skips, got {len(label)} rows with {label.sum():.0f} clicks"
            )
        return float(roc_auc_score(label, self.click_probability[chosen]))


def simulate(config: SimulatorConfig) -> SimulatedData:
    """Simulate a log; time and memory grow linearly with its events, hour by hour.

    Args:
        config: sizes and effects; ``config_of_size`` makes one for a number of events.

    Returns:
        Tables with times in seconds, in order of time. Users are 0, 1, ..., internal items too, and external
        items follow them. Behaviours: "click" and "skip" in domain "internal", one for each impression at
        its time, and "view" in domain "external". Contexts of the impressions: the ``hour`` of day and the
        ``position`` on the page. User fields: ``segment`` (says a little of the main topic), ``age_group``
        (says a little of the readiness to click) and ``region`` (says nothing). Item fields, null for
        external items: ``category`` (the topic, with errors), ``format`` (says a little of the quality) and
        ``birth_hour`` (hours from the start of the log). An item is in no event before its birth. Where
        ``config.words_per_item`` is above 0, all items of both domains have a text in ``text_tables``.

    """
    world = draw_world(config)
    log = _Log.empty(config)
    internal, external = _InternalDomain(config, world), _ExternalDomain(config, world)
    random = generator_for(config, Draw.HOUR_SIZES)
    shown = _hour_bounds(config.num_impressions, internal.visitors.rate(), config, random)
    viewed = _hour_bounds(config.num_external_events, external.visitors.rate(), config, random)
    for hour in range(config.num_hours):
        rows = slice(shown[hour], shown[hour + 1])
        seen = internal.simulate_hour(hour, rows.stop - rows.start)
        views = external.simulate_hour(hour, viewed[hour + 1] - viewed[hour])
        log.write_hour(hour, shown[hour], shown[hour] + viewed[hour], seen, views)
    return _tables(config, world, log)


@dataclass(frozen=True, eq=False)
class _Shown:
    """The impressions of an hour, in order of time."""

    user: np.ndarray
    item: np.ndarray
    second: np.ndarray
    position: np.ndarray
    probability: np.ndarray
    clicked: np.ndarray


@dataclass(frozen=True, eq=False)
class _Views:
    """The external events of an hour, in no order."""

    user: np.ndarray
    item: np.ndarray
    second: np.ndarray


class _InternalDomain:
    """Visits, moods, the policy and the clicks; knows who came in the last hour, and users' moods."""

    def __init__(self, config: SimulatorConfig, world: World) -> None:
        self.visitors = VisitorDraw(config, world, world.user_activity)
        self._config, self._world = config, world
        self._items = ItemDraw(world.item_topic, world.item_popularity, config.num_topics)
        self._interests = TopicDraw(world)
        root = np.sqrt(world.interest)
        self._affinity_center, self._affinity_scale = root.mean(dtype=np.float64), root.std(dtype=np.float64)
        self._last_visitors = np.zeros(0, dtype=np.int64)
        self._mood_topic = np.full(config.num_users, COMMON, dtype=np.int16)
        self._mood_hour = np.full(config.num_users, -np.inf, dtype=np.float32)

    def simulate_hour(self, hour: int, num_rows: int) -> _Shown:
        """Draw the visits of an hour, what they were shown and what was clicked."""
        config, world = self._config, self._world
        user, second, position = self._visit(hour, num_rows)
        item, topic = self._expose(hour, user)
        mood = np.exp((self._mood_hour[user] - hour) / config.mood_hours) * (self._mood_topic[user] == topic)
        affinity = (np.sqrt(world.interest[user, topic]) - self._affinity_center) / self._affinity_scale
        logit = (
            config.bias
            + config.user_activity * world.user_bias[user]
            + config.item_quality * world.item_quality[item]
            + config.lasting_interest * affinity
            + config.short_interest * mood
            + config.trend * world.heat[hour][topic]
            - config.position_bias * np.log1p(np.arange(config.page_size))[position]
        )
        probability = 1.0 / (1.0 + np.exp(-logit.astype(np.float64)))
        clicked = generator_for(config, Draw.LABELS, hour).random(num_rows) < probability
        return _Shown(user, item, second, position, probability, clicked)

    def _visit(self, hour: int, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw who comes and when; return user, second and position of each impression, in order of time."""
        config = self._config
        random = generator_for(config, Draw.VISITS, hour)
        num_visits = -(-num_rows // config.page_size)
        visitor = self.visitors.draw(np.sort(random.random(num_visits)), hour)
        if len(self._last_visitors):
            again = random.random(num_visits) < config.return_rate
            visitor[again] = self._last_visitors[random.integers(0, len(self._last_visitors), again.sum())]
        self._last_visitors = visitor
        self._change_moods(hour, visitor, random)
        # a page ends within its hour; seconds of an hour fit in 16 bits, which sort in linear time
        latest = SECONDS_PER_HOUR - SECONDS_PER_POSITION * (config.page_size - 1)
        start = random.integers(0, latest, num_visits, dtype=np.int16)
        place = np.arange(num_visits * config.page_size)[:num_rows]
        visit, position = np.divmod(place, config.page_size)
        second = start[visit] + (SECONDS_PER_POSITION * position).astype(np.int16)
        order = np.argsort(second, kind="stable")
        return visitor[visit[order]], second[order], position[order]

    def _change_moods(self, hour: int, visitor: np.ndarray, random: np.random.Generator) -> None:
        """Give a mood to the visitors whose last one has faded."""
        faded = visitor[hour - self._mood_hour[visitor] > self._config.mood_hours]
        # a user with two visits in the hour is here twice: the last mood is kept, for both
        self._mood_topic[faded] = random.integers(0, self._config.num_topics, len(faded), dtype=np.int16)
        self._mood_hour[faded] = hour

    def _expose(self, hour: int, user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Let the policy choose an item for each impression; return the items and their topics."""
        config, world = self._config, self._world
        random = generator_for(config, Draw.EXPOSURES, hour)
        self._items.refresh(world.birth_hour <= hour, item_fading(config, world, hour))
        part = random.random(len(user), dtype=np.float32)
        by_interest = np.flatnonzero(part < config.policy_interest)
        part -= np.float32(config.policy_interest)
        by_mood = np.flatnonzero((part >= 0) & (part < config.policy_mood))
        part -= np.float32(config.policy_mood)
        explored = np.flatnonzero((part >= 0) & (part < config.policy_exploration))
        wanted = np.full(len(user), COMMON, dtype=np.int64)
        interest = self._interests.draw(random.random(len(by_interest)), user[by_interest])
        wrong = random.random(len(by_interest)) < config.policy_noise
        interest[wrong] = random.integers(0, config.num_topics, wrong.sum())
        wanted[by_interest] = interest
        wanted[by_mood] = self._mood_topic[user[by_mood]]
        item = self._items.draw(random.random(len(user)), wanted)
        item[explored] = self._items.draw_uniform(random.random(len(explored)))
        return item, world.item_topic[item]


class _ExternalDomain:
    """What users view elsewhere; all come equally often, so that every user is known there."""

    def __init__(self, config: SimulatorConfig, world: World) -> None:
        self.visitors = VisitorDraw(config, world, np.ones(config.num_users))
        self._config = config
        self._items = ItemDraw(world.external_topic, world.external_popularity, config.num_topics)
        self._interests = TopicDraw(world)

    def simulate_hour(self, hour: int, num_rows: int) -> _Views:
        config = self._config
        random = generator_for(config, Draw.EXTERNAL_EVENTS, hour)
        user = self.visitors.draw(np.sort(random.random(num_rows)), hour)
        second = random.integers(0, SECONDS_PER_HOUR, num_rows, dtype=np.int16)
        topic = np.full(num_rows, COMMON, dtype=np.int64)
        # drawn for all rows, so that another strength changes the topics of the rows that it concerns alone
        own, uniform = random.random(num_rows) < config.external_interest, random.random(num_rows)
        topic[own] = self._interests.draw(uniform[own], user[own])
        item = self._items.draw(random.random(num_rows), topic)
        return _Views(user, config.num_items + item, second)


@dataclass(frozen=True, eq=False)
class _Log:
    """The columns of the whole log, filled hour by hour."""

    start: int
    event_user: np.ndarray
    event_item: np.ndarray
    event_time: np.ndarray
    event_code: np.ndarray
    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    position: np.ndarray
    clicked: np.ndarray
    probability: np.ndarray

    @classmethod
    def empty(cls, config: SimulatorConfig) -> "_Log":
        events, shown = config.num_events, config.num_impressions
        return cls(
            start=day_bounds(config.start)[0],
            event_user=np.empty(events, np.int64),
            event_item=np.empty(events, np.int64),
            event_time=np.empty(events, np.int64),
            event_code=np.empty(events, np.uint8),
            user=np.empty(shown, np.int64),
            item=np.empty(shown, np.int64),
            time=np.empty(shown, np.int64),
            position=np.empty(shown, np.int8),
            clicked=np.empty(shown, bool),
            probability=np.empty(shown, np.float64),
        )

    def write_hour(self, hour: int, first_row: int, first_event: int, shown: _Shown, views: _Views) -> None:
        """Write an hour's impressions, and its events in order of time, from the given places on."""
        start = self.start + SECONDS_PER_HOUR * hour
        rows = slice(first_row, first_row + len(shown.user))
        self.user[rows], self.item[rows] = shown.user, shown.item
        self.time[rows] = start + shown.second.astype(np.int64)
        self.position[rows], self.clicked[rows] = shown.position, shown.clicked
        self.probability[rows] = shown.probability
        second = np.concatenate([shown.second, views.second])
        order = np.argsort(second, kind="stable")
        rows = slice(first_event, first_event + len(order))
        self.event_user[rows] = np.concatenate([shown.user, views.user])[order]
        self.event_item[rows] = np.concatenate([shown.item, views.item])[order]
        self.event_time[rows] = start + second[order].astype(np.int64)
        view = np.full(len(views.second), _BEHAVIORS.index("view"), dtype=np.uint8)
        self.event_code[rows] = np.concatenate([shown.clicked.astype(np.uint8), view])[order]


def _hour_bounds(
    total: int, rate_of_day: np.ndarray, config: SimulatorConfig, random: np.random.Generator
) -> list[int]:
    """Share a number of rows among the hours; return where each hour's rows begin, and the total."""
    rate = np.tile(rate_of_day, config.num_days)
    bounds: list[int] = np.cumsum(random.multinomial(total, rate / rate.sum())).tolist()
    return [0, *bounds]


def _tables(config: SimulatorConfig, world: World, log: _Log) -> SimulatedData:
    impressions = pl.DataFrame(
        {
            "user_id": log.user,
            "item_id": log.item,
            "time": log.time,
            "label": log.clicked.astype(np.float32),
            "hour": (log.time // SECONDS_PER_HOUR % 24).astype(np.int8),
            "position": log.position,
        }
    )
    return SimulatedData(
        name=f"{_NAME}, seed {config.random_seed}",
        events=_event_log(log),
        impressions=impressions,
        all_impressions=impressions.with_columns(domain=pl.lit(_DOMAINS[0])),
        contexts=("hour", "position"),
        user_table=_user_table(config, world),
        item_table=_item_table(config, world),
        text_tables={"item": item_texts(config, world)} if config.words_per_item else {},
        licence="simulated: no rights of others",
        citation="graphrec, graph_builders/datasets/simulator.py",
        notes=(
            "SIMULATED DATA: results on it say what a model can find, not what real users do.",
            f"{config}",
        ),
        config=config,
        click_probability=log.probability,
        world=world,
    )


def _event_log(log: _Log) -> EventLog:
    """Make the log without reading it again: every value was made by rule."""
    frame = pl.DataFrame(
        {
            "user_id": log.event_user,
            "item_id": log.event_item,
            "time": log.event_time,
            "behavior": _words(_BEHAVIORS, log.event_code),
            "domain": _words((_DOMAINS[0], _DOMAINS[0], _DOMAINS[1]), log.event_code),
        }
    )
    report = EventLogReport(
        sources=(SourceReport(name=_NAME, num_rows=frame.height),), num_duplicates=0, num_dropped=0
    )
    return EventLog(frame, "s", report)


def _words(words: tuple[str, ...], code: np.ndarray) -> pl.Series:
    return pl.Series(words, dtype=pl.Categorical).gather(pl.Series(code.astype(np.uint32)))


def _user_table(config: SimulatorConfig, world: World) -> pl.DataFrame:
    random = generator_for(config, Draw.FIELDS, 0)
    segment = random.integers(0, config.num_topics, config.num_users)
    told = random.random(config.num_users) < config.segment_accuracy
    segment[told] = world.interest.argmax(axis=1)[told]
    age = world.user_bias + 2.0 * random.standard_normal(config.num_users)
    return pl.DataFrame(
        {
            "user_id": np.arange(config.num_users),
            "segment": _names("segment", segment),
            "age_group": _names("age", np.digitize(age, [-2.0, 0.0, 2.0])),
            "region": _names("region", random.integers(0, 8, config.num_users)),
        }
    )


def _item_table(config: SimulatorConfig, world: World) -> pl.DataFrame:
    """Return both domains' items; fields are those of the internal domain, null for external items."""
    random = generator_for(config, Draw.FIELDS, 1)
    category = random.integers(0, config.num_topics, config.num_items)
    format_ = world.item_quality + 2.0 * random.standard_normal(config.num_items)
    fields = {"format": _names("format", np.digitize(format_, [-2.0, 0.0, 2.0]))}
    if config.category_accuracy is not None:
        told = random.random(config.num_items) < config.category_accuracy
        category[told] = world.item_topic[told]
        fields = {"category": _names("category", category), **fields}
    internal = pl.DataFrame(
        {"item_id": np.arange(config.num_items), **fields, "birth_hour": world.birth_hour}
    )
    external = pl.DataFrame({"item_id": config.num_items + np.arange(config.num_external_items)})
    return pl.concat([internal, external], how="diagonal")


def _names(prefix: str, code: np.ndarray) -> pl.Series:
    return prefix + "_" + pl.Series(code).cast(pl.String)
