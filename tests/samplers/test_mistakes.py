"""Wrong arguments are told by a ValueError, without the tests' own checks of shapes and dtypes in the way."""

import subprocess
import sys

PRELUDE = """
import torch
from samplers import *
def t(*values): return torch.tensor(values)
F = TemporalCSR.from_edge_index
click, time = t(0, 0, 1, 0, 5, 3, 5, 4).view(2, 4), t(10, 20, 20, 30)
user = F(click, time, row="source", num_rows=2, num_cols=6)
item = F(click, time, row="destination", num_rows=6, num_cols=2)
graph = {("i", "r", "u"): user, ("u", "c", "i"): item}
hop = MultiHopSampler(graph, [2, 2])
"""

MISTAKES = {
    "float times": (
        'F(click, time + 0.5, row="source", num_rows=2, num_cols=6)',
        "edge_time must be of dtype",
    ),
    "four rows": ('F(click.view(4, 2), time, row="source", num_rows=2, num_cols=6)', "edge_index must be"),
    "long ids": (
        'F(click, time, row="source", num_rows=2, num_cols=6, edge_id=torch.arange(5))',
        "edge_id has 5 values for 4 edges",
    ),
    "double weights": (
        'F(click, time, row="source", num_rows=2, num_cols=6, edge_weight=torch.ones(4).double())',
        "edge_weight must be of dtype float32",
    ),
    "one known time": (
        'F(click, time, row="source", num_rows=2, num_cols=6, available_time=t(90))',
        "available_time has 1 values",
    ),
    "two axes": ("RecentNeighborSampler(user, 1).sample(t(0, 1).view(2, 1), t(9, 9).view(2, 1))", "one axis"),
    "counted with two axes": ("count_edges(user, t(0, 1).view(2, 1), t(9, 9).view(2, 1))", "one axis"),
    "float seeds": ("RecentNeighborSampler(user, 1).sample(t(0.5), t(9))", "seeds must be of dtype int64"),
    "numpy seeds": ("RecentNeighborSampler(user, 1).sample(t(0).numpy(), t(9))", "seeds must be a tensor"),
    "seeds of two axes in hops": ("hop.sample({'u': (t(0).view(1, 1), t(9).view(1, 1))})", "one axis"),
    "a fraction for K": ("RecentNeighborSampler(user, 2.5)", "num_neighbors must be at least 0"),
    "a fraction for the window": ("RecentNeighborSampler(user, 2, window=1.5)", "window must be"),
    "an endless window": ("RecentNeighborSampler(user, 2, window=2**63)", "window must be"),
    "one fan-out": ("MultiHopSampler(graph, 3)", "one number a hop"),
    "a strategy for one": (
        "MultiHopSampler(graph, [2], strategy={('i', 'r', 'u'): RecentNeighborSampler})",
        "strategy must name",
    ),
    "no half-life": (
        "WeightedNeighborSampler(user, 2, weight='recency', half_life=float('nan'))",
        "half_life > 0",
    ),
    "float starts": ("random_walks(graph, t(0.7), 3, start_type='u', as_of=t(9))", "start must be of dtype"),
    "float ends": ("random_walks(graph, t(0), 3, start_type='u', as_of=t(1.5))", "as_of must be of dtype"),
    "two sizes of a type": (
        "random_walks({('n', 'e', 'n'): F(t(0, 9).view(2, 1), t(1), row='source', num_rows=3, num_cols=10)},"
        " t(0), 4, start_type='n', as_of=t(9))",
        "nodes of type 'n'",
    ),
    "one row of positives": (
        "NegativeSampler(user, num_items=6).sample(t(0, 1), t(9, 9), 2, positive=t(0)[None])",
        "positive must be int64 of shape",
    ),
    "fewer than no negatives": ("NegativeSampler(user, num_items=6).sample(t(0), t(9), -1)", "num_negatives"),
    "no such item": (
        "NegativeSampler(user, num_items=6).is_positive(t(0), t(-1), t(9))",
        "item ids must lie",
    ),
    "an empty batch size": (
        "NeighborLoader(hop, 'u', t(0), t(9), batch_size=0)",
        "batch_size at least 1",
    ),
}

SCRIPT = """
for name, code, message in CASES:
    try:
        eval(code)
    except ValueError as error:
        if message not in str(error):
            print(f"{name}: {error}")
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
    else:
        print(f"{name}: no error")
"""


def test_mistakes_are_told():
    cases = [(name, code, message) for name, (code, message) in MISTAKES.items()]
    script = f"{PRELUDE}\nCASES = {cases!r}\n{SCRIPT}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0), done.stdout + done.stderr
