import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from samplers import random_walks
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import bounds, chi_square_ok, csr_of, edge_arguments, edge_sets, windows

CLICK, CLICKED, LIKED = ("user", "click", "item"), ("item", "rev_click", "user"), ("item", "rev_like", "user")
COUNTS = {"user": 4, "item": 5}
graphs = st.fixed_dictionaries(
    {
        e: edge_sets(max_size=20, num_sources=COUNTS[e[0]], num_destinations=COUNTS[e[2]])
        for e in (CLICK, CLICKED, LIKED)
    }
)
starts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), max_size=5)


def csrs_of(graph):
    return {
        e: csr_of(edges, num_sources=COUNTS[e[0]], num_destinations=COUNTS[e[2]])
        for e, edges in graph.items()
    }


def walk(graph, asked, walk_length, **options):
    start = torch.tensor([node for node, _ in asked], dtype=torch.int64)
    as_of = torch.tensor([time for _, time in asked], dtype=torch.int64)
    return random_walks(csrs_of(graph), start, walk_length, start_type="user", as_of=as_of, **options)


def nodes_of(walks, i):
    length = int(walks.mask[i].sum())
    assert walks.mask[i].tolist() == [True] * length + [False] * (walks.mask.shape[1] - length)
    types = [walks.node_types[code] for code in walks.node_type[i, :length].tolist()]
    return list(zip(types, walks.node[i, :length].tolist(), strict=True))


def ways_on(graph, here, at, bound, window, times, direction, only):
    """Edges that a step may take, and what it knows of time: the times that the last step may have had."""
    found = []
    for edge_type, edges in graph.items():
        if edge_type[2] != here[0] or (only is not None and edge_type != only):
            continue
        for edge in reference.visible(edges, here[1], at, bound, window):
            before = [t for t in times if t is None or direction is None or
                      (edge.time > t if direction == "forward" else edge.time < t)]  # fmt: skip
            if before:
                found.append(((edge_type[0], edge.source), edge.time))
    return found


@settings(max_examples=100)
@given(
    graphs,
    starts,
    st.integers(1, 5),
    st.sampled_from([None, "forward", "backward"]),
    st.sampled_from([None, [LIKED, CLICK], [CLICKED, CLICK, LIKED, CLICK]]),
    bounds,
    windows,
)
def test_walks_take_allowed_steps_and_end_only_where_they_must(
    graph, asked, walk_length, direction, metapath, bound, window
):
    options = {"direction": direction, "metapath": metapath, "bound": bound, "window": window}
    walks = walk(graph, asked, walk_length, walks_per_node=2, **options)
    assert walks.node.shape == (2 * len(asked), walk_length)
    for i in range(2 * len(asked)):
        node, at = asked[i // 2]
        path = nodes_of(walks, i)
        assert path[0] == ("user", node)
        times = [None]  # edges of equal ends leave open which was taken: keep all possible times
        must_end = False
        for step in range(walk_length - 1):
            only = None if metapath is None else metapath[step % len(metapath)]
            allowed = ways_on(graph, path[step], at, bound, window, times, direction, only)
            if step + 1 == len(path):
                must_end = direction is not None or not allowed  # with a direction: checked below
                break
            times = [t for end, t in allowed if end == path[step + 1]]
            assert times, (path, step)
        else:
            must_end = len(path) == walk_length
        assert must_end


def test_a_directed_walk_goes_on_while_it_can():
    """A chain of strictly later edges has one way forward, and no way backward after the first step."""
    graph = {
        CLICKED: [Edge(0, 0, 1, 0, 1), Edge(1, 1, 3, 1, 3)],
        CLICK: [Edge(1, 0, 2, 0, 2), Edge(2, 1, 4, 1, 4)],
    }
    forward = walk(graph, [(0, 9)], 6, direction="forward")
    assert nodes_of(forward, 0) == [("user", 0), ("item", 0), ("user", 1), ("item", 1), ("user", 2)]
    assert nodes_of(walk(graph, [(0, 4)], 6, direction="forward"), 0)[-1] == ("item", 1)
    backward = walk(graph, [(0, 9)], 6, direction="backward")
    assert nodes_of(backward, 0) == [("user", 0), ("item", 0)]
    assert forward.joint_id({"user": 0, "item": 100}).tolist() == [[0, 100, 1, 101, 2, 0]]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("delay", [0, 2])
def test_times_rise_or_fall_along_directed_walks(direction, delay):
    """Every user and item share one edge, so that a step's time is known from its ends."""
    time = torch.randint(0, 15, (4, 5), generator=torch.Generator().manual_seed(3)).tolist()
    graph = {
        CLICKED: [Edge(i, u, time[u][i], 5 * u + i, time[u][i] + delay) for u in range(4) for i in range(5)],
        CLICK: [Edge(u, i, time[u][i], 5 * u + i, time[u][i] + delay) for u in range(4) for i in range(5)],
    }
    walks = walk(
        graph, [(u, t) for u in range(4) for t in (12, 30)], 7, walks_per_node=20, direction=direction
    )
    assert (walks.mask.sum(1) > 3).any()
    for i in range(len(walks.node)):
        path, as_of = nodes_of(walks, i), (12, 30)[i // 20 % 2]
        steps = [
            time[a][b] if kind == "user" else time[b][a] for (kind, a), (_, b) in itertools.pairwise(path)
        ]
        steps = steps if direction == "forward" else steps[::-1]
        assert all(earlier < later for earlier, later in itertools.pairwise(steps))
        assert all(t + delay < as_of for t in steps)
        if steps and len(path) < 7:
            kind, node = path[-1]
            here = time[node] if kind == "user" else [row[node] for row in time]
            known = [t for t in here if t + delay < as_of]
            assert not any(t > steps[-1] if direction == "forward" else t < steps[0] for t in known)


@pytest.mark.parametrize("generator", [None, 4])
def test_several_edge_types_are_one_pool(generator):
    """User 0 clicked item 1 three times and item 2 once, liked item 3 twice: 3, 1 and 2 of 6 steps."""
    clicked = [Edge(1, 0, 1, 0, 1), Edge(1, 0, 2, 1, 2), Edge(1, 0, 3, 2, 3), Edge(2, 0, 4, 3, 4)]
    graph = {CLICKED: [*clicked, Edge(4, 0, 30, 4, 30)], LIKED: [Edge(3, 0, 1, 0, 1), Edge(3, 0, 2, 1, 2)]}
    options = {} if generator is None else {"generator": torch.Generator().manual_seed(generator)}
    walks = walk(graph, [(0, 9)], 2, walks_per_node=4000, **options)
    assert walks.mask.all()
    assert chi_square_ok(torch.bincount(walks.node[:, 1], minlength=5), [0, 3, 1, 2, 0])


def test_steps_are_independent():
    graph = {
        CLICKED: [Edge(i, u, 1, 2 * u + i, 1) for u in (0, 1) for i in (0, 1)],
        CLICK: [Edge(u, i, 1, 2 * i + u, 1) for i in (0, 1) for u in (0, 1)],
    }
    walks = walk(graph, [(0, 5)], 5, walks_per_node=4000)
    code = (walks.node[:, 1:] * torch.tensor([8, 4, 2, 1])).sum(1)
    assert chi_square_ok(torch.bincount(code, minlength=16), torch.ones(16))


@given(graphs, starts, st.sampled_from([None, "forward"]))
@settings(max_examples=25)
def test_a_walk_does_not_depend_on_the_batch(graph, asked, direction):
    together = walk(graph, asked, 4, epoch=1, direction=direction)
    for i, pair in enumerate(asked):
        assert nodes_of(walk(graph, [pair], 4, epoch=1, direction=direction), 0) == nodes_of(together, i)


def test_epoch_and_random_seed_change_walks():
    graph = {
        CLICKED: [Edge(i % 5, i % 4, i, i, i) for i in range(40)],
        CLICK: [Edge(i % 4, i % 5, i, i, i) for i in range(40)],
    }
    base = walk(graph, [(0, 50), (1, 50)], 9, walks_per_node=4)
    assert not torch.equal(base.node, walk(graph, [(0, 50), (1, 50)], 9, walks_per_node=4, epoch=1).node)
    assert not torch.equal(
        base.node, walk(graph, [(0, 50), (1, 50)], 9, walks_per_node=4, random_seed=1).node
    )


FOLLOW = ("user", "follow", "user")
social_graphs = st.fixed_dictionaries(
    {
        e: edge_sets(max_size=16, num_sources=COUNTS[e[0]], num_destinations=COUNTS[e[2]])
        for e in (CLICK, CLICKED, FOLLOW)
    }
)


def grown(edge_type, edges, cut):
    """A CSR of the first edges, to which the others are appended."""
    csr = csr_of(edges[:cut], num_sources=COUNTS[edge_type[0]], num_destinations=COUNTS[edge_type[2]])
    index, time, columns = edge_arguments(edges[cut:])
    return csr.append(index, time, row="destination", **columns)


@settings(max_examples=150)
@given(
    social_graphs,
    starts,
    st.integers(0, 16),
    st.sampled_from([{}, {"p": 0.25}, {"q": 4.0}, {"p": 3.0, "q": 0.5}]),
    st.sampled_from([None, "forward", "backward"]),
    st.sampled_from([None, [CLICKED, CLICK, FOLLOW]]),
    bounds,
    windows,
    st.booleans(),
)
def test_engines_agree_on_grown_graphs(
    graph, asked, cut, parameters, direction, metapath, bound, window, at_one_time
):
    if at_one_time:
        asked = [(node, 8) for node, _ in asked]
    start = torch.tensor([node for node, _ in asked], dtype=torch.int64)
    as_of = torch.tensor([time for _, time in asked], dtype=torch.int64)
    options = {"direction": direction, "metapath": metapath, "bound": bound, "window": window, **parameters}
    results = []
    for engine in ("numba", "torch"):
        for csrs in (csrs_of(graph), {e: grown(e, edges, cut) for e, edges in graph.items()}):
            for keys in ({"random_seed": 3, "epoch": 1}, {"generator": torch.Generator().manual_seed(5)}):
                walks = random_walks(
                    csrs, start, 5, start_type="user", as_of=as_of, walks_per_node=3,
                    engine=engine, **options, **keys,
                )  # fmt: skip
                results.append((tuple(keys), walks))
    for keys, walks in results[2:]:
        first = results[0][1] if keys == results[0][0] else results[1][1]
        assert torch.equal(walks.node, first.node)
        assert torch.equal(walks.node_type, first.node_type)
        assert torch.equal(walks.mask, first.mask)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_a_block_of_walks_is_none_of_their_business(engine):
    """More walks than a block of compiled code holds, over threads: each is the walk that it is alone."""
    graph = {
        CLICKED: [Edge(i % 5, i * 7 % 4, i % 9, i, i % 9 + i % 3) for i in range(60)],
        CLICK: [Edge(i * 3 % 4, i % 5, i % 8, i, i % 8) for i in range(60)],
    }
    asked = [(i % 4, i % 15) for i in range(700)]
    together = walk(graph, asked, 6, engine=engine)
    for i in (0, 63, 64, 100, 511, 699):
        assert nodes_of(walk(graph, [asked[i]], 6, engine=engine), 0) == nodes_of(together, i)


# 0 - 1 - 2 is a triangle, 3 hangs on 1; 0 and 1 meet twice; both ends have each edge in their row
TRIANGLE = [(0, 1, 1), (0, 1, 3), (1, 2, 2), (0, 2, 4), (1, 3, 2), (2, 3, 30)]


@pytest.mark.parametrize("engine", ["numba", "torch"])
@pytest.mark.parametrize(("p", "q"), [(0.25, 1.0), (1.0, 4.0), (4.0, 0.25), (0.5, 2.0)])
@pytest.mark.parametrize(("delay", "as_of", "window"), [(0, 9, None), (3, 7, None), (0, 5, 3)])
def test_second_order_steps_have_the_weights_of_node2vec(engine, p, q, delay, as_of, window):
    """The delay lets the edge of 0 and 2 be known at 7, just too late; the window forgets the first edge."""
    both_ways = [end for x, y, t in TRIANGLE for end in ((x, y, t), (y, x, t))]
    edges = [Edge(a, b, t, i, t + delay) for i, (a, b, t) in enumerate(both_ways)]
    walks = walk(
        {FOLLOW: edges}, [(0, as_of)], 4, walks_per_node=6000, p=p, q=q, window=window, engine=engine
    )
    expected = torch.zeros(4, 4, 4, dtype=torch.float64)
    for path, probability in reference.node2vec_walks(edges, 0, 3, as_of, p, q, window=window).items():
        expected[path] += probability
    assert (expected > 0).sum() >= 3
    code = (walks.node[:, 1:] * torch.tensor([16, 4, 1])).sum(1)
    assert walks.mask.all()
    assert chi_square_ok(torch.bincount(code, minlength=64), expected.flatten())


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_second_order_steps_on_a_bipartite_graph(engine):
    """No user is a neighbour of a user: steps back weigh 1/p, all others 1/q. Item 0 has users 0, 0, 1, 2."""
    graph = {
        CLICKED: [Edge(0, 0, 1, 0, 1)],
        CLICK: [Edge(u, 0, t, t, t) for u, t in ((0, 1), (0, 2), (1, 3), (2, 4))],
    }
    walks = walk(graph, [(0, 9)], 3, walks_per_node=4000, p=2.0, q=0.25, engine=engine)
    assert chi_square_ok(torch.bincount(walks.node[:, 2], minlength=3), [2 * 0.5, 4.0, 4.0])


def test_p_and_q_of_one_are_deepwalk():
    graph = {CLICKED: [Edge(i % 5, i % 4, i, i, i) for i in range(20)], CLICK: [Edge(0, 1, 1, 0, 1)]}
    assert torch.equal(walk(graph, [(0, 50)] * 9, 4, p=1.0, q=1.0).node, walk(graph, [(0, 50)] * 9, 4).node)


def test_callers_mistakes_are_told():
    graph = {CLICKED: [], CLICK: []}
    with pytest.raises(ValueError, match="step 1 of the metapath is at a 'item' node"):
        walk(graph, [(0, 1)], 3, metapath=[CLICKED])
    with pytest.raises(ValueError, match="metapath names"):
        walk(graph, [(0, 1)], 3, metapath=[LIKED])
    with pytest.raises(ValueError, match="must be positive"):
        walk(graph, [(0, 1)], 0)
    with pytest.raises(ValueError, match="start_type must be one of"):
        random_walks(csrs_of(graph), torch.tensor([0]), 2, start_type="author", as_of=torch.tensor([1]))
    with pytest.raises(ValueError, match="p and q must be positive"):
        walk(graph, [(0, 1)], 3, q=0.0)
    with pytest.raises(ValueError, match="none of 1/p, 1 and 1/q more than"):
        walk(graph, [(0, 1)], 3, p=1e9)
    with pytest.raises(ValueError, match=r"start ids must lie in \[0, 4\), got \[4, 4\]"):
        walk(graph, [(4, 1)], 3)
