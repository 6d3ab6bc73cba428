"""Loops over rows: each result in any number of threads, at sizes on both sides of every switch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphrec import compiling
from graphrec.evaluation import compiled
from graphrec.evaluation import threads as threading


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch):
    monkeypatch.setattr(threading, "num_threads", lambda: request.param)
    monkeypatch.setattr(compiled, "_LEAST_ROWS", 1)
    return request.param


@given(hnp.arrays(np.int32, st.integers(0, 40), elements=st.integers(0, 5)), st.integers(6, 9))
def test_order_by_code_is_a_stable_sort(code, num_codes):
    order, ptr = compiled.order_by_code(code, num_codes)
    assert order.tolist() == np.argsort(code, kind="stable").tolist()
    assert ptr.tolist() == [int((code < c).sum()) for c in range(num_codes + 1)]


@pytest.mark.parametrize("num_codes", [3, 2000, 60_000])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_order_by_code_of_many_rows(threads, num_codes, dtype):
    code = np.random.default_rng(0).integers(0, num_codes, 100_003).astype(dtype)
    order, ptr = compiled.order_by_code(code, num_codes)
    assert (order == np.argsort(code, kind="stable")).all()
    assert (np.diff(ptr) == np.bincount(code, minlength=num_codes)).all()


@pytest.mark.parametrize(("wrong", "row"), [(-1, 4), (7, 3)])
def test_codes_out_of_range_are_told(threads, wrong, row):
    code = np.zeros(60_000, np.int64)
    code[row] = wrong
    with pytest.raises(ValueError, match=f"must lie in 0 to 6, got {wrong} in row {row}"):
        compiled.order_by_code(code, 7)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int32])
def test_take(threads, dtype):
    generator = np.random.default_rng(1)
    column, order = generator.integers(0, 200, 100_001).astype(dtype), generator.integers(0, 100_001, 70_000)
    taken = compiled.take(column, order)
    assert taken.dtype == dtype
    assert (taken == column[order]).all()
    assert len(compiled.take(column, order[:0])) == 0
    for wrong in (-1, 100_001):
        with pytest.raises(IndexError, match=r"0 to 100000, got"):
            compiled.take(column, np.array([3, wrong]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("num_values", [1, 2, 7, 10**6])
@pytest.mark.parametrize("num_rows", [1, 2, 9, 70_001])
def test_split_and_sort(threads, dtype, num_values, num_rows):
    generator = np.random.default_rng(num_rows)
    label = generator.integers(0, 2, num_rows).astype(np.uint8)
    score = (generator.integers(0, num_values, num_rows) / num_values).astype(dtype)
    clicks, others, (clicks_below, others_below) = compiled.split_and_sort(label, score)
    assert clicks.dtype == others.dtype == dtype
    assert (clicks == np.sort(score[label == 1])).all()
    assert (others == np.sort(score[label == 0])).all()
    below = np.concatenate([clicks[:clicks_below], others[:others_below]])
    above = np.concatenate([clicks[clicks_below:], others[others_below:]])
    if len(below):
        assert below.max() < above.min()
    if num_values == 10**6 and num_rows > 100:
        assert abs(len(below) - len(above)) < 0.1 * num_rows


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200))
def test_cluster_pieces_cover_every_cluster_once(sizes):
    pieces = compiled.cluster_pieces(np.concatenate([[0], np.cumsum(sizes)]))
    assert [number for first, stop in pieces for number in range(first, stop)] == list(range(len(sizes)))


@given(hnp.arrays(np.float32, st.integers(0, 300), elements=st.integers(0, 20).map(float)), st.booleans())
def test_sort_of_a_range(values, ascending):
    values = np.sort(values) if ascending else values
    first, stop = len(values) // 5, len(values) - len(values) // 7
    expected = values.copy()
    expected[first:stop] = np.sort(values[first:stop])
    compiled._sort(values, np.empty_like(values), first, stop)
    assert (values == expected).all()


@pytest.mark.parametrize("size", [23, 24, 25, 48, 49, 97, 10_000, 123_457])
def test_sort_at_the_lengths_of_runs(size):
    generator = np.random.default_rng(size)
    for values in (generator.random(size), generator.integers(0, 3, size).astype(np.uint64)):
        expected = np.sort(values)
        compiled._sort(values, np.empty_like(values), 0, size)
        assert (values == expected).all()


def test_errors_of_threads_reach_the_caller(threads):
    def fail(first, stop):
        raise RuntimeError(f"piece {first}")

    with pytest.raises(RuntimeError, match="piece"):
        compiled.run(fail, [(0, 2), (2, 4)], num_rows=4)


def test_without_a_folder_for_machine_code_loops_are_compiled_all_the_same(monkeypatch):
    njit = compiling.numba.njit

    def refuse_cache(**options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function")
        return njit(**options)

    monkeypatch.setattr(compiling.numba, "njit", refuse_cache)
    assert compiling.compiled(lambda number: number + 1)(2) == 3
