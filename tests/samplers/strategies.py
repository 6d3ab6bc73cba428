"""Small random edge sets: 5 destinations, 4 sources, 10 times, so that ties and empty rows are common."""

import torch
from hypothesis import strategies as st

from samplers import TemporalCSR
from tests.reference.samplers import Edge

NUM_SOURCES, NUM_DESTINATIONS, MAX_TIME = 4, 5, 9

bounds = st.sampled_from(["strict", "inclusive"])
windows = st.one_of(st.none(), st.integers(1, 6))


@st.composite
def edge_sets(draw, *, max_size=25, delayed=None, num_sources=NUM_SOURCES, num_destinations=NUM_DESTINATIONS):
    """A list of edges; ``delayed``: whether some become known later than they happen (None: drawn)."""
    row = st.tuples(
        st.integers(0, num_sources - 1),
        st.integers(0, num_destinations - 1),
        st.integers(0, MAX_TIME),
        st.integers(0, 4),
        st.integers(0, 3),
    )
    # hypothesis prefers short lists, most of which hold no edge that a query sees
    rows = draw(
        st.one_of(
            st.lists(row, max_size=max_size), st.lists(row, min_size=min(12, max_size), max_size=max_size)
        )
    )
    ids = draw(st.permutations(range(len(rows))))
    if delayed is None:
        delayed = draw(st.booleans())
    return [
        Edge(s, d, t, i, t + (delay if delayed else 0), float(w))
        for (s, d, t, delay, w), i in zip(rows, ids, strict=True)
    ]


query = st.tuples(st.integers(0, NUM_DESTINATIONS - 1), st.integers(-1, MAX_TIME + 5))
queries = st.one_of(st.lists(query, max_size=7), st.lists(query, min_size=5, max_size=7))


def edge_arguments(edges):
    """``edge_index``, ``edge_time`` and the optional columns of ``TemporalCSR.from_edge_index``."""
    index = torch.tensor([[e.source for e in edges], [e.destination for e in edges]], dtype=torch.int64)
    columns = {
        "edge_id": torch.tensor([e.edge_id for e in edges], dtype=torch.int64),
        "edge_weight": torch.tensor([e.weight for e in edges], dtype=torch.float32),
    }
    if any(e.available_time != e.time for e in edges):
        columns["available_time"] = torch.tensor([e.available_time for e in edges], dtype=torch.int64)
    return index, torch.tensor([e.time for e in edges], dtype=torch.int64), columns


def csr_of(edges, *, row="destination", num_sources=NUM_SOURCES, num_destinations=NUM_DESTINATIONS):
    index, time, columns = edge_arguments(edges)
    num_rows, num_cols = num_destinations, num_sources
    if row == "source":
        num_rows, num_cols = num_cols, num_rows
    return TemporalCSR.from_edge_index(index, time, num_rows=num_rows, num_cols=num_cols, row=row, **columns)


@st.composite
def csrs(draw, *, row="destination", **options):
    """Edges, and their CSR: some of them appended, in one or two goes, in any order of time."""
    edges = draw(edge_sets(**options))
    cuts = sorted(draw(st.lists(st.integers(0, len(edges)), max_size=2)))
    return edges, grown_csr(edges, cuts, row=row)


def grown_csr(edges, cuts, *, row="destination"):
    """A CSR of the first edges, to which the others are appended cut by cut."""
    csr = csr_of(edges[: cuts[0]] if cuts else edges, row=row)
    for first, last in zip(cuts, [*cuts, len(edges)][1:], strict=True):
        index, time, columns = edge_arguments(edges[first:last])
        csr = csr.append(index, time, row=row, **columns)
    return csr


def tensors(queries):
    return (
        torch.tensor([node for node, _ in queries], dtype=torch.int64),
        torch.tensor([time for _, time in queries], dtype=torch.int64),
    )


def slots(sampled, i):
    """The real slots of seed i: (node, time, edge id), after checking that padding is on the right and 0."""
    mask = sampled.mask[i].tolist()
    assert mask == sorted(mask, reverse=True)
    rows = list(
        zip(sampled.node[i].tolist(), sampled.edge_time[i].tolist(), sampled.edge_id[i].tolist(), strict=True)
    )
    assert all(row == (0, 0, 0) for row, real in zip(rows, mask, strict=True) if not real)
    return [row for row, real in zip(rows, mask, strict=True) if real]


def chi_square_ok(observed, expected):
    """Whether counts fit: chi-square at most its mean plus five deviations."""
    observed, expected = torch.as_tensor(observed).double(), torch.as_tensor(expected).double()
    assert observed[expected == 0].sum() == 0, "something impossible was drawn"
    observed, expected = observed[expected > 0], expected[expected > 0]
    expected = expected * observed.sum() / expected.sum()
    freedom = len(expected) - 1
    statistic = float(((observed - expected) ** 2 / expected).sum())
    return statistic <= freedom + 5 * (2 * freedom) ** 0.5
