"""The benchmark of stored vectors on a slice of KuaiRand-Pure."""

from dataclasses import asdict, replace

import pytest

from experiments.benchmarks import stale_vectors
from experiments.benchmarks.stale_vectors import Case, cases, main, measure
from experiments.encoders_report import stale_vectors_section
from experiments.encoders_table import KINDS
from experiments.inputs import load_inputs
from experiments.protocol import prepare_day
from experiments.results_table import read_lines
from experiments.user_encoders import StoredUsers
from tests.experiments.kuairand_slice import sliced_log, write_slice

TINY = Case(encoder="DUPN", epochs=2, num_neighbors=2, stored=StoredUsers(num_periods=48))


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    folder = write_slice(tmp_path_factory.mktemp("stale") / "data", sliced_log())
    return prepare_day(load_inputs(path=folder), "2022-05-04")


@pytest.fixture(scope="module")
def measured(day):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stale_vectors, "NUM_DAYS", 7)
        names = {
            "all": replace(TINY, stored=None, nodes="all"),
            "seeds": replace(TINY, stored=None),
            "table": TINY,
            "share": replace(TINY, stored=replace(TINY.stored, share=0.5)),
            "young": replace(TINY, stored=replace(TINY.stored, max_age_hours=1)),
        }
        yield {name: measure(day, case) for name, case in names.items()}


def test_ways_differ_and_tables_have_an_error(measured):
    assert len({row["auc"] for row in measured.values()}) >= 4
    for name, row in measured.items():
        assert 0 <= row["auc"] <= 1
        assert row["cpu_seconds"] > 0
        num_epochs = 0 if name in ("all", "seeds") else TINY.epochs
        assert len(row["known_share"]) == len(row["relative_error"]) == num_epochs
    for name in ("table", "share"):
        assert measured[name]["known_share"][-1] > 0
        assert measured[name]["relative_error"][-1] > 0, "histories and weights have moved on"
    assert measured["share"]["known_share"][-1] > measured["table"]["known_share"][-1]
    assert measured["young"]["known_share"][-1] < measured["table"]["known_share"][-1]


def test_rows_are_stored_one_by_one_and_shown(measured, tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    row = {name: measured["table"][name] for name in measured["table"].keys() - asdict(TINY).keys()}
    asked = []

    def counted(day, case):
        asked.append(case)
        return {**asdict(case), **row}

    monkeypatch.setattr(stale_vectors, "measure", counted)
    monkeypatch.setattr(stale_vectors, "prepare_day", lambda inputs, name: load_day(inputs))
    monkeypatch.setattr(stale_vectors, "load_inputs", lambda path: None)

    class load_day:
        def __init__(self, inputs):
            self.inputs = self
            self.fingerprint = "made up"

    assert main(["--out", str(out)]) == 0
    assert asked == cases()
    kept = read_lines(out)
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:-1]))
    assert main(["--out", str(out)]) == 0
    assert asked == [*cases(), cases()[-1]]
    assert read_lines(out) == kept
    page = stale_vectors_section(kept)
    for words in ("one learned vector", "encoded", "10% encoded", "at most 6 h old", "table of 1 periods"):
        assert words in page
    assert {case.encoder for case in cases()} <= KINDS.keys()
    assert capsys.readouterr().out.count("| DUPN |") == len(cases()) // 2


def test_frozen_users_and_all_users_have_no_table():
    for options in ({"learning": "frozen"}, {"nodes": "all", "learning": "end to end"}):
        with pytest.raises(ValueError, match="stored vectors"):
            replace(KINDS["DUPN"], stored=StoredUsers(), **options)
    with pytest.raises(ValueError, match="share"):
        StoredUsers(share=1.5)
