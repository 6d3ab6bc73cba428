import datetime

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_builders import IdMap
from tests.reference.graph_builders import rows_of_ids

KINDS = {
    "small integers": st.integers(0, 6),
    "negative integers": st.integers(-3, 3),
    "wide integers": st.sampled_from([-(2**62), -1, 0, 7, 10**15, 2**62]),
    "text": st.sampled_from(["", "a", "b", "ä", "7", "a" * 40]),
    "dates": st.dates(datetime.date(2020, 1, 1), datetime.date(2020, 1, 5)),
    "bytes": st.binary(max_size=1),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_ids_and_extension_match_the_reference(kind, data):
    ids = data.draw(st.lists(KINDS[kind], min_size=1, max_size=8))
    queries = data.draw(st.lists(KINDS[kind], max_size=8))
    built, rows = IdMap.build_with_rows(ids)
    assert rows.tolist() == rows_of_ids(ids, ids)
    assert built.rows(queries).tolist() == rows_of_ids(ids, queries)
    known = [query for query in queries if query in ids]
    assert built.ids(built.rows(known)).to_list() == known
    assert built.contains(queries).tolist() == [query in ids for query in queries]
    extended = built.extend(queries) if queries else built
    assert extended.rows(ids).tolist() == rows.tolist()
    assert extended.rows(queries).tolist() == rows_of_ids(ids + queries, queries)
    assert extended.num_ids == len(set(ids) | set(queries))


def test_the_unseen_row_is_the_last_and_has_no_id():
    ids = IdMap.build([30, 10, 30, 20])
    assert (ids.num_ids, ids.num_rows, ids.unseen_row) == (3, 4, 3)
    assert ids.rows([99, 10, None, -(2**60)]).tolist() == [3, 1, 3, 3]
    assert ids.ids(torch.tensor([3, 0])).to_list() == [None, 30]
    assert ids.rows([]).tolist() == []
    with pytest.raises(ValueError, match=r"rows must lie in \[0, 4\), got \[0, 4\]"):
        ids.ids(torch.tensor([0, 4]))


def test_integers_and_text_are_never_confused():
    with pytest.raises(ValueError, match="one type"):
        IdMap.build([7, "7"])
    with pytest.raises(ValueError, match="type Int64, got String"):
        IdMap.build([7]).rows(["7"])
    with pytest.raises(ValueError, match="got String"):
        IdMap.build([7]).extend(["8"])
    with pytest.raises(ValueError, match="null"):
        IdMap.build([1, None])
    with pytest.raises(ValueError, match="null"):
        IdMap.build([1]).extend([1, None])
    with pytest.raises(ValueError, match="whole"):
        IdMap.build([1.5])


def test_other_containers():
    assert IdMap.build(np.array([4, 2, 4], dtype=np.int32)).rows(
        pl.Series([2], dtype=pl.UInt16)
    ).tolist() == [1]
    assert IdMap.build(pl.Series(["b", "a"], dtype=pl.Categorical)).rows(["a", "b", "c"]).tolist() == [
        1,
        0,
        2,
    ]
    assert IdMap.build([2.0, 1.0]).id_series.to_list() == [2, 1]


@pytest.mark.parametrize("ids", [[5, 3, 10**12], ["x", "ü", ""]])
def test_save_and_open(tmp_path, ids):
    IdMap.build(ids).save(tmp_path / "ids.arrow")
    assert IdMap.open(tmp_path / "ids.arrow").id_series.to_list() == ids
    data = (tmp_path / "ids.arrow").read_bytes()
    (tmp_path / "cut.arrow").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="no whole ID map"):
        IdMap.open(tmp_path / "cut.arrow")
