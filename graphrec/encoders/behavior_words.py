"""UserBERT's tokenisation: a user's histories as behavioural words.

Li et al., "UserBERT: Modeling Long- and Short-Term User Preferences via Self-Supervision", 2022. A word holds
a user's actions of one day, from 4 AM to 4 AM local time, or of one session, which a gap of more than 30
minutes ends. All users, events and words go through the same few tensor operations, on any device.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from graphrec.encoders.base import EncoderInput, History, HistoryRequest
from graphrec.encoders.fit_until import latest_fit
from graphrec.encoders.input_reader import take_values
from graphrec.encoders.local_clock import DAY_SECONDS, HOUR_SECONDS, LocalClock
from graphrec.encoders.sentences import FIRST, BehaviorWords, UserSentences
from graphrec.encoders.userbert import SentenceSizes, TokenizerFacts, WordSizes
from graphrec.encoders.vocabulary import AttributeVocabularies
from samplers import EdgeType
from samplers.tables import with_zero

ACTION = "action"
"""Attribute of every event: which of the request's edge types it is of."""
HOUR = "hour"
"""Attribute of every event: its local hour of day."""
SESSION_GAP = 30 * 60
"""Seconds: a longer gap ends a session."""
_DERIVED = (ACTION, HOUR)
_NAMED = nn.ModuleDict()  # whose own names no kind of words can have
STATE_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class WordKind:
    """How one history becomes words.

    Args:
        request: the events; the window gives the positions their start, so there must be one.
        word: what a word holds: the actions of a "day", of a "session", or one "action" alone.
        position: "days" counts local days since the start of the window, "hours" whole hours.
        derived: attributes made from an event's edge type and time: ``ACTION``, ``HOUR``.
        max_words: the latest that are kept.

    Raises:
        ValueError: no window, an unknown option, an attribute named like a derived one, or none at all.

    """

    request: HistoryRequest
    word: str
    position: str
    derived: tuple[str, ...] = _DERIVED
    max_words: int = 128

    def __post_init__(self) -> None:
        if self.word not in ("day", "session", "action") or self.position not in ("days", "hours"):
            raise ValueError(
                'word must be "day", "session" or "action" and position "days" or "hours", got '
                f"{self.word!r} and {self.position!r}"
            )
        if self.request.window is None:
            raise ValueError("positions count from the start of a window: give the request a window")
        if not set(self.derived) <= set(_DERIVED) or set(_DERIVED) & set(self.request.names):
            raise ValueError(
                f"derived attributes are {list(_DERIVED)}, and no other may have their names: got "
                f"{list(self.derived)} beside {list(self.request.names)}"
            )
        if not self.attributes or self.max_words < 1:
            raise ValueError(
                f"words need an attribute and max_words of at least 1, got {list(self.attributes)} and "
                f"{self.max_words}"
            )

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the columns of ``BehaviorWords.code``."""
        return (*self.derived, *self.request.names)

    def num_positions(self, clock: LocalClock) -> int:
        """Return one more than the largest position, the days on which clocks are set back included."""
        assert self.request.window is not None
        length = self.request.window - self.request.offset
        if self.position == "hours":
            return (length - 1) // HOUR_SECONDS + 1
        return (length - 1 + clock.widest_turn) // DAY_SECONDS + 2


def long_words(
    edge_types: Sequence[EdgeType],
    *,
    attributes: Sequence[str] = (),
    fields: Sequence[str] = (),
    days: int = 365,
    recent_days: int = 7,
    max_words: int = 128,
) -> WordKind:
    """Return UserBERT's long-term behaviour: a word a day, older than the recent days.

    Args:
        edge_types: purchases and the like.
        attributes: of the edges.
        fields: of the neighbours.
        days: length of the window, the recent days included.
        recent_days: how many are left to the short-term words.
        max_words: the latest that are kept.

    """
    request = HistoryRequest(
        edge_types=tuple(edge_types),
        window=days * DAY_SECONDS,
        offset=recent_days * DAY_SECONDS,
        attributes=tuple(attributes),
        fields=tuple(fields),
    )
    return WordKind(request=request, word="day", position="days", max_words=max_words)


def short_words(
    edge_types: Sequence[EdgeType],
    *,
    attributes: Sequence[str] = (),
    fields: Sequence[str] = (),
    days: int = 7,
    max_words: int = 128,
) -> WordKind:
    """Return UserBERT's short-term behaviour: a word a session of the last days.

    Args:
        edge_types: clicks, searches, page views.
        attributes: of the edges.
        fields: of the neighbours.
        days: length of the window.
        max_words: the latest that are kept.

    """
    request = HistoryRequest(
        edge_types=tuple(edge_types),
        window=days * DAY_SECONDS,
        attributes=tuple(attributes),
        fields=tuple(fields),
    )
    return WordKind(request=request, word="session", position="hours", max_words=max_words)


@dataclass(frozen=True, kw_only=True, eq=False)
class SentenceTokenizer:
    """From what a reader returns to sentences.

    Args:
        kinds: words by kind, in the order of the segments.
        vocabularies: of the kinds' attributes and fields; one that two kinds name has the same codes in both.
        profile: vocabularies of the queries' static fields; None for sentences without a profile.
        time_zone: of the users: an IANA name or a shift such as +08:00.

    Raises:
        ValueError: there is no kind of words, or one's name is empty or has a dot; an attribute was not
            fitted; or an unknown time zone.

    """

    kinds: Mapping[str, WordKind]
    vocabularies: AttributeVocabularies
    profile: AttributeVocabularies | None = None
    time_zone: str

    def __post_init__(self) -> None:
        # a model keeps its tables by these names, which torch does not take otherwise
        if not self.kinds or any(not name or "." in name or hasattr(_NAMED, name) for name in self.kinds):
            raise ValueError(
                'kinds need a name each, such as "long", without a dot and none of the names that '
                f"torch.nn.ModuleDict has, and there must be one at least: got {list(self.kinds)}"
            )
        names = {name for kind in self.kinds.values() for name in kind.request.names}
        missing = sorted(names - set(self.vocabularies.names))
        if missing:
            raise ValueError(
                f"attributes {missing} were not fitted, there are {list(self.vocabularies.names)}: "
                "fit the vocabularies on the same requests"
            )
        assert self.clock  # an unknown time zone raises here

    @cached_property
    def clock(self) -> LocalClock:
        """The users' clock."""
        return LocalClock.of_zone(self.time_zone)

    @property
    def requests(self) -> dict[str, HistoryRequest]:
        """The histories that an ``InputReader`` must read."""
        return {name: kind.request for name, kind in self.kinds.items()}

    @property
    def fields(self) -> tuple[str, ...]:
        """The static fields that an ``InputReader`` must read."""
        return () if self.profile is None else self.profile.names

    @property
    def sizes(self) -> SentenceSizes:
        """How many codes and positions there are: what models size their tables by."""
        words = {}
        for name, kind in self.kinds.items():
            derived = {ACTION: FIRST + len(kind.request.edge_types), HOUR: FIRST + 24}
            num_codes = {**self.vocabularies.num_codes, **derived}
            words[name] = WordSizes(
                num_codes=tuple(num_codes[attribute] for attribute in kind.attributes),
                num_positions=kind.num_positions(self.clock),
            )
        profile = () if self.profile is None else tuple(self.profile.num_codes[name] for name in self.fields)
        return SentenceSizes(words=words, profile=profile, made_by=self.facts)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that decides a history's words; not until when they were fitted."""
        state = self.state()
        for part in ("vocabularies", "profile"):
            if state[part] is not None:
                state[part] = {name: value for name, value in state[part].items() if name != "fit_until"}
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()[:16]

    @property
    def facts(self) -> TokenizerFacts:
        """What a model that is made for this tokenizer keeps of it."""
        return TokenizerFacts(
            fingerprint=self.fingerprint, fit_until=latest_fit(self.fitted), fields=tuple(self.fields)
        )

    def state(self) -> dict[str, Any]:
        """Return plain values, for JSON or a checkpoint, that ``from_state`` takes."""
        kinds = []
        for name, kind in self.kinds.items():
            request = {**asdict(kind.request), "edge_types": [list(one) for one in kind.request.edge_types]}
            kinds.append([name, {**asdict(kind), "request": request}])
        return {
            "version": STATE_VERSION,
            "session_gap": SESSION_GAP,
            "kinds": kinds,
            "vocabularies": self.vocabularies.state(),
            "profile": None if self.profile is None else self.profile.state(),
            "time_zone": self.time_zone,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "SentenceTokenizer":
        """Rebuild what ``state`` returned.

        Raises:
            KeyError: a part is missing.
            ValueError: another release with other rules wrote it.

        """
        if (state["version"], state["session_gap"]) != (STATE_VERSION, SESSION_GAP):
            raise ValueError(
                f"the tokenizer is of version {state['version']} with sessions of {state['session_gap']} "
                f"seconds, this release has {STATE_VERSION} and {SESSION_GAP}: fit and pre-train again"
            )
        kinds = dict[str, WordKind]()
        for name, values in state["kinds"]:
            options = dict(values["request"])
            options["edge_types"] = tuple((begin, means, end) for begin, means, end in options["edge_types"])
            options |= {part: tuple(options[part]) for part in ("attributes", "fields")}
            request = HistoryRequest(**options)
            kinds[name] = WordKind(**{**values, "request": request, "derived": tuple(values["derived"])})
        profile = state["profile"]
        return cls(
            kinds=kinds,
            vocabularies=AttributeVocabularies.from_state(state["vocabularies"]),
            profile=None if profile is None else AttributeVocabularies.from_state(profile),
            time_zone=state["time_zone"],
        )

    @property
    def fitted(self) -> list[AttributeVocabularies]:
        """The vocabularies of words and of profiles, each with its ``fit_until``."""
        return [self.vocabularies] if self.profile is None else [self.vocabularies, self.profile]

    def check_before(self, label_start: int) -> None:
        """Raise if a vocabulary saw anything at or after the first label window begins.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        for part in self.fitted:
            part.check_before(label_start)

    def tokenize(self, inputs: EncoderInput) -> UserSentences:
        """Turn histories and profiles into sentences, one a query, on the device of the inputs.

        Every event of a history is in one word; words and their actions are in the order of time.

        Raises:
            ValueError: a history is missing, or of other columns than the kind's.

        """
        missing = [name for name in self.kinds if name not in inputs.histories]
        if missing:
            raise ValueError(f"no histories {missing}, there are {list(inputs.histories)}: read the requests")
        profile = inputs.node.new_zeros(len(inputs), 0)
        if self.profile is not None and self.fields:
            profile = self.profile.codes(inputs.fields, self.fields)
        return UserSentences(
            words={
                name: self._words(kind, inputs, inputs.histories[name]) for name, kind in self.kinds.items()
            },
            profile=profile,
        )

    def _words(self, kind: WordKind, inputs: EncoderInput, history: History) -> BehaviorWords:
        events, units = history.events, inputs.units_per_second
        query = events.query_of_event()
        starts = self._word_starts(kind, query, events.time, units)
        first_event = starts.nonzero().flatten()
        query_of_word = query[first_event]
        num_words = torch.bincount(query_of_word, minlength=len(inputs))
        # the latest words of a query are its last ones
        place_from_end = num_words.cumsum(0)[query_of_word] - torch.arange(
            len(first_event), device=query.device
        )
        keep_word = place_from_end <= kind.max_words
        word_of_event = starts.cumsum(0) - 1
        keep_event = keep_word[word_of_event].nonzero().flatten()
        num_actions = torch.bincount(word_of_event, minlength=len(first_event))[keep_word]
        first_event, query_of_word = first_event[keep_word], query_of_word[keep_word]
        return BehaviorWords(
            ptr=with_zero(num_words.clamp(max=kind.max_words).cumsum(0)),
            position=self._positions(kind, events.time[first_event], inputs.time[query_of_word], units),
            action_ptr=with_zero(num_actions.cumsum(0)),
            code=self._codes(kind, history, keep_event, units),
        )

    def _word_starts(
        self, kind: WordKind, query: Tensor, time: Tensor, units: int
    ) -> Bool[Tensor, " num_events"]:
        """Say which events are the first of a word; events are sorted by query, then by time."""
        starts = torch.ones_like(query, dtype=torch.bool)
        if kind.word == "day":
            starts[1:] = self.clock.day(time, units).diff() != 0
        elif kind.word == "session":
            starts[1:] = time.diff() > SESSION_GAP * units
        starts[1:] |= query.diff() != 0
        return starts

    def _positions(
        self, kind: WordKind, time: Tensor, query_time: Tensor, units: int
    ) -> Int64[Tensor, " num_words"]:
        assert kind.request.window is not None
        start = query_time - kind.request.window * units
        if kind.position == "days":
            return self.clock.day(time, units) - self.clock.day(start, units)
        return (time - start).div(HOUR_SECONDS * units, rounding_mode="floor")

    def _codes(
        self, kind: WordKind, history: History, event: Tensor, units: int
    ) -> Int64[Tensor, "num_actions num_attributes"]:
        edge_type, time = history.events.edge_type, history.events.time[event]
        assert edge_type is not None  # a reader's histories name their edge types
        code = event.new_empty(len(kind.attributes), len(event))  # columns are written, and read, one by one
        for column, name in enumerate(kind.attributes):
            if name == ACTION:
                code[column] = FIRST + edge_type[event]
            elif name == HOUR:
                code[column] = FIRST + self.clock.hour(time, units)
            else:
                values = take_values(history.columns[name], event)
                code[column] = self.vocabularies.code(name, values)
        return code.T
