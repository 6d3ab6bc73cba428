"""DGL beside this torch: that it imports, agrees with our layer and samplers, and trains on our blocks."""

import importlib.util
import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graphrec.nn import GATConv
from samplers import MultiHopSampler, RecentNeighborSampler, TemporalCSR, UniformNeighborSampler
from samplers.adapters import dgl as adapter
from samplers.adapters import import_dgl
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import MAX_TIME, bounds, csr_of, tensors, windows

pytest.importorskip("pandas")  # DGL needs it without saying so
if importlib.util.find_spec("dgl") is None:
    pytest.skip("DGL is not installed: it is the extra [dgl]", allow_module_level=True)

NUM_USERS, NUM_ITEMS = 4, 7


def run_python(code, **environment):
    """Run code in a fresh interpreter: what is imported here already would hide failures."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_of_samplers_imports_no_dgl():
    assert run_python("import samplers, samplers.adapters, sys; print('dgl' in sys.modules)") == "False\n"


def test_import_leaves_home_and_environment_alone(tmp_path):
    out = run_python(
        "import os; from samplers.adapters import import_dgl\n"
        "dgl = import_dgl(); assert import_dgl() is dgl; import dgl.nn\n"
        "print('DGLBACKEND' in os.environ, dgl.backend.backend_name)",
        HOME=str(tmp_path),
    )
    assert out == "False pytorch\n"
    assert not list(tmp_path.rglob("config.json"))


def test_a_plain_import_that_failed_does_no_harm():
    out = run_python(
        "try:\n    import dgl\nexcept (ImportError, FileNotFoundError):\n    pass\n"
        "from samplers.adapters import import_dgl\n"
        "print(import_dgl().graph(([0, 1], [1, 2])).num_nodes())",
        DGLBACKEND="pytorch",
    )
    assert out == "3\n"


def test_stub_goes_away_when_the_import_fails(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)

    def fail(name):
        assert isinstance(sys.modules["dgl.graphbolt"], adapter._GraphboltStub)
        raise OSError(f"no {name}")

    monkeypatch.setattr(adapter.importlib, "import_module", fail)
    monkeypatch.setattr(adapter, "graphbolt_library", lambda package: package / "missing.so")
    with pytest.raises(OSError, match="no dgl"):
        import_dgl()
    assert "dgl.graphbolt" not in sys.modules


def test_no_stub_where_the_library_is_there(monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.split(".")[0] == "dgl"]:
        monkeypatch.delitem(sys.modules, name)
    library = tmp_path / "library.so"
    library.touch()
    monkeypatch.setattr(adapter, "graphbolt_library", lambda package: library)
    monkeypatch.setattr(
        adapter.importlib, "import_module", lambda name: sys.modules.get("dgl.graphbolt", name)
    )
    assert import_dgl() == "dgl"


def test_library_path_names_the_version_of_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.1.0+cpu")
    monkeypatch.setattr(sys, "platform", "linux")
    assert adapter.graphbolt_library(Path("dgl")) == Path("dgl/graphbolt/libgraphbolt_pytorch_2.1.0.so")


def test_missing_dgl_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "dgl", raising=False)
    monkeypatch.setattr(adapter.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"graphrec\[dgl\]"):
        import_dgl()


@pytest.mark.skipif(
    adapter.graphbolt_library(Path(importlib.util.find_spec("dgl").submodule_search_locations[0])).exists(),
    reason="this DGL has graphbolt for this torch",
)
def test_stub_says_what_is_missing():
    dgl = import_dgl()
    with pytest.raises(ImportError, match=r"dgl\.graphbolt\.ItemSet needs a graphbolt library"):
        _ = dgl.graphbolt.ItemSet


@pytest.mark.parametrize("num_heads", [1, 3])
def test_gat_equals_dgl_on_a_sampled_block(num_heads):
    dgl = import_dgl()
    generator = torch.Generator().manual_seed(5)
    user = torch.randint(NUM_USERS, (30,), generator=generator)
    item = torch.randint(NUM_ITEMS, (30,), generator=generator)
    user[user == 2] = 1  # user 2 has no neighbour
    csr = TemporalCSR.from_edge_index(
        torch.stack([item, user]), torch.arange(30), num_rows=NUM_USERS, num_cols=NUM_ITEMS, row="destination"
    )
    seed = torch.arange(NUM_USERS)
    sampled = RecentNeighborSampler(csr, 6).sample(seed, torch.full_like(seed, 25))
    assert sampled.mask.any(dim=1).tolist() == [True, True, False, True]
    assert not sampled.mask.all(dim=1).all()

    destination, slot = sampled.mask.nonzero(as_tuple=True)
    block = dgl.create_block(
        (sampled.node[destination, slot], destination), num_src_nodes=NUM_ITEMS, num_dst_nodes=NUM_USERS
    )
    conv = GATConv((5, 3), 2, num_heads=num_heads, empty="zero", activation=None)
    reference = dgl.nn.GATConv((3, 5), 2, num_heads, bias=False, allow_zero_in_degree=True)
    with torch.no_grad():
        reference.fc_src.weight.copy_(conv.lin_source.weight)
        reference.fc_dst.weight.copy_(conv.lin_destination.weight)
        reference.attn_l.copy_(conv.attention_source[None])
        reference.attn_r.copy_(conv.attention_destination[None])
    x = torch.randn(NUM_USERS, 5, generator=generator, requires_grad=True)
    source_x = torch.randn(NUM_ITEMS, 3, generator=generator, requires_grad=True)
    ours = conv(x, source_x, sampled.node, sampled.mask)
    theirs = reference(block, (source_x, x)).flatten(1)
    assert ours[2].eq(0).all()
    assert ours[[0, 1, 3]].ne(0).all()
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), [x, source_x]),
        torch.autograd.grad(theirs.square().sum(), [x, source_x]),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@settings(max_examples=40)
@given(
    edges=st.lists(st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, NUM_USERS - 1)), max_size=14),
    order=st.randoms(use_true_random=False),
    seed_time=st.integers(0, 15),
    num_neighbors=st.integers(1, 3),
)
def test_recent_equals_select_topk_of_the_past(edges, order, seed_time, num_neighbors):
    dgl = import_dgl()
    times = list(range(len(edges)))  # distinct: DGL does not say how ties in time are broken
    order.shuffle(times)
    edge_index = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).T
    edge_time = torch.tensor(times, dtype=torch.int64)
    csr = TemporalCSR.from_edge_index(
        edge_index, edge_time, num_rows=NUM_USERS, num_cols=NUM_ITEMS, row="destination"
    )
    seed = torch.arange(NUM_USERS)
    sampled = RecentNeighborSampler(csr, num_neighbors).sample(seed, torch.full_like(seed, seed_time))

    past = (edge_time < seed_time).nonzero().flatten()  # DGL has no time of its own: we cut the graph for it
    graph = dgl.heterograph(
        {("item", "by", "user"): tuple(edge_index[:, past])},
        num_nodes_dict={"item": NUM_ITEMS, "user": NUM_USERS},
    )
    graph.edata["time"] = edge_time[past].float()
    top = dgl.sampling.select_topk(graph, num_neighbors, "time", {"user": seed})
    expected = {user: set() for user in range(NUM_USERS)}
    for user, place in zip(top.edges()[1].tolist(), top.edata[dgl.EID].tolist(), strict=True):
        expected[user].add(int(past[place]))
    assert {
        user: set(ids[mask].tolist())
        for user, ids, mask in zip(range(NUM_USERS), sampled.edge_id, sampled.mask, strict=True)
    } == expected


def test_uniform_draws_as_often_as_dgl():
    dgl = import_dgl()
    num_neighbors, num_draws = 2, 3000
    degree = torch.tensor([5, 1, 0, 3])
    user = torch.arange(NUM_USERS).repeat_interleave(degree)
    edge_index = torch.stack([torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 6]), user])
    csr = TemporalCSR.from_edge_index(
        edge_index,
        torch.zeros(9, dtype=torch.int64),
        num_rows=NUM_USERS,
        num_cols=NUM_ITEMS,
        row="destination",
    )
    seed = torch.arange(NUM_USERS)
    sampler = UniformNeighborSampler(csr, num_neighbors, random_seed=3)
    graph = dgl.heterograph(
        {("item", "by", "user"): tuple(edge_index)}, num_nodes_dict={"item": NUM_ITEMS, "user": NUM_USERS}
    )
    dgl.seed(3)
    ours, theirs = torch.zeros(9), torch.zeros(9)
    for draw in range(num_draws):
        sampled = sampler.sample(seed, torch.ones_like(seed), epoch=draw)
        ours[sampled.edge_id[sampled.mask]] += 1 / num_draws
        drawn = dgl.sampling.sample_neighbors(graph, {"user": seed}, num_neighbors)
        theirs[drawn.edata[dgl.EID]] += 1 / num_draws
    chance = (num_neighbors / degree).clamp(max=1)[user]
    # three standard deviations of a frequency at these draws are 0.027
    torch.testing.assert_close(theirs, chance, atol=0.04, rtol=0)
    torch.testing.assert_close(ours, chance, atol=0.04, rtol=0)


USER, ITEM = "user", "item"
BY, BOUGHT, FOLLOWS = (USER, "by", ITEM), (ITEM, "bought", USER), (USER, "follows", USER)
COUNTS = {USER: 5, ITEM: 4}
EDGE_TYPES = (BY, BOUGHT, FOLLOWS)
AFFINITY = "ignore:Dataloader CPU affinity"


@st.composite
def dense_graphs(draw):
    """Twelve edges of each type: rows with more edges than are sampled, ties, and late arrivals."""
    random = Random(draw(st.integers(0, 2**32)))
    delays = draw(st.sampled_from([(0,), (0, 0, 3)]))
    graph = {}
    for name in EDGE_TYPES:
        edges = []
        for edge_id in range(draw(st.sampled_from([0, 3, 12, 12]))):
            time = random.randint(0, MAX_TIME)
            ends = random.randrange(COUNTS[name[0]]), random.randrange(COUNTS[name[2]])
            edges.append(Edge(*ends, time, edge_id, time + random.choice(delays)))
        graph[name] = edges
    return graph


graphs = dense_graphs()
times = st.sampled_from([3, 8, 12])  # few, so that seeds repeat and are neighbours of seeds
seeds = st.fixed_dictionaries(
    {USER: st.lists(st.tuples(st.integers(0, 4), times), min_size=2, max_size=6)},
    optional={ITEM: st.lists(st.tuples(st.integers(0, 3), times), max_size=3)},
)


def csrs_of(graph):
    return {
        name: csr_of(edges, num_sources=COUNTS[name[0]], num_destinations=COUNTS[name[2]])
        for name, edges in graph.items()
    }


def tree(blocks, node_type, row):
    """What a network with a layer a block sees from a destination of the last block, as nested tuples."""
    dgl = import_dgl()
    if not blocks:
        return None
    block = blocks[-1]
    data = block.dstnodes[node_type].data
    children = []
    for edge_type in sorted(block.canonical_etypes):
        if edge_type[2] != node_type:
            continue
        source, _, edge = block.in_edges(row, form="all", etype=edge_type)
        for s, e in zip(source.tolist(), edge.tolist(), strict=True):
            edge_data = block.edges[edge_type].data
            below = tree(blocks[:-1], edge_type[0], s)
            if below is None:
                source_data = block.srcnodes[edge_type[0]].data
                below = (edge_type[0], int(source_data[dgl.NID][s]), int(source_data["time"][s]), ())
            children.append((edge_type, int(edge_data[dgl.EID][e]), int(edge_data["time"][e]), below))
    return (node_type, int(data[dgl.NID][row]), int(data["time"][row]), tuple(children))


def check_layers(blocks):
    """Destinations are the first sources, and the sources of a block the destinations of the one before."""
    dgl = import_dgl()
    for outer, inner in itertools.pairwise(blocks):
        for name in inner.srctypes:
            for key in (dgl.NID, "time"):
                assert outer.dstnodes[name].data[key].equal(inner.srcnodes[name].data[key])
    for block in blocks:
        for name in block.dsttypes:
            for key in (dgl.NID, "time"):
                data = block.srcnodes[name].data[key][: block.num_dst_nodes(name)]
                assert data.equal(block.dstnodes[name].data[key])


@settings(max_examples=60)
@given(
    graph=graphs,
    asked=seeds,
    num_neighbors=st.sampled_from([[2], [3, 0], [2, 2], [2, 1], [3, 3, 3], [1, 2, 3]]),
    bound=bounds,
    window=windows,
    next_hop_bound=st.sampled_from(["seed", "edge"]),
)
def test_blocks_hold_the_reference_trees_of_the_given_seeds(
    graph, asked, num_neighbors, bound, window, next_hop_bound
):
    sampler = MultiHopSampler(
        csrs_of(graph), num_neighbors, bound=bound, window=window, next_hop_bound=next_hop_bound
    )
    subgraph = sampler.sample({name: tensors(pairs) for name, pairs in asked.items()})
    blocks = adapter.to_blocks(subgraph, edge_types=EDGE_TYPES)
    assert len(blocks) == len(num_neighbors)
    check_layers(blocks)
    for name in (USER, ITEM):
        pairs = asked.get(name, [])
        assert blocks[-1].num_dst_nodes(name) == len(pairs)
        for row, (node, time) in enumerate(pairs):
            expected = reference.multi_hop_tree(
                graph, num_neighbors, name, node, time, next_hop_bound, bound=bound, window=window
            )
            assert tree(blocks, name, row) == expected


@settings(max_examples=30)
@given(graph=graphs, asked=seeds, num_neighbors=st.integers(1, 3))
def test_no_row_is_sampled_twice(graph, asked, num_neighbors):
    """A row's edges appear once in each block, and beside equal seeds no (node, time) has two rows."""
    dgl = import_dgl()
    sampler = MultiHopSampler(csrs_of(graph), [num_neighbors, num_neighbors])
    blocks = adapter.to_blocks(sampler.sample({name: tensors(pairs) for name, pairs in asked.items()}))
    for block in blocks:
        for name in block.canonical_etypes:
            destination = block.edges(etype=name)[1].tolist()
            edges = list(zip(destination, block.edges[name].data[dgl.EID].tolist(), strict=True))
            assert len(edges) == len(set(edges))
        for name in block.srctypes:
            data = block.srcnodes[name].data
            rows = list(zip(data[dgl.NID].tolist(), data["time"].tolist(), strict=True))
            repeats = len(asked.get(name, [])) - len(set(asked.get(name, [])))
            assert len(rows) - len(set(rows)) == repeats


def homogeneous_csr():
    generator = torch.Generator().manual_seed(1)
    edge_index = torch.randint(7, (2, 60), generator=generator)
    edge_index[1][edge_index[1] == 4] = 2  # node 4 has no neighbour
    return TemporalCSR.from_edge_index(
        edge_index, torch.randint(20, (60,), generator=generator), num_rows=7, num_cols=7, row="destination"
    )


def dense_gat(conv, x, adjacency):
    """Equation 3 of GAT (Velickovic et al., ICLR 2018) on a (destinations, sources) matrix of edge counts."""
    h = conv.fc(x).view(len(x), conv._num_heads, -1)
    left, right = (h * conv.attn_l).sum(-1), (h * conv.attn_r).sum(-1)
    score = torch.nn.functional.leaky_relu(right[: len(adjacency), None] + left[None], 0.2)
    score = score + adjacency.log()[..., None]  # -inf without an edge; two edges weigh twice
    return torch.einsum("dsh,shc->dhc", score.softmax(1).nan_to_num(0.0), h)


def test_gat_on_blocks_equals_a_dense_computation():
    dgl = import_dgl()
    sampler = MultiHopSampler({("_N", "_E", "_N"): homogeneous_csr()}, [3, 2])
    seed, seed_time = torch.tensor([5, 4, 1, 5, 1]), torch.tensor([18, 12, 9, 18, 15])
    subgraph = sampler.sample({"_N": (seed, seed_time)})
    blocks = adapter.to_blocks(subgraph)
    assert blocks[-1].dstdata[dgl.NID].equal(seed)
    assert blocks[-1].dstdata["time"].equal(seed_time)
    torch.manual_seed(3)
    layers = [
        dgl.nn.GATConv(4, 3, 2, allow_zero_in_degree=True),
        dgl.nn.GATConv(6, 5, 1, allow_zero_in_degree=True),
    ]
    feature = torch.randn(7, 4)

    theirs = feature[blocks[0].srcdata[dgl.NID]]
    for block, layer in zip(blocks, layers, strict=True):
        theirs = layer(block, theirs).flatten(1)

    num_rows = len(subgraph.node["_N"])
    adjacency = torch.zeros(num_rows, num_rows)
    for edges in [hop["_N", "_E", "_N"] for hop in subgraph.hops]:
        for row, (sources, mask) in enumerate(zip(edges.neighbor, edges.mask, strict=True)):
            for source in sources[mask]:
                adjacency[edges.first_row + row, source] += 1
    assert adjacency.max() > 1  # two events between the same nodes
    ours = feature[subgraph.node["_N"]]
    for layer in layers:
        ours = dense_gat(layer, ours, adjacency).flatten(1)
    torch.testing.assert_close(theirs, ours[subgraph.seed_index["_N"]])
    assert theirs.ne(0).any(1).tolist() == [True, False, True, True, True]
    torch.testing.assert_close(theirs[0], theirs[3])
    theirs.square().sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for layer in layers
        for p in layer.parameters()
        if p is not layer.bias
    )


def test_an_edge_at_the_query_changes_nothing_and_one_before_it_does():
    dgl = import_dgl()
    edge_index = torch.tensor([[0, 1, 2, 3], [5, 5, 0, 1]])
    edge_time = torch.tensor([3, 4, 2, 1])
    layer = dgl.nn.GATConv(4, 3, 2, allow_zero_in_degree=True)
    feature = torch.randn(7, 4, generator=torch.Generator().manual_seed(2))

    def predict(source, time):
        csr = TemporalCSR.from_edge_index(
            torch.cat([edge_index, torch.tensor([[source], [5]])], 1),
            torch.cat([edge_time, torch.tensor([time])]),
            num_rows=7,
            num_cols=7,
            row="destination",
        )
        sampler = MultiHopSampler({("_N", "_E", "_N"): csr}, [4, 4])
        (outer, inner) = adapter.to_blocks(sampler.sample({"_N": (torch.tensor([5]), torch.tensor([6]))}))
        hidden = layer(outer, feature[outer.srcdata[dgl.NID]]).mean(1)
        return torch.cat([hidden[:1], layer(inner, torch.cat([hidden, hidden[:, :1]], 1)).mean(1)])

    assert predict(6, 6).equal(predict(2, 7))
    assert not predict(6, 6).equal(predict(6, 5))


def test_hetero_conv_trains_on_blocks():
    dgl = import_dgl()
    generator = torch.Generator().manual_seed(0)
    csrs = {
        name: TemporalCSR.from_edge_index(
            torch.stack(
                [
                    torch.randint(COUNTS[name[0]], (40,), generator=generator),
                    torch.randint(COUNTS[name[2]], (40,), generator=generator),
                ]
            ),
            torch.arange(40),
            num_rows=COUNTS[name[2]],
            num_cols=COUNTS[name[0]],
            row="destination",
        )
        for name in EDGE_TYPES
    }
    seed = torch.arange(5)
    blocks = adapter.to_blocks(
        MultiHopSampler(csrs, [3, 2]).sample({USER: (seed, torch.full_like(seed, 30))})
    )
    sizes = [(6, 8), (8, 2)]
    torch.manual_seed(0)
    layers = [
        dgl.nn.HeteroGraphConv(
            {name[1]: dgl.nn.GATConv((a, a), b, 1, allow_zero_in_degree=True) for name in EDGE_TYPES}
        )
        for a, b in sizes
    ]
    x = {name: torch.randn(count, 6) for name, count in COUNTS.items()}
    h = {name: x[name][node] for name, node in blocks[0].srcdata[dgl.NID].items()}
    for block, layer in zip(blocks, layers, strict=True):
        h = {name: value.flatten(1) for name, value in layer(block, h).items()}
    assert h[USER].shape == (5, 2)
    h[USER].square().sum().backward()
    for p in [p for name, p in layers[0].named_parameters() if "bias" not in name]:
        assert p.grad.abs().sum() > 0


def test_blocks_need_edge_types_and_hops():
    sampler = MultiHopSampler({("_N", "_E", "_N"): homogeneous_csr()}, [2])
    subgraph = sampler.sample({"_N": (torch.tensor([1]), torch.tensor([9]))})
    with pytest.raises(ValueError, match="edge_types must name those of the subgraph"):
        adapter.to_blocks(subgraph, edge_types=[BY])
    with pytest.raises(ValueError, match="without hops"):
        adapter.to_blocks(replace(subgraph, hops=[]))


def loader_graph(features=True):
    """A graph without edges: DGL's loader reads features from it and nothing else."""
    dgl = import_dgl()
    graph = dgl.heterograph({name: ([], []) for name in EDGE_TYPES}, num_nodes_dict=COUNTS)
    for name, count in COUNTS.items():
        graph.nodes[name].data["x"] = torch.arange(count * 3.0).view(count, 3)
        graph.nodes[name].data["y"] = torch.arange(count) * 10
    return graph


def log_csrs():
    generator = torch.Generator().manual_seed(4)
    return {
        name: TemporalCSR.from_edge_index(
            torch.stack(
                [torch.randint(COUNTS[end], (50,), generator=generator) for end in (name[0], name[2])]
            ),
            torch.randint(30, (50,), generator=generator),
            num_rows=COUNTS[name[2]],
            num_cols=COUNTS[name[0]],
            row="destination",
        )
        for name in EDGE_TYPES
    }


@pytest.mark.filterwarnings(AFFINITY)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("strategy", [RecentNeighborSampler, UniformNeighborSampler])
def test_loader_hands_out_what_the_sampler_sampled(num_workers, strategy):
    dgl = import_dgl()
    sampler = MultiHopSampler(log_csrs(), [3, 2], strategy=strategy)
    user, time = torch.tensor([4, 0, 0, 2, 4, 1, 3]), torch.tensor([25, 3, 12, 29, 25, 17, 21])
    block_sampler = adapter.TemporalBlockSampler(
        sampler,
        queries={USER: (user, time)},
        prefetch_node_feats={USER: ["x"], ITEM: ["x"]},
        prefetch_labels={USER: ["y"]},
    )
    assert isinstance(block_sampler, dgl.dataloading.Sampler)
    block_sampler.set_epoch(5)
    loader = dgl.dataloading.DataLoader(
        loader_graph(),
        {USER: torch.arange(7)},
        block_sampler,
        batch_size=3,
        shuffle=True,
        num_workers=num_workers,
    )
    met = []
    for input_nodes, output_nodes, blocks in loader:
        query = blocks[-1].dstnodes[USER].data["query"]
        met += query.tolist()
        assert output_nodes[USER].equal(user[query])
        assert blocks[-1].dstnodes[USER].data["time"].equal(time[query])
        assert blocks[-1].dstnodes[USER].data["y"].equal(user[query] * 10)
        check_layers(blocks)
        for name in (USER, ITEM):
            expected = input_nodes[name][:, None] * 3 + torch.arange(3.0)
            assert blocks[0].srcnodes[name].data["x"].equal(expected)
        direct = adapter.to_blocks(
            sampler.sample({USER: (user[query], time[query])}, epoch=5), edge_types=EDGE_TYPES
        )
        for row in range(len(query)):
            assert tree(blocks, USER, row) == tree(direct, USER, row)
    assert sorted(met) == list(range(7))


@pytest.mark.filterwarnings(AFFINITY)
def test_loader_on_a_homogeneous_graph_at_one_time():
    dgl = import_dgl()
    graph = dgl.graph(([], []), num_nodes=7)
    graph.ndata["x"] = torch.arange(7.0)
    sampler = MultiHopSampler({("_N", "_E", "_N"): homogeneous_csr()}, [3, 3])
    block_sampler = adapter.TemporalBlockSampler(sampler, time=15, prefetch_node_feats=["x"])
    loader = dgl.dataloading.DataLoader(graph, torch.tensor([6, 2, 5, 0]), block_sampler, batch_size=4)
    ((input_nodes, output_nodes, blocks),) = loader
    assert output_nodes.tolist() == [6, 2, 5, 0]
    assert input_nodes[:4].equal(output_nodes)
    assert len(input_nodes) == len(set(input_nodes.tolist())) <= 7  # each node once
    assert blocks[0].srcdata["x"].equal(input_nodes.float())
    for block in blocks:
        assert block.edata["time"].lt(15).all()
        assert block.num_edges() > 0


def test_edge_features_are_found_by_edge_id():
    dgl = import_dgl()
    generator = torch.Generator().manual_seed(6)
    edge_index, time = (
        torch.randint(7, (2, 60), generator=generator),
        torch.randint(20, (60,), generator=generator),
    )
    graph = dgl.graph(tuple(edge_index), num_nodes=7)
    graph.edata["time_of_log"] = time
    csr = TemporalCSR.from_edge_index(edge_index, time, num_rows=7, num_cols=7, row="destination")
    block_sampler = adapter.TemporalBlockSampler(
        MultiHopSampler({("_N", "_E", "_N"): csr}, [3, 2]), time=15, prefetch_edge_feats=["time_of_log"]
    )
    with pytest.warns(UserWarning, match="affinity"):
        ((_, _, blocks),) = dgl.dataloading.DataLoader(graph, torch.arange(7), block_sampler, batch_size=7)
    for block in blocks:
        assert block.num_edges() > 0
        assert block.edata["time_of_log"].equal(block.edata["time"])
        source, destination = block.edges()
        edge = block.edata[dgl.EID]
        assert block.srcdata[dgl.NID][source].equal(edge_index[0][edge])
        assert block.dstdata[dgl.NID][destination].equal(edge_index[1][edge])


def test_epochs_draw_anew_and_the_same_again():
    sampler = adapter.TemporalBlockSampler(
        MultiHopSampler({("_N", "_E", "_N"): homogeneous_csr()}, [2], strategy=UniformNeighborSampler),
        time=19,
    )
    edges = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        edges.append(sampler.sample(None, torch.arange(7))[2][0].edata[import_dgl().EID])
    assert edges[0].equal(edges[2])
    assert not edges[0].equal(edges[1])


def test_sampler_refuses_what_it_cannot_mean():
    sampler = MultiHopSampler(log_csrs(), [2])
    ids, one = torch.arange(3), torch.arange(1)
    with pytest.raises(ValueError, match="give either queries"):
        adapter.TemporalBlockSampler(sampler)
    with pytest.raises(ValueError, match="give either queries"):
        adapter.TemporalBlockSampler(sampler, queries={USER: (ids, ids)}, time=3)
    with pytest.raises(ValueError, match="3 nodes and 1 times"):
        adapter.TemporalBlockSampler(sampler, queries={USER: (ids, one)})
    with pytest.raises(ValueError, match="of the types"):
        adapter.TemporalBlockSampler(sampler, queries={"author": (ids, ids)})
    with pytest.raises(ValueError, match="a tensor does not tell"):
        adapter.TemporalBlockSampler(sampler, time=3).sample(None, ids)
    table = adapter.TemporalBlockSampler(sampler, queries={USER: (ids, ids)})
    with pytest.raises(ValueError, match=r"row ids must lie in \[0, 3\)"):
        table.sample(None, torch.tensor([3]))
    with pytest.raises(ValueError, match=r"of the node types \['user'\]"):
        table.sample(None, {ITEM: one})
    with pytest.raises(ValueError, match="excluded by time"):
        table.sample(None, ids, exclude_eids=ids)
    with pytest.raises(AttributeError, match="no attribute 'BlockSampler'"):
        _ = adapter.BlockSampler


@pytest.mark.filterwarnings(AFFINITY)
def test_a_row_means_both_ends_of_a_link():
    dgl = import_dgl()
    user, item, time = torch.tensor([4, 0, 2, 0, 1]), torch.tensor([3, 1, 1, 0, 2]), torch.arange(20, 25)
    block_sampler = adapter.TemporalBlockSampler(
        MultiHopSampler(log_csrs(), [2]), queries={USER: (user, time), ITEM: (item, time)}
    )
    loader = dgl.dataloading.DataLoader(
        loader_graph(), torch.tensor([3, 0, 4, 2]), block_sampler, batch_size=3
    )
    rows = []
    for _, output_nodes, blocks in loader:
        query = blocks[-1].dstnodes[ITEM].data["query"]
        assert query.equal(blocks[-1].dstnodes[USER].data["query"])
        assert output_nodes[USER].equal(user[query])
        assert output_nodes[ITEM].equal(item[query])
        assert blocks[-1].dstnodes[ITEM].data["time"].equal(time[query])
        rows += query.tolist()
    assert rows == [3, 0, 4, 2]
