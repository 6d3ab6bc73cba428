"""Random walks of 10 steps over users and items."""

import torch

from experiments.benchmarks.samplers.graph import END_TIME, make_events
from experiments.benchmarks.samplers.peers import DGL, dgl_graphs, load_dgl
from experiments.benchmarks.samplers.results import OURS, Row, speed_rows
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import take_turns
from samplers import random_walks

NUM_STEPS = 10


def measure(settings: Settings) -> list[Row]:
    """Measure steps a second of walks that start at users and take every event with the same probability.

    Ours see the events before the time of each walk (here after the last event, so that both walk on the same
    graph) and return node types and a mask. DGL's ``random_walk`` looks at no time. DGL has no walks that
    respect times; those of ours ("backward": each step's event is earlier than the former step's) stand
    beside its plain walks.
    """
    events = make_events(settings, settings.edges)
    csrs = events.csrs()
    generator = torch.Generator().manual_seed(settings.random_seed)
    start = torch.randint(settings.users, (settings.num_walks,), generator=generator)
    as_of = torch.full_like(start, END_TIME)
    peers = {}
    for name, graph in dgl_graphs(events).items():
        dgl, nodes = load_dgl(), start.to(graph.idtype)
        peers[name] = lambda _, g=graph, n=nodes, d=dgl: d.sampling.random_walk(g, n, length=NUM_STEPS)
    rows = []
    for case, direction in (("walks", None), ("walks that respect times", "backward")):
        systems = {
            OURS: lambda number, towards=direction: random_walks(
                csrs,
                start,
                NUM_STEPS + 1,  # ours count nodes
                start_type="user",
                as_of=as_of,
                direction=towards,
                random_seed=settings.random_seed,
                epoch=number,
            ),
            **peers,
        }
        rows += speed_rows(
            f"{case} of {NUM_STEPS} steps",
            take_turns(systems, settings.seconds, warm_up=1),
            amount=NUM_STEPS * len(start),
            unit="steps/s",
            seeds=len(start),
            targets={DGL: 3.0} if direction is None else {},
        )
    return rows
