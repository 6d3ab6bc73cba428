import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import EventHistorySampler, check_no_leak
from tests.reference import samplers as reference
from tests.reference.samplers import Edge
from tests.samplers.strategies import bounds, csr_of, edge_sets, queries, tensors, windows

limits = st.one_of(st.none(), st.integers(0, 5))


def events(history, i):
    part = slice(int(history.ptr[i]), int(history.ptr[i + 1]))
    return list(
        zip(
            history.neighbor[part].tolist(),
            history.time[part].tolist(),
            history.edge_id[part].tolist(),
            strict=True,
        )
    )


@given(edge_sets(), queries, limits, bounds, windows)
def test_history_matches_reference(edges, asked, max_events, bound, window):
    seed, time = tensors(asked)
    sampler = EventHistorySampler(csr_of(edges), max_events=max_events, bound=bound, window=window)
    history = sampler.sample(seed, time)
    check_no_leak(history, time, bound=bound)
    assert history.edge_type is None
    assert len(history.neighbor) == int(history.ptr[-1])
    for i, (node, at) in enumerate(asked):
        wanted = reference.visible(edges, node, at, bound, window)
        wanted = wanted if max_events is None else wanted[len(wanted) - min(max_events, len(wanted)) :]
        assert events(history, i) == [(e.source, e.time, e.edge_id) for e in wanted]


@given(edge_sets(max_size=12), edge_sets(max_size=12), queries, limits, windows)
def test_several_edge_types_are_merged_by_time(clicks, likes, asked, max_events, window):
    csrs = {("item", "click", "user"): csr_of(clicks), ("item", "like", "user"): csr_of(likes)}
    history = EventHistorySampler(csrs, max_events=max_events, window=window).sample(*tensors(asked))
    for i, (node, at) in enumerate(asked):
        seen = [
            (e.time, e.edge_id, code, e.source)
            for code, edges in enumerate((clicks, likes))
            for e in reference.visible(edges, node, at, window=window)
        ]
        wanted = sorted(seen)
        wanted = wanted if max_events is None else wanted[len(wanted) - min(max_events, len(wanted)) :]
        part = slice(int(history.ptr[i]), int(history.ptr[i + 1]))
        assert history.edge_type[part].tolist() == [w[2] for w in wanted]
        assert events(history, i) == [(w[3], w[0], w[1]) for w in wanted]


def test_the_leak_check_sees_histories():
    history = EventHistorySampler(csr_of([Edge(1, 2, 7, 0, 7)])).sample(
        torch.tensor([0, 2]), torch.tensor([9, 9])
    )
    assert history.query_of_event().tolist() == [1]
    check_no_leak(history, torch.tensor([0, 8]))
    with pytest.raises(ValueError, match="leak: edge 0"):
        check_no_leak(history, torch.tensor([8, 7]))
    with pytest.raises(ValueError, match="need seed_time"):
        check_no_leak(history)
