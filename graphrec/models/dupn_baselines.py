"""DUPN's baselines on its inputs: Wide, Wide&Deep, DSSM and CNN-max (Ni et al., KDD 2018, table 2).

They are encoders and heads of ``graphrec.training.multi_task`` too:

=========  ==============================  ==========================================================
row        encoder                         head
=========  ==============================  ==========================================================
Wide       ``NoEncoder()``                 ``WideHead(PairHead, ...)`` of rows with ``add_wide_codes``
Wide&Deep  ``BehaviorMean``                ``WideHead(PairHead, ..., deep=PairHead(...))`` of the same rows
DSSM       ``BehaviorMean``                ``TowerHead``; pairs alone
CNN-max    ``CNNMax``                      those of DUPN
=========  ==============================  ==========================================================

The paper says no more than their names: what they read and their sizes are ours.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.behavior_sequences import BehaviorSequences, SequenceModel, SequenceSizes
from graphrec.encoders.fit_until import FittedUntil
from graphrec.encoders.sentences import MISSING
from graphrec.models.dupn_heads import ClassHead, PairHead, TaskHead, TaskRows, dense_layers
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.nn.padding import padded, padding_mask
from samplers import keyed_bits


class SequenceEncoder(SequenceModel, ABC):
    """What the baselines' encoders share: vectors of behaviours, of the profile and of the query.

    Args:
        sizes: of the sequences' vocabularies.
        item_channels: of each column of the items.
        property_channels: of each property.
        user_channels: of the profile's vector.
        query_channels: of the query's.

    """

    def __init__(
        self,
        sizes: SequenceSizes,
        *,
        item_channels: int,
        property_channels: int,
        user_channels: int,
        query_channels: int,
    ) -> None:
        super().__init__(sizes)
        self.query_channels = query_channels
        self.item = CodeVectors(sizes.item, [item_channels] * len(sizes.item))
        self.property = CodeVectors(sizes.properties, [property_channels] * len(sizes.properties))
        self.user = MappedCodes(CodeVectors(sizes.profile, [16] * len(sizes.profile)), user_channels)
        self.query = MappedCodes(CodeVectors(sizes.query, [16] * len(sizes.query)), query_channels)
        self.behavior_channels = self.item.out_channels + self.property.out_channels

    def forward(
        self,
        sequences: BehaviorSequences,
        query: Float[Tensor, "num_queries query_channels"] | None = None,
    ) -> Float[Tensor, "num_queries channels"]:
        """Return a vector for each query; it does not depend on the others of the batch.

        Args:
            sequences: on the model's device.
            query: in the place of what the query's own fields give, such as a task's vector.

        Raises:
            ValueError: the sequences have other columns than ``sizes``.

        """
        self.sizes.check(sequences)
        behavior = torch.cat([self.item(sequences.item), self.property(sequences.properties)], dim=1)
        given = self.query(sequences.query) if query is None else query
        return self.combine(behavior, sequences.ptr, torch.cat([self.user(sequences.profile), given], dim=1))

    @abstractmethod
    def combine(
        self,
        behavior: Float[Tensor, "num_behaviors channels"],
        ptr: Int64[Tensor, " num_queries_and_one"],
        user_and_query: Float[Tensor, "num_queries other_channels"],
    ) -> Tensor:
        """Return the representations from the vectors of all behaviours, and of profiles and queries."""


class CNNMax(SequenceEncoder):
    """A convolution over the behaviours, the maximum of each channel, profile and query beside it.

    A user without behaviours has zeros in the first part, which is never below 0.

    Args:
        sizes: of the sequences' vocabularies.
        hidden_channels: of the convolution.
        kernel_size: behaviours that it sees at once, odd.
        item_channels: of each column of the items.
        property_channels: of each property.
        user_channels: of the profile's vector.
        query_channels: of the query's.

    Attributes:
        out_channels: of all three parts together.

    """

    def __init__(
        self,
        sizes: SequenceSizes,
        *,
        hidden_channels: int = 128,
        kernel_size: int = 3,
        item_channels: int = 24,
        property_channels: int = 12,
        user_channels: int = 128,
        query_channels: int = 32,
    ) -> None:
        super().__init__(
            sizes,
            item_channels=item_channels,
            property_channels=property_channels,
            user_channels=user_channels,
            query_channels=query_channels,
        )
        if kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be odd, so that a behaviour is in the middle, got {kernel_size}"
            )
        self.out_channels = hidden_channels + user_channels + query_channels
        # zeros on both sides are what padding holds: no row depends on the longest of its batch
        self.convolution = nn.Conv1d(
            self.behavior_channels, hidden_channels, kernel_size, padding=kernel_size // 2
        )

    def combine(self, behavior: Tensor, ptr: Tensor, user_and_query: Tensor) -> Tensor:
        """Return the maxima, profile and query side by side."""
        mask = padding_mask(ptr)
        value = torch.relu(self.convolution(padded(behavior, mask).transpose(1, 2)))
        most = value.masked_fill(~mask[:, None], 0.0).amax(dim=2)
        return torch.cat([most, user_and_query], dim=1)


class BehaviorMean(SequenceEncoder):
    """Dense layers over the mean of the behaviours' vectors, profile and query: Wide&Deep's deep part.

    Args:
        sizes: of the sequences' vocabularies.
        hidden_channels: of the layers, one at least; the last is the representation.
        item_channels: of each column of the items.
        property_channels: of each property.
        user_channels: of the profile's vector.
        query_channels: of the query's.

    Attributes:
        out_channels: of the last layer.

    Raises:
        ValueError: there is no layer, or a width is no whole number of at least 1.

    """

    def __init__(
        self,
        sizes: SequenceSizes,
        *,
        hidden_channels: Sequence[int] = (256, 256),
        item_channels: int = 24,
        property_channels: int = 12,
        user_channels: int = 128,
        query_channels: int = 32,
    ) -> None:
        super().__init__(
            sizes,
            item_channels=item_channels,
            property_channels=property_channels,
            user_channels=user_channels,
            query_channels=query_channels,
        )
        if not hidden_channels:
            raise ValueError("the representation is the last layer: hidden_channels is empty, name a width")
        for one in hidden_channels:
            check_whole_number("a width of hidden_channels", one, 1)
        self.out_channels = hidden_channels[-1]
        self.layers = dense_layers(
            [self.behavior_channels + user_channels + query_channels, *hidden_channels]
        )

    def combine(self, behavior: Tensor, ptr: Tensor, user_and_query: Tensor) -> Tensor:
        """Return what the layers make of the mean, profile and query; the mean of nothing is 0."""
        mean = torch.segment_reduce(behavior, "sum", offsets=ptr, axis=0) / ptr.diff().clamp(min=1)[:, None]
        vector: Tensor = torch.relu(self.layers(torch.cat([mean, user_and_query], dim=1)))
        return vector


class NoEncoder(FittedUntil):
    """Vectors of no channels: for heads that read the rows alone."""

    noun, out_channels = "model", 0

    def forward(self, sequences: BehaviorSequences) -> Float[Tensor, "num_queries 0"]:
        """Return an empty vector for each query."""
        return torch.zeros(len(sequences), 0, device=sequences.ptr.device)


class TowerHead(TaskHead):
    r"""DSSM (Huang et al., CIKM 2013): the cosine of a user's and an entity's tower, scaled, as a logit.

    .. math:: y = \gamma \cos(f(r), g(e)) + b

    Args:
        in_channels: of the representation.
        entity: makes the entities' vectors.
        hidden_channels: of each tower's layers; the last is compared.
        scale: gamma at the start; it is learned, as the bias is.

    """

    losses, score = staticmethod(PairHead.losses), staticmethod(PairHead.score)
    label_values = PairHead.label_values

    def __init__(
        self,
        in_channels: int,
        entity: MappedCodes,
        *,
        hidden_channels: Sequence[int] = (128, 128),
        scale: float = 5.0,
    ) -> None:
        super().__init__()
        self.entity = entity
        self.of_user = dense_layers([in_channels, *hidden_channels])
        self.of_entity = dense_layers([entity.out_channels, *hidden_channels])
        self.scale, self.bias = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.zeros(()))

    def forward(self, vector: Tensor, rows: TaskRows) -> Tensor:
        """Return a logit for each row."""
        both = self.of_user(vector), self.of_entity(self.entity(rows.entity))
        return self.scale * functional.cosine_similarity(*both, dim=1) + self.bias


class WideHead(TaskHead):
    """Wide&Deep (Cheng et al., DLRS 2016): a weight for each hashed cross of codes, and a deep head beside.

    Rows must come from :func:`add_wide_codes`: their last columns are the wide ones. Ranking features enter
    linearly, with one weight for all users.

    Args:
        kind: the head whose labels, loss and scores these are: PairHead, RankingHead or ClassHead.
        num_columns: wide ones.
        num_buckets: of the hash, those of ``add_wide_codes``: more in the rows are refused by :meth:`check`,
            fewer cannot be told.
        num_outputs: 1, or the number of classes.
        num_features: ranking features.
        deep: reads the representation and the other columns; None for Wide alone.

    Raises:
        ValueError: there is no bucket.

    """

    def __init__(
        self,
        kind: type[TaskHead],
        num_columns: int,
        *,
        num_buckets: int = 100_000,
        num_outputs: int = 1,
        num_features: int = 0,
        deep: TaskHead | None = None,
    ) -> None:
        super().__init__()
        check_whole_number("num_buckets", num_buckets, 1)
        self.kind, self.num_columns, self.deep = kind, num_columns, deep
        is_class = issubclass(kind, ClassHead)
        self.label_values = tuple(range(num_outputs)) if is_class else kind.label_values
        self.table = nn.EmbeddingBag(num_buckets, num_outputs, mode="sum")
        nn.init.zeros_(self.table.weight)
        self.of_features = nn.Parameter(torch.zeros(num_features, num_outputs))
        self.bias = nn.Parameter(torch.zeros(num_outputs))

    def forward(self, vector: Tensor, rows: TaskRows) -> Tensor:
        """Return a logit for each row, or one for each class.

        Raises:
            ValueError: the rows have fewer columns than the wide part reads.

        """
        num_deep = self._num_deep(rows)
        logit: Tensor = self.table(rows.entity[:, num_deep:]) + rows.features @ self.of_features + self.bias
        if logit.shape[1] == 1:
            logit = logit[:, 0]
        if self.deep is not None:
            logit = logit + self.deep(vector, replace(rows, entity=rows.entity[:, :num_deep]))
        return logit

    def check(self, rows: TaskRows) -> None:
        """Raise if the rows' wide codes are of more buckets than the head has.

        Raises:
            ValueError: they are, or the rows have no wide codes.

        """
        super().check(rows)
        wide = rows.entity[:, self._num_deep(rows) :]
        if wide.numel() and not 0 <= int(wide.min()) <= int(wide.max()) < self.table.num_embeddings:
            raise ValueError(
                f"the rows' wide codes are {int(wide.min())} to {int(wide.max())}, the head has "
                f"{self.table.num_embeddings} buckets: give add_wide_codes and WideHead one num_buckets"
            )

    def _num_deep(self, rows: TaskRows) -> int:
        num_deep = rows.entity.shape[1] - self.num_columns
        if num_deep < 0:
            raise ValueError(
                f"the wide part reads {self.num_columns} columns, the rows have {rows.entity.shape[1]}: "
                "add_wide_codes comes first"
            )
        return num_deep

    def losses(self, logit: Tensor, rows: TaskRows) -> Tensor:  # type: ignore[override]
        """Return each row's loss, as ``kind`` has it."""
        return self.kind.losses(logit, rows)

    def score(self, logit: Tensor) -> Tensor:  # type: ignore[override]
        """Return scores, as ``kind`` has them."""
        return self.kind.score(logit)


def add_wide_codes(
    rows: TaskRows, sequences: BehaviorSequences, *, num_last: int = 5, num_buckets: int = 100_000
) -> TaskRows:
    """Put hashed codes behind the entities' columns: the user's, the entity's, and each pair of both.

    The user's are the profile, the query's fields and the first columns of the last behaviours' items.

    Args:
        rows: of a task.
        sequences: of its queries.
        num_last: behaviours, the last one first; missing where there were fewer.
        num_buckets: of the hash, the head's: with fewer, its other weights stay as they are.

    Returns:
        The rows with ``U + E + U E`` more columns, of ``U`` codes of a user and ``E`` of an entity.

    Raises:
        ValueError: there is no bucket, or a negative number of behaviours.

    """
    check_whole_number("num_buckets", num_buckets, 1)
    check_whole_number("num_last", num_last, 0)
    last = sequences.ptr[1:, None] - 1 - torch.arange(num_last, device=sequences.ptr.device)
    item = torch.cat([sequences.item[:, 0], sequences.item.new_zeros(1)])  # read where there is no behaviour
    there = last >= sequences.ptr[:-1, None]
    behavior = torch.where(there, item[torch.where(there, last, len(item) - 1)], MISSING)
    user = torch.cat([sequences.profile, sequences.query, behavior], dim=1)[rows.query]
    columns = [keyed_bits("user", column, code) for column, code in enumerate(user.T)]
    columns += [keyed_bits("entity", column, code) for column, code in enumerate(rows.entity.T)]
    columns += [
        keyed_bits("user and entity", first, second, of_user, of_entity)
        for first, of_user in enumerate(user.T)
        for second, of_entity in enumerate(rows.entity.T)
    ]
    wide = torch.stack(columns, dim=1) % num_buckets  # never negative: the modulus has the divisor's sign
    return replace(rows, entity=torch.cat([rows.entity, wide], dim=1))
