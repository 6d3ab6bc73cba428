"""Rows of LURM's tables: what represents a user, and how the representation is fitted.

Every representation is fitted on what was known of all users at ``LifeData.fit_until``, frozen, and computed
for all queries. TextCNN and HAN alone are trained with each task's labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Int64
from scipy.sparse import csr_array
from torch import Tensor

from experiments.lurm_data import LifeData
from graph_builders.datasets.first_purchases import DAY
from graph_builders.events import UNITS_PER_SECOND
from graphrec.encoders.bag_of_interests import BagOfInterests, InterestCounter, life_matrix
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.interests import (
    ItemInterests,
    SphericalKMeans,
    assign_interests,
    fit_interests,
)
from graphrec.encoders.item_embedding import ItemEmbedding, embed_items
from graphrec.encoders.item_text import fit_word_vocabulary, known_items
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import represent
from graphrec.models.text_classifiers import (
    HAN,
    LastItems,
    TextClassifierConfig,
    TextCNN,
    fit_text_classifier,
    last_items,
)
from graphrec.models.text_users import PTUM, SUMN, TextUserModel, represent_texts
from graphrec.models.user_documents import (
    Doc2VecConfig,
    UserDoc2Vec,
    UserTfidf,
    user_documents,
    word_counts,
)
from graphrec.models.walk_vectors import WalkVectorsConfig, fit_walk_vectors
from graphrec.training.contrastive import ContrastiveConfig
from graphrec.training.item_pairs import ItemPairSampler, train_item_embedding
from graphrec.training.sub_lives import train_smen
from graphrec.training.text_users import TextUserConfig, train_text_users
from samplers import EventHistory

Kind = Literal["tfidf", "doc2vec", "textcnn", "han", "ptum", "sumn", "walks", "bag", "smen"]
OnStep = Callable[[int, int], None]
SUPERVISED = ("textcnn", "han")
SPARSE = ("tfidf", "bag")
CANDIDATE = "LURM"


@dataclass(frozen=True, kw_only=True)
class LurmSettings:
    """How everything is fitted. LURM: Adam 0.001, batches of 256, 10 anchors, 128 channels, temperature 0.1.

    Attributes:
        channels: of items and anchors; of the vectors of the baselines, too.
        num_anchors: M.
        num_interests: D of the main rows.
        item_epochs: of item embeddings: a pair of each user an epoch.
        item_rate: of Adam.
        smen_epochs: a pair of parts of each life an epoch.
        smen_rate: of Adam.
        doc2vec_epochs: of Doc2Vec.
        walks_per_node: of DeepWalk.
        walk_length: of DeepWalk.
        text_epochs: of PTUM and SUMN.
        classifier_epochs: of TextCNN and HAN, among which validation chooses.
        probe_epochs: of the MLP on a frozen representation, among which validation chooses.
        mixed_precision: whether networks on texts and on lives are trained by products in bfloat16.

    """

    channels: int = 128
    num_anchors: int = 10
    num_interests: int = 1000
    item_epochs: int = 40
    item_rate: float = 3e-3
    smen_epochs: int = 12
    smen_rate: float = 1e-3
    doc2vec_epochs: int = 5
    walks_per_node: int = 2
    walk_length: int = 20
    text_epochs: int = 5
    classifier_epochs: tuple[int, ...] = (2, 4)
    probe_epochs: tuple[int, ...] = (3, 10, 30)
    mixed_precision: bool = True


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the tables.

    Attributes:
        name: in the tables.
        kind: what represents a user.
        probe: what reads it; TextCNN and HAN have an output layer of their own.
        of: of an ablation: the row that it changes.
        scale: read periods of one scale alone, by its number.
        num_interests: another D than the settings' (never above a quarter of the distinct texts).
        num_anchors: another number.
        channels: of each anchor, another number.
        days: of history that is read; None: whole lives.
        is_trained: False: SMEN as it is before training.

    """

    name: str
    kind: Kind
    probe: Literal["mlp", "logistic", "trees"] = "mlp"
    of: str | None = None
    scale: int | None = None
    num_interests: int | None = None
    num_anchors: int | None = None
    channels: int | None = None
    days: int | None = None
    is_trained: bool = True


ROWS = (
    Row(name="LURM", kind="smen"),
    Row(name="BoI", kind="bag"),
    Row(name="TF-IDF", kind="tfidf"),
    Row(name="DeepWalk, mean of items", kind="walks"),
    Row(name="Doc2Vec", kind="doc2vec"),
    Row(name="SUMN (our reading)", kind="sumn"),
    Row(name="PTUM", kind="ptum"),
    Row(name="TextCNN", kind="textcnn"),
    Row(name="HAN", kind="han"),
    Row(name="LURM, not trained", kind="smen", of="LURM", is_trained=False),
    Row(name="LURM, logistic regression", kind="smen", probe="logistic", of="LURM"),
    Row(name="BoI, logistic regression", kind="bag", probe="logistic", of="BoI"),
    Row(name="TF-IDF, logistic regression", kind="tfidf", probe="logistic", of="TF-IDF"),
    Row(name="BoI, boosted trees", kind="bag", probe="trees", of="BoI"),
    Row(name="LURM, D = 100", kind="smen", of="LURM", num_interests=100),
    Row(name="BoI, D = 100", kind="bag", of="BoI", num_interests=100),
    Row(name="LURM, D = 300", kind="smen", of="LURM", num_interests=300),
    Row(name="BoI, D = 300", kind="bag", of="BoI", num_interests=300),
    Row(name="LURM, shorter periods only", kind="smen", of="LURM", scale=0),
    Row(name="LURM, longer periods only", kind="smen", of="LURM", scale=1),
    Row(name="LURM, 1 anchor of 128", kind="smen", of="LURM", num_anchors=1, channels=128),
    Row(name="LURM, 1 anchor of 1,280", kind="smen", of="LURM", num_anchors=1, channels=1280),
    Row(name="LURM, 60 days of history", kind="smen", of="LURM", days=60),
    Row(name="LURM, 180 days of history", kind="smen", of="LURM", days=180),
    Row(name="BoI, 60 days of history", kind="bag", of="BoI", days=60),
    Row(name="BoI, 180 days of history", kind="bag", of="BoI", days=180),
)


class Representations:
    """Computes the rows' representations of all queries of a data set.

    Args:
        data: the data set.
        settings: how everything is fitted.

    """

    def __init__(self, data: LifeData, settings: LurmSettings) -> None:
        self.data, self.settings = data, settings
        known = known_items(data.graph, data.fit_until, data.edge_types)
        self.vocabulary = fit_word_vocabulary(data.words, known, fit_until=data.fit_until)
        self.words = self.vocabulary.encode(data.words)
        self.known = known[self.words.is_known[known]]
        self._events: dict[tuple[str, int | None], EventHistory] = {}

    @cached_property
    def fitting_user(self) -> Int64[Tensor, " num_fitting"]:
        """Users whose lives as of ``fit_until`` self-supervised models are fitted on: all there are then."""
        return self.data.fitting_user

    @property
    def fitting_time(self) -> Int64[Tensor, " num_fitting"]:
        """``fit_until`` for each of them."""
        return torch.full_like(self.fitting_user, self.data.fit_until)

    @property
    def num_interests(self) -> int:
        """D of the main rows: that of the settings, at most a quarter of the distinct texts."""
        return self.most_interests(self.settings.num_interests)

    def most_interests(self, wanted: int) -> int:
        """Return the wanted number, or a quarter of the distinct texts where these are fewer."""
        distinct = len(self.words.text_number()[self.known].unique())
        return max(min(wanted, distinct // 4), 2)

    def events(self, days: int | None = None) -> EventHistory:
        """Return the events of each query's life, or of so many days before it; kept for the next call."""
        if ("queries", days) not in self._events:
            self._events["queries", days] = self._read(self.data.user, self.data.time, days)
        return self._events["queries", days]

    def fitting_events(self, days: int | None = None) -> EventHistory:
        """Return the events of the lives that are fitted on, likewise."""
        if ("fitting", days) not in self._events:
            self._events["fitting", days] = self._read(self.fitting_user, self.fitting_time, days)
        return self._events["fitting", days]

    def fit_items(
        self, seed: int, *, on_step: OnStep | None = None
    ) -> tuple[Float32[Tensor, "_ channels"], list[float]]:
        """Fit item embeddings and return a vector for each item, and the losses."""
        settings, data = self.settings, self.data
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ItemEmbedding(len(self.vocabulary), channels=settings.channels)
        pairs = ItemPairSampler(data.graph, list(data.edge_types), fit_until=data.fit_until, random_seed=seed)
        curve = train_item_embedding(
            model,
            self.words,
            pairs,
            config=ContrastiveConfig(
                epochs=settings.item_epochs, learning_rate=settings.item_rate, decay=True, random_seed=seed
            ),
            on_step=on_step,
        )
        return embed_items(model, self.words), [point.loss for point in curve]

    def interests(
        self, vectors: Float32[Tensor, "_ channels"], num_interests: int, seed: int
    ) -> ItemInterests:
        """Cluster the vectors of known items and assign every item of a known word."""
        clusterer = SphericalKMeans(num_interests=num_interests, random_seed=seed)
        centers = fit_interests(vectors, self.known, clusterer, fit_until=self.data.fit_until)
        return assign_interests(centers, vectors, self.words.is_known)

    def counter(self, row: Row, vectors: Float32[Tensor, "_ channels"], seed: int) -> InterestCounter:
        """Return what turns events into bags as a row reads them."""
        data = self.data
        num_interests = self.most_interests(row.num_interests or self.settings.num_interests)
        return InterestCounter(
            items=self.interests(vectors, num_interests, seed),
            clock=LocalClock.of_zone(data.time_zone),
            scales=data.scales if row.scale is None else (data.scales[row.scale],),
        )

    def bags(self, row: Row, counter: InterestCounter) -> BagOfInterests:
        """Return the bags of all queries."""
        units = UNITS_PER_SECOND[self.data.graph.time_resolution]
        return counter.count(self.events(row.days), self.data.time, units_per_second=units)

    def fitting_bags(self, row: Row, counter: InterestCounter) -> BagOfInterests:
        """Return the bags of the lives that are fitted on."""
        units = UNITS_PER_SECOND[self.data.graph.time_resolution]
        return counter.count(self.fitting_events(row.days), self.fitting_time, units_per_second=units)

    def sparse(self, row: Row, vectors: Float32[Tensor, "_ channels"] | None, seed: int) -> Any:
        """Return the representation of a row of a kind of ``SPARSE``: scipy's CSR array, a row a query."""
        if row.kind == "bag":
            assert vectors is not None
            return life_matrix(self.bags(row, self.counter(row, vectors, seed)))
        counts, fitted = (
            word_counts(events, self.words, len(self.vocabulary))
            for events in (self.events(), self.fitting_events())
        )
        return UserTfidf().fit(fitted, fit_until=self.data.fit_until).transform(counts)

    def dense(
        self,
        row: Row,
        vectors: Float32[Tensor, "_ channels"] | None,
        seed: int,
        *,
        on_step: OnStep | None = None,
    ) -> tuple[Float32[Tensor, "num_queries channels"], dict[str, Any]]:
        """Fit a row of another kind; return a vector for each query, and facts of the training."""
        if row.kind == "smen":
            assert vectors is not None
            return self._smen(row, vectors, seed, on_step)
        if row.kind == "walks":
            return self._walks(seed), {}
        if row.kind == "doc2vec":
            return self._doc2vec(seed), {}
        return self._text_user(row, seed, on_step)

    def classify(
        self,
        row: Row,
        label: Int64[Tensor, " num_queries"],
        is_test: Bool[Tensor, " num_queries"],
        epochs: int,
        seed: int,
    ) -> np.ndarray:
        """Train a row of a kind of ``SUPERVISED`` on a task; return tested queries' probability of a 1."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            make: Mapping[str, type[TextCNN] | type[HAN]] = {"textcnn": TextCNN, "han": HAN}
            model = make[row.kind](len(self.vocabulary), channels=self.settings.channels)
        config = TextClassifierConfig(
            epochs=epochs, mixed_precision=self.settings.mixed_precision, random_seed=seed
        )
        found = fit_text_classifier(model, self.last_items, label, is_test, config=config)
        return found[:, 1].numpy()

    @cached_property
    def last_items(self) -> LastItems:
        """The words of each query's last 50 items."""
        return last_items(self.events(), self.words)

    def _read(self, user: Tensor, time: Tensor, days: int | None) -> EventHistory:
        window = None if days is None else days * DAY
        request = HistoryRequest(edge_types=self.data.edge_types, window=window)
        reader = InputReader(self.data.graph, "user", {"life": request})
        return reader.read(user, time).histories["life"].events

    def _smen(
        self, row: Row, vectors: Tensor, seed: int, on_step: OnStep | None
    ) -> tuple[Tensor, dict[str, Any]]:
        settings, counter = self.settings, self.counter(row, vectors, seed)
        bag = self.bags(row, counter)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            smen = SMEN(
                bag.num_interests,
                num_anchors=row.num_anchors or settings.num_anchors,
                channels=row.channels or settings.channels,
                num_scales=len(bag.scales),
            )
        losses = list[float]()
        if row.is_trained:
            curve = train_smen(
                smen,
                self.fitting_bags(row, counter),
                self.fitting_user,
                self.fitting_time,
                fit_until=self.data.fit_until,
                config=ContrastiveConfig(
                    epochs=settings.smen_epochs,
                    learning_rate=settings.smen_rate,
                    mixed_precision=settings.mixed_precision,
                    random_seed=seed,
                ),
                log_every=10,
                on_step=on_step,
            )
            losses = [point.loss for point in curve]
        return represent(smen, bag), {"losses": losses, "num_interests": bag.num_interests}

    def _walks(self, seed: int) -> Tensor:
        """Mean of the walk vectors of a life's items: a user's own vector would be as old as the walks."""
        config = WalkVectorsConfig(
            channels=self.settings.channels,
            walk_length=self.settings.walk_length,
            walks_per_node=self.settings.walks_per_node,
            random_seed=seed,
        )
        walked = fit_walk_vectors(self.data.graph, fit_until=self.data.fit_until, config=config)
        vectors, events = walked.vectors["item"].numpy(), self.events()
        ones = np.ones(len(events.neighbor), np.float32)
        shape = (len(events.ptr) - 1, len(vectors))
        met = csr_array((ones, events.neighbor.numpy(), events.ptr.numpy()), shape=shape)
        count = met @ (vectors != 0).any(axis=1).astype(np.float32)  # no walk came by a new item
        return torch.from_numpy(met @ vectors / np.maximum(count, 1)[:, None])

    def _doc2vec(self, seed: int) -> Tensor:
        config = Doc2VecConfig(
            channels=self.settings.channels, epochs=self.settings.doc2vec_epochs, random_seed=seed
        )
        documents, fitted = (
            user_documents(events, self.words) for events in (self.events(), self.fitting_events())
        )
        return UserDoc2Vec(config).fit(fitted, fit_until=self.data.fit_until).transform(documents)

    def _text_user(self, row: Row, seed: int, on_step: OnStep | None) -> tuple[Tensor, dict[str, Any]]:
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            make: Mapping[str, Callable[[], TextUserModel]] = {
                "ptum": lambda: PTUM(len(self.vocabulary), channels=settings.channels),
                "sumn": lambda: SUMN(len(self.vocabulary), channels=settings.channels),
            }
            model = make[row.kind]()
        curve = train_text_users(
            model,
            last_items(self.fitting_events(), self.words),
            self.fitting_time,
            fit_until=self.data.fit_until,
            config=TextUserConfig(
                epochs=settings.text_epochs, mixed_precision=settings.mixed_precision, random_seed=seed
            ),
            log_every=10,
            on_step=on_step,
        )
        return represent_texts(model, self.last_items), {"losses": [point.loss for point in curve]}


def as_frame(vectors: Float32[Tensor, "num_rows channels"]) -> pl.DataFrame:
    """Return vectors as a table of one column, that ``from_frame`` reads."""
    return pl.DataFrame(
        {"vector": vectors.numpy()}, schema={"vector": pl.Array(pl.Float32, vectors.shape[1])}
    )


def from_frame(frame: pl.DataFrame) -> Float32[Tensor, "num_rows channels"]:
    """Return what ``as_frame`` was given."""
    return torch.from_numpy(frame["vector"].to_numpy().copy())
