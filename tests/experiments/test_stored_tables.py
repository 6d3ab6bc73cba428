"""Where tables go: over the stored ones, or into the run's own folder where these would lose something."""

import pytest

from experiments.results_table import read_lines, write_lines
from experiments.stored_tables import folder_to_show, lost_rows, marked, put_tables, stored_lines


def line(method="A", seeds=(0, 1), *, num_queries=10, figure="click", family="ctr"):
    values = [0.5 + seed for seed in seeds]
    return {"family": family, "method": method, "figure": figure, "metric": "auc", "values": values,
            "seeds": list(seeds), "num_queries": num_queries, "num_users": 3}  # fmt: skip


def put(tmp_path, lines, *, data="shop", default=True, replace=False):
    return put_tables(
        "tables",
        marked(data, {"": lines, ".rows": [{"method": one["method"]} for one in lines]}),
        stored=tmp_path / "stored",
        own=tmp_path / "own",
        has_default_options=default,
        replace_stored=replace,
    )


def test_what_is_lost_is_a_line_a_seed_or_a_query():
    stored = [line(), line("B", figure="buy")]
    assert lost_rows(stored, stored) == []
    assert lost_rows(stored, [line(seeds=(0, 1, 2)), line("B", figure="buy", num_queries=11)]) == []
    assert lost_rows(stored, [line()]) == ["B (ctr)"]
    assert lost_rows(stored, [line(), line("B")]) == ["B (ctr)"]
    assert lost_rows(stored, [line(seeds=(1, 2)), stored[1]]) == ["A (ctr)"]
    assert lost_rows(stored, [line(num_queries=9), stored[1]]) == ["A (ctr)"]
    assert lost_rows([], stored) == []


def test_more_takes_the_place_of_what_is_stored_and_less_does_not(tmp_path, capsys):
    stored, own = tmp_path / "stored", tmp_path / "own"
    write_lines_of = [{"data": "other", **line("C")}]
    stored.mkdir()
    write_lines(stored / "tables.jsonl", write_lines_of)
    assert put(tmp_path, [line()]) == stored
    assert put(tmp_path, [line(seeds=(0, 1, 2)), line("B")]) == stored
    assert capsys.readouterr().out == ""
    whole = stored_lines(stored, "tables", "", "shop")
    assert [(one["method"], one["seeds"]) for one in whole] == [("A", [0, 1, 2]), ("B", [0, 1])]
    assert put(tmp_path, [line("B")]) == own
    assert "these tables lack rows, seeds or queries that are there (A (ctr))" in capsys.readouterr().out
    assert [one["method"] for one in read_lines(own / "tables.jsonl")] == ["B"]
    assert put(tmp_path, [line(seeds=(0, 1, 2)), line("B")], default=False) == own
    assert "made with other options" in capsys.readouterr().out
    assert stored_lines(stored, "tables", "", "shop") == whole
    assert put(tmp_path, [line("B")], default=False, replace=True) == stored
    assert [one["method"] for one in read_lines(stored / "tables.jsonl")] == ["C", "B"]
    assert read_lines(stored / "tables.rows.jsonl") == [{"data": "shop", "method": "B"}]


def test_nothing_finished_writes_nothing(tmp_path):
    put(tmp_path, [line()])
    before = (tmp_path / "stored" / "tables.jsonl").read_bytes()
    for replace in (False, True):
        assert put(tmp_path, [], replace=replace) is None
    assert (tmp_path / "stored" / "tables.jsonl").read_bytes() == before
    assert not (tmp_path / "own").exists()
    with pytest.raises(ValueError, match="no row is finished in"):
        folder_to_show(None, tmp_path / "own")
    assert folder_to_show(tmp_path, tmp_path / "own") == tmp_path
