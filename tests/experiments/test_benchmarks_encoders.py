"""The benchmark of LSTTM with encoders on a slice of KuaiRand-Pure."""

from dataclasses import replace

import pytest

from experiments.benchmarks import encoders
from experiments.benchmarks.encoders import ALL, NAMES, Case, cases, measure
from experiments.encoders_report import encoders_benchmark_section
from experiments.encoders_table import KINDS
from experiments.inputs import load_inputs
from experiments.protocol import prepare_day
from experiments.results_table import read_lines
from tests.experiments.kuairand_slice import sliced_log, write_slice

TINY = Case(group="some", encoder="DUPN", batch_size=16, num_steps=1)


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    folder = write_slice(tmp_path_factory.mktemp("benchmark") / "data", sliced_log())
    return prepare_day(load_inputs(path=folder), "2022-05-04")


@pytest.fixture(autouse=True)
def _small_interests(monkeypatch):
    few = replace(KINDS["SMEN"], num_interests=5, fields=())
    monkeypatch.setattr(encoders, "KINDS", {**KINDS, "SMEN": few})


def test_a_case_trains_and_is_measured(day):
    for case in (
        TINY,
        replace(TINY, encoder=ALL, nodes="all", num_neighbors=2),
        replace(TINY, encoder="UserBERT", accumulate=2, checkpoint_activations=True),
        replace(TINY, encoder="UserBERT", mixed_precision=True),
        replace(TINY, encoder="none"),
    ):
        row = measure(day, case)
        assert row["milliseconds_a_step"] > 0
        assert row["peak_mib"] >= 0


def test_cases_differ_and_rows_become_a_table(day, tmp_path, monkeypatch, capsys):
    found = cases("cpu")
    assert len(set(found)) == len(found)
    assert {case.encoder for case in found} == set(NAMES)
    monkeypatch.setattr(encoders, "prepare_day", lambda inputs, name: day)
    monkeypatch.setattr(encoders, "load_inputs", lambda path: None)
    monkeypatch.setattr(encoders, "cases", lambda device: [TINY, replace(TINY, accumulate=2)])
    monkeypatch.setattr(encoders, "devices", lambda: ("cpu",))
    assert encoders.main(["--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = read_lines(tmp_path / "rows.jsonl")
    assert [row["accumulate"] for row in rows] == [1, 2]
    page = encoders_benchmark_section(rows)
    assert "2 x 16" in page
    assert capsys.readouterr().out.count("| some | DUPN |") == 2
