"""A node-feature encoder of one's own, trained end to end among LSTTM's features of users.

Run ``python examples/own_encoder.py [--steps 150]``: about half a minute on one core. The data is the part of
KuaiRand that comes with this package. The encoder sums embeddings of the authors and tags of all that a user
clicked, each weighted by its age with a half-life that is learned. Printed is the AUC on impressions of the
last hours, with and without it.

An encoder names the histories that it wants (``requests``), turns what a reader returns into tensors without
parameters (``prepare``, in the loader's thread), and those into vectors (``forward``).
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from graph_builders import BehaviorGraph, build_behavior_graph, build_impressions
from graph_builders.datasets.kuairand import load_kuairand_pure
from graphrec.encoders.base import EncoderInput, HistoryRequest, NodeEncoder
from graphrec.encoders.fit_until import Fitted
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_vocabularies
from graphrec.models import LSTTM
from graphrec.training.batches import EncodedNodes, ShortTermConfig, click_batches, click_loader
from graphrec.training.click_inputs import click_inputs
from graphrec.training.loop import OptimizerConfig, predict, train
from samplers import EdgeType

CPU, HOUR = torch.device("cpu"), 3_600_000  # the data's times are milliseconds


@dataclass(frozen=True)
class AgedCodes:
    """Codes of past events, query by query, and each event's age in hours."""

    ptr: Tensor
    code: Tensor
    age: Tensor

    def to(self, device: torch.device | str) -> "AgedCodes":
        """Copy to another device."""
        return AgedCodes(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class AgedFields(NodeEncoder[AgedCodes]):
    """The sum of the embeddings of past events' fields, each weighted by 2^(-age / half-life).

    Args:
        edge_types: whose events are read, all that were before the query's time.
        vocabularies: of the neighbours' fields.
        channels: of a vector.

    """

    def __init__(
        self, edge_types: Sequence[EdgeType], vocabularies: AttributeVocabularies, channels: int = 16
    ) -> None:
        super().__init__()
        self.vocabularies, self.out_channels = vocabularies, channels
        self.requests: Mapping[str, HistoryRequest] = {
            "life": HistoryRequest(edge_types=tuple(edge_types), fields=vocabularies.names)
        }
        self.tables = nn.ModuleList(
            nn.EmbeddingBag(size, channels, mode="sum", include_last_offset=True)
            for size in vocabularies.num_codes.values()
        )
        self.log_half_life = nn.Parameter(torch.tensor(5.0))  # of hours

    def prepare(self, inputs: EncoderInput) -> AgedCodes:
        """Turn histories into codes and ages; nothing here has a parameter."""
        life = inputs.histories["life"]
        code = [self.vocabularies.code(name, life.columns[name]) for name in self.vocabularies.names]
        age = inputs.time[life.events.query_of_event()] - life.events.time
        hours = age / (3600 * inputs.units_per_second)
        return AgedCodes(ptr=life.events.ptr, code=torch.stack(code), age=hours)

    def forward(self, prepared: AgedCodes) -> Tensor:
        """Return a vector for each query; (num_queries, out_channels)."""
        weight = torch.exp2(-prepared.age / self.log_half_life.exp())
        vectors = [
            table(code, prepared.ptr, per_sample_weights=weight)
            for table, code in zip(self.tables, prepared.code, strict=True)
        ]
        return torch.stack(vectors).sum(0)

    def fitted_parts(self) -> Sequence[Fitted]:
        """Return what knows until when it was fitted: earlier labels are refused."""
        return [self.vocabularies]


def make_encoder(graph: BehaviorGraph, until: int) -> AgedFields:
    """Make an encoder of users by their clicks; its vocabularies saw what was before ``until``."""
    clicks = ("item", "rev_internal:click", "user")
    request = HistoryRequest(edge_types=(clicks,), fields=("author_id", "tag"))
    return AgedFields([clicks], fit_vocabularies(graph, [request], fit_until=until))


def main(steps: int) -> None:
    """Train LSTTM with and without the encoder, and print both AUC."""
    tables = load_kuairand_pure()
    graph = build_behavior_graph(tables.events, user_table=tables.user_table, item_table=tables.item_table)
    shown = build_impressions(tables.impressions, user_ids=graph.ids["user"], item_ids=graph.ids["item"])
    data, sizes = click_inputs(graph, shown, period=HOUR, item_fields=["author_id"])
    order = shown.time.argsort()
    past, test = order[-200_000:-10_000], order[-10_000:]
    until = int(shown.time[test[0]])
    encoder = make_encoder(graph, until)
    encoder.check_before(until)  # labels that are tested begin here
    reader = InputReader(graph, "user", encoder.requests)
    encoded = EncodedNodes(reader=reader, prepare=encoder.prepare, nodes="seeds")
    data = replace(
        data,
        csrs={name: csr for name, csr in graph.csrs().items() if name[1].endswith("internal:click")},
        short_term=ShortTermConfig(num_neighbors=10, num_layers=1),
    )
    config = OptimizerConfig(epochs=1, learning_rate=3e-3, embedding_learning_rate=3e-3, batch_size=512)
    past = past[-config.batch_size * steps :]
    for name, own, options in (
        ("without", data, {}),
        ("with", replace(data, encoders={"user": encoded}), {"encoders": {"user": encoder}}),
    ):
        torch.manual_seed(0)
        given: dict[str, Any] = {"long_channels": 0, "num_layers": 1, "raw_fields": True, **options}
        model = LSTTM(sizes, encoded_nodes="seeds", **given)
        loader = click_loader(own, past, batch_size=config.batch_size, shuffle=True)
        train(
            model,
            lambda epoch, start, loader=loader: loader.batches(epoch, start_batch=start),
            num_batches=len(loader),
            config=config,
            device=CPU,
        )
        score = predict(model, click_batches(own, test, batch_size=2048), device=CPU)
        print(f"{name} the encoder: AUC {roc_auc_score(shown.label[test], score):.4f}")  # noqa: T201
    print(f"half-life learned: {encoder.log_half_life.exp().item():.0f} hours")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    main(parser.parse_args().steps)
