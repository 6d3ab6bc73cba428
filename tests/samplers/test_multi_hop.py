from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import (
    MultiHopSampler,
    RecentNeighborSampler,
    UniformNeighborSampler,
    WeightedNeighborSampler,
    check_no_leak,
    tables,
)
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import MAX_TIME, bounds, csr_of, edge_sets, tensors, windows

# Four users, five items, three authors: each edge type has its own counts.
COUNTS = {"user": 4, "item": 5, "author": 3}
CLICK, CLICKED = ("user", "click", "item"), ("item", "rev_click", "user")
LIKE, WRITES = ("user", "like", "item"), ("author", "writes", "item")
EDGE_TYPES = (CLICK, CLICKED, LIKE, WRITES)

graphs = st.fixed_dictionaries(
    {
        edge_type: edge_sets(
            max_size=12, num_sources=COUNTS[edge_type[0]], num_destinations=COUNTS[edge_type[2]]
        )
        for edge_type in EDGE_TYPES
    }
)
times = st.integers(0, MAX_TIME + 4)
seeds = st.fixed_dictionaries(
    {"user": st.lists(st.tuples(st.integers(0, 3), times), max_size=5)},
    optional={"item": st.lists(st.tuples(st.integers(0, 4), times), max_size=3)},
)
next_hops = st.sampled_from(["seed", "edge"])


def csrs_of(graph):
    return {
        edge_type: csr_of(edges, num_sources=COUNTS[edge_type[0]], num_destinations=COUNTS[edge_type[2]])
        for edge_type, edges in graph.items()
    }


def as_input(asked):
    return {node_type: tensors(pairs) for node_type, pairs in asked.items()}


def tree(subgraph, node_type, row, num_hops):
    """What a network of ``num_hops`` layers sees from a row, as the reference's nested tuples."""
    node, time = int(subgraph.node[node_type][row]), int(subgraph.time[node_type][row])
    if num_hops == 0:
        return (node_type, node, time, ())
    children = []
    for edge_type in sorted(EDGE_TYPES):
        for hop in subgraph.hops:
            edges = hop.get(edge_type)
            if edge_type[2] != node_type or edges is None:
                continue
            i = row - edges.first_row
            if not 0 <= i < edges.num_rows:
                continue
            for slot in edges.mask[i].nonzero().flatten().tolist():
                below = tree(subgraph, edge_type[0], int(edges.neighbor[i, slot]), num_hops - 1)
                children.append(
                    (edge_type, int(edges.edge_id[i, slot]), int(edges.edge_time[i, slot]), below)
                )
    return (node_type, node, time, tuple(children))


@settings(max_examples=60)
@given(graphs, seeds, st.sampled_from([[2], [2, 2], [-1, -1], [3, 1], [1, 2, 2]]), next_hops, bounds, windows)
def test_what_each_seed_sees_matches_reference(graph, asked, fan_out, next_hop_bound, bound, window):
    sampler = MultiHopSampler(
        csrs_of(graph), fan_out, bound=bound, window=window, next_hop_bound=next_hop_bound
    )
    subgraph = sampler.sample(as_input(asked))
    check_no_leak(subgraph, bound=bound)
    for node_type, pairs in asked.items():
        for i, (node, time) in enumerate(pairs):
            row = int(subgraph.seed_index[node_type][i])
            wanted = reference.multi_hop_tree(
                graph, fan_out, node_type, node, time, next_hop_bound, bound=bound, window=window
            )
            assert tree(subgraph, node_type, row, len(fan_out)) == wanted


@settings(max_examples=60)
@given(graphs, seeds, st.sampled_from([[2, 2], [2, 2, 2], [2, 1]]), next_hops)
def test_rows_are_unique_and_grow_by_hops(graph, asked, fan_out, next_hop_bound):
    subgraph = MultiHopSampler(csrs_of(graph), fan_out, next_hop_bound=next_hop_bound).sample(as_input(asked))
    same_fan_out = len(set(fan_out)) == 1
    for node_type, node in subgraph.node.items():
        cumulative = subgraph.num_nodes_after_hop[node_type]
        assert len(cumulative) == len(fan_out) + 1
        assert cumulative[0] == len(set(asked.get(node_type, [])))
        assert cumulative[-1] == len(node)
        pairs = list(zip(node.tolist(), subgraph.time[node_type].tolist(), strict=True))
        blocks = [pairs] if same_fan_out else [
            pairs[a:b] for a, b in zip([0, *cumulative], cumulative, strict=False)
        ]  # fmt: skip
        assert all(len(set(block)) == len(block) for block in blocks)
    for hop, edges_of_type in enumerate(subgraph.hops):
        reached = {name: set() for name in subgraph.node}
        for edge_type, edges in edges_of_type.items():
            after = [0, *subgraph.num_nodes_after_hop[edge_type[2]]]
            assert (edges.first_row, edges.first_row + edges.num_rows) == (after[hop], after[hop + 1])
            reached[edge_type[0]] |= set(edges.neighbor[edges.mask].tolist())
        for name, rows in reached.items():
            new = range(subgraph.num_nodes_after_hop[name][hop], subgraph.num_nodes_after_hop[name][hop + 1])
            assert set(new) <= rows  # every new row was reached in its own hop


STRATEGIES = {
    "recent": {},
    "uniform": {"strategy": partial(UniformNeighborSampler, random_seed=3)},
    "mixed": {
        "strategy": {
            CLICK: UniformNeighborSampler,
            CLICKED: partial(WeightedNeighborSampler, weight="recency", half_life=2.0),
            LIKE: partial(UniformNeighborSampler, replace=True),
            WRITES: partial(WeightedNeighborSampler, weight="edge_weight"),
        }
    },
}


@pytest.mark.parametrize("options", STRATEGIES.values(), ids=STRATEGIES)
@settings(max_examples=25)
@given(graphs, seeds, st.sampled_from([[2, 2], [2, 1]]), next_hops)
def test_a_seed_sees_the_same_in_any_batch(options, graph, asked, fan_out, next_hop_bound):
    sampler = MultiHopSampler(csrs_of(graph), fan_out, next_hop_bound=next_hop_bound, **options)
    together = sampler.sample(as_input(asked), epoch=4)
    for node_type, pairs in asked.items():
        for i, pair in enumerate(pairs):
            alone = sampler.sample(as_input({node_type: [pair]}), epoch=4)
            row = int(together.seed_index[node_type][i])
            assert tree(together, node_type, row, 2) == tree(alone, node_type, 0, 2)


@pytest.mark.parametrize("fan_out", [[3, 3], [4, 2]])
def test_a_seed_that_another_seed_reaches_changes_nothing(fan_out):
    """Dense rows, so that a draw with another hop's key or fan-out would be seen."""
    graph = {e: [Edge(i % COUNTS[e[0]], i % COUNTS[e[2]], i, i, i) for i in range(120)] for e in EDGE_TYPES}
    sampler = MultiHopSampler(csrs_of(graph), fan_out, strategy=UniformNeighborSampler)
    users = [(node, 130) for node in range(4)]
    together = sampler.sample(as_input({"user": users, "item": [(node, 130) for node in range(5)]}))
    for i, pair in enumerate(users):
        alone = sampler.sample(as_input({"user": [pair]}))
        assert tree(together, "user", int(together.seed_index["user"][i]), 2) == tree(alone, "user", 0, 2)


def test_hops_with_fan_outs_of_their_own_draw_anew():
    graph = {e: [Edge(i % COUNTS[e[0]], i % COUNTS[e[2]], i, i, i) for i in range(120)] for e in EDGE_TYPES}
    sampler = MultiHopSampler(csrs_of(graph), [5, 5, 4], strategy=UniformNeighborSampler)
    subgraph = sampler.sample(as_input({"user": [(1, 130)]}))
    first, third = subgraph.hops[0][CLICKED], subgraph.hops[2][CLICKED]
    again = subgraph.node["user"][third.first_row : third.first_row + third.num_rows] == 1
    assert again.sum() == 1
    assert not set(third.edge_id[again][0].tolist()) <= set(first.edge_id[0].tolist())


def test_one_shared_time_has_each_node_once():
    graph = {e: [Edge(i % COUNTS[e[0]], i % COUNTS[e[2]], i, i, i) for i in range(9)] for e in EDGE_TYPES}
    subgraph = MultiHopSampler(csrs_of(graph), [3, 3, 3]).sample(
        {"user": (torch.tensor([0, 1, 0, 3]), torch.full((4,), 20))}
    )
    assert subgraph.seed_index["user"].tolist() == [0, 1, 0, 2]
    for node in subgraph.node.values():
        assert len(node) == len(node.unique())
    moved = subgraph.to("cpu")
    assert torch.equal(moved.hops[0][CLICKED].mask, subgraph.hops[0][CLICKED].mask)


@given(
    graphs, seeds, next_hops, bounds, windows, st.lists(st.integers(-1, 3), min_size=1, max_size=3), st.data()
)
def test_engines_agree_row_by_row(graph, asked, next_hop_bound, bound, window, fan_out, data):
    strategy = data.draw(st.sampled_from([RecentNeighborSampler, UniformNeighborSampler]))
    if data.draw(st.booleans()):  # one time for all
        asked = {name: [(node, 6) for node, _ in pairs] for name, pairs in asked.items()}
    options = {"bound": bound, "window": window, "next_hop_bound": next_hop_bound, "strategy": strategy}
    repeat_seeds = data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "PIECE", data.draw(st.sampled_from([1, 2, 5, 1 << 15]), "candidates a piece"))
        patch.setattr(tables, "FEW_NODES", data.draw(st.sampled_from([0, 4]), "slots or a hash table"))
        compiled, batched = (
            MultiHopSampler(csrs_of(graph), fan_out, engine=engine, **options).sample(
                as_input(asked), epoch=3, repeat_seeds=repeat_seeds
            )
            for engine in ("numba", "torch")
        )
    assert compiled.num_nodes_after_hop == batched.num_nodes_after_hop
    for name in compiled.node:
        assert torch.equal(compiled.node[name], batched.node[name])
        assert torch.equal(compiled.time[name], batched.time[name])
    for name in compiled.seed_index:
        assert torch.equal(compiled.seed_index[name], batched.seed_index[name])
    for ours, other in zip(compiled.hops, batched.hops, strict=True):
        assert ours.keys() == other.keys()
        for edge_type in ours:
            assert ours[edge_type].first_row == other[edge_type].first_row
            for column in ("neighbor", "edge_id", "edge_time", "mask"):
                assert torch.equal(getattr(ours[edge_type], column), getattr(other[edge_type], column))


@given(graphs, seeds, next_hops)
def test_repeated_seeds_have_rows_of_their_own(graph, asked, next_hop_bound):
    asked = {name: [pair for pair in pairs for _ in range(2)] for name, pairs in asked.items()}
    sampler = MultiHopSampler(csrs_of(graph), [2, 2], next_hop_bound=next_hop_bound)
    shared, own = (sampler.sample(as_input(asked), repeat_seeds=repeat) for repeat in (False, True))
    for name, pairs in asked.items():
        assert own.num_nodes_after_hop[name][0] == len(pairs)
        assert sorted(own.seed_index[name].tolist()) == list(range(len(pairs)))
        for i in range(len(pairs)):
            trees = [tree(subgraph, name, int(subgraph.seed_index[name][i]), 2) for subgraph in (shared, own)]
            assert trees[0] == trees[1]


def test_fan_outs_by_edge_type():
    graph = {e: [Edge(i % COUNTS[e[0]], i % COUNTS[e[2]], i, i, i) for i in range(30)] for e in EDGE_TYPES}
    fan_out = {CLICK: [1, 4], CLICKED: [3, 3], LIKE: [0, 2], WRITES: [2, 0]}
    subgraph = MultiHopSampler(csrs_of(graph), fan_out).sample(
        as_input({"user": [(1, 30)], "item": [(2, 30)]})
    )
    widths = [{e: edges.mask.shape[1] for e, edges in hop.items()} for hop in subgraph.hops]
    assert widths == [{CLICK: 1, CLICKED: 3, WRITES: 2}, {CLICK: 4, CLICKED: 3, LIKE: 2}]


def test_node_ids_too_large_to_pack_with_times_are_told_apart():
    from samplers.tables import _pair_keys

    node, time = torch.tensor([2**62, 2**62, 1, 1]), torch.tensor([5, 6, 5, 7])
    assert len(_pair_keys(node, time).unique()) == 4


def test_the_leak_check_names_hop_and_edge_type():
    graph = {CLICKED: [Edge(1, 2, 7, 0, 7)]}
    sampler = MultiHopSampler(csrs_of(graph), [2], bound="inclusive")
    subgraph = sampler.sample({"user": (torch.tensor([2]), torch.tensor([7]))})
    with pytest.raises(ValueError, match=r"leak: hop 0, edge type \('item', 'rev_click', 'user'\), edge 0"):
        check_no_leak(subgraph)
    with pytest.raises(ValueError, match="leak"):
        check_no_leak(subgraph, bound="inclusive", available_time={CLICKED: torch.tensor([9])})


def test_callers_mistakes_are_told():
    csrs = csrs_of({CLICKED: [], CLICK: []})
    with pytest.raises(ValueError, match="must name the edge types"):
        MultiHopSampler(csrs, {CLICK: [2]})
    with pytest.raises(ValueError, match="same number of hops"):
        MultiHopSampler(csrs, {CLICK: [2], CLICKED: [2, 2]})
    with pytest.raises(ValueError, match=r"must be of the node types \['item', 'user'\], got \['author'\]"):
        MultiHopSampler(csrs, [2]).sample({"author": tensors([(0, 1)])})
    with pytest.raises(ValueError, match="seed ids must lie in"):
        MultiHopSampler(csrs, [2]).sample({"user": tensors([(4, 1)])})
