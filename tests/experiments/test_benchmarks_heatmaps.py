"""The benchmark of heatmaps' transport on tiny cases."""

import json
from dataclasses import replace

import pytest
import torch

from experiments.benchmarks import heatmaps, measured_rows
from experiments.benchmarks.heatmaps import (
    TRANSPORTS,
    Case,
    _DenseNetwork,
    dense_images,
    heatmaps_benchmark_section,
    measure,
    random_heatmaps,
)
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, narrow_levels

TINY = Case(
    transport="dense",
    narrow=32,
    num_users=12,
    cells_a_place=2,
    places=3,
    num_days=14,
    num_channels=3,
    batch_size=4,
    num_steps=2,
)


def test_users_have_channels_of_the_same_hours():
    found = random_heatmaps(TINY)
    count = found.ptr.diff()
    assert len(found) == 12
    assert int(count.max()) == 6  # three hours of two channels; fewer where hours fall together
    assert int(found.channel.max()) == 2
    place = torch.stack([found.query_of_cell(), found.day.long(), found.hour.long()])
    assert (place.unique(dim=1, return_counts=True)[1] >= 2).all()


def test_dense_images_give_the_vectors_of_sparse_ones():
    found = random_heatmaps(TINY)
    cnn = HeatmapCNN(3, 14, levels=narrow_levels(LEVELS[14], 32)).eval()
    torch.testing.assert_close(_DenseNetwork(cnn)(dense_images(found)), cnn(found))


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_case_is_measured(transport):
    row = measure(replace(TINY, transport=transport))
    assert row["users_per_second"] > 0
    assert abs(row["users_per_second"] * row["milliseconds_a_step"] / 1000 - 4) < 0.1
    assert row["peak_mib"] >= 0
    dense = 3 * 14 * 24 * 4
    assert row["bytes_a_user"] == dense if transport == "dense" else row["bytes_a_user"] < dense / 10


def test_the_command_writes_each_case_and_the_size_on_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measured_rows, "measure_alone", lambda work, case: work(case))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        heatmaps,
        "cases",
        lambda device: [replace(TINY, transport=one, device=device, narrow=32) for one in TRANSPORTS],
    )
    path = tmp_path / "rows.jsonl"
    assert heatmaps.main(["--out", str(path)]) == 0
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["transport"] for row in rows] == [*TRANSPORTS, "stored"]
    assert rows[-1]["dense_bytes"] == 12 * 3 * 14 * 24 * 4
    assert 0 < rows[-1]["stored_bytes"] < rows[-1]["dense_bytes"]
    assert capsys.readouterr().out.count("users/s") == 3
    page = heatmaps_benchmark_section(rows)
    assert page.count("| cpu | 1/32 |") == 3
    assert "On disk 12 users" in page


def test_default_cases_are_all_transports_at_two_widths():
    found = heatmaps.cases("cpu")
    assert {(case.transport, case.narrow) for case in found} == {(t, n) for t in TRANSPORTS for n in (1, 4)}
