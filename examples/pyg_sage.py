"""PyG's SAGE layers on our temporal batches: tell which videos users will click.

Run ``python examples/pyg_sage.py [--steps 150]``: about fifteen seconds on one core. The graph is the part of
KuaiRand that comes with this package: clicks and skips, in both directions. PyG's own LinkLoader asks our
sampler for what was known before each impression: the ten most recent clicks and skips of its user and its
video, and four of each of theirs. The test day comes after the training days.
"""

import argparse

import torch
from torch import nn
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkLoader
from torch_geometric.nn import HeteroConv, SAGEConv

from graph_builders import build_behavior_graph, build_impressions, split_by_time
from graph_builders.datasets.kuairand import load_kuairand_pure
from graphrec.evaluation import auc
from samplers.adapters.pyg import TemporalNeighborSampler


class SAGE(nn.Module):
    """Learned vectors of users and videos, two layers of their neighbours, and a score for each link."""

    def __init__(self, num_nodes, edge_types, channels=32):
        super().__init__()
        self.embedding = nn.ModuleDict({name: nn.Embedding(n, channels) for name, n in num_nodes.items()})
        self.convs = nn.ModuleList(
            HeteroConv({edge_type: SAGEConv(channels, channels, aggr="sum") for edge_type in edge_types})
            for _ in range(2)
        )
        self.lin = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 1))

    def forward(self, batch, link_type):
        """Score the links of a batch; (num_links,)."""
        x = {name: table(batch[name].n_id) for name, table in self.embedding.items()}
        for conv in self.convs:
            x = {name: value.relu() for name, value in conv(x, batch.edge_index_dict).items()}
        user, item = batch[link_type].edge_label_index
        return self.lin(torch.cat([x["user"][user], x["item"][item]], dim=1)).squeeze(1)


def main(steps):
    """Train for some batches, then print the AUC on the impressions of the last day."""
    torch.manual_seed(0)
    tables = load_kuairand_pure()
    graph = build_behavior_graph(tables.events).view(domains=["internal"], behaviors=["click", "skip"])
    csrs, ids = graph.csrs(), {f"{name}_ids": graph.ids[name] for name in ("user", "item")}
    rows = build_impressions(tables.impressions, **ids, time_resolution="ms")
    train, test = split_by_time(rows, [int(rows.time.max()) - 24 * 3600 * 1000]).parts

    data = HeteroData({name: {"num_nodes": count} for name, count in graph.num_nodes.items()})
    for edge_type in csrs:  # the CSRs have the edges; PyG wants an edge_index to replace in its batches
        data[edge_type].edge_index = torch.empty(2, 0, dtype=torch.int64)
    sampler, link_type = TemporalNeighborSampler(csrs, [10, 4]), ("user", "internal:click", "item")

    def loader(part, **options):
        links = link_type, torch.stack([part.user, part.item])
        return LinkLoader(data, sampler, links, part.label, part.time, batch_size=256, **options)

    model = SAGE(graph.num_nodes, list(csrs))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _, batch in zip(range(steps), loader(train, shuffle=True), strict=False):
        label = batch[link_type].edge_label
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch, link_type), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = torch.cat([model(batch, link_type) for batch in loader(test)])
    print(f"AUC {auc(test.label, score):.4f} on the {len(test)} impressions of the last day")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="PyG's SAGE layers on our temporal batches")
    parser.add_argument("--steps", type=int, default=150)
    main(parser.parse_args().steps)
