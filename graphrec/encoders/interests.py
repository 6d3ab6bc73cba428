"""Interests: clusters of item embeddings, fitted on a sample, and the interests that each item belongs to.

LURM (Yang et al., 2021, section 2.1.2) clusters by HDSC, of which no source is known; here it is spherical
k-means by scikit-learn's mini-batches, behind one small interface (``Clusterer``). With the embeddings of
``graphrec.training.item_pairs``::

    known = known_items(graph, first_label)
    known = known[words.is_known[known]]
    interests = fit_interests(embedding, known, SphericalKMeans(num_interests=1000), fit_until=first_label)
    items = assign_interests(interests, embedding, words.is_known)
    counter = InterestCounter(items=items, clock=LocalClock.of_zone("Europe/London"))
    encoder = SMENEncoder(counter, SMEN(num_interests=1000), [relation.reverse_edge_type])

``graphrec.training.sub_lives`` goes on from there.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn import functional

from graph_builders.option_checks import check_whole_numbers
from samplers import keyed_bits

MAX_SCORES = 1 << 24
"""Cosines of items and interests that are computed at once: 64 MiB."""


@runtime_checkable
class Clusterer(Protocol):
    """Anything that finds centres of vectors."""

    def fit(self, x: Float32[Tensor, "num_vectors channels"]) -> Float32[Tensor, "num_interests channels"]:
        """Return centres of length 1 for vectors of length 1, on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class SphericalKMeans:
    """Spherical k-means in mini-batches: the nearest centre is that of the greatest cosine.

    scikit-learn's ``MiniBatchKMeans`` moves the centres of a batch towards the mean of their vectors; after
    each batch they are brought back to length 1. Centres start at vectors drawn at random, all different.

    Attributes:
        num_interests: D.
        num_groups: above 1: the vectors are first cut into so many groups by the same method, and each group
            into a share of the interests as large as its share of the vectors. A batch then meets
            ``num_groups``, then about ``num_interests / num_groups`` centres instead of all: for D above
            10,000, take about the square root of D.
        passes: over the vectors.
        batch_size: vectors a step.
        random_seed: keys the first centres and the order of the vectors.

    """

    num_interests: int
    num_groups: int = 1
    passes: int = 10
    batch_size: int = 4096
    random_seed: int = 0

    def __post_init__(self) -> None:
        check_whole_numbers(self, num_interests=1, num_groups=1, passes=1, batch_size=1)
        if self.num_groups > self.num_interests:
            raise ValueError(
                f"SphericalKMeans.num_groups must be at most num_interests, got {self.num_groups} and "
                f"{self.num_interests}"
            )

    def fit(self, x: Float32[Tensor, "num_vectors channels"]) -> Float32[Tensor, "num_interests channels"]:
        """Return centres of length 1.

        Raises:
            ValueError: there are fewer different vectors than interests.

        """
        x = functional.normalize(x.cpu(), dim=1)
        different = np.unique(x.numpy(), axis=0, return_inverse=True, return_counts=True)
        distinct, count = torch.from_numpy(different[0]), torch.from_numpy(different[2])
        if len(distinct) < self.num_interests:
            raise ValueError(
                f"{self.num_interests} interests need as many different item embeddings, there are "
                f"{len(distinct)} among {len(x)}: take fewer interests, or a larger sample"
            )
        if self.num_groups == 1:
            return self._centers(distinct, count, self.num_interests, 0)
        group = nearest(self._centers(distinct, count, self.num_groups, 0), distinct)
        shares = _shares(torch.bincount(group, minlength=self.num_groups), self.num_interests)
        parts = []
        for number, share in enumerate(shares.tolist()):
            if share:
                own = group == number
                parts.append(self._centers(distinct[own], count[own], share, number + 1))
        return torch.cat(parts)

    def _centers(self, x: Tensor, weight: Tensor, num_centers: int, key: int) -> Tensor:
        from sklearn.cluster import MiniBatchKMeans

        place = torch.arange(len(x))
        start = keyed_bits(self.random_seed, "first centres", key, place).argsort(stable=True)[:num_centers]
        model: Any = MiniBatchKMeans(
            num_centers,
            init=x[start].numpy(),
            n_init=1,
            reassignment_ratio=0.0,
            random_state=self.random_seed,
        )
        for number in range(self.passes):
            order = keyed_bits(self.random_seed, "order", key, number, place).argsort(stable=True)
            # a first batch must hold as many vectors as there are centres
            for batch in order.split(max(self.batch_size, num_centers)):
                model.partial_fit(x[batch].numpy(), sample_weight=weight[batch].double().numpy())
                length = np.linalg.norm(model.cluster_centers_, axis=1, keepdims=True)
                model.cluster_centers_ = model.cluster_centers_ / np.maximum(length, 1e-12)
        return torch.from_numpy(np.asarray(model.cluster_centers_, np.float32))


@dataclass(frozen=True, eq=False)
class Interests:
    """Centres of length 1, and until when the data were known that they were fitted on."""

    center: Float32[Tensor, "num_interests channels"]
    fit_until: int

    def __len__(self) -> int:
        return len(self.center)

    def check_before(self, label_start: int) -> None:
        """Raise if the fit saw anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        _check_before(self.fit_until, label_start)


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemInterests:
    """The interests of every item of a graph.

    Attributes:
        interest: of each row of items, -1 where an item has none.
        weight: the share of an item that goes to each; they add up to 1.
        num_interests: D.
        fit_until: nothing that these rest on was known at or after this time.

    """

    interest: Int64[Tensor, "num_items num_nearest"]
    weight: Float32[Tensor, "num_items num_nearest"]
    num_interests: int
    fit_until: int

    def __post_init__(self) -> None:
        if len(self.interest) and int(self.interest.max()) >= self.num_interests:
            raise ValueError(f"interests must be below {self.num_interests}, got {int(self.interest.max())}")

    def to(self, device: torch.device | str) -> "ItemInterests":
        """Copy to another device."""
        return ItemInterests(
            interest=self.interest.to(device),
            weight=self.weight.to(device),
            num_interests=self.num_interests,
            fit_until=self.fit_until,
        )

    def check_before(self, label_start: int) -> None:
        """Raise if the fit saw anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` is later than ``label_start``.

        """
        _check_before(self.fit_until, label_start)


def fit_interests(
    embedding: Float32[Tensor, "num_items channels"],
    items: Int64[Tensor, " num_known"],
    clusterer: Clusterer,
    *,
    fit_until: int,
    sample_size: int = 1_000_000,
    random_seed: int = 0,
) -> Interests:
    """Cluster a sample of item embeddings.

    Args:
        embedding: of all items, fitted until ``fit_until`` or earlier.
        items: rows that may be looked at: with an event before ``fit_until`` and a known word.
        clusterer: finds the centres.
        fit_until: the earliest label window begins then or later.
        sample_size: of the items that are looked at, at most (paper: a million).
        random_seed: keys the sample.

    Raises:
        ValueError: ``sample_size`` is below 1, an embedding of the sample is not finite, or as the
            clusterer's ``fit``.

    """
    if sample_size < 1:
        raise ValueError(f"sample_size must be at least 1, got {sample_size}")
    if len(items) > sample_size:
        order = keyed_bits(random_seed, "sample of items", items).argsort(stable=True)
        items = items[order[:sample_size]].sort().values
    sample = embedding[items]
    _check_finite(sample)
    return Interests(functional.normalize(clusterer.fit(sample), dim=1), fit_until)


@torch.no_grad()
def assign_interests(
    interests: Interests,
    embedding: Float32[Tensor, "num_items channels"],
    is_known: Bool[Tensor, " num_items"],
    *,
    num_nearest: int = 1,
    temperature: float = 0.1,
) -> ItemInterests:
    """Assign every item to its nearest interest, or in shares to several, by blocks of items.

    No items x interests matrix is made: blocks hold at most ``MAX_SCORES`` cosines, on the centres' device.

    Args:
        interests: the centres.
        embedding: of all items, on any device.
        is_known: items whose embedding means something; the others get no interest.
        num_nearest: 1: hard assignment, the paper's. Above: soft, to so many nearest interests.
        temperature: soft shares are the softmax of cosine / temperature over the nearest.

    Raises:
        ValueError: ``num_nearest`` is below 1 or above the number of interests, ``temperature`` is not above
            0, there is not one ``is_known`` an item, or the embedding of a known item is not finite.

    """
    if not 1 <= num_nearest <= len(interests) or not temperature > 0:
        raise ValueError(
            f"num_nearest must lie in [1, {len(interests)}] and temperature above 0, got {num_nearest} and "
            f"{temperature}"
        )
    num_items = len(embedding)
    if len(is_known) != num_items:
        raise ValueError(f"is_known must say it of each of {num_items} items, got {len(is_known)}")
    interest = torch.full((num_items, num_nearest), -1)
    weight = torch.zeros(num_items, num_nearest)
    for rows in is_known.cpu().nonzero().flatten().split(max(MAX_SCORES // len(interests), 1)):
        vectors = embedding[rows.to(embedding.device)].to(interests.center.device)
        _check_finite(vectors)
        cosine = functional.normalize(vectors, dim=1) @ interests.center.T
        score, place = cosine.topk(num_nearest, dim=1)
        interest[rows] = place.cpu()
        weight[rows] = (score / temperature).softmax(dim=1).cpu()
    return ItemInterests(
        interest=interest, weight=weight, num_interests=len(interests), fit_until=interests.fit_until
    )


def nearest(
    center: Float32[Tensor, "num_centers channels"], x: Float32[Tensor, "num_vectors channels"]
) -> Int64[Tensor, " num_vectors"]:
    """Return the centre of the greatest cosine, by blocks; all vectors have length 1."""
    blocks = x.split(max(MAX_SCORES // len(center), 1))
    return torch.cat([torch.zeros(0, dtype=torch.int64), *((block @ center.T).argmax(1) for block in blocks)])


def _check_before(fit_until: int, label_start: int) -> None:
    if fit_until > label_start:
        raise ValueError(
            f"the interests were fitted on data until {fit_until}, labels begin at {label_start}: fit them "
            "on what was known before"
        )


def _check_finite(embedding: Tensor) -> None:
    if not bool(embedding.isfinite().all()):
        raise ValueError("some item embeddings are NaN or infinite: look at the training of the embedding")


def _shares(size: Tensor, total: int) -> Tensor:
    """Share out centres by the groups' sizes: at most one a vector, at least one where there is a vector."""
    share = torch.minimum((size.double() * total / size.sum()).floor().long().clamp(min=1), size)
    # rounding left some over, or gave too many to small groups: add to and take from the largest first
    while (missing := total - int(share.sum())) != 0:
        room = size - share if missing > 0 else (share - 1).clamp(min=0)
        chosen = room.argsort(descending=True, stable=True)[: abs(missing)]
        share[chosen] += (room[chosen] > 0).long() * (1 if missing > 0 else -1)
    return share
