"""Both engines against slow samplers, over all axes together; and against one another."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import (
    EventHistorySampler,
    MultiHopSampler,
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
    WeightedNeighborSampler,
    count_edges,
    random_walks,
)
from tests.reference import samplers as reference
from tests.reference.keyed_draws import (
    choose_recent,
    choose_uniform,
    choose_uniform_replace,
    choose_weighted,
    choose_weighted_replace,
)
from tests.reference.samplers import Edge
from tests.samplers.strategies import (
    MAX_TIME,
    NUM_DESTINATIONS,
    NUM_SOURCES,
    bounds,
    chi_square_ok,
    csr_of,
    csrs,
    edge_arguments,
    edge_sets,
    grown_csr,
    queries,
    slots,
    tensors,
    windows,
)
from tests.samplers.test_multi_hop import CLICK, CLICKED, COUNTS, EDGE_TYPES, as_input, csrs_of, tree
from tests.samplers.test_multi_hop import graphs as hetero_graphs
from tests.samplers.test_multi_hop import seeds as hetero_seeds

engines = pytest.mark.parametrize("engine", ["numba", "torch"])
EDGE_TYPE, RANDOM_SEED, HALF_LIFE = ("a", "b", "c"), 5, 1.7


@dataclass(frozen=True)
class Strategy:
    """A sampler, and the slow choice that it must agree with."""

    name: str
    weight: str | None = None
    replace: bool = False

    def __str__(self):
        return f"{self.weight or self.name}{'_replace' if self.replace else ''}"

    def sampler(self, csr, reverse, width, **options):
        if self.name == "recent":
            return RecentNeighborSampler(csr, width, **options)
        options |= {"replace": self.replace, "random_seed": RANDOM_SEED}
        if self.weight is None:
            return UniformNeighborSampler(csr, width, **options)
        return WeightedNeighborSampler(
            csr,
            width,
            weight=self.weight,
            half_life=HALF_LIFE if self.weight == "recency" else None,
            reverse_csr=reverse if self.weight == "degree" else None,
            **options,
        )

    def choose(self, edges, node, time, width, bound, window, keys):
        visible = reference.visible(edges, node, time, bound, window)
        if self.weight is None:
            uniform = choose_uniform_replace if self.replace else choose_uniform
            return (choose_recent if self.name == "recent" else uniform)(visible, width, keys)
        if self.weight == "edge_weight":
            weights = [e.weight for e in visible]
        elif self.weight == "recency":
            weights = [0.5 ** ((time - e.time) / HALF_LIFE) for e in visible]
        else:
            weights = [
                sum(other.source == e.source and reference.is_visible(other, time, bound) for other in edges)
                for e in visible
            ]
        if self.replace:
            return choose_weighted_replace(visible, weights, width, keys, whole=self.weight == "degree")
        return choose_weighted(visible, weights, width, keys)


STRATEGIES = [
    Strategy("recent"),
    *(Strategy("uniform", replace=replace) for replace in (False, True)),
    *(
        Strategy("weighted", weight, replace)
        for weight in ("edge_weight", "degree", "recency")
        for replace in (False, True)
    ),
]
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES, ids=str)


@engines
@every_strategy
@settings(max_examples=60)
@given(
    grown=csrs(),
    cut=st.integers(0, 25),
    asked=queries,
    bound=bounds,
    window=windows,
    width=st.integers(-1, 6),
    epoch=st.integers(0, 2),
    hop=st.integers(0, 1),
    by_generator=st.booleans(),
)
def test_one_hop_matches_reference(
    strategy, engine, grown, cut, asked, bound, window, width, epoch, hop, by_generator
):
    """Every slot, edge by edge, with delays, ties, edges in a delta, and queries in any order of time."""
    edges, csr = grown
    reverse = grown_csr(edges, [min(cut, len(edges))], row="source")
    axes = {"bound": bound, "window": window, "epoch": epoch, "hop": hop, "by_generator": by_generator}
    check_one_hop(strategy, engine, edges, csr, reverse, asked, width, **axes)


@engines
@every_strategy
@pytest.mark.parametrize("bound", ["strict", "inclusive"])
def test_one_hop_matches_reference_on_full_rows(bound, strategy, engine):
    """All nodes at all times, so that every edge lies on the edge of some query's bound, window and delay."""
    edges = full_rows(NUM_SOURCES, NUM_DESTINATIONS, 70)
    csr, reverse = grown_csr(edges, [40, 55]), grown_csr(edges, [60], row="source")
    asked = [(node, time) for time in range(15) for node in range(NUM_DESTINATIONS)]
    for window, width in ((None, 4), (1, 2), (3, -1)):
        check_one_hop(strategy, engine, edges, csr, reverse, asked, width, bound=bound, window=window)


def full_rows(num_sources, num_destinations, num_edges):
    """Edges in every row, at random times with ties, some known late, their ids in no order."""
    generator = torch.Generator().manual_seed(num_edges)
    highs = (num_sources, num_destinations, MAX_TIME + 1, 4, 4)
    columns = [torch.randint(0, high, (num_edges,), generator=generator).tolist() for high in highs]
    ids = torch.randperm(num_edges, generator=generator).tolist()
    return [Edge(s, d, t, i, t + delay, float(w)) for s, d, t, delay, w, i in zip(*columns, ids, strict=True)]


def check_one_hop(
    strategy, engine, edges, csr, reverse, asked, width, *, bound, window, epoch=0, hop=0, by_generator=False
):
    width = max(width, 0) if strategy.replace else width
    sampler = strategy.sampler(csr, reverse, width, bound=bound, window=window, engine=engine)
    options, prefix = {"epoch": epoch, "hop": hop, "edge_type": EDGE_TYPE}, ()
    if by_generator:
        options = {"generator": torch.Generator().manual_seed(epoch)}
        prefix = (int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(epoch))),)
    sampled = sampler.sample(*tensors(asked), **options)
    for i, (node, time) in enumerate(asked):
        keys = (*prefix, i) if by_generator else (RANDOM_SEED, epoch, EDGE_TYPE, hop, node, time)
        wanted = strategy.choose(edges, node, time, width, bound, window, keys)
        assert slots(sampled, i) == [(e.source, e.time, e.edge_id) for e in wanted]


@every_strategy
@settings(max_examples=30)
@given(grown=csrs(), asked=queries, bound=bounds, window=windows, width=st.integers(-1, 6))
def test_engines_agree_before_and_after_compaction(strategy, grown, asked, bound, window, width):
    edges, csr = grown
    width = max(width, 0) if strategy.replace else width
    reverse = csr_of(edges, row="source")
    drawn = [
        columns(
            strategy.sampler(graph, reverse, width, bound=bound, window=window, engine=engine).sample(
                *tensors(asked), epoch=2
            )
        )
        for engine in ("numba", "torch")
        for graph in (csr, csr.compact())
    ]
    for other in drawn[1:]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(drawn[0], other, strict=True))


EXTREME = 2**63 - 1
SPREADS = {
    "even": torch.arange(3000) * 7,
    "growing gaps": (1.01 ** torch.arange(3000).double()).long(),
    "two bursts": torch.cat([torch.arange(1500), 10**12 + torch.arange(1500)]),
    "all at once": torch.full((3000,), 5),
    "many ties": torch.arange(3000) // 100,
    "nanoseconds": 1_700_000_000_000_000_000 + torch.arange(3000) * 1_000,
    "the whole range": torch.tensor([-EXTREME - 1, *[0] * 1500, *[1] * 1498, EXTREME]),
}


@pytest.mark.parametrize("spread", SPREADS)
def test_long_rows_are_searched_alike_however_their_times_are_spread(spread):
    """The guide of a row's times only tells where to begin: engines agree next to every edge's time."""
    time = SPREADS[spread]
    row = torch.arange(6000) // 3000  # a second row behind it has the same times
    csr = TemporalCSR.from_edge_index(
        torch.stack([row, torch.zeros_like(row)]), time.repeat(2), num_rows=2, num_cols=1, row="source"
    )
    csr.validate()
    near = [time, time - (time > -EXTREME - 1).long(), time + (time < EXTREME).long()]
    asked = torch.cat([*near, torch.tensor([-EXTREME - 1, EXTREME])])
    for node in (torch.zeros_like(asked), torch.ones_like(asked)):
        found = count_edges(csr, node, asked, engine="numba")
        assert torch.equal(found, torch.searchsorted(time, asked))
        assert torch.equal(found, count_edges(csr, node, asked, engine="torch"))


@pytest.mark.parametrize("num_neighbors", [1, 2, 3, 30, 40])
def test_engines_draw_alike_from_few_and_many_edges(num_neighbors):
    """The compiled draw has ways of its own for rows of up to 64 edges, of few bins and of many."""
    length = torch.cat([torch.arange(140), torch.tensor([255, 256, 257, 1023, 1024, 1025, 2048, 2049, 5000])])
    row = torch.arange(len(length)).repeat_interleave(length)
    csr = TemporalCSR.from_edge_index(
        torch.stack([row, torch.arange(len(row))]),
        torch.zeros_like(row),
        num_rows=len(length),
        num_cols=len(row),
        row="source",
    )
    seed, time = torch.arange(len(length)).repeat(20), torch.arange(1, 20 * len(length) + 1)
    compiled, batched = (
        UniformNeighborSampler(csr, num_neighbors, random_seed=3, engine=engine).sample(seed, time)
        for engine in ("numba", "torch")
    )
    assert torch.equal(compiled.edge_id, batched.edge_id)
    assert torch.equal(compiled.mask, batched.mask)
    assert torch.equal(compiled.mask.sum(1), length.repeat(20).clamp(max=num_neighbors))


def test_engines_agree_on_rows_of_many_lengths():
    """Rows longer than the blocks and bins of the compiled loops, and seeds enough for several blocks."""
    generator = torch.Generator().manual_seed(8)
    row = (torch.rand(12_000, generator=generator) ** 3 * 70).long()
    col = torch.randint(0, 50, (12_000,), generator=generator)
    time = torch.randint(0, 600, (12_000,), generator=generator)
    weight = torch.randint(0, 4, (12_000,), generator=generator).float()
    known = time + torch.randint(0, 40, (12_000,), generator=generator)

    def build(end, part):
        return {
            "edge_index": torch.stack([row, col])[:, part],
            "edge_time": time[part],
            "row": end,
            "edge_weight": weight[part],
            "available_time": known[part],
        }

    csr, reverse = (
        TemporalCSR.from_edge_index(
            **build(end, slice(0, 10_500)), num_rows=num_rows, num_cols=num_cols
        ).append(**build(end, slice(10_500, None)))
        for end, num_rows, num_cols in (("source", 70, 50), ("destination", 50, 70))
    )
    seed = torch.randint(0, 70, (150,), generator=generator)
    seed_time = torch.randint(0, 700, (150,), generator=generator)
    for strategy in STRATEGIES:
        for width, window in ((30, 90), (90, None)):
            compiled, batched = (
                columns(
                    strategy.sampler(csr, reverse, width, window=window, engine=engine).sample(
                        seed, seed_time
                    )
                )
                for engine in ("numba", "torch")
            )
            assert all(torch.equal(ours, other) for ours, other in zip(compiled, batched, strict=True)), (
                strategy,
                width,
            )


@given(csrs(), queries, bounds, windows, st.one_of(st.none(), st.integers(0, 5)))
def test_both_engines_read_the_same_histories(grown, asked, bound, window, max_events):
    edges, csr = grown
    for engine in ("numba", "torch"):
        options = {"max_events": max_events, "bound": bound, "window": window, "engine": engine}
        history = EventHistorySampler(csr, **options).sample(*tensors(asked))
        ptr = history.ptr.tolist()
        events = list(
            zip(history.neighbor.tolist(), history.time.tolist(), history.edge_id.tolist(), strict=True)
        )
        assert ptr[-1] == len(events)
        for i, (node, time) in enumerate(asked):
            wanted = reference.visible(edges, node, time, bound, window)
            wanted = wanted if max_events is None else wanted[max(len(wanted) - max_events, 0) :]
            assert events[ptr[i] : ptr[i + 1]] == [(e.source, e.time, e.edge_id) for e in wanted]


@engines
@every_strategy
@settings(max_examples=15)
@given(grown=csrs(), asked=queries, width=st.integers(1, 4), window=windows, data=st.data())
def test_batch_composition_and_order_change_nothing(strategy, engine, grown, asked, width, window, data):
    edges, csr = grown
    sampler = strategy.sampler(csr, csr_of(edges, row="source"), width, window=window, engine=engine)
    together = rows(sampler.sample(*tensors(asked), epoch=2, hop=1))
    order = data.draw(st.permutations(range(len(asked))))
    shuffled = rows(sampler.sample(*tensors([asked[i] for i in order]), epoch=2, hop=1))
    assert [together[i] for i in order] == shuffled
    for query, row in zip(asked, together, strict=True):
        assert rows(sampler.sample(*tensors([query]), epoch=2, hop=1)) == [row]


@engines
@settings(max_examples=40)
@given(
    graph=hetero_graphs,
    asked=hetero_seeds,
    fan_out=st.sampled_from([[2], [2, 2], [-1, -1], [3, 1], [1, 2, 2]]),
    next_hop_bound=st.sampled_from(["seed", "edge"]),
    bound=bounds,
    window=windows,
    strategy=st.sampled_from(STRATEGIES[:2]),
)
def test_multi_hop_matches_the_slow_tree(
    engine, graph, asked, fan_out, next_hop_bound, bound, window, strategy
):
    """What each seed sees through all hops, whichever rows it shares with other seeds."""
    check_trees(engine, graph, asked, fan_out, next_hop_bound, bound, window, strategy)


@engines
@pytest.mark.parametrize("next_hop_bound", ["seed", "edge"])
@pytest.mark.parametrize("fan_out", [[2, 2], [3, 1], [2, 2, 2]], ids=str)
@pytest.mark.parametrize("strategy", STRATEGIES[:2], ids=str)
def test_multi_hop_matches_the_slow_tree_on_full_rows(strategy, fan_out, next_hop_bound, engine):
    """Rows so long that a draw with another hop's key shows."""
    graph = {e: full_rows(COUNTS[e[0]], COUNTS[e[2]], 40 + i) for i, e in enumerate(EDGE_TYPES)}
    asked = {"user": [(0, 9), (3, 9), (1, 12), (0, 9), (2, 5)], "item": [(4, 12), (1, 7)]}
    for bound, window in (("strict", None), ("inclusive", 4)):
        check_trees(engine, graph, asked, fan_out, next_hop_bound, bound, window, strategy)


def check_trees(engine, graph, asked, fan_out, next_hop_bound, bound, window, strategy):
    make = partial(strategy.sampler, reverse=None)
    sampler = MultiHopSampler(
        csrs_of(graph),
        fan_out,
        strategy=lambda csr, width, **options: make(csr, width=width, **options),
        bound=bound,
        window=window,
        next_hop_bound=next_hop_bound,
        engine=engine,
    )
    subgraph = sampler.sample(as_input(asked), epoch=1)

    def slow_tree(node_type, node, time, hop):
        children = []
        for edge_type in sorted(EDGE_TYPES) if hop < len(fan_out) else ():
            if edge_type[2] != node_type:
                continue
            keys = (RANDOM_SEED, 1, edge_type, hop if len(set(fan_out)) > 1 else 0, node, time)
            for e in strategy.choose(graph[edge_type], node, time, fan_out[hop], bound, window, keys):
                below = slow_tree(
                    edge_type[0], e.source, time if next_hop_bound == "seed" else e.time, hop + 1
                )
                children.append((edge_type, e.edge_id, e.time, below))
        return (node_type, node, time, tuple(children))

    for node_type, pairs in asked.items():
        for i, (node, time) in enumerate(pairs):
            row = int(subgraph.seed_index[node_type][i])
            assert tree(subgraph, node_type, row, len(fan_out)) == slow_tree(node_type, node, time, 0)


@engines
@settings(max_examples=25)
@given(graph=hetero_graphs, extra=edge_sets(max_size=14, num_sources=4), bound=bounds, window=windows)
def test_multi_hop_samples_a_grown_graph_as_a_built_one(engine, graph, extra, bound, window):
    """Appended clicks, late ones among them, reach every hop."""
    first = graph[CLICK]
    extra = [replace(e, edge_id=100 + e.edge_id) for e in extra]
    ends = {"num_sources": COUNTS[CLICK[0]], "num_destinations": COUNTS[CLICK[2]]}
    built = csrs_of({**graph, CLICK: first + extra})
    index, time, options = edge_arguments(extra)
    grown = {**built, CLICK: csr_of(first, **ends).append(index, time, row="destination", **options)}
    asked = {"user": tensors([(0, 9), (3, 4), (1, 12)]), "item": tensors([(2, 7)])}
    options = {"strategy": UniformNeighborSampler, "bound": bound, "window": window, "engine": engine}
    subgraphs = [MultiHopSampler(csrs, [2, 2], **options).sample(asked) for csrs in (built, grown)]
    for ours, other in zip(subgraphs[0].hops, subgraphs[1].hops, strict=True):
        for edge_type in (CLICK, CLICKED):
            assert (edge_type in ours) == (edge_type in other)
            if edge_type in ours:
                assert torch.equal(ours[edge_type].edge_id, other[edge_type].edge_id)
                assert torch.equal(ours[edge_type].mask, other[edge_type].mask)


@engines
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_directed_walk_takes_no_step_of_the_same_time(direction, engine):
    """From 0 to 1 or 3; the edge from 1 has the time of the step to it, the one from 3 has not."""
    beyond = 6 if direction == "forward" else 4
    steps = [(0, 1, 5), (1, 2, 5), (0, 3, 5), (3, 4, beyond)]
    edges = [Edge(there, here, time, i, time) for i, (here, there, time) in enumerate(steps)]
    follow = {("node", "follows", "node"): csr_of(edges, num_sources=5, num_destinations=5)}
    walks = random_walks(
        follow,
        torch.tensor([0]),
        3,
        start_type="node",
        as_of=torch.tensor([9]),
        walks_per_node=40,
        direction=direction,
        engine=engine,
    )
    paths = [tuple(path[mask].tolist()) for path, mask in zip(walks.node, walks.mask, strict=True)]
    assert set(paths) == {(0, 1), (0, 3, 4)}


LINE = [Edge(i % 4, 2, i, i, i, weight=float(1 + i % 3)) for i in range(6)]
# edges of other rows: the neighbours 0, 1, 2 and 3 have 1, 3, 2 and 1 of them more
CROWD = [Edge(s, d, 3, 6 + i, 3) for i, (s, d) in enumerate([(0, 0), *[(1, 1)] * 3, *[(2, 3)] * 2, (3, 4)])]


@engines
@pytest.mark.parametrize("by_generator", [False, True])
@pytest.mark.parametrize("strategy", STRATEGIES[1:], ids=str)
def test_draws_follow_the_stated_distribution(strategy, by_generator, engine):
    """Of one draw: equal, as the edge's weight, as the neighbour's degree, or halved by each half-life."""
    csr, reverse = csr_of(LINE + CROWD), csr_of(LINE + CROWD, row="source")
    num_draws = 3000
    time = torch.full((num_draws,), 6) if by_generator else torch.arange(num_draws) + 6
    options = {"generator": torch.Generator().manual_seed(11)} if by_generator else {"epoch": 1}
    sampler = strategy.sampler(csr, reverse, 1, engine=engine)
    sampled = sampler.sample(torch.full((num_draws,), 2), time, **options)
    assert sampled.mask.all()
    counts = torch.bincount(sampled.edge_id.flatten(), minlength=6)
    # degrees: neighbours 0 and 1 have two edges in the line, 2 and 3 have one
    expected = {
        None: [1.0] * 6,
        "edge_weight": [e.weight for e in LINE],
        "degree": [3.0, 5.0, 3.0, 2.0, 3.0, 5.0],
        "recency": [0.5 ** (-e.time / HALF_LIFE) for e in LINE],
    }[strategy.weight]
    assert chi_square_ok(counts, expected)


def columns(sampled):
    return sampled.node, sampled.edge_time, sampled.edge_id, sampled.mask


def rows(sampled):
    return [slots(sampled, i) for i in range(len(sampled.mask))]
