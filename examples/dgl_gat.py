"""DGL's GAT layers on our temporal blocks: tell which videos users will click.

Run ``python examples/dgl_gat.py [--steps 150]``: about fifteen seconds on one core, with the extra
``graphrec[dgl]``. The graph is the part of KuaiRand that comes with this package: clicks and skips, in both
directions. DGL's own DataLoader asks our sampler for what was known before each impression: the ten most
recent clicks and skips of its user and its video, and four of each of theirs. The test day comes last.
"""

import argparse
import warnings

import torch
from torch import nn

from graph_builders import build_behavior_graph, build_impressions, split_by_time
from graph_builders.datasets.kuairand import load_kuairand_pure
from graphrec.evaluation import auc
from samplers import MultiHopSampler
from samplers.adapters import import_dgl

dgl = import_dgl()
from dgl.dataloading import DataLoader  # noqa: E402  (import_dgl makes these imports work)
from dgl.nn import GATConv, HeteroGraphConv  # noqa: E402

from samplers.adapters.dgl_sampler import TemporalBlockSampler  # noqa: E402


class GAT(nn.Module):
    """Learned vectors of users and videos, two layers of attention to their events, and a score a link."""

    def __init__(self, num_nodes, edge_types, channels=32, num_heads=2):
        super().__init__()
        self.embedding = nn.ModuleDict({name: nn.Embedding(n, channels) for name, n in num_nodes.items()})

        def layer():
            return GATConv(
                channels, channels // num_heads, num_heads, residual=True, allow_zero_in_degree=True
            )

        self.layers = nn.ModuleList(
            HeteroGraphConv({relation: layer() for _, relation, _ in edge_types}) for _ in range(2)
        )
        self.lin = nn.Sequential(nn.Linear(2 * channels, channels), nn.ReLU(), nn.Linear(channels, 1))

    def forward(self, blocks):
        """Score the links of a batch; (num_links,)."""
        x = {name: table(blocks[0].srcnodes[name].data[dgl.NID]) for name, table in self.embedding.items()}
        for block, layer in zip(blocks, self.layers, strict=True):
            x = {name: value.flatten(1).relu() for name, value in layer(block, x).items()}
        return self.lin(torch.cat([x["user"], x["item"]], dim=1)).squeeze(1)


def main(steps):
    """Train for some batches, then print the AUC on the impressions of the last day."""
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Dataloader CPU affinity")
    tables = load_kuairand_pure()
    graph = build_behavior_graph(tables.events).view(domains=["internal"], behaviors=["click", "skip"])
    csrs, ids = graph.csrs(), {f"{name}_ids": graph.ids[name] for name in ("user", "item")}
    rows = build_impressions(tables.impressions, **ids, time_resolution="ms")
    train, test = split_by_time(rows, [int(rows.time.max()) - 24 * 3600 * 1000]).parts

    sampler = MultiHopSampler(csrs, [10, 4])
    nodes = dgl.heterograph({edge_type: ([], []) for edge_type in csrs}, num_nodes_dict=graph.num_nodes)

    def loader(part, **options):
        ends = {"user": (part.user, part.time), "item": (part.item, part.time)}
        links = torch.arange(len(part))
        return DataLoader(
            nodes, links, TemporalBlockSampler(sampler, queries=ends), batch_size=256, **options
        )

    model = GAT(graph.num_nodes, list(csrs))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _, (_, _, blocks) in zip(range(steps), loader(train, shuffle=True), strict=False):
        label = train.label[blocks[-1].dstnodes["user"].data["query"]]
        loss = nn.functional.binary_cross_entropy_with_logits(model(blocks), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        score = torch.cat([model(blocks) for _, _, blocks in loader(test)])
    print(f"AUC {auc(test.label, score):.4f} on the {len(test)} impressions of the last day")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="DGL's GAT layers on our temporal blocks")
    parser.add_argument("--steps", type=int, default=150)
    main(parser.parse_args().steps)
