"""The tables of the README and of docs are those of the result files, and nothing else changes."""

import json

import pytest

from experiments.benchmarks import evaluation
from experiments.benchmarks.samplers.results import OURS, RATIO, Row, write_rows
from experiments.benchmarks.samplers.settings import DEFAULT_OUT
from experiments.readme import (
    BENCHMARK_COMMAND,
    EVALUATION_BENCHMARK,
    EVALUATION_COMMAND,
    TRAINING_BENCHMARK,
    TRAINING_COMMAND,
    put_between,
    update_pages,
)

PAGE = """words before
<!-- samplers:begin -->
<!-- samplers:end -->
<!-- results:begin -->
old figures
<!-- results:end -->
"""
README = """# Title
<!-- samplers:begin -->
The benchmark has not been run.
<!-- samplers:end -->
words between
<!-- evaluation:begin -->
Not measured.
<!-- evaluation:end -->
the end
"""
ROWS = [
    Row(case="one hop, last-K", system=OURS, unit="seeds/s", value=2_500_000, seeds=1024),
    Row(case="one hop, last-K", system="DGL", unit="seeds/s", value=250_000, seeds=1024),
    Row(case="one hop, last-K", system="DGL", unit=RATIO, value=10, seeds=1024, target=6),
    Row(case="one hop, last-K", system="PyG", unit="seeds/s", value=2_000, seeds=1024),
    Row(case="one hop, last-K", system="PyG", unit=RATIO, value=1250, seeds=1024),
    Row(case="compaction", system=OURS, unit="s", value=1.5, seeds=1),
]
DESCRIBED = {
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "cpu": "a processor, 2 cores, 2 threads used",
    "cuda": None,
    "users": 200_000,
    "items": 50_000,
    "edges": 10_000_000,
    "commit": "abc1234",
    "date": "2026-11-21",
}


@pytest.fixture
def readme(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(README)
    (tmp_path / "docs").mkdir()
    for name in ("samplers.md", "main_job.md"):
        (tmp_path / "docs" / name).write_text(PAGE)
    return path


def test_without_a_benchmark_its_part_stays(readme, tmp_path):
    update_pages(tmp_path, tmp_path, {})
    assert readme.read_text() == README
    assert (tmp_path / "docs" / "main_job.md").read_text() == PAGE


def test_the_benchmark_gets_its_table_and_the_command_that_made_it(readme, tmp_path):
    write_rows(tmp_path / DEFAULT_OUT.name, ROWS, DESCRIBED)
    update_pages(tmp_path, tmp_path, {})
    update_pages(tmp_path, tmp_path, {})
    text = readme.read_text()
    part = text[text.index("<!-- samplers:begin -->") : text.index("<!-- samplers:end -->")]
    assert "| one hop, last-K | 2.5 M seeds/s | DGL: 250 k seeds/s | 10 | at least 6 | yes |" in part
    assert f"`{BENCHMARK_COMMAND}`" in part
    facts = [line for line in part.splitlines() if line.startswith("- ")]
    assert facts == [
        "- 2026-11-21, commit abc1234: a processor, 2 cores, 2 threads used; 200,000 users, 50,000 items, "
        "10,000,000 edges. python 3.11.7, torch 2.13.0."
    ]
    assert "has not been run" not in text
    assert text.count("| case |") == 1
    assert text.endswith("<!-- evaluation:end -->\nthe end\n")


def test_the_readme_has_what_has_a_target_and_the_samplers_page_has_all(readme, tmp_path):
    write_rows(tmp_path / DEFAULT_OUT.name, ROWS, DESCRIBED)
    update_pages(tmp_path, tmp_path, {})
    page = (tmp_path / "docs" / "samplers.md").read_text()
    assert page.startswith("words before\n")
    for line in "| one hop, last-K | 2.5 M seeds/s | PyG: 2000 seeds/s | 1250 |", "| compaction | 1.5 s |":
        assert line in page
        assert line not in readme.read_text()
    assert "| one hop, last-K | 2.5 M seeds/s | DGL: 250 k seeds/s | 10 | at least 6 | yes |" in page


def test_the_evaluation_gets_its_table(readme, tmp_path):
    out = tmp_path / EVALUATION_BENCHMARK
    arguments = ["--rows", "5000", "--users", "50", "--repeats", "1", "--cases", "auc", "gauc"]
    evaluation.main([*arguments, "--out", str(out)])
    update_pages(tmp_path, tmp_path, {})
    part = (
        readme.read_text().partition("<!-- evaluation:begin -->")[2].partition("<!-- evaluation:end -->")[0]
    )
    assert f"`{EVALUATION_COMMAND}`" in part
    assert "scikit-learn, loop over users, scaled from a sample of users" in part
    assert part.count("| AUC | 5,000 |") == 1
    assert "| at least 50 |" in part
    assert "Not measured" not in part


def test_training_gets_its_table_on_the_page_of_lsttms_table(readme, tmp_path):
    line = {
        "task": "scoring",
        "model": "LSTTM",
        "rows_per_second": 12_345.6,
        "times_slower": 3.2,
        "times_slower_one_thread": 4.5,
        "share": {"sampling and look-ups": 0.6, "forward": 0.4},
        "date": "2026-11-21",
        "torch": "2.13.0",
        "cpu": "a processor",
    }
    (tmp_path / TRAINING_BENCHMARK).write_text(json.dumps(line) + "\n")
    page = tmp_path / "docs" / "lsttm_table.md"
    page.write_text("before\n<!-- training:begin -->\nNot measured.\n<!-- training:end -->\n")
    update_pages(tmp_path, tmp_path, {})
    row = "| scoring | LSTTM | 12,346 | 3.20 | 4.50 | sampling and look-ups 60%, forward 40% |"
    assert row in page.read_text()
    assert f"`{TRAINING_COMMAND}` on 2026-11-21: a processor, torch 2.13.0." in page.read_text()
    assert "Not measured" not in page.read_text()


def test_a_missing_marker_is_told(readme, tmp_path):
    with pytest.raises(ValueError, match="needs the lines <!-- results:begin -->"):
        put_between("no markers", "results", "", readme)
    write_rows(tmp_path / DEFAULT_OUT.name, ROWS, DESCRIBED)
    page = tmp_path / "docs" / "samplers.md"
    page.write_text(PAGE.replace("<!-- samplers:end -->\n", ""))
    with pytest.raises(ValueError, match="<!-- samplers:end -->"):
        update_pages(tmp_path, tmp_path, {})
    assert readme.read_text() == README  # nothing is written by halves
