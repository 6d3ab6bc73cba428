import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import results_table
from experiments.results_table import ResultRow, RunPredictions, RunRecord
from graphrec.evaluation import Figure


def row(model="lsttm", seed=0, value=0.5, slice_name="all", run="demo"):
    return ResultRow(run, model, "kuairand", seed, slice_name, "auc", value, 7)


def predictions(model="lsttm", seed=0, num_rows=6):
    generator = np.random.default_rng(4)  # the same impressions for every model and seed
    return RunPredictions(
        run="demo",
        model=model,
        data="kuairand",
        seed=seed,
        label=generator.integers(0, 2, num_rows),
        score=np.random.default_rng(seed).random(num_rows),
        user=generator.integers(0, 3, num_rows),
        item=generator.integers(0, 4, num_rows),
        time=np.arange(num_rows) + 1651593600,
    )


def test_rows_return_as_written(tmp_path):
    path = tmp_path / "deep" / "main.jsonl"
    assert results_table.read_rows(path) == []
    results_table.append_rows(path, [row(value=1 / 3), row(model="Bäume", seed=2)])
    results_table.append_rows(path, [row(value=math.nan)])
    found = results_table.read_rows(path)
    assert found[:2] == [row(value=1 / 3), row(model="Bäume", seed=2)]
    assert math.isnan(found[2].value)
    assert "NaN" not in path.read_text()
    assert os.listdir(path.parent) == ["main.jsonl"]


def test_numpy_values_are_written_as_numbers(tmp_path):
    path = tmp_path / "main.jsonl"
    results_table.append_rows(path, [row(seed=np.int64(3), value=np.float64(0.25))])
    assert results_table.read_rows(path) == [row(seed=3, value=0.25)]


@given(cut=st.integers(1, 400), data=st.data())
def test_a_cut_file_gives_whole_rows_and_can_be_appended_to(tmp_path_factory, cut, data):
    path = tmp_path_factory.mktemp("cut") / "main.jsonl"
    rows = [row(seed=seed) for seed in range(3)]
    results_table.append_rows(path, rows)
    content = path.read_bytes()
    cut = min(cut, len(content))
    path.write_bytes(content[:cut])
    num_whole = content[:cut].count(b"\n")
    if content[:cut].endswith(b"\n"):
        found = results_table.read_rows(path)
    else:
        with pytest.warns(results_table.CutLineWarning, match=f"line {num_whole + 1} is cut short"):
            found = results_table.read_rows(path)
    assert found == rows[:num_whole]
    results_table.append_rows(path, [row(seed=9)])
    assert results_table.read_rows(path) == [*rows[:num_whole], row(seed=9)]


def test_replace_drops_only_the_same_run_model_and_seed(tmp_path):
    path = tmp_path / "main.jsonl"
    kept = [row(seed=1), row(model="deepfm"), row(run="other")]
    results_table.append_rows(path, [row(value=0.1), *kept, row(value=0.2, slice_name="hour=03")])
    results_table.replace_rows(path, [row(value=0.9)])
    results_table.replace_rows(path, [row(value=0.9)])
    assert results_table.read_rows(path) == [*kept, row(value=0.9)]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "main.jsonl"
    results_table.append_rows(path, [row()])
    for write in (results_table.append_rows, results_table.replace_rows):
        with pytest.raises(ValueError, match="must be finite"):
            write(path, [row(seed=1), row(value=math.inf)])
    assert results_table.read_rows(path) == [row()]
    assert os.listdir(tmp_path) == ["main.jsonl"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"run": "demo"}\n', "line 2: wanted the fields run, model"),
        ("half a line\n", "line 2 is not JSON"),
        ("[1]\n", "line 2 must be a JSON object"),
        (json.dumps({**row()._asdict(), "value": "high"}) + "\n", "line 2: wanted the fields"),
    ],
)
def test_lines_that_are_no_rows_are_told(tmp_path, line, words):
    path = tmp_path / "main.jsonl"
    results_table.append_rows(path, [row()])
    with path.open("a") as file:
        file.write(line)
    with pytest.raises(ValueError, match=words):
        results_table.read_rows(path)


WRITER = """
import sys
from pathlib import Path
from experiments.results_table import ResultRow, append_rows, replace_rows
path, how = Path(sys.argv[1]), sys.argv[2]
for turn in range(100_000):
    rows = [ResultRow("killed", "m", "d", 0, f"epoch={turn}", "auc", float(i), turn) for i in range(200)]
    (append_rows if how == "append" else replace_rows)(path, rows)
"""


@pytest.mark.parametrize("how", ["append", "replace"])
def test_a_killed_writer_loses_no_earlier_row(tmp_path, how):
    path = tmp_path / "main.jsonl"
    results_table.append_rows(path, [row()])
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path), how], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 30
    while path.stat().st_size < 20_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    results_table.append_rows(path, [row(seed=1)])
    found = results_table.read_rows(path)
    assert found[0] == row()
    assert found[-1] == row(seed=1)
    written = [r for r in found if r.run == "killed"]
    assert len(written) >= 100
    if how == "replace":
        assert len(written) == 200
        assert len({r.slice for r in written}) == 1


def test_two_writers_do_not_mix_lines(tmp_path):
    path = tmp_path / "main.jsonl"
    code = WRITER.replace("100_000", "40").replace('"m"', "sys.argv[3]")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), "append", name], cwd=Path(__file__).parents[2]
        )
        for name in ("a", "b")
    ]
    assert [writer.wait() for writer in writers] == [0, 0]
    found = results_table.read_rows(path)
    assert len(found) == 2 * 40 * 200
    assert {r.model for r in found} == {"a", "b"}


def test_rows_of_figures():
    figure = Figure("lsttm", "all", "auc", 0.5, 7, 0.4, 0.6, seed=0)
    assert results_table.rows_of_figures("demo", "kuairand", [figure]) == [row()]


def test_run_records_return_and_replace_each_other(tmp_path):
    path = tmp_path / "main.runs.jsonl"
    record = RunRecord("demo", "kuairand", "ab12", ("2022-05-04",), {"epochs": 3}, {"torch": "2.13.0"})
    results_table.write_run_record(path, record)
    results_table.write_run_record(path, replace(record, run="second"))
    changed = replace(record, configuration={"epochs": 4})
    results_table.write_run_record(path, changed)
    assert results_table.read_run_records(path) == [replace(record, run="second"), changed]


def test_predictions_return_as_written(tmp_path):
    written = predictions(seed=3)
    path = results_table.write_predictions(tmp_path / "predictions", written)
    found = results_table.read_predictions(path)
    assert (found.run, found.model, found.data, found.seed) == ("demo", "lsttm", "kuairand", 3)
    for name in ("label", "score", "user", "item", "time"):
        np.testing.assert_array_equal(getattr(found, name), getattr(written, name))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_predictions_of_strings_and_odd_names(tmp_path):
    written = [
        replace(predictions(), model=model, user=np.array(list("abcdef"))) for model in ("deep/fm", "deep fm")
    ]
    paths = [results_table.write_predictions(tmp_path, one) for one in written]
    assert len(set(paths)) == 2
    found = results_table.read_all_predictions(tmp_path)
    assert set(found) == {"deep/fm", "deep fm"}
    assert found["deep fm"][0].user.tolist() == list("abcdef")


def test_all_predictions_are_sorted_and_chosen_by_run(tmp_path):
    for seed in (10, 2):
        results_table.write_predictions(tmp_path, predictions(seed=seed))
    results_table.write_predictions(tmp_path, replace(predictions("deepfm"), run="other"))
    assert [one.seed for one in results_table.read_all_predictions(tmp_path)["lsttm"]] == [2, 10]
    assert list(results_table.read_all_predictions(tmp_path, "other")) == ["deepfm"]


def test_rows_out_of_order_are_found(tmp_path):
    import polars

    path = results_table.write_predictions(tmp_path, predictions())
    metadata = polars.read_parquet_metadata(path)
    frame = polars.read_parquet(path)
    assert "row_order" in metadata
    frame.reverse().write_parquet(
        path, metadata={k: v for k, v in metadata.items() if not k.startswith("ARROW")}
    )
    with pytest.raises(ValueError, match="not in the order"):
        results_table.read_predictions(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="no whole file of predictions"):
        results_table.read_predictions(path)


def test_different_rows_are_told():
    first = predictions()
    results_table.check_same_rows([first, predictions("deepfm", 2)])
    with pytest.raises(ValueError, match="got 6 and 5"):
        results_table.check_same_rows([first, predictions("deepfm", num_rows=5)])
    swapped = replace(first, model="deepfm", time=first.time[[0, 1, 3, 2, 4, 5]])
    with pytest.raises(ValueError, match="time differs in 2 rows, first in row 2"):
        results_table.check_same_rows([first, swapped])
    with pytest.raises(ValueError, match="one axis of one length"):
        replace(first, user=first.user[:3])
