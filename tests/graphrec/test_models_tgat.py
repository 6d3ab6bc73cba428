"""TGAT's time encoding and layer against loops over neighbours, and the click model around them."""

import math
from dataclasses import replace

import pytest
import torch

from graphrec.models.tgat import TGATRanker
from graphrec.nn.time_attention import TGATLayer, TimeEncoding
from graphrec.training.batches import collate
from tests.graphrec.test_models_sasrec import randomized
from tests.graphrec.toy_data import HOUR, click_data, sizes, toy_log


def test_time_encoding_is_its_formula_and_a_kernel_of_differences():
    encoding = TimeEncoding(3).double()
    with torch.no_grad():
        encoding.phase.copy_(torch.tensor([0.0, 0.5, -1.0]))
    span = torch.tensor([[0.0, 7.0]], dtype=torch.float64)
    expected = [
        [math.cos(w * t + b) / 3**0.5 for w, b in ((1.0, 0.0), (0.01, 0.5), (0.0001, -1.0))]
        for t in (0.0, 7.0)
    ]
    torch.testing.assert_close(encoding(span)[0], torch.tensor(expected, dtype=torch.float64))


def slow_layer(layer, own, neighbors):
    """``neighbors``: (vector, age, attributes) of one node's neighbours."""
    now = layer.time(torch.zeros((), dtype=torch.float64))
    query = layer.lin_query(torch.cat([own, now]))
    rows = [torch.cat([x, attr, layer.time(age)]) for x, age, attr in neighbors]
    keys, values = [layer.lin_key(row) for row in rows], [layer.lin_value(row) for row in rows]
    size = len(query) // layer.num_heads
    heads = []
    for h in range(layer.num_heads):
        part = slice(h * size, (h + 1) * size)
        weight = [(query[part] @ key[part] / size**0.5).exp() for key in keys]
        gathered = [w * value[part] for w, value in zip(weight, values, strict=True)]
        heads.append(sum(gathered) / sum(weight) if weight else torch.zeros(size, dtype=torch.float64))
    return layer.feed_forward(torch.cat([*heads, own]))


def test_layer_is_the_slow_one_and_padding_changes_nothing():
    layer = randomized(TGATLayer((3, 5), 6, time_channels=4, edge_channels=2, num_heads=2))
    x, source = torch.randn(4, 3).double(), torch.randn(7, 5).double()
    neighbor = torch.randint(0, 7, (4, 5))
    mask = torch.arange(5) < torch.tensor([0, 1, 3, 5])[:, None]
    age, attr = torch.rand(4, 5).double() * 100, torch.randn(4, 5, 2).double()
    found = layer(x, source, neighbor, mask, age, attr)
    for row in range(4):
        known = range(int(mask[row].sum()))
        neighbors = [(source[neighbor[row, k]], age[row, k], attr[row, k]) for k in known]
        torch.testing.assert_close(found[row], slow_layer(layer, x[row], neighbors))
    changed = layer(
        x,
        source,
        neighbor.where(mask, 0),
        mask,
        age.where(mask, 1e4),
        attr.where(mask[..., None], 1e4),
    )
    torch.testing.assert_close(found, changed)


@pytest.fixture(scope="module")
def batch():
    data = click_data(toy_log())
    short_term = replace(data.short_term, num_neighbors=3, edge_features=True)
    return collate(replace(data, short_term=short_term), torch.arange(200, 260))


def test_ages_are_hours_before_the_query(batch, monkeypatch):
    edge_channels = batch.graph.edge_attr["user"].shape[-1]
    model = TGATRanker(sizes(0), edge_channels=edge_channels, channels=4, time_channels=3)
    seen = []
    for layer in model.layers:
        for one in layer.values():
            monkeypatch.setattr(
                one.time, "forward", lambda span: seen.append(span) or span[..., None].expand(*span.shape, 3)
            )
    model(batch)
    edges = batch.graph.neighbors["user"]
    ages = next(span for span in seen if span.shape == edges.mask.shape)
    hours = (ages * HOUR)[edges.mask]
    assert len(hours) > 20
    # a query is as of an hour's start, so a time of the log and an age give a whole hour
    start = (edges.edge_time[edges.mask] + hours.round().long()) % HOUR
    assert ((start < 3) | (start > HOUR - 3)).all()


def test_every_parameter_of_the_layers_learns_and_scores_are_of_their_rows(batch):
    edge_channels = batch.graph.edge_attr["user"].shape[-1]
    torch.manual_seed(0)
    model = TGATRanker(sizes(0), edge_channels=edge_channels, channels=4, time_channels=3)
    logit = model(batch)
    assert logit.shape == (60,)
    logit.square().sum().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # nothing but the weights of counts, which the toy's model has none of, is left out
    assert [name for name in without if name.startswith(("layers", "node_projection"))] == []


def test_it_says_what_it_needs(batch):
    with pytest.raises(ValueError, match="edge_features=True"):
        TGATRanker(sizes(0), edge_channels=0)
    model = TGATRanker(sizes(0), edge_channels=3)
    with pytest.raises(ValueError, match="the batch has none"):
        model(replace(batch, graph=None))
