"""SMEN behind the contract of a node-feature encoder, and lives of many queries read as bags of interests."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from graph_builders.option_checks import check_whole_number
from graphrec.encoders.bag_of_interests import BagOfInterests, InterestCounter, concatenate_bags
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.fit_until import Fitted
from graphrec.encoders.input_reader import InputReader, prepare_queries
from graphrec.encoders.smen import SMEN
from samplers import EdgeType

LIFE = "life"
MAX_PERIODS_AT_ONCE = 1 << 13
"""Periods that :func:`represent` encodes at once: about 25 KiB each with 10 anchors of 128 channels."""


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

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return the interests and the model."""
        return [self.counter.items, self.smen]


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
    smen: SMEN, bag: BagOfInterests, *, batch_size: int = 256, max_periods: int = MAX_PERIODS_AT_ONCE
) -> Float32[Tensor, "num_queries out_channels"]:
    """Return the frozen vectors of many queries, in their order, on the CPU; the model is left in eval mode.

    Lives of about equally many periods are encoded together, so that short ones do not wait for long ones.
    Memory grows with the periods that are encoded at once, not with the lives' events.

    Args:
        smen: on the device to encode on.
        bag: lives of the queries, on any device.
        batch_size: queries at once, at most.
        max_periods: periods of these at once, over all scales, at most; a longer life is encoded alone.

    Raises:
        ValueError: ``batch_size`` or ``max_periods`` is no whole number above 0; or as :meth:`SMEN.forward`.

    """
    check_whole_number("batch_size", batch_size, 1)
    check_whole_number("max_periods", max_periods, 1)
    smen.check(bag)
    smen.eval()
    device = smen.anchors.anchor.device
    out = torch.empty(len(bag), smen.out_channels)
    for query in _batches(bag, batch_size, max_periods):
        out[query.cpu()] = smen(bag.take(query).to(device)).float().cpu()
    return out


def _batches(bag: BagOfInterests, batch_size: int, max_periods: int) -> Iterator[Int64[Tensor, " num_taken"]]:
    """Yield all queries, those of few periods first, in batches of both bounds but of one query at least."""
    count = torch.stack([bag.num_periods(scale) for scale in range(len(bag.scales))]).sum(dim=0)
    order = count.argsort(stable=True)
    ends = count[order].cumsum(0).cpu()
    start = before = 0
    while start < len(order):
        fitting = int(torch.searchsorted(ends, before + max_periods, right=True))
        stop = min(max(fitting, start + 1), start + batch_size)
        yield order[start:stop]
        start, before = stop, int(ends[stop - 1])
