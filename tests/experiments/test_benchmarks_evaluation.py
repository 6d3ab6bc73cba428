"""The evaluation's benchmark at tiny sizes: figures agree with the peers'. No time is asserted."""

import json

import numpy as np
import polars as pl
import pytest

from experiments.benchmarks import evaluation as benchmark


def test_all_cases_write_rows_and_replace_them(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    for cases in (["auc", "gauc", "ranking"], ["auc"]):
        benchmark.main(
            ["--rows", "9000", "--users", "90", "--repeats", "1", "--out", str(path), "--cases", *cases]
        )
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({(line["case"], line["system"]) for line in lines}) == len(lines)
    assert {line["case"] for line in lines} == {
        *("AUC", "average precision", "GAUC", "NDCG@10", "MRR", "hit rate@10")
    }
    assert {line["target"] for line in lines if line["target"]} == {3.0, 50.0}
    for line in lines:
        assert line["seconds"] > 0.0
        assert line["rows"] == 9000
        assert line["versions"]["numpy"] == np.__version__
        assert (line["ratio"] is None) == (line["system"] == benchmark.OURS)
    (loop,) = [line for line in lines if line["case"] == "GAUC" and "loop" in line["system"]]
    assert loop["measured_rows"] == 9000  # all users are in the sample
    assert "scaled from the 9,000 rows" in capsys.readouterr().out


def test_the_file_is_evaluated_in_a_process_of_its_own(tmp_path):
    pytest.importorskip("pyarrow")
    out = tmp_path / "rows.jsonl"
    arguments = ["--cases", "--large", "3000", "--cache", str(tmp_path), "--out", str(out)]
    benchmark.main(arguments)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["rows"] for line in lines] == [3000, 3000]
    assert all(line["peak_gib"] > 0.05 for line in lines)
    (path,) = tmp_path.glob("*.parquet")
    benchmark.write_large_file(path, 2000, 0)
    with pytest.raises(ValueError, match="holds 2000 rows, not 3000"):
        benchmark.main(arguments)


def test_large_file_has_row_groups_in_the_order_of_time(tmp_path, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(benchmark, "_ROW_GROUP", 1000)
    path = tmp_path / "rows.parquet"
    benchmark.write_large_file(path, 4500, seed=3)
    frame = pl.read_parquet(path)
    assert pq.ParquetFile(path).num_row_groups == 5
    assert frame.schema == {
        "label": pl.UInt8,
        "score": pl.Float64,
        "user_id": pl.Int64,
        "time_ms": pl.Int64,
        "tab": pl.Int8,
    }
    assert len(frame) == 4500
    assert frame["time_ms"].is_sorted()
    assert len(frame["time_ms"].cast(pl.Datetime("ms")).dt.date().unique()) == 5
    assert frame["score"].is_between(0, 1).all()
    assert abs(frame["label"].mean() - frame["score"].mean()) < 0.03
    count = frame["user_id"].value_counts(sort=True)["count"]
    assert count[0] > 5 * count[50]
    benchmark.write_large_file(path, 4500, seed=3)
    assert pl.read_parquet(path).equals(frame)


def test_different_figures_stop_the_benchmark():
    with pytest.raises(RuntimeError, match=r"GAUC: ours is 0\.5, but polars finds 0\.6"):
        benchmark._check_same("GAUC", "polars", 0.5, 0.6)
