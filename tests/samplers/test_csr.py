import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

import samplers.edge_sort as edge_sort
from samplers import CorruptedCSRError, TemporalCSR, count_edges
from tests.reference import samplers as reference
from tests.samplers.strategies import (
    NUM_DESTINATIONS,
    NUM_SOURCES,
    bounds,
    csr_of,
    csrs,
    edge_sets,
    grown_csr,
    queries,
    tensors,
    windows,
)


def same(left, right):
    left_columns, right_columns = left.edge_columns(), right.edge_columns()
    assert left_columns.keys() == right_columns.keys()
    assert (left.num_rows, left.num_cols) == (right.num_rows, right.num_cols)
    assert torch.equal(left.rowptr, right.rowptr)
    for name in left_columns:
        assert left_columns[name].dtype == right_columns[name].dtype
        assert torch.equal(left_columns[name], right_columns[name]), name


@given(edge_sets(), st.sampled_from(["source", "destination"]))
def test_rows_hold_their_edges_in_order(edges, row):
    csr = csr_of(edges, row=row)
    csr.validate()
    other = "destination" if row == "source" else "source"
    for node in range(csr.num_rows):
        wanted = sorted(
            (e.time, e.edge_id, getattr(e, other), e.weight) for e in edges if getattr(e, row) == node
        )
        part = slice(int(csr.rowptr[node]), int(csr.rowptr[node + 1]))
        columns = (csr.edge_time, csr.edge_id, csr.col, csr.edge_weight)
        assert list(zip(*(c[part].tolist() for c in columns), strict=True)) == wanted


def test_edge_ids_are_places_in_the_input_by_default():
    index = torch.tensor([[0, 1, 0], [0, 0, 0]])
    csr = TemporalCSR.from_edge_index(
        index, torch.tensor([5, 3, 5]), num_rows=1, num_cols=2, row="destination"
    )
    assert csr.edge_id.tolist() == [1, 0, 2]
    assert csr.col.dtype == csr.edge_id.dtype == torch.int32


def test_times_that_do_not_pack_into_a_key_are_sorted_too():
    time = torch.tensor([2**62, -(2**62), 0])
    csr = TemporalCSR.from_edge_index(
        torch.zeros(2, 3, dtype=torch.int64), time, num_rows=1, num_cols=1, row="source"
    )
    assert csr.edge_id.tolist() == [1, 2, 0]


@pytest.mark.parametrize("engine", ["numba", "torch"])
@given(csrs(), queries, bounds, windows)
def test_counts(engine, grown, asked, bound, window):
    edges, csr = grown
    node, time = tensors(asked)
    count = count_edges(csr, node, time, bound=bound, window=window, engine=engine)
    wanted = [len(reference.visible(edges, n, t, bound, window)) for n, t in asked]
    assert count.tolist() == wanted


@given(csrs())
def test_compacting_equals_building_from_all(grown):
    edges, csr = grown
    csr.validate()
    assert csr.num_edges == len(edges)
    compact = csr.compact()
    compact.validate()
    assert compact.delta is None
    same(compact, csr_of(edges))


@given(edge_sets(), st.integers(0, 25))
def test_late_edges_are_counted(edges, cut):
    csr = grown_csr(edges, [cut])
    before, after = edges[:cut], edges[cut:]
    latest = {e.destination: max(f.time for f in before if f.destination == e.destination) for e in before}
    wanted = sum(e.time < latest.get(e.destination, e.time) for e in after) if before else 0
    assert csr.num_late_edges == wanted


def test_append_continues_edge_ids_and_may_add_nodes():
    index = torch.tensor([[0, 1], [0, 1]])
    base = TemporalCSR.from_edge_index(index, torch.tensor([4, 6]), num_rows=2, num_cols=2, row="destination")
    grown = base.append(
        torch.tensor([[2, 0], [2, 0]]), torch.tensor([1, 1]), row="destination", num_rows=3, num_cols=3
    )
    grown.validate()
    assert (grown.num_rows, grown.num_cols, base.num_edges) == (3, 3, 2)
    assert grown.compact().edge_id.tolist() == [3, 0, 1, 2]
    with pytest.raises(ValueError, match="cannot shrink"):
        grown.append(index, torch.tensor([4, 6]), row="destination", num_rows=2)
    with pytest.raises(ValueError, match="edge_weight must be given for all edges or for none"):
        base.append(index, torch.tensor([4, 6]), row="destination", edge_weight=torch.ones(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_rows": 2}, r"row ids must lie in \[0, 2\), got \[0, 2\]"),
        ({"num_cols": 1}, r"column ids must lie in \[0, 1\), got \[0, 1\]"),
        ({"edge_weight": torch.tensor([1.0, -1.0, 0.0])}, "edge_weight"),
        ({"edge_weight": torch.tensor([1.0, float("nan"), 0.0])}, "edge_weight"),
        ({"available_time": torch.tensor([5, 6, 6])}, "edge 2 happens at 7 and is known at 6"),
        ({"edge_id": torch.tensor([1, -2, 3])}, "must not be negative"),
    ],
)
def test_wrong_edges_are_refused(change, message):
    arguments = {"num_rows": 3, "num_cols": 2, "row": "destination", **change}
    with pytest.raises(ValueError, match=message):
        TemporalCSR.from_edge_index(
            torch.tensor([[0, 1, 0], [0, 1, 2]]), torch.tensor([5, 6, 7]), **arguments
        )


def test_shapes_are_checked_in_tests():
    with pytest.raises(TypeCheckError):
        TemporalCSR.from_edge_index(
            torch.zeros(2, 3, dtype=torch.int64), torch.zeros(4, dtype=torch.int64),
            num_rows=1, num_cols=1, row="source",
        )  # fmt: skip


def test_validate_finds_what_is_wrong():
    csr = csr_of([reference.Edge(0, 1, t, i, t) for i, t in enumerate((3, 4, 4))])
    csr.validate()
    csr.edge_time[0] = 9
    with pytest.raises(ValueError, match="row 1 is not sorted"):
        csr.validate()
    csr.edge_time[0], csr.edge_id[1] = 3, 2
    with pytest.raises(ValueError, match="unique"):
        csr.validate()


@pytest.mark.parametrize("num_edges", [0, 6])
def test_save_and_open(tmp_path, num_edges):
    edges = [reference.Edge(i % 4, i % 5, 9 - i, i, 10, 0.5) for i in range(num_edges)]
    csr = csr_of(edges)
    csr.save(tmp_path / "graph")
    same(TemporalCSR.open(tmp_path / "graph"), csr)
    assert [p.name for p in tmp_path.iterdir()] == ["graph"]
    with pytest.raises(FileExistsError, match="remove it first"):
        csr.save(tmp_path / "graph")


def test_what_is_opened_is_mapped_and_never_written_back(tmp_path):
    csr_of([reference.Edge(1, 2, 3, 0, 3)]).save(tmp_path / "graph")
    opened = TemporalCSR.open(tmp_path / "graph")
    opened.edge_time[0] = 77
    assert TemporalCSR.open(tmp_path / "graph").edge_time.tolist() == [3]


def test_an_interrupted_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("samplers.csr_files.write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        csr_of([]).save(tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_whole_is_recognised(tmp_path):
    folder = tmp_path / "graph"
    csr_of([reference.Edge(1, 2, t, t, t) for t in range(9)]).save(folder)
    file = folder / "records.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-8])
    with pytest.raises(CorruptedCSRError, match=r"records.npy should have \d+ bytes"):
        TemporalCSR.open(folder)
    file.unlink()
    with pytest.raises(CorruptedCSRError, match="it has 0"):
        TemporalCSR.open(folder)
    file.write_bytes(whole)
    header = json.loads((folder / "header.json").read_text())
    (folder / "header.json").write_text(json.dumps(header | {"version": 99}))
    with pytest.raises(CorruptedCSRError, match="version 99"):
        TemporalCSR.open(folder)
    (folder / "header.json").write_text("{")
    with pytest.raises(CorruptedCSRError, match=r"no readable header.json"):
        TemporalCSR.open(folder)


def test_torch_and_numpy_sorts_agree(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    index = torch.randint(0, NUM_SOURCES, (2, 200), generator=generator)
    time = torch.randint(0, 30, (200,), generator=generator)
    options = {"num_rows": NUM_DESTINATIONS, "num_cols": NUM_SOURCES, "row": "destination"}
    packed = TemporalCSR.from_edge_index(index, time, **options)
    monkeypatch.setattr(edge_sort, "_stable_argsort", lambda key: torch.argsort(key, stable=True))
    same(TemporalCSR.from_edge_index(index, time, **options), packed)


def test_an_edge_that_is_never_known_is_never_seen():
    csr = TemporalCSR.from_edge_index(
        torch.tensor([[0, 0], [0, 0]]),
        torch.tensor([-5, -4]),
        num_rows=1,
        num_cols=1,
        row="source",
        available_time=torch.tensor([2**63 - 1, -4]),
    )
    node, time = torch.zeros(3, dtype=torch.int64), torch.tensor([-4, 0, 2**62])
    for engine in ("numba", "torch"):
        assert count_edges(csr, node, time, engine=engine).tolist() == [0, 1, 1]


@pytest.mark.parametrize(("rowptr", "message"), [([0, 1], "end with num_edges = 2"), ([0, 3, 2], "decrease")])
def test_a_wrong_rowptr_is_named(rowptr, message):
    csr = TemporalCSR.from_edge_index(
        torch.tensor([[0, 1], [0, 1]]), torch.tensor([1, 2]), num_rows=2, num_cols=2, row="source"
    )
    with pytest.raises(ValueError, match=message):
        TemporalCSR(rowptr=torch.tensor(rowptr), records=csr.records, num_cols=2)
    with pytest.raises(ValueError, match=message):
        replace(csr, rowptr=torch.tensor(rowptr)).validate()


def test_validate_finds_wrong_helpers(tmp_path):
    edge_index = torch.stack([torch.zeros(40, dtype=torch.int64), torch.arange(40)])
    csr = TemporalCSR.from_edge_index(edge_index, torch.arange(40), num_rows=1, num_cols=40, row="source")
    with pytest.raises(ValueError, match="sampled_time"):
        replace(csr, sampled_time=torch.zeros_like(csr.sampled_time)).validate()
    with pytest.raises(ValueError, match="time_guide"):
        replace(csr, time_guide=csr.time_guide + 1).validate()
    grown = csr.append(torch.tensor([[0, 0], [1, 2]]), torch.tensor([7, 90]), row="source")
    grown.validate()
    with pytest.raises(ValueError, match="delta_rank"):
        replace(grown, delta_rank=grown.delta_rank + 1).validate()


@pytest.mark.parametrize(
    "change",
    [
        lambda header: [],
        lambda header: {k: v for k, v in header.items() if k != "bytes"},
        lambda header: {**header, "bytes": {}},
        lambda header: {**header, "num_cols": "80"},
    ],
)
def test_a_header_that_says_something_else_is_recognised(tmp_path, change):
    csr_of([reference.Edge(0, 0, 1, 0, 1)]).save(tmp_path / "graph")
    file = tmp_path / "graph" / "header.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(CorruptedCSRError):
        TemporalCSR.open(tmp_path / "graph")
