"""Node-feature encoders of the users in LSTTM's short-term graph: what each reads, its size, its training.

All four are small, of 32 to 64 channels. How they are made and pre-trained is
``experiments.user_encoder_models``.
"""

from dataclasses import dataclass
from typing import Literal

from graph_builders.option_checks import check_choices, check_numbers, check_whole_numbers
from graphrec.training.loop import OptimizerConfig
from graphrec.training.pretraining import PretrainingConfig

Learning = Literal["end to end", "fine-tuned", "frozen"]
LEARNING: tuple[Learning, ...] = ("end to end", "fine-tuned", "frozen")
SUPERVISED = OptimizerConfig(epochs=2, batch_size=256, embedding_learning_rate=1e-3)


@dataclass(frozen=True, kw_only=True)
class StoredUsers:
    """Users that a batch reaches and does not encode have their last vectors, out of a table.

    Attributes:
        share: of these users that are encoded as well, drawn anew for each user and time.
        num_periods: vectors of a user that are kept: with as many as training has, in any order of training.
        max_age_hours: older ones are not read; None: no limit.

    """

    share: float = 0.0
    num_periods: int = 48
    max_age_hours: int | None = None

    def __post_init__(self) -> None:
        check_numbers(self, ("share",), least=0, most=1)
        check_whole_numbers(self, num_periods=1, max_age_hours=1)


@dataclass(frozen=True, kw_only=True)
class UserFeatures:
    """What the encoders have in common.

    Attributes:
        learning: "end to end" from the first weights; "fine-tuned" from those of the pre-training; "frozen"
            keeps these as they are: each query's vector is computed once, before LSTTM is trained.
        max_pretraining_queries: so many (user, time) of training rows, drawn at random.
        domains, behaviors: the parts whose events are read, as LSTTM's short-term graph has them.
        nodes: which users are encoded: "all" of a batch's graph, or the "seeds" alone, with one layer.
        stored: what the others have, where the seeds are encoded; None: one learned vector.

    """

    learning: Learning = "fine-tuned"
    max_pretraining_queries: int = 20_000
    domains: tuple[str, ...] = ("internal", "external")
    behaviors: tuple[str, ...] = ("click", "skip")
    nodes: Literal["all", "seeds"] = "seeds"
    stored: StoredUsers | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, max_pretraining_queries=1)
        if self.stored is not None and (self.nodes == "all" or self.learning == "frozen"):
            raise ValueError(
                "stored vectors are of users beside the seeds, by an encoder that learns: got "
                f"nodes={self.nodes!r}, learning={self.learning!r}"
            )
        if self.learning == "frozen" and self.nodes == "all":
            raise ValueError('frozen vectors are computed of the impressions\' own users: take nodes="seeds"')


@dataclass(frozen=True, kw_only=True)
class UserBERTFeatures(UserFeatures):
    """UserBERT over what users were shown and did, small: on KuaiRand-Pure a user has some ten events.

    Attributes:
        pretraining: masked words; its random seed is that of the run.
        attributes: of the events.
        fields: of the items.
        days: length of the window of the long-term words.
        recent_days: the last ones, whose words are the short-term ones.
        max_words: of each kind, the latest that are kept.
        channels, num_blocks, num_heads: of the model.

    """

    pretraining: PretrainingConfig = PretrainingConfig(
        epochs=2, batch_size=64, learning_rate=1e-3, decay=True
    )
    attributes: tuple[str, ...] = ("tab",)
    fields: tuple[str, ...] = ("author_id", "tag")
    days: int = 30
    recent_days: int = 1
    max_words: int = 16
    channels: int = 32
    num_blocks: int = 2
    num_heads: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, days=2, recent_days=1, max_words=1, channels=1)
        check_whole_numbers(self, num_blocks=1, num_heads=1)


@dataclass(frozen=True, kw_only=True)
class HeatmapFeatures(UserFeatures):
    """The heatmap CNN of the Meta-Profile Network over counts of each relation's events.

    Attributes:
        pretraining: several tasks at once.
        days: of the window; one that ``LEVELS`` has.
        narrower: so many times fewer channels than the paper's 512.
        sums: attributes of the events whose sums are channels too.
        field: of the items, whose ``values`` have a channel of counts each.
        values: of the field.

    """

    pretraining: OptimizerConfig = SUPERVISED
    days: int = 14
    narrower: int = 8
    sums: tuple[str, ...] = ()
    field: str = ""
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(self, days=1, narrower=1)
        if bool(self.field) != bool(self.values):
            raise ValueError(f"counts by value need a field and values: got {self.field!r}, {self.values}")


@dataclass(frozen=True, kw_only=True)
class DUPNFeatures(UserFeatures):
    """DUPN over a user's last events, without a profile: LSTTM's head reads the users' fields itself.

    Attributes:
        pretraining: several tasks at once.
        attributes: of the events: properties, beside their type, hour and age.
        fields: of the items, beside the item itself.
        num_behaviors: the latest events that are read.
        item_channels: of each column of the items.
        property_channels: of each property.
        channels: of the LSTM's state.
        query_channels: of the learned vector in the place of a query.

    """

    pretraining: OptimizerConfig = SUPERVISED
    attributes: tuple[str, ...] = ("tab",)
    fields: tuple[str, ...] = ("author_id", "tag")
    num_behaviors: int = 30
    item_channels: int = 8
    property_channels: int = 4
    channels: int = 32
    query_channels: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole_numbers(
            self, num_behaviors=1, item_channels=1, property_channels=0, channels=1, query_channels=1
        )


@dataclass(frozen=True, kw_only=True)
class SMENFeatures(UserFeatures):
    """LURM: interests of the items that users clicked, counted by day and week, and SMEN.

    The interests are fitted before any of the three ways of learning, on clicks before the test day.

    Attributes:
        behaviors: an item embedding is learned from pairs of what one user chose, so skips are left out.
        fields: words of an item without text.
        item_epochs: of the item embeddings.
        item_rate: of their Adam.
        epochs: of SMEN's contrastive pre-training.
        num_interests: D; at most a quarter of the distinct descriptions.
        num_anchors: M.
        channels: of an item, an interest and an anchor.
        days: of the two lengths of periods.

    """

    behaviors: tuple[str, ...] = ("click",)
    fields: tuple[str, ...] = ("author_id", "tag")
    item_epochs: int = 20
    item_rate: float = 3e-3
    epochs: int = 6
    num_interests: int = 300
    num_anchors: int = 4
    channels: int = 16
    days: tuple[int, int] = (1, 7)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, ("item_rate",), above=0)
        check_whole_numbers(self, item_epochs=0, epochs=0, num_interests=2, num_anchors=1, channels=1)


SingleFeatures = UserBERTFeatures | HeatmapFeatures | DUPNFeatures | SMENFeatures


@dataclass(frozen=True, kw_only=True)
class JoinedFeatures:
    """Several encoders as one; each learns in its own way, and what joins them learns with LSTTM.

    Attributes:
        encoders: of them all the same ``nodes`` and ``stored``; each kind once.
        out_channels: of the joined vector.
        how: they are joined, see ``graphrec.encoders.joined``.

    """

    encoders: tuple[SingleFeatures, ...]
    out_channels: int = 32
    how: Literal["concatenated", "gated"] = "concatenated"

    def __post_init__(self) -> None:
        check_choices(self)
        check_whole_numbers(self, out_channels=1)
        kinds = {type(one) for one in self.encoders}
        ways = {(one.nodes, one.stored) for one in self.encoders}
        if not self.encoders or len(kinds) < len(self.encoders) or len(ways) > 1:
            raise ValueError(
                "joined encoders are one or more, of different kinds, and encode the same nodes: got "
                f"{[(type(one).__name__, one.nodes) for one in self.encoders]}"
            )

    @property
    def nodes(self) -> Literal["all", "seeds"]:
        """Which users are encoded."""
        return self.encoders[0].nodes

    @property
    def stored(self) -> StoredUsers | None:
        """What the other users have."""
        return self.encoders[0].stored


UserEncoderFeatures = SingleFeatures | JoinedFeatures
