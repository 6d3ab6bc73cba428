"""The samplers' benchmark: every part runs at tiny sizes and writes finite rows. No time is asserted."""

import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks.samplers import epoch, gpu
from experiments.benchmarks.samplers.bare_copy import BARE_COPY, bare_copy
from experiments.benchmarks.samplers.graph import END_TIME, START_TIME, make_events, make_queries
from experiments.benchmarks.samplers.results import (
    OURS,
    Row,
    environment,
    markdown_table,
    print_table,
    read_rows,
    speed_rows,
    write_rows,
)
from experiments.benchmarks.samplers.settings import Settings
from experiments.benchmarks.samplers.timing import Timings, take_turns
from samplers import (
    MultiHopSampler,
    NeighborLoader,
    RecentNeighborSampler,
    TemporalCSR,
    UniformNeighborSampler,
)


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    """Other tests compare sums bit by bit, which depend on the number of threads."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def settings(tmp_path):
    return Settings(
        edges=900,
        large_edges=1700,
        append_edges=50,
        users=60,
        items=20,
        batch_size=7,
        num_neighbors=5,
        num_walks=11,
        seconds=0.01,
        epoch_batches=4,
        gpu_batch_sizes=(3, 8192),
        cache=tmp_path / "events",
    )


# peers whose figures must be there, since the test requirements install them
PARTS = {"one_hop": "DGL", "two_hops": "DGL", "adapters": "DGL", "walks": "DGL", "epoch": "DGL"} | {
    "build": "numpy, two argsorts",
    "large": "graphrec, rebuilt",
}


@pytest.mark.parametrize("part", PARTS)
def test_part_writes_finite_rows(part, settings, tmp_path):
    rows = importlib.import_module(f"experiments.benchmarks.samplers.{part}").measure(settings)
    assert {OURS, PARTS[part]} <= {row.system for row in rows}
    assert all(math.isfinite(row.value) and row.value >= 0 for row in rows)
    assert len({(row.case, row.system, row.unit) for row in rows}) == len(rows)
    assert any(row.target is not None for row in rows)
    write_rows(tmp_path / "rows.jsonl", rows, environment(settings))
    assert read_rows(tmp_path / "rows.jsonl") == rows


def test_gpu_part_on_the_cpu(settings):
    rows = gpu.measure_on(settings, torch.device("cpu"))
    assert all(math.isfinite(row.value) and row.value > 0 for row in rows)
    with_target = [row.case for row in rows if row.target is not None]
    assert with_target == ["cpu, one hop, last-K, 8192 queries"]


def test_gpu_part_compares_edges_in_any_order_of_rows():
    node, time = torch.tensor([4, 2, 4]), torch.tensor([10, 20, 5])
    edge_id = torch.tensor([[3, 1], [2, 0], [7, 6]])
    edges = gpu.Edges(node, time, edge_id, torch.tensor([[True, True], [True, False], [True, True]]))
    padding, other = edge_id.clone(), edge_id.clone()
    padding[1, 1], other[0, 1] = 9, 9
    shuffled = gpu.Edges(*(column[[2, 0, 1]] for column in edges._replace(edge_id=padding)))
    assert gpu.check_same_edges([edges, edges], [shuffled, edges]) == 10
    for changed in (edges._replace(edge_id=other), edges._replace(time=time + 1)):
        with pytest.raises(AssertionError, match="hop 2"):
            gpu.check_same_edges([edges, edges], [edges, changed])


def test_events_are_the_same_from_the_cache(settings):
    first, second = make_events(settings, 900), make_events(settings, 900)
    assert torch.equal(first.edge_index, second.edge_index)
    assert torch.equal(first.edge_time, second.edge_time)
    assert bool((first.edge_time.diff() >= 0).all())
    assert START_TIME <= int(first.edge_time[0]) <= int(first.edge_time[-1]) < END_TIME
    count = torch.bincount(first.edge_index[1], minlength=20).sort(descending=True).values
    assert count[0] > 3 * count[9]  # Zipf: rank 1 in proportion to 1, rank 10 to 1/10
    queries = make_queries(settings)
    assert torch.equal(queries.user, make_queries(settings).user)
    assert bool((queries.at_end().time > first.edge_time[-1]).all())


def test_joint_edges_hold_both_directions_in_time_order(settings):
    events = make_events(settings, 900)
    (source, destination), edge_time = events.joint_edges()
    user, item = events.edge_index
    expected = [(u, i + 60) for u, i in zip(user.tolist(), item.tolist(), strict=True)]
    pairs = list(zip(source.tolist(), destination.tolist(), strict=True))
    assert pairs[0::2] == expected
    assert pairs[1::2] == [(i, u) for u, i in expected]
    assert torch.equal(edge_time[0::2], events.edge_time)
    assert torch.equal(edge_time[1::2], events.edge_time)


def test_batches_of_every_loader_have_the_same_form(settings):
    events = make_events(settings, 900)
    seeds = torch.randperm(60)[:14]
    real = {tuple(pair) for pair in events.joint_edges()[0].T.tolist()}
    systems = []
    for system, batches, convert in epoch._loaders(settings, events, seeds):
        systems.append(system)
        for number, found in enumerate(batches()):
            batch = convert(found)
            asked = seeds[number * 7 : number * 7 + 7]
            assert torch.equal(batch.n_id[batch.seed_row], asked)
            for layer in batch.layers:
                source, destination = layer.edge_index
                assert int(destination.max()) < layer.num_destinations
                nodes = zip(batch.n_id[source].tolist(), batch.n_id[destination].tolist(), strict=True)
                assert real.issuperset(nodes)
            assert int(batch.layers[0].edge_index[0].max()) < len(batch.n_id)
            # the second layer reads what the first one wrote, for the seeds and their neighbours
            assert int(batch.layers[1].edge_index[0].max()) < batch.layers[0].num_destinations
            assert batch.layers[1].num_destinations == 7
            assert set(batch.layers[1].edge_index[1].tolist()) == set(batch.seed_row.tolist())
    assert systems[:3] == [OURS, f"{OURS}, no prefetching", "DGL"]


def test_our_batch_survives_a_second_hop_without_edges(settings):
    events = make_events(settings, 900)
    edge_index, edge_time = events.joint_edges()
    csr = TemporalCSR.from_edge_index(edge_index, edge_time, num_rows=80, num_cols=80, row="destination")
    sampler = MultiHopSampler({epoch.EDGES: csr}, [80, 80], strategy=UniformNeighborSampler)
    everyone = torch.arange(80)
    loader = NeighborLoader(sampler, "node", everyone, torch.full_like(everyone, END_TIME), batch_size=80)
    (found,) = loader.batches()
    batch = epoch._from_ours(found)
    assert batch.layers[0].num_destinations == batch.layers[1].num_destinations == 80


def test_turns_run_every_system_and_compare_side_by_side():
    calls = {"slow": [], "fast": []}
    timings = take_turns({name: numbers.append for name, numbers in calls.items()}, 0.01, warm_up=2)
    assert all(numbers[:4] == [0, 1, 2, 0] for numbers in calls.values())  # warm-up, calibration, first turn
    assert len(timings.seconds["slow"]) == len(timings.seconds["fast"]) >= 3
    timings = Timings({OURS: np.array([1.0, 2.0, 5.0]), "peer": np.array([2.0, 8.0, 15.0])})
    assert timings.median("peer") == 8.0
    assert timings.ratio("peer", OURS) == 3.0  # of 2, 4 and 3: not the ratio of the medians, 4
    value, other, ratio = speed_rows("case", timings, amount=10, unit="seeds/s", seeds=1, targets={"peer": 3})
    assert (value.value, other.value, ratio.value) == (5.0, 1.25, 3.0)
    assert ratio.met


def test_rows_replace_those_of_their_cases_and_make_a_table(settings, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"

    def rows(case, ours, target_is):
        return [
            Row(case=case, system=OURS, unit="s", value=ours, seeds=7),
            Row(case=case, system="peer", unit="s", value=2.0, seeds=7),
            Row(
                case=case,
                system="peer",
                unit="ratio",
                value=ours / 2.0,
                seeds=7,
                target=1.5,
                target_is=target_is,
            ),
        ]

    write_rows(path, [*rows("a", 2.0, "at most"), *rows("b", 2.0, "at least")], environment(settings))
    write_rows(path, rows("a", 4.0, "at most"), environment(settings))
    assert [(row.case, row.value) for row in read_rows(path)] == [
        ("b", 2.0),
        ("b", 2.0),
        ("b", 1.0),
        ("a", 4.0),
        ("a", 2.0),
        ("a", 2.0),
    ]
    line = json.loads(path.read_text().splitlines()[0])
    assert {"case", "system", "unit", "value", "seeds", "versions", "cpu", "edges", "commit"} <= set(line)
    alone = Row(case="c", system=OURS, unit="bytes", value=32.0, seeds=0, target=40.0, target_is="at most")
    shown = [*rows("a", 4.0, "at most"), alone]
    assert markdown_table(shown).splitlines() == [
        "| case | ours | peer | ratio | target | met |",
        "| --- | --- | --- | --- | --- | --- |",
        "| a | 4 s | peer: 2 s | 2 | at most 1.5 | no |",
        "| c | 32 bytes |  |  | at most 40 | yes |",
    ]
    print_table(shown)
    assert "at most 40" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", [RecentNeighborSampler, UniformNeighborSampler])
def test_the_bare_copy_returns_what_the_sampler_returns(strategy, settings):
    queries = make_queries(settings)
    sampler = strategy(make_events(settings, settings.edges).csr_of_users(), settings.num_neighbors)
    copy = bare_copy(sampler, [queries.batch(number) for number in range(3)])
    for number in range(5):
        copied, sampled = copy(number), sampler.sample(*queries.batch(number % 3))
        assert sampled.mask.any()
        assert not sampled.mask.all()
        for name in ("node", "edge_time", "edge_id", "mask"):
            assert torch.equal(getattr(copied, name), getattr(sampled, name)), name


def test_missing_peers_are_said_and_left_out(settings, monkeypatch, capsys):
    from experiments.benchmarks.samplers import one_hop, peers

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    rows = one_hop.measure(settings)
    assert {row.system for row in rows} == {OURS, BARE_COPY}
    assert peers.pyg_loader(make_events(settings, 900), [2], seeds=None, batch_size=3) is None
    printed = capsys.readouterr().out
    assert 'dgl: not installed: pip install "graphrec[dgl]"' in printed
    assert "torch_sparse: not installed: " in printed
    assert str(Path.cwd()) not in printed
