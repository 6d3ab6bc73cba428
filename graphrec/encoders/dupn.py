"""DUPN: a property-gated LSTM and attention over a user's last behaviours, one vector for many tasks.

Ni et al., KDD 2018, sections on the behaviour, network and representation of users.

Axis letters: N queries, L steps of the longest sequence.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from graph_builders.option_checks import check_number, check_whole_number
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.behavior_sequences import (
    BehaviorSequences,
    SequenceModel,
    SequenceSizes,
    SequenceTokenizer,
)
from graphrec.encoders.fit_until import Fitted
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.nn.padding import padded, padding_mask
from graphrec.nn.property_lstm import PropertyGatedLSTM


class DUPN(SequenceModel):
    r"""Return the user representation: the attended behaviours and the profile, side by side.

    .. math::
        a_t = \operatorname{softmax}_t \operatorname{MLP}([h_t, q, u, p_t]), \qquad
        r = [\textstyle\sum_t a_t h_t, u]

    A user without behaviours has zeros in the first part. Choices where the paper is silent: a learned
    vector stands for :math:`q` where queries have no fields, and for :math:`u` without a profile; a linear
    map and ReLU bring the profile's embeddings to ``user_channels``.

    Args:
        sizes: of the sequences' vocabularies.
        item_channels: of each column of the items (paper: 32, 24, 24, 16, 28 for ID, brand, shop, category,
            tags).
        property_channels: of each property (paper: 48 together).
        hidden_channels: of the LSTM's state (paper: 128).
        user_channels: of the profile (paper: 128).
        query_channels: of the query.
        attention_channels: hidden layers of the attention (paper: 128, 64).
        properties_in: where properties are read: "both", or for the paper's variants the "lstm" alone
            (bplstm), the "attention" alone (bpatt), "none" (nobp).
        query_in_output: whether the query's vector stands in the representation too; in the paper it enters
            the attention's weights alone, which tells the heads nothing of queries that matter by themselves.
        dropout: of the behaviours' vectors and of the representation.

    Attributes:
        out_channels: size of the representation (paper: 256), with the query's where it stands in it.
        query_channels: size of the query's vector, of all fields together.
        options: the arguments that no weight's shape shows.

    Raises:
        ValueError: a width is no whole number or too small, there is none for a column, or another argument
            cannot be.

    """

    def __init__(
        self,
        sizes: SequenceSizes,
        *,
        item_channels: Sequence[int] | int = 24,
        property_channels: Sequence[int] | int = 12,
        hidden_channels: int = 128,
        user_channels: int = 128,
        query_channels: int = 32,
        attention_channels: Sequence[int] = (128, 64),
        properties_in: str = "both",
        query_in_output: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(sizes)
        check_whole_number("hidden_channels", hidden_channels, 1)
        check_whole_number("user_channels", user_channels, 0)
        check_whole_number("query_channels", query_channels, 0)
        check_number("dropout", dropout, least=0, below=1)
        if properties_in not in ("both", "lstm", "attention", "none"):
            raise ValueError(
                f'properties_in must be "both", "lstm", "attention" or "none", got {properties_in!r}'
            )
        if not isinstance(attention_channels, Sequence) or not attention_channels:
            raise ValueError(
                f"the attention needs a width of each hidden layer, one at least, such as (128, 64): "
                f"attention_channels is {attention_channels!r}"
            )
        for one in attention_channels:
            check_whole_number("a width of attention_channels", one, 1)
        self.query_in_output = query_in_output
        self.options = {
            "properties_in": properties_in,
            "query_in_output": query_in_output,
            "dropout": dropout,
        }
        self.in_lstm, self.in_attention = (properties_in in ("both", part) for part in ("lstm", "attention"))
        self.item = CodeVectors(sizes.item, _widths("item_channels", item_channels, sizes.item))
        width = _widths("property_channels", property_channels, sizes.properties)
        read = self.in_lstm or self.in_attention
        self.property = CodeVectors(sizes.properties if read else (), width if read else ())
        self.lstm = PropertyGatedLSTM(
            self.item.out_channels, self.property.out_channels if self.in_lstm else 0, hidden_channels
        )
        self.user = MappedCodes(CodeVectors(sizes.profile, [16] * len(sizes.profile)), user_channels)
        self.query_fields = CodeVectors(sizes.query, [query_channels] * len(sizes.query))
        self.query_channels = max(len(sizes.query), 1) * query_channels
        self.out_channels = hidden_channels + user_channels + (self.query_channels if query_in_output else 0)
        self.no_query = nn.Parameter(torch.zeros(0 if sizes.query else query_channels))
        self.of_hidden = nn.Linear(hidden_channels, attention_channels[0])
        self.of_query_and_user = nn.Linear(
            self.query_channels + user_channels, attention_channels[0], bias=False
        )
        self.of_property = (
            nn.Linear(self.property.out_channels, attention_channels[0], bias=False)
            if self.in_attention
            else None
        )
        layers: list[nn.Module] = []
        for before, after in pairwise(attention_channels):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.attention_rest = nn.Sequential(*layers, nn.ReLU(), nn.Linear(attention_channels[-1], 1))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        sequences: BehaviorSequences,
        query: Float[Tensor, "num_queries query_channels"] | None = None,
    ) -> Float[Tensor, "num_queries channels"]:
        """Return a vector for each query; it does not depend on the others of the batch.

        Args:
            sequences: on the model's device.
            query: in the place of what the sequences' own query fields give, such as a task's vector.

        Raises:
            ValueError: the sequences have other columns than ``sizes``.

        """
        self.sizes.check(sequences)
        if query is None:
            query = self._query_of(sequences)
        hidden, weight, user = self._attend(sequences, query)
        # a sum over the steps; a row without any has weights of zero
        summed = torch.einsum("nl,nlc->nc", weight, hidden)
        parts = [summed, user, query] if self.query_in_output else [summed, user]
        return self.dropout(torch.cat(parts, dim=1))

    @torch.no_grad()
    def attention(
        self,
        sequences: BehaviorSequences,
        query: Float[Tensor, "num_queries query_channels"] | None = None,
    ) -> Float[Tensor, " num_behaviors"]:
        """Return the weight of each behaviour, to look at them; those of a query sum to one.

        Nothing is dropped, in training mode either.

        Args:
            sequences: on the model's device.
            query: as in :meth:`forward`.

        Raises:
            ValueError: the sequences have other columns than ``sizes``.

        """
        self.sizes.check(sequences)
        given = self._query_of(sequences) if query is None else query
        _, weight, _ = self._attend(sequences, given, drops=False)
        return weight[padding_mask(sequences.ptr)]

    def _query_of(self, sequences: BehaviorSequences) -> Float[Tensor, "N query_channels"]:
        if self.sizes.query:
            return self.query_fields(sequences.query)
        return self.no_query.expand(len(sequences), -1)

    def _attend(
        self, sequences: BehaviorSequences, query: Float[Tensor, "N query_channels"], *, drops: bool = True
    ) -> tuple[Float[Tensor, "N L hidden"], Float[Tensor, "N L"], Float[Tensor, "N user"]]:
        user = self.user(sequences.profile)
        mask = padding_mask(sequences.ptr)
        vector = self.item(sequences.item)
        item = padded(self.dropout(vector) if drops else vector, mask)
        properties = item[..., :0]
        if self.in_lstm or self.in_attention:
            properties = padded(self.property(sequences.properties), mask)
        hidden = self.lstm(item, properties if self.in_lstm else properties[..., :0])
        logit = self.of_hidden(hidden) + self.of_query_and_user(torch.cat([query, user], dim=1))[:, None]
        if self.of_property is not None:
            logit = logit + self.of_property(properties)
        logit = self.attention_rest(logit)[..., 0].masked_fill(~mask, -torch.inf)
        # a row without behaviours would be NaN: it gets any finite logits, and weights of zero
        empty = ~mask.any(dim=1, keepdim=True)
        weight = functional.softmax(logit.masked_fill(empty, 0.0), dim=1).masked_fill(~mask, 0.0)
        return hidden, weight, user


class DUPNEncoder(NodeEncoder[BehaviorSequences]):
    """A tokenizer and DUPN: together they fulfil the contract of a node-feature encoder.

    Args:
        tokenizer: makes the sequences.
        dupn: encodes them.

    Raises:
        ValueError: the two are of other vocabularies, edge types, items or zones.

    """

    def __init__(self, tokenizer: SequenceTokenizer, dupn: DUPN) -> None:
        super().__init__()
        if tokenizer.sizes != dupn.sizes:
            raise ValueError(
                f"the tokenizer makes sequences of {tokenizer.sizes}, the model reads {dupn.sizes}: take the "
                "tokenizer that the model was made for"
            )
        if dupn.sizes.made_by not in (None, tokenizer.fingerprint):
            raise ValueError(
                "the tokenizer's words, items, edge types, names or time zone are others than those that the "
                "model was made for, though as many: take its own tokenizer"
            )
        self.tokenizer, self.dupn, self.out_channels = tokenizer, dupn, dupn.out_channels
        self.requests: dict[str, HistoryRequest] = tokenizer.requests
        self.fields = tokenizer.fields

    def prepare(self, inputs: EncoderInput) -> BehaviorSequences:
        """Turn histories, profiles and queries into codes."""
        return self.tokenizer.tokenize(inputs)

    def forward(self, prepared: BehaviorSequences) -> Tensor:
        """Return a vector for each query; (num_queries, out_channels)."""
        vectors: Tensor = self.dupn(prepared)
        return vectors

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the vocabularies and the model."""
        return [*self.tokenizer.fitted, self.dupn]


def _widths(name: str, channels: Sequence[int] | int, num_codes: Sequence[int]) -> list[int]:
    if not isinstance(channels, Sequence):
        check_whole_number(name, channels, 0)
        return [channels] * len(num_codes)
    if len(channels) != len(num_codes):
        raise ValueError(f"{name} has {len(channels)} values for {len(num_codes)} columns: give each one")
    for one in channels:
        check_whole_number(f"a width of {name}", one, 0)
    return list(channels)
