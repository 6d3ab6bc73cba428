"""What the behaviour simulator is told: sizes, strengths of the planted effects, and rhythms."""

from dataclasses import dataclass
from datetime import date
from typing import Any

from graph_builders.option_checks import check_numbers, check_whole_numbers

MAX_PAGE_SIZE = 100
MAX_TOPICS = 1_000
CONCENTRATIONS = (0.01, 1_000.0)  # outside of these 4-byte gamma draws underflow, or are all alike


@dataclass(frozen=True, kw_only=True)
class SimulatorConfig:
    r"""One simulated world; the same configuration gives the same bytes.

    The logit of a click of user u on item i of topic c, shown at position p at time t, is

    .. math::

        b + s_u a_u + s_i q_i + s_l A_{uc} + s_h e^{-(t - t_m) / \tau} [c = m] + s_t H_c(t) - s_p \log(1 + p)

    where :math:`a_u` and :math:`q_i` are standard normal, :math:`A_{uc}` is the user's lasting interest in
    the topic (mean 0 and variance 1 over users and topics), m is the topic of the user's mood, which came at
    :math:`t_m`, and :math:`H_c(t)` is how hot the topic is; t counts whole hours. The strengths change
    labels, and ``external_interest`` external items; who is shown what, and when, stays as it is.

    Without trends the click rates of topics still vary by who happens to be awake, the more the fewer users
    there are in an hour and the more of them come again (``return_rate``).

    Attributes:
        random_seed: the key of all draws.
        start: local date on which the log begins; local time is UTC.
        num_days: days of the log.
        num_users: users; all of them act in both domains.
        num_items: items of the internal domain, born before or during the log.
        num_external_items: items of the external domain; they share the topics and are as old as the log.
        num_impressions: shown internal items; each is a click or a skip.
        num_external_events: views of external items.
        num_topics: topics of both domains.
        trend: :math:`s_t`, what a topic's heat adds to the logit: a trend's peak is 0.6 to 1.4 high. Zero:
            the click rate of a topic does not change with time.
        external_interest: probability that an external event follows the user's lasting interest and not
            the common taste, in [0, 1]. Zero: external events tell nothing of the user's interest.
        short_interest: :math:`s_h`, what a mood of this moment adds to the logit of its topic. Zero: what a
            user liked an hour ago tells no more than what they liked last week.
        lasting_interest: :math:`s_l`. Zero: nobody has a lasting taste. External events still say why an item
            was shown: one that the policy did not choose for the taste more often meets the mood.
        user_activity: :math:`s_u`, how much users differ in how readily they click.
        item_quality: :math:`s_i`, how much items differ in how well they are received.
        position_bias: :math:`s_p`, what a place further down costs.
        bias: b, the logit of an item without any of the above.
        interest_concentration: of the symmetric Dirichlet law of users' interests; small: few topics a user.
        trends_per_day: so many topics, any of them, become hot each day.
        trend_start_hours: the hours of day between which trends start.
        trend_rise_hours: from the start of a trend to its peak.
        trend_decay_hours: a trend falls to 1/e of its peak in so many hours.
        mood_hours: a mood falls to 1/e in so many hours; then another topic, any of them, takes its place.
        return_rate: share of visits that are made by users who also came in the hour before.
        page_size: items shown in a visit, 10 seconds apart, at positions from 0.
        rhythm: how much the four kinds of users (early, office hours, evening, night) keep to their hours.
            Zero: all hours of the day are alike.
        policy_interest: share of impressions whose topic is drawn from the user's lasting interest.
        policy_mood: share of impressions in the topic of the user's mood.
        policy_exploration: share of impressions drawn uniformly from the items born so far. The rest
            is drawn by popularity.
        policy_noise: probability that the policy is wrong about a user's interest and draws any topic.
        popularity_exponent: of the Zipf law of items' popularity.
        initial_items: share of the internal items that exist when the log begins: born, evenly, in a time
            before it that is as long as the log. The others are born during it.
        item_half_life_hours: an item's popularity halves in so many hours.
        category_accuracy: probability that an internal item's field ``category`` names its topic and not any
            topic; ``None``: there is no such field.
        segment_accuracy: probability that a user's field ``segment`` names their main topic.
        words_per_item: length of each item's text, see ``simulated_texts``. Zero: items have no text. All
            else that is simulated stays as it is.
        text_accuracy: probability that a word of a text is of its item's topic and not one that all topics
            share. Zero: texts tell nothing.

    """

    random_seed: int = 0
    start: str = "2024-01-01"
    num_days: int = 10
    num_users: int = 10_000
    num_items: int = 2_000
    num_external_items: int = 2_000
    num_impressions: int = 200_000
    num_external_events: int = 300_000
    num_topics: int = 20
    trend: float = 4.0
    external_interest: float = 0.8
    short_interest: float = 2.0
    lasting_interest: float = 0.9
    user_activity: float = 0.4
    item_quality: float = 0.4
    position_bias: float = 0.2
    bias: float = -2.0
    interest_concentration: float = 0.2
    trends_per_day: int = 10
    trend_start_hours: tuple[float, float] = (6.0, 18.0)
    trend_rise_hours: float = 1.5
    trend_decay_hours: float = 8.0
    mood_hours: float = 5.0
    return_rate: float = 0.6
    page_size: int = 5
    rhythm: float = 1.0
    policy_interest: float = 0.2
    policy_mood: float = 0.2
    policy_exploration: float = 0.25
    policy_noise: float = 0.3
    popularity_exponent: float = 0.8
    initial_items: float = 0.7
    item_half_life_hours: float = 72.0
    category_accuracy: float | None = 0.9
    segment_accuracy: float = 0.2
    words_per_item: int = 0
    text_accuracy: float = 0.5

    def __post_init__(self) -> None:
        try:
            date.fromisoformat(self.start)
        except (TypeError, ValueError) as error:
            raise ValueError(f"start must be a day such as '2024-01-31', got {self.start!r}") from error
        check_whole_numbers(self, random_seed=0, num_days=1, num_users=1, num_items=1, num_external_items=1)
        check_whole_numbers(self, num_impressions=1, num_external_events=0, num_topics=2, page_size=1)
        check_whole_numbers(self, trends_per_day=0, words_per_item=0)
        if self.num_topics > MAX_TOPICS or self.page_size > MAX_PAGE_SIZE:
            raise ValueError(
                f"num_topics must be at most {MAX_TOPICS} and page_size at most {MAX_PAGE_SIZE}, got "
                f"{self.num_topics} and {self.page_size}"
            )
        hours = tuple(self.trend_start_hours)
        if len(hours) != 2 or not 0 <= hours[0] < hours[1] <= 24:
            raise ValueError(f"trend_start_hours must rise within [0, 24], got {self.trend_start_hours}")
        if self.trends_per_day > self.num_topics:
            raise ValueError(
                f"only {self.num_topics} topics can become hot, got {self.trends_per_day} trends"
            )
        strengths = ("trend", "short_interest", "lasting_interest", "user_activity", "item_quality")
        check_numbers(self, (*strengths, "position_bias", "rhythm", "popularity_exponent"), least=0)
        check_numbers(self, ("bias",))
        least, most = CONCENTRATIONS
        check_numbers(self, ("interest_concentration",), least=least, most=most)
        spans = ("trend_rise_hours", "trend_decay_hours", "mood_hours", "item_half_life_hours")
        check_numbers(self, spans, above=0)
        shares = ("external_interest", "return_rate", "policy_interest", "policy_mood", "policy_exploration")
        check_numbers(self, (*shares, "policy_noise", "initial_items"), least=0, most=1)
        check_numbers(self, ("category_accuracy", "segment_accuracy", "text_accuracy"), least=0, most=1)
        if self.policy_interest + self.policy_mood + self.policy_exploration > 1 + 1e-9:
            raise ValueError("policy_interest, policy_mood and policy_exploration must sum to at most 1")
        for name, there in (
            ("num_items * initial_items", int(self.num_items * self.initial_items)),
            ("num_external_items", self.num_external_items),
        ):
            if there < self.num_topics:
                raise ValueError(
                    f"{name} is {there}: at least one item for each of {self.num_topics} topics is needed"
                )

    @property
    def num_hours(self) -> int:
        """Hours of the log."""
        return 24 * self.num_days

    @property
    def num_events(self) -> int:
        """Events of the log: impressions, as clicks and skips, and external views."""
        return self.num_impressions + self.num_external_events


def config_of_size(num_events: int, **options: Any) -> SimulatorConfig:
    """Return a configuration with about the default's shape for ``num_events`` events in all.

    Two events of five are impressions; there are 50 events a user and 250 an item, and at least enough
    items for the topics.

    Args:
        num_events: at least 10; the default configuration is that of 500,000.
        options: fields of ``SimulatorConfig`` to set as well.

    Raises:
        ValueError: fewer than 10 events, or an option that ``SimulatorConfig`` refuses.

    """
    if num_events < 10:
        raise ValueError(f"at least 10 events are needed, got {num_events}")
    topics = options.get("num_topics", SimulatorConfig.num_topics)
    num_items = max(num_events // 250, 4 * topics)
    num_impressions = num_events * 2 // 5
    sizes = {
        "num_users": max(num_events // 50, 10),
        "num_items": num_items,
        "num_external_items": num_items,
        "num_impressions": num_impressions,
        "num_external_events": num_events - num_impressions,
    }
    return SimulatorConfig(**{**sizes, **options})
