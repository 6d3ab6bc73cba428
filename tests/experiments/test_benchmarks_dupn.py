"""The benchmark of DUPN's LSTM on tiny sizes: every layer, both kinds of step, ratios."""

import json

import pytest
import torch

from experiments.benchmarks import dupn
from experiments.benchmarks.dupn import BASE, Sizes, dupn_benchmark_section, make_layers, measure

TINY = Sizes(batch_size=3, length=4, in_channels=5, property_channels=2, hidden_channels=8)


@pytest.fixture(autouse=True)
def _same_threads_afterwards():
    """Other tests compare sums bit by bit, which depend on the number of threads."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def test_layers_read_the_same_and_return_the_same_width():
    layers = make_layers(TINY)
    assert list(layers) == [BASE, "PropertyGatedLSTM", "Transformer block"]
    for layer in layers.values():
        assert layer(torch.randn(3, 4, 5), torch.randn(3, 4, 2)).shape == (3, 4, 8)


def test_rows_and_ratios():
    rows = measure(TINY, "cpu", 2)
    assert [(row["layer"], row["step"]) for row in rows] == [
        (name, kind) for name in make_layers(TINY) for kind in ("forward", "training")
    ]
    base = {row["step"]: row["milliseconds"] for row in rows if row["layer"] == BASE}
    for row in rows:
        assert row["times_slower"] == pytest.approx(
            row["milliseconds"] / base[row["step"]], abs=0.05, rel=0.05
        )
        assert row["steps_per_second"] == pytest.approx(1_000 / row["milliseconds"], rel=0.05)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        dupn, "measure", lambda sizes, device, repetitions: measure(TINY, device, repetitions)
    )
    assert dupn.main(["--out", str(tmp_path / "rows.jsonl"), "--repetitions", "1"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == (12 if torch.cuda.is_available() else 6)
    page = dupn_benchmark_section(rows)
    assert page in capsys.readouterr().out
    assert "| PropertyGatedLSTM | training | cpu |" in page
