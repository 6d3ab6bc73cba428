"""SMEN behind the contract of a node-feature encoder, and lives of many queries read as bags of interests."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graphrec.encoders.bag_of_interests import BagOfInterests, InterestCounter, concatenate_bags
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.encoders.smen import SMEN
from samplers import EdgeType

LIFE = "life"


class SMENEncoder(NodeEncoder[BagOfInterests]):
    """From a node's whole life, or a window of it, to SMEN's vector.

    What ``prepare`` returns is small and sparse, can be kept by (node, time) and concatenated. The sum over
    interests has no second derivative in torch: where temporal MAML is of second order, freeze the encoder
    (``requires_grad_(False)``), as LURM does, or take ``MetaConfig(order=1)``.

    Args:
        counter: from events to bags of interests; it knows the interests of each item.
        smen: encodes them, pre-trained or new.
        edge_types: whose rows are the queries' nodes and whose columns are items.
        window: seconds; None for the whole life.

    Raises:
        ValueError: counter and model are of other interests or scales.

    """

    def __init__(
        self,
        counter: InterestCounter,
        smen: SMEN,
        edge_types: Sequence[EdgeType],
        *,
        window: int | None = None,
    ) -> None:
        super().__init__()
        wanted = (smen.options["num_interests"], smen.options["num_scales"])
        if (counter.items.num_interests, len(counter.scales)) != wanted:
            raise ValueError(
                f"the counter has {counter.items.num_interests} interests and {len(counter.scales)} scales, "
                f"the model reads {wanted[0]} and {wanted[1]}: take the interests that it was made for"
            )
        self.counter, self.smen, self.out_channels = counter, smen, smen.out_channels
        self.requests: Mapping[str, HistoryRequest] = {
            LIFE: HistoryRequest(edge_types=tuple(edge_types), window=window)
        }

    def prepare(self, inputs: EncoderInput) -> BagOfInterests:
        """Count the interests of each life."""
        events = inputs.histories[LIFE].events
        return self.counter.count(events, inputs.time, units_per_second=inputs.units_per_second)

    def forward(self, prepared: BagOfInterests) -> Tensor:
        """Return SMEN's vector for each query; (num_queries, out_channels)."""
        vectors: Tensor = self.smen(prepared)
        return vectors

    def check_before(self, label_start: int) -> None:
        """Raise if interests or training may have seen anything at or after the first label.

        Raises:
            ValueError: ``fit_until`` of either is later than ``label_start``.

        """
        self.counter.items.check_before(label_start)
        self.smen.check_before(label_start)


def read_bags(
    reader: InputReader,
    encoder: SMENEncoder,
    node: Int64[Tensor, " num_queries"],
    time: Int64[Tensor, " num_queries"],
    *,
    max_events: int = 1_000_000,
) -> BagOfInterests:
    """Read the lives of many queries as bags, at most so many events at a time.

    Raises:
        ValueError: there is no query, or as :meth:`InputReader.read_in_chunks`.

    """
    return prepare_queries(reader, encoder.prepare, concatenate_bags, node, time, max_events=max_events)


@torch.no_grad()
def represent(
    smen: SMEN, bag: BagOfInterests, *, batch_size: int = 256
) -> Float32[Tensor, "num_queries out_channels"]:
    """Return the frozen vectors of many queries, in their order, on the CPU; the model is left in eval mode.

    Queries are encoded in batches of about equally many periods, so that short lives do not wait for long
    ones.
    """
    smen.eval()
    device = smen.anchors.anchor.device
    out = torch.empty(len(bag), smen.out_channels)
    for query in bag.num_cells.argsort(stable=True).split(batch_size):
        out[query.cpu()] = smen(bag.take(query).to(device)).float().cpu()
    return out
