"""Our samplers in PyG's own loaders: batches equal the slow reference, features are cut, models train."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch_geometric.data import Data, HeteroData
from torch_geometric.loader import LinkLoader, NodeLoader
from torch_geometric.nn import HeteroConv, SAGEConv
from torch_geometric.sampler import NegativeSampling
from torch_geometric.utils import trim_to_layer

from samplers import (
    MultiHopSampler,
    NegativeSampler,
    TemporalCSR,
    UniformNeighborSampler,
    WeightedNeighborSampler,
)
from samplers.adapters.pyg import (
    HOMOGENEOUS,
    TemporalLinkLoader,
    TemporalNeighborSampler,
    TemporalNodeLoader,
    csrs_from_data,
)
from tests.reference.samplers import Edge, multi_hop_tree
from tests.samplers.strategies import bounds, windows

CLICK, CLICKED, FOLLOW = (
    ("user", "click", "item"),
    ("item", "rev_click", "user"),
    ("user", "follow", "user"),
)
COUNTS = {"user": 4, "item": 5, "page": 2}  # no edge reaches a page
MAX_TIME = 9

few_cores = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create", "ignore:This process .* is multi-threaded"
)


def edge_lists(edge_type, max_size=12):
    ends = [st.integers(0, COUNTS[end] - 1) for end in (edge_type[0], edge_type[2])]
    return st.lists(st.tuples(*ends, st.integers(0, MAX_TIME)), max_size=max_size)


graphs = st.fixed_dictionaries({edge_type: edge_lists(edge_type) for edge_type in (CLICK, CLICKED, FOLLOW)})
next_hops = st.sampled_from(["seed", "edge"])
fan_outs = st.sampled_from([[2, 2], [3, 1], [-1, 2]])


def queries(node_type, min_size=1):
    return st.lists(
        st.tuples(st.integers(0, COUNTS[node_type] - 1), st.integers(-1, MAX_TIME + 3)),
        min_size=min_size,
        max_size=7,
    )


def add_edges(store, edges):
    store.edge_index = torch.tensor([edge[:2] for edge in edges], dtype=torch.int64).reshape(-1, 2).T
    store.time = torch.tensor([edge[2] for edge in edges], dtype=torch.int64)
    store.edge_attr = torch.arange(len(edges)).float()[:, None]


def hetero_data(graph):
    """Features are node ids, edge features are edge ids."""
    data = HeteroData()
    for node_type, count in COUNTS.items():
        data[node_type].x = torch.arange(count).float()[:, None]
    for edge_type, edges in graph.items():
        add_edges(data[edge_type], edges)
    return data


def as_records(edges):
    return [Edge(s, d, time, i, time) for i, (s, d, time) in enumerate(edges)]


def columns(pairs):
    return torch.tensor([node for node, _ in pairs]), torch.tensor([time for _, time in pairs])


def typed(batch):
    """A batch of a homogeneous graph as one of a heterogeneous graph."""
    if isinstance(batch, HeteroData):
        return batch
    typed_batch = HeteroData()
    for key, value in batch.items():
        is_edge = key in ("edge_index", "time", "edge_attr", "e_id", "num_sampled_edges")
        typed_batch[HOMOGENEOUS if is_edge else "node"][key] = value
    return typed_batch


def tree(batch, node_type, row, time, depth, next_hop_bound):
    """What a row reaches in a batch, in the form of the reference."""
    node = int(batch[node_type].n_id[row])
    if depth == 0:
        return (node_type, node, time, ())
    children = []
    for edge_type in batch.edge_types:
        if edge_type[2] != node_type:
            continue
        store = batch[edge_type]
        for place in (store.edge_index[1] == row).nonzero().flatten().tolist():
            edge_time = int(store.time[place])
            below = time if next_hop_bound == "seed" else edge_time
            source = int(store.edge_index[0, place])
            subtree = tree(batch, edge_type[0], source, below, depth - 1, next_hop_bound)
            children.append((edge_type, int(store.e_id[place]), edge_time, subtree))
    return (node_type, node, time, tuple(sorted(children)))


def in_order(reference):
    node_type, node, time, children = reference
    return (node_type, node, time, tuple(sorted((*c[:3], in_order(c[3])) for c in children)))


def check_batch(batch, data, *, bound, next_hop_bound):
    """What holds for each batch: attributes are cut right, counts agree, no edge is too late for its row."""
    batch, data = typed(batch), typed(data)
    for node_type in batch.node_types:
        store = batch[node_type]
        assert store.x[:, 0].tolist() == store.n_id.tolist()
        if "num_sampled_nodes" in store:  # PyG leaves it out for a type that nothing reaches
            assert sum(store.num_sampled_nodes) == len(store.n_id)
    for edge_type in batch.edge_types:
        store, whole = batch[edge_type], data[edge_type]
        source, destination = store.edge_index
        ends = torch.stack([batch[edge_type[0]].n_id[source], batch[edge_type[2]].n_id[destination]])
        assert torch.equal(ends, whole.edge_index[:, store.e_id])
        assert torch.equal(store.time, whole.time[store.e_id])
        assert torch.equal(store.edge_attr[:, 0].long(), store.e_id)
        assert sum(store.num_sampled_edges) == len(store.e_id)
        row_time = batch[edge_type[2]].query_time[destination]
        assert (store.time < row_time).all() if bound == "strict" else (store.time <= row_time).all()
        if next_hop_bound == "seed":
            assert torch.equal(batch[edge_type[0]].query_time[source], row_time)


@settings(max_examples=60)
@given(graphs, st.data(), fan_outs, bounds, windows, next_hops)
def test_hetero_node_batches_equal_the_reference(graph, draw, fan_out, bound, window, next_hop_bound):
    data = hetero_data(graph)
    node_type = draw.draw(st.sampled_from(["user", "item"]))
    asked = draw.draw(queries(node_type))
    options = {"bound": bound, "window": window, "next_hop_bound": next_hop_bound}
    sampler = TemporalNeighborSampler.from_data(data, fan_out, **options)
    seed, time = columns(asked)
    loader = TemporalNodeLoader(
        data,
        sampler,
        input_nodes=(node_type, seed),
        input_time=time,
        batch_size=4,
        shuffle=True,
        generator=torch.Generator().manual_seed(0),
    )
    records = {edge_type: as_records(edges) for edge_type, edges in graph.items()}
    met = []
    for batch in loader:
        check_batch(batch, data, bound=bound, next_hop_bound=next_hop_bound)
        store = batch[node_type]
        met += store.input_id.tolist()
        assert torch.equal(store.n_id[: store.batch_size], seed[store.input_id])
        assert torch.equal(store.query_time[: store.batch_size], time[store.input_id])
        assert torch.equal(store.seed_time, time[store.input_id])
        assert store.num_sampled_nodes[0] == store.batch_size
        if next_hop_bound == "seed":
            assert store.batch[: store.batch_size].tolist() == list(range(store.batch_size))
            for name in ("user", "item"):
                assert torch.equal(store.seed_time[batch[name].batch], batch[name].query_time)
        else:
            assert "batch" not in store
        for row, i in enumerate(store.input_id.tolist()):
            expected = multi_hop_tree(records, fan_out, node_type, *asked[i], **options)
            assert tree(batch, node_type, row, asked[i][1], 2, next_hop_bound) == in_order(expected)
    assert sorted(met) == list(range(len(asked)))


@settings(max_examples=40)
@given(edge_lists(FOLLOW), queries("user"), fan_outs, bounds, windows, next_hops)
def test_homogeneous_node_batches_equal_the_reference(edges, asked, fan_out, bound, window, next_hop_bound):
    data = Data(x=torch.arange(COUNTS["user"]).float()[:, None])
    add_edges(data, edges)
    if len(edges) == COUNTS["user"]:
        with pytest.raises(ValueError, match=r"PyG takes 'time' for an attribute of nodes.*'edge_time'"):
            csrs_from_data(data)
        return
    options = {"bound": bound, "window": window, "next_hop_bound": next_hop_bound}
    sampler = TemporalNeighborSampler.from_data(data, fan_out, **options)
    seed, time = columns(asked)
    for batch in TemporalNodeLoader(data, sampler, input_nodes=seed, input_time=time, batch_size=3):
        assert isinstance(batch, Data)
        check_batch(batch, data, bound=bound, next_hop_bound=next_hop_bound)
        assert torch.equal(batch.n_id[: batch.batch_size], seed[batch.input_id])
        for row, i in enumerate(batch.input_id.tolist()):
            expected = multi_hop_tree({HOMOGENEOUS: as_records(edges)}, fan_out, "node", *asked[i], **options)
            assert tree(typed(batch), "node", row, asked[i][1], 2, next_hop_bound) == in_order(expected)


@settings(max_examples=40)
@given(graphs, st.sampled_from([CLICK, CLICKED, FOLLOW]), next_hops)
def test_links_see_what_was_there_before_them(graph, edge_type, next_hop_bound):
    """All edges as links at their own times: both ends have the trees of the reference."""
    data = hetero_data(graph)
    edges = graph[edge_type]
    sampler = TemporalNeighborSampler.from_data(data, [2, 3], next_hop_bound=next_hop_bound)
    store = data[edge_type]
    loader = TemporalLinkLoader(
        data,
        sampler,
        edge_label_index=(edge_type, store.edge_index),
        edge_label_time=store.time,
        edge_label=torch.arange(len(edges)),
        batch_size=4,
    )
    records = {name: as_records(of_type) for name, of_type in graph.items()}
    met = 0
    for batch in loader:
        check_batch(batch, data, bound="strict", next_hop_bound=next_hop_bound)
        links = batch[edge_type]
        for place, i in enumerate(links.input_id.tolist()):
            time = edges[i][2]
            assert (int(links.edge_label[place]), int(links.edge_label_time[place])) == (i, time)
            for end, node_type in ((0, edge_type[0]), (1, edge_type[2])):
                row = int(links.edge_label_index[end, place])
                expected = multi_hop_tree(
                    records, [2, 3], node_type, edges[i][end], time, next_hop_bound, bound="strict"
                )
                assert tree(batch, node_type, row, time, 2, next_hop_bound) == in_order(expected)
                if next_hop_bound == "seed":
                    assert int(links.edge_label_time[batch[node_type].batch[row]]) == time
            met += 1
    assert met == len(edges)


def dense_graph(num_edges=90):
    """Rows long enough that draws differ; users click all items but item 4."""
    return {
        CLICK: [(i % 4, i * 7 % 4, i % 30) for i in range(num_edges)],
        CLICKED: [(i * 7 % 4, i % 4, i % 30) for i in range(num_edges)],
        FOLLOW: [(i % 4, i * 3 % 4, i % 30) for i in range(num_edges)],
    }


def link_loader(data, sampler, neg_sampling, num_links=6, **options):
    links = torch.tensor([[i % 4 for i in range(num_links)], [i % 5 for i in range(num_links)]])
    time = torch.arange(num_links) + 3
    return (
        TemporalLinkLoader(
            data,
            sampler,
            edge_label_index=(CLICK, links),
            edge_label_time=time,
            neg_sampling=neg_sampling,
            batch_size=num_links,
            **options,
        ),
        links,
        time,
    )


def negative_sampler(data, **options):
    store = data[CLICK]
    csr = TemporalCSR.from_edge_index(store.edge_index, store.time, num_rows=4, num_cols=5, row="source")
    return NegativeSampler(csr, num_items=5, **options)


@pytest.mark.parametrize("edge_type", [CLICK, FOLLOW])
def test_binary_negatives_as_pyg_draws_them(edge_type):
    data = hetero_data(dense_graph())
    weight = torch.zeros(COUNTS[edge_type[2]])
    weight[2] = 1.0
    links, time = torch.tensor([[0, 1, 2], [3, 2, 1]]), torch.tensor([4, 25, 9])
    loader = TemporalLinkLoader(
        data,
        TemporalNeighborSampler.from_data(data, [2, 1]),
        edge_label_index=(edge_type, links),
        edge_label_time=time,
        neg_sampling=NegativeSampling("binary", 1.5, dst_weight=weight),
        batch_size=3,
    )
    (batch,) = loader
    check_batch(batch, data, bound="strict", next_hop_bound="seed")
    store = batch[edge_type]
    assert store.edge_label.tolist() == [1.0] * 3 + [0.0] * 5
    assert store.edge_label_time.tolist() == [4, 25, 9, 4, 25, 9, 4, 25]
    row, col = store.edge_label_index
    assert torch.equal(batch[edge_type[0]].n_id[row[:3]], links[0])
    assert batch[edge_type[2]].n_id[col].tolist() == [3, 2, 1, 2, 2, 2, 2, 2]
    for end, rows in ((edge_type[0], row), (edge_type[2], col)):
        assert torch.equal(batch[end].query_time[rows], store.edge_label_time)


def test_binary_negatives_of_our_sampler_are_no_known_positives():
    data = hetero_data({CLICK: [(i % 4, i * 3 % 5, i) for i in range(16)], CLICKED: [], FOLLOW: []})
    negatives = negative_sampler(data, catalogue_time=torch.tensor([0, 0, 0, 6, 0]))
    sampler = TemporalNeighborSampler.from_data(data, [2, 1], negative_sampler=negatives)
    loader, links, time = link_loader(data, sampler, NegativeSampling("binary", 2.5))
    (batch,) = loader
    store = batch[CLICK]
    row, col = store.edge_label_index
    user, item = batch["user"].n_id[row], batch["item"].n_id[col]
    assert store.edge_label.tolist() == [1.0] * 6 + [0.0] * 15
    assert user.tolist() == (links[0].tolist() * 4)[:21]
    assert store.edge_label_time.tolist() == (time.tolist() * 4)[:21]
    assert torch.equal(item[:6], links[1])
    drawn, _ = negatives.sample(links[0], time, 3)
    assert torch.equal(item[6:], drawn.T.flatten()[:15])
    assert not negatives.is_positive(user[6:], item[6:], store.edge_label_time[6:]).any()
    assert (store.edge_label_time[6:][item[6:] == 3] >= 6).all()
    sampler.epoch = 1
    (later,) = loader
    assert not torch.equal(later["item"].n_id[later[CLICK].edge_label_index[1]], item)


def test_given_labels_are_kept_beside_negatives():
    data = hetero_data(dense_graph())
    sampler = TemporalNeighborSampler.from_data(data, [2, 1], negative_sampler=negative_sampler(data))
    loader, *_ = link_loader(
        data, sampler, NegativeSampling("binary", 0.5), edge_label=torch.tensor([0, 1, 2, 0, 1, 2])
    )
    (batch,) = loader
    assert batch[CLICK].edge_label.tolist() == [1, 2, 3, 1, 2, 3, 0, 0, 0]  # PyG counts classes from 1 then


@pytest.mark.parametrize("amount", [1, 3])
@pytest.mark.parametrize("ours", [True, False])
def test_triplets(amount, ours):
    data = hetero_data(dense_graph())
    sampler = TemporalNeighborSampler.from_data(
        data, [2, 1], negative_sampler=negative_sampler(data, bound="inclusive") if ours else None
    )
    loader, links, time = link_loader(data, sampler, NegativeSampling("triplet", amount))
    (batch,) = loader
    check_batch(batch, data, bound="strict", next_hop_bound="seed")
    user, item = batch["user"], batch["item"]
    assert torch.equal(user.n_id[user.src_index], links[0])
    assert torch.equal(item.n_id[item.dst_pos_index], links[1])
    assert torch.equal(user.seed_time, time)
    assert item.dst_neg_index.shape == ((6,) if amount == 1 else (6, 3))
    assert torch.equal(item.query_time[item.dst_neg_index].view(6, amount), time[:, None].expand(-1, amount))
    if ours:
        drawn, _ = sampler.negative_sampler.sample(links[0], time, amount)
        assert torch.equal(item.n_id[item.dst_neg_index].view(6, amount), drawn)


def test_a_triplet_without_an_allowed_negative_is_an_error_and_binary_leaves_it_out():
    everything = [(0, item, 1) for item in range(5)]
    data = hetero_data({CLICK: everything, CLICKED: [], FOLLOW: []})
    sampler = TemporalNeighborSampler.from_data(data, [2, 1], negative_sampler=negative_sampler(data))
    (batch,) = link_loader(data, sampler, "binary")[0]
    rows = batch[CLICK].edge_label_index[0]
    assert batch[CLICK].edge_label.tolist() == [1.0] * 6 + [0.0] * 4  # links 0 and 4 are of user 0
    assert batch["user"].n_id[rows[6:]].tolist() == [1, 2, 3, 1]
    assert batch[CLICK].edge_label_time[6:].tolist() == [4, 5, 6, 8]
    with pytest.raises(ValueError, match="no negative is allowed for node 0 at 3"):
        next(iter(link_loader(data, sampler, "triplet")[0]))
    with pytest.raises(ValueError, match="leave out src_weight and dst_weight"):
        next(iter(link_loader(data, sampler, NegativeSampling("binary", dst_weight=torch.ones(5)))[0]))


def user_loader(data, sampler, num_seeds=30, batch_size=8, loader=NodeLoader, **options):
    seed = torch.arange(num_seeds) % 4
    time = torch.arange(num_seeds) % 7 + 20
    return loader(
        data, sampler, input_nodes=("user", seed), input_time=time, batch_size=batch_size, **options
    )


def edges_of_seeds(loader):
    """For each seed, the edges into its row."""
    found = {}
    for batch in loader:
        for row, i in enumerate(batch["user"].input_id.tolist()):
            found[i] = {
                (edge_type, int(e_id))
                for edge_type in (CLICKED, FOLLOW)
                for e_id in batch[edge_type].e_id[batch[edge_type].edge_index[1] == row]
            }
    return found


def uniform_sampler(data, random_seed=3):
    return TemporalNeighborSampler.from_data(
        data, [5, 2], strategy=partial(UniformNeighborSampler, random_seed=random_seed)
    )


def test_draws_are_keyed_by_epoch_and_random_seed_and_not_by_batch():
    data = hetero_data(dense_graph())
    sampler = uniform_sampler(data)
    first = edges_of_seeds(user_loader(data, sampler))
    assert edges_of_seeds(user_loader(data, sampler, batch_size=5, shuffle=True)) == first
    sampler.epoch = 1
    assert edges_of_seeds(user_loader(data, sampler)) != first
    sampler.epoch = 0
    assert edges_of_seeds(user_loader(data, sampler)) == first
    assert edges_of_seeds(user_loader(data, uniform_sampler(data, 4))) != first
    direct = MultiHopSampler(
        csrs_from_data(data), [5, 2], strategy=partial(UniformNeighborSampler, random_seed=3)
    ).sample({"user": (torch.tensor([1]), torch.tensor([21]))})
    assert first[1] == {
        (edge_type, e_id)
        for edge_type, edges in direct.hops[0].items()
        for e_id in edges.edge_id[edges.mask].tolist()
    }


@few_cores
@pytest.mark.parametrize("filter_per_worker", [True, False])
def test_workers_draw_the_same_and_see_the_epoch_change(filter_per_worker):
    data = hetero_data(dense_graph())
    sampler = uniform_sampler(data)
    expected = {}
    for epoch in (0, 5):
        sampler.epoch = epoch
        expected[epoch] = edges_of_seeds(user_loader(data, sampler))
    assert expected[0] != expected[5]
    loader = user_loader(
        data, sampler, num_workers=2, persistent_workers=True, filter_per_worker=filter_per_worker
    )
    for epoch in (5, 0, 5):
        sampler.epoch = epoch
        assert edges_of_seeds(loader) == expected[epoch]
    loader._iterator = None  # ends the workers now: torch waits for seconds if the garbage collector does it


@few_cores
def test_query_times_come_out_of_workers_and_before_the_transform():
    data = hetero_data(dense_graph())
    seen = []

    def age(batch):
        for edge_type in batch.edge_types:
            store = batch[edge_type]
            store.age = batch[edge_type[2]].query_time[store.edge_index[1]] - store.time
        seen.append(batch)
        return batch

    sampler = TemporalNeighborSampler.from_data(data, [5, 2], next_hop_bound="edge")
    loader = user_loader(
        data, sampler, loader=TemporalNodeLoader, transform=age, num_workers=1, filter_per_worker=False
    )
    for batch in loader:
        assert batch is seen[-1]
        assert len(batch[CLICKED].age) > 0
        assert (batch[CLICKED].age > 0).all()
        assert (batch[CLICK].age > 0).all()


class SAGE(nn.Module):
    def __init__(self, in_channels, hidden_channels, edge_types, num_layers=2):
        super().__init__()
        sizes = [in_channels] + [hidden_channels] * num_layers
        self.convs = nn.ModuleList(
            HeteroConv({edge_type: SAGEConv((a, a), b) for edge_type in edge_types})
            for a, b in pairwise(sizes)
        )
        self.lin = nn.Linear(hidden_channels, 1)

    def forward(self, batch, *, trim=False):
        x, edge_index = batch.x_dict, batch.edge_index_dict
        for layer, conv in enumerate(self.convs):
            if trim:
                x, edge_index, _ = trim_to_layer(
                    layer, batch.num_sampled_nodes_dict, batch.num_sampled_edges_dict, x, edge_index
                )
            x = {name: value.relu() for name, value in conv(x, edge_index).items()}
        return self.lin(x["user"][: batch["user"].batch_size]).squeeze(1)


def test_equal_seeds_get_equal_outputs_and_trimmed_layers_the_same():
    data = hetero_data(dense_graph())
    del data["page"]
    torch.manual_seed(0)
    model = SAGE(1, 8, data.edge_types)
    seed, time = torch.tensor([2, 0, 2, 3, 2, 0]), torch.tensor([25, 9, 25, 25, 9, 9])
    sampler = TemporalNeighborSampler.from_data(data, [3, 3])

    def outputs(batch_size, **options):
        loader = NodeLoader(data, sampler, input_nodes=("user", seed), input_time=time, batch_size=batch_size)
        return torch.cat([model(batch, **options) for batch in loader])

    together, alone = outputs(6), outputs(1)
    assert len(alone.unique()) > 2
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(outputs(6, trim=True), alone)


def test_hetero_model_learns_what_the_neighbours_say():
    """A user's label is whether the last item clicked is odd: one hop from the user."""
    generator = torch.Generator().manual_seed(1)
    user = torch.randint(20, (400,), generator=generator)
    item = torch.randint(30, (400,), generator=generator)
    time = torch.arange(400)
    data = HeteroData()
    data["user"].x = torch.ones(20, 2)
    data["item"].x = torch.eye(2)[torch.arange(30) % 2]
    data[CLICKED].edge_index, data[CLICKED].time = torch.stack([item, user]), time
    data[CLICK].edge_index, data[CLICK].time = torch.stack([user, item]), time
    previous = torch.full((20,), -1)
    label = torch.full((400,), -1)
    for i, (u, it) in enumerate(zip(user.tolist(), item.tolist(), strict=True)):
        label[i], previous[u] = previous[u], it % 2
    known = label >= 0
    sampler = TemporalNeighborSampler.from_data(data, [1, 4])
    loader = NodeLoader(
        data, sampler, input_nodes=("user", user[known]), input_time=time[known], batch_size=64, shuffle=True
    )
    torch.manual_seed(0)
    model = SAGE(2, 8, data.edge_types)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for epoch in range(6):
        sampler.epoch = epoch
        total = 0.0
        for batch in loader:
            target = label[known][batch["user"].input_id].float()
            loss = nn.functional.binary_cross_entropy_with_logits(model(batch), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
        losses.append(total / len(loader))
    assert losses[0] > 0.5
    assert losses[-1] < 0.1


def test_homogeneous_model_learns_from_links():
    generator = torch.Generator().manual_seed(1)
    group = torch.arange(40) % 2
    source = torch.randint(40, (600,), generator=generator)
    target = (torch.randint(20, (600,), generator=generator) * 2 + group[source]) % 40  # inside groups only
    data = Data(x=torch.eye(2)[group], edge_index=torch.stack([source, target]), time=torch.arange(600))
    sampler = TemporalNeighborSampler.from_data(data, [4, 3])
    loader = LinkLoader(
        data,
        sampler,
        edge_label_index=data.edge_index[:, 200:],
        edge_label_time=data.time[200:],
        neg_sampling="binary",
        batch_size=100,
    )
    torch.manual_seed(0)
    conv = nn.ModuleList([SAGEConv(2, 8), SAGEConv(8, 8)])
    optimizer = torch.optim.Adam(conv.parameters(), lr=0.02)
    losses = []
    for _ in range(8):
        for batch in loader:
            h = conv[1](conv[0](batch.x, batch.edge_index).relu(), batch.edge_index)
            score = h[batch.edge_label_index].prod(0).sum(1)
            loss = nn.functional.binary_cross_entropy_with_logits(score, batch.edge_label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_weights_and_available_times_are_read_from_the_data():
    data = hetero_data({CLICK: [(0, 1, 1), (1, 1, 2), (2, 1, 3)], CLICKED: [], FOLLOW: []})
    for edge_type in data.edge_types:
        store = data[edge_type]
        store.weight, store.known = torch.ones(len(store.time)), store.time.clone()
    data[CLICK].weight, data[CLICK].known = torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1, 2, 9])
    sampler = TemporalNeighborSampler.from_data(
        data, [-1], strategy=WeightedNeighborSampler, weight_attr="weight", available_time_attr="known"
    )
    loader = NodeLoader(
        data, sampler, input_nodes=("item", torch.tensor([1, 1])), input_time=torch.tensor([5, 20])
    )
    early, late = loader
    assert early[CLICK].e_id.tolist() == [0]
    assert sorted(late[CLICK].e_id.tolist()) == [0, 2]


def test_ready_csrs_work_beside_data_that_holds_features_only():
    """PyG fills the stores that it finds: an empty edge_index stands in for edges that only the CSR has."""
    graph = dense_graph()
    csrs = csrs_from_data(hetero_data(graph))
    data = HeteroData()
    for node_type in ("user", "item"):
        data[node_type].x = torch.arange(COUNTS[node_type]).float()[:, None]
    for edge_type in csrs:
        data[edge_type].edge_index = torch.empty(2, 0, dtype=torch.int64)
    fan_outs = {CLICK: [0, 2], CLICKED: [3, 0], FOLLOW: [1, 1]}
    sampler = TemporalNeighborSampler(csrs, fan_outs, default_time=30)
    (batch,) = NodeLoader(data, sampler, input_nodes=("user", torch.tensor([3, 1])), batch_size=2)
    assert batch["user"].seed_time.tolist() == [30, 30]
    assert batch[CLICKED].num_sampled_edges == [6, 0]
    assert batch[CLICK].num_sampled_edges[0] == 0
    assert batch[FOLLOW].num_sampled_edges[0] == 2
    source, destination = batch[CLICKED].edge_index
    ends = [batch["item"].n_id[source].tolist(), batch["user"].n_id[destination].tolist()]
    assert ends == [[graph[CLICKED][e][end] for e in batch[CLICKED].e_id] for end in (0, 1)]


def test_callers_mistakes_are_told():
    data = hetero_data(dense_graph())
    sampler = TemporalNeighborSampler.from_data(data, [2])
    with pytest.raises(ValueError, match="needs a query time, got none: give input_time= to NodeLoader"):
        next(iter(NodeLoader(data, sampler, input_nodes="user")))
    with pytest.raises(ValueError, match="give edge_label_time= to LinkLoader"):
        next(iter(LinkLoader(data, sampler, edge_label_index=CLICK)))
    with pytest.raises(ValueError, match=r"the seeds' times must be integers.*float32"):
        next(iter(NodeLoader(data, sampler, input_nodes="user", input_time=torch.rand(4))))
    with pytest.raises(ValueError, match=r"must be of the node types \['item', 'user'\], got \['page'\]"):
        next(iter(NodeLoader(data, sampler, input_nodes="page", input_time=torch.ones(2).long())))
    alone = Data(x=torch.ones(3, 1), edge_index=torch.tensor([[0], [1]]))
    with pytest.raises(ValueError, match="a Data has one node type and one edge type"):
        next(iter(NodeLoader(alone, sampler, input_time=torch.arange(3))))
    with pytest.raises(ValueError, match=r"edge type \('node', 'edge', 'node'\) needs a tensor 'time'"):
        csrs_from_data(alone)
    alone.time = torch.tensor([1, 2])
    with pytest.raises(ValueError, match=r"one value for each of 1 edges, got shape \(2,\)"):
        csrs_from_data(alone)
    data[FOLLOW].time = data[FOLLOW].time.double()
    with pytest.raises(ValueError, match=r"time must be integers, .* got torch\.float64"):
        csrs_from_data(data)


def test_repr_tells_epoch_and_default_time():
    sampler = TemporalNeighborSampler.from_data(hetero_data(dense_graph()), [2], default_time=7)
    sampler.epoch = 4
    assert "epoch=4, default_time=7" in repr(sampler)
