"""One hop from users to items: last-K and uniform without replacement."""

from experiments.benchmarks.samplers.bare_copy import BARE_COPY, bare_copy
from experiments.benchmarks.samplers.graph import NUM_BATCHES, Queries, make_events, make_queries
from experiments.benchmarks.samplers.peers import DGL, dgl_graphs, installed, load_dgl
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import RecentNeighborSampler, UniformNeighborSampler


def measure(settings: Settings) -> list[Row]:
    """Measure seeds a second.

    Ours: each query has a time of its own, drawn over the year, and sees the events before it: half of a
    user's history on average, cut to K. It returns nodes, times, edge ids and a mask, padded.

    DGL's ``sample_neighbors`` respects no time: it samples K of a user's whole history, uniformly without
    replacement, and returns nodes and edge ids as a graph. So that nobody wins by shorter histories, the
    cases "whole history" ask ours for all users after the last event.

    The bare copy reads and writes what ours does, and knows beforehand from where: see `bare_copy`.

    DGL's ``select_topk`` with the events' times as weights returns the same K edges as last-K after the last
    event, for one time that all queries share.
    """
    events = make_events(settings, settings.edges)
    csr = events.csr_of_users()
    queries, size, k = make_queries(settings), settings.batch_size, settings.num_neighbors
    samplers = {
        "last-K": (RecentNeighborSampler(csr, k), 6.0),
        "uniform": (UniformNeighborSampler(csr, k, random_seed=settings.random_seed), 3.0),
    }
    graphs, rows = dgl_graphs(events), []
    static = {name: _sample_neighbors(graph, queries, k) for name, graph in graphs.items()}
    for strategy, (sampler, target) in samplers.items():
        for suffix, asked in (("", queries), (", whole history", queries.at_end())):
            ours = {OURS: lambda number, s=sampler, q=asked: s.sample(*q.batch(number))}
            batches = [asked.batch(number) for number in range(NUM_BATCHES)]
            copied = {BARE_COPY: bare_copy(sampler, batches)}
            timings = take_turns({**ours, **copied, **static}, settings.seconds)
            rows += speed_rows(
                f"one hop, {strategy}{suffix}",
                timings,
                amount=size,
                unit="seeds/s",
                seeds=size,
                targets={} if suffix else {DGL: target},
            )
    if installed("dgl"):
        dgl = load_dgl()
        graph = graphs[DGL]
        graph.edata["time"] = events.joint_edges()[1]
        user = queries.user
        systems = {
            OURS: lambda number: samplers["last-K"][0].sample(*queries.batch(number)),
            "DGL select_topk": lambda number: dgl.sampling.select_topk(
                graph, k, "time", user[number % len(user)]
            ),
        }
        timings = take_turns(systems, settings.seconds)
        rows += speed_rows(
            "one hop, last-K, beside select_topk",
            timings,
            amount=size,
            unit="seeds/s",
            seeds=size,
            targets={"DGL select_topk": 50.0},
        )
    return rows


def _sample_neighbors(graph, queries: Queries, k: int):  # type: ignore[no-untyped-def]  # DGL has no types
    dgl = load_dgl()
    user = queries.user.to(graph.idtype)
    return lambda number: dgl.sampling.sample_neighbors(graph, user[number % len(user)], k)
