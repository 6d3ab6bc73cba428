"""The benchmark of UserBERT's pre-training on a few tiny cases."""

import json
from dataclasses import replace

import torch

from experiments.benchmarks import measured_rows, userbert
from experiments.benchmarks.userbert import Case, measure, random_sentences, userbert_benchmark_section
from graphrec.encoders.sentences import FIRST

TINY = Case(group="some", vocabulary=50, length=3, batch_size=4, num_steps=3, num_blocks=1, channels=8)


def test_sentences_have_one_length_and_every_code_a_row():
    sentences = random_sentences(TINY)
    words = sentences.words["long"]
    assert (words.ptr.diff() == 3).all()
    assert len(sentences) == 4 * (userbert.WARM_UP + 3)
    code = words.code[:, 0]
    assert int(code.min()) == FIRST
    assert int(code.max()) < FIRST + 50
    count = torch.bincount(code - FIRST, minlength=50)
    assert count[0] > 3 * count[9]  # a tenth in a long run


def test_a_case_is_measured_with_full_and_sampled_softmax():
    for case in (TINY, replace(TINY, num_sampled=7)):
        row = measure(case)
        assert row["words_per_second"] > 0
        assert abs(row["words_per_second"] * row["milliseconds_a_step"] / 1000 - 12) < 1
        assert row["peak_mib"] >= 0


def test_the_command_writes_each_case_with_its_ratio(tmp_path, monkeypatch, capsys):
    def fake(case):
        return {
            "group": case.group,
            "device": case.device,
            "vocabulary": case.vocabulary,
            "length": case.length,
            "words_per_second": 10.0,
            "milliseconds_a_step": case.vocabulary / 100 + case.length,
            "peak_mib": 5.0 * case.length,
        }

    monkeypatch.setattr(measured_rows, "measure_alone", lambda _, case: fake(case))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert userbert.main(["--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["vocabulary"] for row in rows[:6]] == [1_000, 10_000, 100_000] * 2
    assert [row["length"] for row in rows[6:]] == [16, 32, 64, 128, 256]
    assert [row["times_slower"] for row in rows[3:6]] == [1.0, round(164 / 74, 2), round(1064 / 74, 2)]
    assert rows[-1]["times_memory"] == 16.0
    assert capsys.readouterr().out.count("ms") == len(rows)
    page = userbert_benchmark_section(rows)
    assert page.count("| length |") == 5
