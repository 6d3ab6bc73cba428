"""A frozen node-feature encoder whose vectors are computed once: training and scoring look them up.

A vector is of one node as of one time, and is given to a query of that node and time alone. So it knows what
the encoder was given then and nothing later, and a training of several epochs encodes each query once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.input_reader import InputReader


@dataclass(frozen=True, eq=False)
class KnownQueries:
    """Where the vectors of queries stand in the table."""

    row: Int64[Tensor, " num_queries"]

    def to(self, device: torch.device | str) -> "KnownQueries":
        """Copy to another device."""
        return KnownQueries(self.row.to(device))


class PrecomputedVectors(NodeEncoder[KnownQueries]):
    """Vectors of queries that are known beforehand, behind the contract of a node-feature encoder.

    It has no parameters and reads no history.

    Args:
        node: row of each query's node.
        time: of each query.
        vector: of each query; the last one where a query stands twice.

    Raises:
        ValueError: there is no query.

    """

    vector: Tensor

    def __init__(
        self,
        node: Int64[Tensor, " num_queries"],
        time: Int64[Tensor, " num_queries"],
        vector: Float[Tensor, "num_queries channels"],
    ) -> None:
        super().__init__()
        if not len(node):
            raise ValueError("there is no query that has a vector")
        self.requests: dict[str, HistoryRequest] = {}
        self.out_channels = vector.shape[1]
        # batches are made on the CPU and their queries looked up there: vectors alone move with the model
        time = time.cpu().contiguous()
        self._time = time.unique()
        key = self._keys(node.cpu(), torch.searchsorted(self._time, time))
        self._key, order = key.sort(stable=True)
        self.register_buffer("vector", vector.detach()[order.to(vector.device)])

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

    Args:
        encoder: on the device to compute on; left in evaluation mode.
        reader: of its requests and fields.
        node: row of each query's node.
        time: of each query, in the graph's time resolution.
        batch_size: queries at once.

    Raises:
        ValueError: there is no query, ``batch_size`` is below 1, or as :meth:`InputReader.read`.

    """
    check_whole_number("batch_size", batch_size, 1)
    if not len(node):
        raise ValueError("there is no query to compute a vector of")
    encoder.eval()
    device = next((one.device for one in (*encoder.parameters(), *encoder.buffers())), torch.device("cpu"))
    # by time: events of neighbouring queries lie together
    time, node = torch.stack([time, node]).unique(dim=1)
    parts = [
        encoder(encoder.prepare(reader.read(node[some], time[some])).to(device)).float()
        for some in torch.arange(len(node)).split(batch_size)
    ]
    return PrecomputedVectors(node, time, torch.cat(parts))
