"""SASRec (Kang & McAuley, ICDM 2018) in plain PyTorch, fed by the last-K sampler: who clicks what next.

Run ``python examples/sasrec.py [--steps 320]``: about twenty seconds on one core. The data is the part of
KuaiRand that comes with this package. A sequence is what its user did before a click: long watches of earlier
weeks, then clicks. Training runs once through the clicks before the last day, in their order, each against
sampled videos (a sampled softmax; the paper has one negative). Printed is recall@10, over all videos, on the
clicks of the last day, beside that of the videos clicked most before it.

The sampler's output becomes ``item_id_list`` and ``item_length``, the ``interaction`` that RecBole's
sequential models read: ``to_interaction`` fills it, so its SASRec can take the place of the model below.
"""

import argparse

import torch
from torch import nn

from graph_builders import build_behavior_graph
from graph_builders.datasets.kuairand import load_kuairand_pure
from samplers import NegativeSampler, RecentNeighborSampler, TemporalCSR
from samplers.adapters.recbole import to_interaction

NUM_EVENTS, NUM_NEGATIVES, CHANNELS = 20, 50, 48


class SASRec(nn.Module):
    """Causal self-attention over a user's last events; id 0 is padding."""

    def __init__(self, num_items):
        super().__init__()
        self.item = nn.Embedding(num_items + 1, CHANNELS, padding_idx=0)
        self.position = nn.Embedding(NUM_EVENTS, CHANNELS)
        nn.init.normal_(self.item.weight, std=0.02)
        block = nn.TransformerEncoderLayer(CHANNELS, 1, 2 * CHANNELS, 0.2, batch_first=True, norm_first=True)
        norm = nn.LayerNorm(CHANNELS)
        self.encoder = nn.TransformerEncoder(block, 2, norm=norm, enable_nested_tensor=False)

    def forward(self, item_id_list, item_length):
        """Encode each sequence, padded on the right, by its last event; (num_seeds, channels)."""
        x = self.item(item_id_list) * CHANNELS**0.5 + self.position.weight
        future = torch.ones(NUM_EVENTS, NUM_EVENTS, dtype=torch.bool).triu(1)
        hidden = self.encoder(x, mask=future)  # padding comes last: no real event looks at it
        return hidden[torch.arange(len(item_length)), item_length - 1]


def main(steps):
    """Train for some batches, then print recall@10 on the clicks of the last day."""
    torch.manual_seed(0)
    graph = build_behavior_graph(load_kuairand_pure().events)
    events = [graph.edges(("user", relation, "item")) for relation in ("early:long_watch", "internal:click")]
    user, item, time = (torch.cat(columns) for columns in list(zip(*events, strict=True))[:3])
    num_users, num_items = graph.num_nodes["user"], graph.num_nodes["item"]
    csr = TemporalCSR.from_edge_index(
        torch.stack([user, item]), time, num_rows=num_users, num_cols=num_items, row="source"
    )
    history = RecentNeighborSampler(csr, NUM_EVENTS)
    negatives = NegativeSampler(csr, num_items=num_items, random_seed=1)
    clicks = events[1]
    has_past = history.sample(clicks.user, clicks.time).mask.any(1)  # a sequence has at least one event
    last_day = int(time.max()) - 24 * 3600 * 1000
    train, test = (
        (has_past & part).nonzero().flatten() for part in (clicks.time < last_day, clicks.time >= last_day)
    )

    model = SASRec(num_items)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    in_time_order = train[clicks.time[train].argsort(stable=True)]
    for _, rows in zip(range(steps), in_time_order.split(256), strict=False):
        query = clicks.user[rows], clicks.time[rows]
        neg_item, _ = negatives.sample(*query, NUM_NEGATIVES)
        candidates = torch.cat([clicks.item[rows, None], neg_item], dim=1) + 1
        hidden = model(**to_interaction(history.sample(*query)))
        score = torch.einsum("sc,snc->sn", hidden, model.item(candidates))
        loss = nn.functional.cross_entropy(score, torch.zeros(len(rows), dtype=torch.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    model.eval()
    with torch.no_grad():
        hidden = model(**to_interaction(history.sample(clicks.user[test], clicks.time[test])))
        top = (hidden @ model.item.weight[1:].T).topk(10).indices
    popular = torch.bincount(clicks.item[clicks.time < last_day], minlength=num_items).topk(10).indices
    hits = [(items == clicks.item[test, None]).any(1).double().mean() for items in (top, popular)]
    print(f"recall@10 {hits[0]:.4f}, most clicked {hits[1]:.4f}, on {len(test)} clicks")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SASRec fed by the last-K sampler")
    parser.add_argument("--steps", type=int, default=320)
    main(parser.parse_args().steps)
