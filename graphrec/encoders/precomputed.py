"""A frozen node-feature encoder whose vectors are computed once: training and scoring look them up.

A vector is of one node as of one time, and is given to a query of that node and time alone. So it knows what
the encoder was given then and nothing later, and a training of several epochs encodes each query once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.fit_until import Fitted, FittedUntil, latest_fit
from graphrec.encoders.input_reader import InputReader

EXTRA = "_extra_state"
"""What a state dict calls the state beside weights."""


@dataclass(frozen=True, eq=False)
class KnownQueries:
    """Where the vectors of queries stand in the table."""

    row: Int64[Tensor, " num_queries"]

    def to(self, device: torch.device | str) -> "KnownQueries":
        """Copy to another device."""
        return KnownQueries(self.row.to(device))


class PrecomputedVectors(FittedUntil, NodeEncoder[KnownQueries]):
    """Vectors of queries that are known beforehand, behind the contract of a node-feature encoder.

    It has no parameters and reads no history. Its state dict holds queries, vectors and ``fit_until``:
    loading it replaces all of them, whatever their number was, and :meth:`from_state` needs nothing else.

    Args:
        node: row of each query's node.
        time: of each query.
        vector: of each query; the last one where a query stands twice.
        fit_until: until when what computed the vectors was fitted; None: not on events, or not known.

    Raises:
        ValueError: there is no query, or there is not one time and one vector for each.

    """

    noun = "encoder of the computed vectors"
    vector: Tensor

    def __init__(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        vector: Float[Tensor, "num_queries channels"],
        *,
        fit_until: int | None = None,
    ) -> None:
        super().__init__()
        if not len(node):
            raise ValueError("there is no query that has a vector")
        self.requests: dict[str, HistoryRequest] = {}
        self.out_channels, self.fit_until = vector.shape[1], fit_until
        self.register_buffer("vector", vector.detach())
        self._set_queries(node, time)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "PrecomputedVectors":
        """Make what ``state_dict()`` was taken of; its file can be read with ``weights_only=True``.

        Raises:
            KeyError: the state lacks vectors or queries.
            ValueError: there is not one query a vector.

        """
        extra = state[EXTRA]
        return cls(extra["node"], extra["time"], state["vector"], fit_until=extra["fit_until"])

    def __len__(self) -> int:
        return len(self._key)

    def prepare(self, inputs: EncoderInput) -> KnownQueries:
        """Find the queries' vectors.

        Raises:
            ValueError: a query's vector was not computed; the first such query is named.

        """
        return KnownQueries(self._rows(inputs.node, inputs.time))

    def look_up(
        self, node: Int64[Tensor, " num_queries"], time: Int64[Tensor, " num_queries"]
    ) -> Float[Tensor, "num_queries channels"]:
        """Return the vectors of queries.

        Raises:
            ValueError: as :meth:`prepare`.

        """
        return self.vector[self._rows(node, time).to(self.vector.device)]

    def forward(self, prepared: KnownQueries) -> Tensor:
        """Return the vector of each query; (num_queries, out_channels)."""
        return self.vector[prepared.row]

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the table itself: it keeps until when the encoder of its vectors was fitted."""
        return [self]

    def get_extra_state(self) -> dict[str, Any]:
        """Return what the state dict holds beside the vectors: ``fit_until``, and each vector's query."""
        num_times = len(self._time)
        return {
            **super().get_extra_state(),
            "node": self._key // num_times,
            "time": self._time[self._key % num_times],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over ``fit_until`` and the queries of the vectors, which were loaded before.

        Raises:
            ValueError: as :class:`FittedUntil`, or there is not one query a vector.

        """
        super().set_extra_state(state)
        self._set_queries(state["node"], state["time"])

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Make room for as many vectors as the state has, and refuse what would leave a wrong table."""
        vector, extra = state_dict.get(f"{prefix}vector"), state_dict.get(f"{prefix}{EXTRA}")
        if (vector is None) != (extra is None):
            raise ValueError(
                "the state has vectors without their queries, or queries without vectors: compute them again"
            )
        if vector is not None and extra is not None:
            super().set_extra_state(extra)  # another fit_until is refused before the vectors are replaced
            if vector.shape[1:] == self.vector.shape[1:]:  # of another width: torch says so
                self.vector = self.vector.new_empty(vector.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def _set_queries(self, node: Tensor, time: Tensor) -> None:
        """Sort queries and vectors by node and time."""
        if not len(node) == len(time) == len(self.vector):
            raise ValueError(
                f"each query needs one time and one vector, got {len(node)} nodes, {len(time)} times and "
                f"{len(self.vector)} vectors"
            )
        # batches are made on the CPU and their queries looked up there: queries are no buffers, which would
        # move with the model
        time = time.cpu().contiguous()
        self._time = time.unique()
        key = self._keys(node.cpu(), torch.searchsorted(self._time, time))
        self._key, order = key.sort(stable=True)
        self.vector = self.vector[order.to(self.vector.device)]

    def _rows(self, node: Tensor, time: Tensor) -> Tensor:
        node, time = node.cpu(), time.cpu().contiguous()
        code = torch.searchsorted(self._time, time).clamp(max=len(self._time) - 1)
        key = self._keys(node, code)
        row = (torch.searchsorted(self._key, key, right=True) - 1).clamp(min=0)
        missing = ((self._time[code] != time) | (self._key[row] != key)).nonzero()[:, 0]
        if len(missing):
            raise ValueError(
                f"no vector was computed of node {int(node[missing[0]])} as of {int(time[missing[0]])}, nor "
                f"of {len(missing) - 1} other queries of {len(node)}: precompute all of them, or let the "
                "encoder itself compute them"
            )
        return row

    def _keys(self, node: Tensor, code_of_time: Tensor) -> Tensor:
        return node.long() * len(self._time) + code_of_time


@torch.no_grad()
def precompute(
    encoder: NodeEncoder[Any],
    reader: InputReader,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    batch_size: int = 1024,
) -> PrecomputedVectors:
    """Encode queries, each distinct one once and without dropout, by an encoder that learns no further.

    The vectors keep until when the encoder was fitted, and are refused for earlier labels as it is.

    Args:
        encoder: on the device to compute on; left in evaluation mode.
        reader: of its requests and fields.
        node: row of each query's node.
        time: of each query, in the graph's time resolution.
        batch_size: queries at once.

    Raises:
        ValueError: there is no query, there is not one time for each, ``batch_size`` is below 1, or as
            :meth:`InputReader.read`.

    """
    check_whole_number("batch_size", batch_size, 1)
    if not len(node):
        raise ValueError("there is no query to compute a vector of")
    if len(node) != len(time):
        raise ValueError(f"each query needs one time, got {len(node)} nodes and {len(time)} times")
    encoder.eval()
    device = next((one.device for one in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    # by time: events of neighbouring queries lie together
    time, node = torch.stack([time, node]).unique(dim=1)
    parts = [
        encoder(encoder.prepare(reader.read(node[some], time[some])).to(device)).float()
        for some in torch.arange(len(node)).split(batch_size)
    ]
    return PrecomputedVectors(node, time, torch.cat(parts), fit_until=latest_fit(encoder.fitted_parts()))
