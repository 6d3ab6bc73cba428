"""Meta-Profile Network (Gong et al., CIKM 2020): the profile network g, its task heads, the similarity f.

g joins a heatmap CNN for each modality (shopping, points, ...) with a small network for demographics. Source
tasks have a head each. For an unseen task, f compares embeddings with those of a few labelled examples, and
the prediction is the similarity-weighted sum of their labels. Training: ``graphrec.training.meta_profile``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from graph_builders import CategoricalColumn, FeatureTable, NumericColumn
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.fit_until import Fitted, FittedUntil
from graphrec.encoders.heatmap import Heatmaps, concatenate_heatmaps
from graphrec.encoders.heatmap_cnn import HeatmapEncoder


@dataclass(frozen=True, eq=False)
class ProfileInputs:
    """What the profile network reads of each query.

    Attributes:
        heatmaps: by modality.
        number: demographic numbers, NaN where missing.
        code: demographic categories, 0 where missing.

    """

    heatmaps: Mapping[str, Heatmaps]
    number: Float32[Tensor, "num_queries num_numbers"]
    code: Int64[Tensor, "num_queries num_categories"]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, query: Int64[Tensor, " num_taken"]) -> "ProfileInputs":
        """Return the given queries, in that order; one may be taken twice."""
        query = query.to(self.number.device)
        heatmaps = {name: heatmaps.take(query) for name, heatmaps in self.heatmaps.items()}
        return ProfileInputs(heatmaps, self.number[query], self.code[query])

    def to(self, device: torch.device | str) -> "ProfileInputs":
        """Copy to another device."""
        heatmaps = {name: heatmaps.to(device) for name, heatmaps in self.heatmaps.items()}
        return ProfileInputs(heatmaps, self.number.to(device), self.code.to(device))


def concatenate_inputs(parts: Sequence[ProfileInputs]) -> ProfileInputs:
    """Put inputs of the same modalities and fields behind one another.

    Raises:
        ValueError: there is no part.

    """
    if not parts:
        raise ValueError("nothing to concatenate: at least one part is needed")
    return ProfileInputs(
        {name: concatenate_heatmaps([part.heatmaps[name] for part in parts]) for name in parts[0].heatmaps},
        torch.cat([part.number for part in parts]),
        torch.cat([part.code for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class DemographicFields:
    """Static fields of users that are inputs. Where a user attribute is a target, take none.

    Attributes:
        numbers: mean and standard deviation of each number.
        categories: codes of each category, the missing one included.

    """

    numbers: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    categories: Mapping[str, int] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Numbers, then categories."""
        return (*self.numbers, *self.categories)

    @classmethod
    def fit(cls, table: FeatureTable, names: Sequence[str], row: Int64[Tensor, " _"]) -> "DemographicFields":
        """Look at the fields of some users, who should be training users.

        Raises:
            ValueError: a field does not exist or holds lists, or no user has the number.

        """
        numbers, categories = {}, {}
        for name in names:
            column = table.columns.get(name)
            if isinstance(column, CategoricalColumn):
                categories[name] = column.num_codes
            elif isinstance(column, NumericColumn):
                value = column.value[row.to(column.value.device)].double()
                value = value[~value.isnan()]
                if not len(value):
                    raise ValueError(f"none of the {len(row)} users has a {name!r}: leave the field out")
                numbers[name] = (float(value.mean()), float(value.std(correction=0)) or 1.0)
            else:
                raise ValueError(
                    f"field {name!r} must be a number or a category, there are {list(table.names)}: leave "
                    "lists out"
                )
        return cls(numbers=numbers, categories=categories)

    def read(self, table: FeatureTable) -> tuple[Tensor, Tensor]:
        """Return numbers (num_rows, num_numbers) and codes (num_rows, num_categories)."""
        numbers, codes = [], []
        for name in self.numbers:
            column = table[name]
            assert isinstance(column, NumericColumn)
            numbers.append(column.value)
        for name in self.categories:
            category = table[name]
            assert isinstance(category, CategoricalColumn)
            codes.append(category.code.long())
        number = torch.stack(numbers, 1) if numbers else torch.zeros(len(table), 0)
        code = torch.stack(codes, 1) if codes else torch.zeros(len(table), 0, dtype=torch.int64)
        return number, code


class DemographicNetwork(nn.Module):
    """A small network over numbers and categories, any of which may be missing.

    A number is standardised, 0 where it is missing, and an input beside it says whether it is there. A
    missing category has an embedding of its own.

    Args:
        fields: what is read.
        out_channels: of the vector.
        embedding_channels: of each category.

    """

    center: Tensor
    spread: Tensor

    def __init__(
        self, fields: DemographicFields, *, out_channels: int = 32, embedding_channels: int = 8
    ) -> None:
        super().__init__()
        center, spread = ([pair[place] for pair in fields.numbers.values()] for place in (0, 1))
        self.register_buffer("center", torch.tensor(center))
        self.register_buffer("spread", torch.tensor(spread))
        self.embedding = nn.ModuleList(
            nn.Embedding(num_codes, embedding_channels) for num_codes in fields.categories.values()
        )
        in_channels = 2 * len(fields.numbers) + embedding_channels * len(fields.categories)
        self.layers = nn.Sequential(
            nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels), nn.ReLU()
        )
        self.out_channels = out_channels

    def forward(
        self,
        number: Float32[Tensor, "num_queries num_numbers"],
        code: Int64[Tensor, "num_queries num_categories"],
    ) -> Float[Tensor, "num_queries out_channels"]:
        """Return a vector for each query."""
        known = ~number.isnan()
        standard = torch.where(known, (number - self.center) / self.spread, 0.0)
        embedded = [table(code[:, place]) for place, table in enumerate(self.embedding)]
        vector: Tensor = self.layers(torch.cat([standard, known.to(standard.dtype), *embedded], dim=1))
        return vector


class ProfileNetwork(FittedUntil, NodeEncoder[ProfileInputs]):
    """The profile network g: from histories and demographics to an embedding.

    Frozen (``requires_grad_(False)``), it stays in evaluation mode under ``train()``, so that batch norm's
    statistics are frozen too.

    Args:
        modalities: a heatmap encoder for each.
        demographics: the static fields that are read; None: none.
        out_channels: of the embedding.

    Raises:
        ValueError: there is no modality.

    """

    noun = "profile network"

    def __init__(
        self,
        modalities: Mapping[str, HeatmapEncoder],
        *,
        demographics: DemographicFields | None = None,
        out_channels: int = 128,
    ) -> None:
        super().__init__()
        if not modalities:
            raise ValueError("a profile network needs at least one modality, got none")
        self.demographics = DemographicFields() if demographics is None else demographics
        self.modalities = nn.ModuleDict(dict(modalities))
        self.requests: Mapping[str, HistoryRequest] = {
            name: encoder.encoding.request for name, encoder in modalities.items()
        }
        self.fields = self.demographics.names
        channels = sum(encoder.out_channels for encoder in modalities.values())
        self.static = DemographicNetwork(self.demographics) if self.fields else None
        if self.static is not None:
            channels += self.static.out_channels
        # the norm keeps embeddings from dying behind ReLU under high learning rates
        self.join = nn.Sequential(nn.Linear(channels, out_channels), nn.LayerNorm(out_channels), nn.ReLU())
        self.out_channels = out_channels

    def prepare(self, inputs: EncoderInput) -> ProfileInputs:
        """Turn histories into sparse heatmaps, and read the static fields."""
        heatmaps = {}
        for name, encoder in self.modalities.items():
            assert isinstance(encoder, HeatmapEncoder)
            history = inputs.histories[name]
            heatmaps[name] = encoder.encoding.encode(history, inputs.time, inputs.units_per_second)
        number, code = self.demographics.read(inputs.fields)
        device = inputs.time.device
        return ProfileInputs(heatmaps, number.to(device), code.to(device))

    def forward(self, prepared: ProfileInputs) -> Float[Tensor, "num_queries {self.out_channels}"]:
        """Return the embedding of each query."""
        vectors = [encoder(prepared.heatmaps[name]) for name, encoder in self.modalities.items()]
        if self.static is not None:
            vectors.append(self.static(prepared.number, prepared.code))
        embedding: Tensor = self.join(torch.cat(vectors, dim=1))
        return embedding

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the network itself, which knows until when it was fitted."""
        return [self]

    def train(self, mode: bool = True) -> "ProfileNetwork":
        """Switch to training mode, or to evaluation mode where nothing of the network learns."""
        super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))
        return self


class MultiTaskProfile(nn.Module):
    """The profile network with a head for each task.

    Args:
        profile: g.
        start: logit of each task's share of positives: where the heads' biases begin.

    """

    def __init__(self, profile: ProfileNetwork, start: Float[Tensor, " num_tasks"]) -> None:
        super().__init__()
        self.profile = profile
        self.heads = nn.Linear(profile.out_channels, len(start)).to(next(profile.parameters()).device)
        with torch.no_grad():
            self.heads.bias.copy_(start)

    def forward(self, inputs: ProfileInputs) -> Float[Tensor, "num_queries num_tasks"]:
        """Return the logits of all tasks."""
        logit: Tensor = self.heads(self.profile(inputs))
        return logit


class Similarity(nn.Module, ABC):
    """From embeddings of queries and of labelled examples to logits of the queries."""

    @abstractmethod
    def forward(
        self,
        query: Float[Tensor, "num_queries channels"],
        support: Float[Tensor, "num_support channels"],
        label: Float[Tensor, " num_support"],
    ) -> Float[Tensor, " num_queries"]:
        """Return the logit of a 1 for each query; both labels must be among the examples'."""

    def condense(
        self, support: Float[Tensor, "num_support channels"], label: Float[Tensor, " num_support"]
    ) -> tuple[Float[Tensor, "num_kept channels"], Float[Tensor, " num_kept"]]:
        """Return fewer examples, with their labels, that give every query the same logit; here all."""
        return support, label


class RelationModule(Similarity):
    r"""The similarity f: a fully connected ReLU network on pairs of embeddings.

    .. math:: p(x) = \sum_i a_i y_i, \qquad a = \operatorname{softmax}_i f(g(x), g(s_i))

    The paper says that the prediction is "a weighted sum of labels of support set samples"; that weights are
    a softmax is our reading (it is that of matching networks, which the paper extends). The pair is given as
    both embeddings and their absolute difference.

    Args:
        channels: of the embeddings.
        hidden_channels: of f's hidden layers.
        num_layers: hidden layers, at least one.

    Raises:
        ValueError: ``num_layers`` is below 1.

    """

    def __init__(self, channels: int, *, hidden_channels: int = 64, num_layers: int = 2) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        # one linear layer on the joined pair, in three parts: each end is multiplied once, not once a pair
        self.of_query = nn.Linear(channels, hidden_channels)
        self.of_support = nn.Linear(channels, hidden_channels, bias=False)
        self.of_difference = nn.Linear(channels, hidden_channels, bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(num_layers - 1):
            layers += [nn.Linear(hidden_channels, hidden_channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(hidden_channels, 1))

    def score(
        self, query: Float[Tensor, "num_queries channels"], support: Float[Tensor, "num_support channels"]
    ) -> Float[Tensor, "num_queries num_support"]:
        """Return f of each pair."""
        difference = (query[:, None] - support).abs()
        hidden = self.of_query(query)[:, None] + self.of_support(support) + self.of_difference(difference)
        score: Tensor = self.layers(hidden)
        return score[..., 0]

    def forward(
        self,
        query: Float[Tensor, "num_queries channels"],
        support: Float[Tensor, "num_support channels"],
        label: Float[Tensor, " num_support"],
    ) -> Float[Tensor, " num_queries"]:
        """Return the logit of the similarity-weighted sum of the examples' labels."""
        return weighted_label_logit(self.score(query, support), label)


class PrototypeSimilarity(Similarity):
    """Squared distances to the mean embeddings of both classes (Snell et al., NeurIPS 2017)."""

    def forward(
        self,
        query: Float[Tensor, "num_queries channels"],
        support: Float[Tensor, "num_support channels"],
        label: Float[Tensor, " num_support"],
    ) -> Float[Tensor, " num_queries"]:
        """Return how much nearer each query is to the positives' mean than to the negatives'."""
        prototypes, _ = self.condense(support, label)
        distance = (query[:, None] - prototypes).square().sum(dim=-1)
        return distance[:, 0] - distance[:, 1]

    def condense(
        self, support: Float[Tensor, "num_support channels"], label: Float[Tensor, " num_support"]
    ) -> tuple[Float[Tensor, "num_kept channels"], Float[Tensor, " num_kept"]]:
        """Return the mean embeddings of both classes: nothing else of the examples is compared with."""
        means = torch.stack([support[label == value].mean(dim=0) for value in (0.0, 1.0)])
        return means, label.new_tensor([0.0, 1.0])


def weighted_label_logit(
    score: Float[Tensor, "num_queries num_support"], label: Float[Tensor, " num_support"]
) -> Float[Tensor, " num_queries"]:
    r"""Return the logit of :math:`\sum_i \operatorname{softmax}(s)_i y_i`, stable near sums of 0 and 1."""
    positive, negative = (score[:, label == value].logsumexp(dim=1) for value in (1.0, 0.0))
    return positive - negative
