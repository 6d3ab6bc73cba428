"""The command line: what it prints and writes, its exit status, and that --help needs no heavy library."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from graphrec import cli
from graphrec.evaluation import ReadOptions
from graphrec.evaluation.ctr import BinStrategy
from graphrec.evaluation.reading import options as reading_options

NUM_ROWS = 3000
# the package's function of this name hides its module
evaluate_module = sys.modules["graphrec.evaluation.evaluate"]
FAST = ("--resamples", "20")


def start(command, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        command, capture_output=True, text=True, env=kept | environment, timeout=200, check=False
    )


def run(*arguments, **environment):
    return start(
        [sys.executable, "-m", "graphrec", *map(str, arguments)], PYTHONWARNINGS="error", **environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(3)
    logit = generator.normal(size=NUM_ROWS)
    frame = pl.DataFrame(
        {
            "click": (generator.random(NUM_ROWS) < 1 / (1 + np.exp(-logit))).astype(np.int64),
            "p": 1 / (1 + np.exp(-logit)),
            "q": 1 / (1 + np.exp(-logit - generator.normal(size=NUM_ROWS))),
            "user_id": generator.integers(0, 100, NUM_ROWS),
            "time_ms": 1_651_593_600_000 + np.sort(generator.integers(0, 86_400_000, NUM_ROWS)),
            "tab": generator.integers(0, 4, NUM_ROWS),
        }
    )
    frame.drop("q").write_parquet(folder / "p.parquet")
    frame[:1000].drop("q").write_parquet(folder / "part1.parquet")
    frame[1000:].drop("q").write_parquet(folder / "part2.parquet")
    frame.drop("p").write_csv(folder / "other.csv")
    frame.with_columns(p=pl.col("p") + 1).write_parquet(folder / "wrong.parquet")
    return folder


@pytest.fixture(scope="module")
def finished(folder):
    return run(
        "evaluate", folder / "p.parquet", "--label", "click", "--score", "p", "--score", "q",
        "--user", "user_id", "--time", "time_ms", "--by", "tab", "--by", "hour",
        "--against", folder / "other.csv", "--html", folder / "e.html",
        "--json", folder / "e.json", "--markdown", folder / "e.md", *FAST,
    )  # fmt: skip


def test_prints_guesses_tables_and_verdicts_in_this_order(finished, folder):
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    text = finished.stdout
    order = ["hours of UTC", "All rows: Ranking", "By tab", "Are the differences real?", "the highest AUC"]
    places = [text.index(part) for part in [*order, "Page:"]]
    assert places == sorted(places)
    assert "\x1b" not in text
    assert "…" not in text


def test_prints_and_writes_the_same_figures(finished, folder):
    content = json.loads((folder / "e.json").read_text())
    figures = {(f["model"], f["slice"], f["metric"]): f for f in content["figures"]}
    assert {key[0] for key in figures} == {"p", "q"}
    auc = figures["p", "all", "auc"]
    for text in (finished.stdout, (folder / "e.html").read_text(), (folder / "e.md").read_text()):
        assert f"{auc['value']:.4f}" in text
        assert f"{auc['lower']:.4f} to {auc['upper']:.4f}" in text
    assert {key[1] for key in figures} >= {"tab=0", "tab=3", "hour=00", "hour=23"}
    assert not [key for key in figures if key[1].startswith("day=")]  # only what --by names
    assert content["facts"]["rows"] == NUM_ROWS


def test_parts_and_the_whole_have_the_same_figures(folder):
    whole = run("evaluate", folder / "p.parquet", "--json", "-", *FAST)
    parts = run("evaluate", folder / "part1.parquet", folder / "part2.parquet", "--json", "-", *FAST)
    assert whole.returncode == parts.returncode == 0, parts.stderr
    assert json.loads(whole.stdout)["figures"] == json.loads(parts.stdout)["figures"]


@pytest.mark.parametrize("columns", ["80", "200"])
def test_width_is_that_of_the_terminal(folder, columns):
    found = run("evaluate", folder / "p.parquet", "--by", "tab", *FAST, COLUMNS=columns)
    tables = found.stdout[found.stdout.index("All rows") :]
    assert max(map(len, tables.splitlines())) <= int(columns)
    assert "…" not in tables


def test_quiet_writes_its_file_and_prints_nothing(folder, tmp_path):
    found = run("evaluate", folder / "p.parquet", "--quiet", "--json", tmp_path / "e.json", *FAST)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert json.loads((tmp_path / "e.json").read_text())["models"] == ["p"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.parquet"], "absent.parquet"),
        (["p.parquet", "--label", "clicks"], "click"),
        (["p.parquet", "--by", "tabs"], "tabs"),
        (["p.parquet", "--against", "part1.parquet"], "rows"),
        (["wrong.parquet", "--score", "p"], "--score-kind"),
        (["p.parquet", "--time-zone", "Mars/Olympus"], "Mars/Olympus"),
        (["p.parquet", "--html", "no_folder/e.html"], "no folder"),
        (["p.parquet", "--html", "."], "is a folder"),
        (["p.parquet", "--quiet"], "name a file"),
        (["p.parquet", "--json", "-", "--markdown", "-"], "one of"),
        (["p.parquet", "--graph", "no_graph"], "no_graph"),
    ],
)
def test_a_wrong_input_is_one_message_and_status_2(folder, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    assert cli.main(["evaluate", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.out == ""
    assert sorted(folder.iterdir()) == before


def test_no_traceback_reaches_the_user(folder):
    found = run("evaluate", folder / "absent.parquet")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["evaluate"], "PREDICTIONS"),
        (["evaluate", "p", "--k", "0"], "at least 1"),
        (["evaluate", "p", "--bins", "many"], "whole number"),
        (["evaluate", "p", "--positive-threshold", "nan"], "wanted a number"),
        (["evaluate", "p", "--score-kind", "odds"], "probability"),
        (["evaluate", "p", "--labe", "click"], "--labe"),
    ],
)
def test_wrong_options_are_told_with_status_2(capsys, arguments, message):
    with pytest.raises(SystemExit) as raised:
        cli.main(arguments)
    assert raised.value.code == 2
    assert message in capsys.readouterr().err


def test_a_stop_by_the_user_is_status_130(folder, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_module, "evaluate", stop)
    assert cli.main(["evaluate", str(folder / "p.parquet")]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_every_option_reaches_the_evaluation(folder, monkeypatch):
    seen = {}

    def note(source, **options):
        seen.update(options, source=source)
        raise ValueError("seen")

    monkeypatch.setattr(evaluate_module, "evaluate", note)
    arguments = """a b --label l --score s1 --score s2 --user u --time t --request r --item i --history h
        --by x --by hour --key k1 --key k2 --against c --against d --time-zone Asia/Shanghai --time-unit us
        --period-seconds 60 --score-kind logit --positive-threshold 3.5 --graph g --max-values 7
        --memory-limit-gib 1.5 --k 3 --bins 4 --bin-strategy width --resamples 5 --random-seed 6"""
    assert cli.main(["evaluate", *arguments.split()]) == 2
    assert seen["columns"] == ReadOptions(
        label="l", score=("s1", "s2"), user="u", time="t", request="r", item="i", history="h",
        by=("x", "hour"), key=("k1", "k2"), time_zone="Asia/Shanghai", time_unit="us", period_seconds=60,
        score_kind="logit", positive_threshold=3.5, max_values=7, memory_limit_gib=1.5,
    )  # fmt: skip
    assert (seen["source"], seen["against"], str(seen["graph"])) == (["a", "b"], ["c", "d"], "g")
    figures = ("k", "num_bins", "bin_strategy", "num_resamples", "random_seed")
    assert [seen[name] for name in figures] == [3, 4, "width", 5, 6]


def test_options_have_the_reader_s_choices_defaults_and_names():
    assert get_args(reading_options.TimeUnit) == cli.TIME_UNITS
    assert get_args(reading_options.ScoreKind) == cli.SCORE_KINDS
    assert get_args(BinStrategy) == cli.BIN_STRATEGIES
    parsed = vars(cli._parser().parse_args(["evaluate", "p"]))
    for field in fields(ReadOptions):
        value = parsed[field.name]
        assert (tuple(value) if isinstance(value, list) else value) == field.default, field.name


def test_help_names_every_option_and_loads_no_heavy_library():
    heavy = ("torch", "matplotlib", "sklearn", "pandas", "polars", "numba", "numpy", "rich")
    code = (
        "import sys; from graphrec import cli\n"
        "try: cli.main(['evaluate', '--help'])\n"
        f"finally: print('LOADED', [name for name in {heavy} if name in sys.modules])"
    )
    found = start([sys.executable, "-c", code])
    assert found.returncode == 0, found.stderr
    assert "LOADED []" in found.stdout
    for field in fields(ReadOptions):
        assert "--" + field.name.replace("_", "-") in found.stdout


def test_an_evaluation_loads_no_torch_sklearn_pandas_and_without_a_page_no_matplotlib(folder, tmp_path):
    code = (
        "import sys; from graphrec import cli\n"
        f"status = cli.main(['evaluate', {str(folder / 'p.parquet')!r}, '--quiet', '--resamples', '20', "
        f"'--json', {str(tmp_path / 'e.json')!r}])\n"
        "heavy = ('torch', 'sklearn', 'pandas', 'matplotlib')\n"
        "print(status, [name for name in heavy if name in sys.modules])"
    )
    found = start([sys.executable, "-c", code])
    assert found.stdout.strip() == "0 []", found.stderr


@pytest.mark.parametrize("option", ["--json", "--markdown", "--html"])
def test_an_output_never_takes_the_place_of_an_input(folder, tmp_path, monkeypatch, capsys, option):
    def never(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setattr(evaluate_module, "evaluate", never)
    for name in ("part1.parquet", "part2.parquet", "other.csv"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "link.html").symlink_to(tmp_path / "part2.parquet")
    monkeypatch.chdir(tmp_path)
    for inputs, output in (
        (["part1.parquet"], "part1.parquet"),
        (["part1.parquet"], tmp_path / "part1.parquet"),
        (["part1.parquet", "part2.parquet"], "link.html"),
        (["part1.parquet", "--against", "other.csv"], "./other.csv"),
        (["*.parquet"], "part2.parquet"),
        ([str(tmp_path)], "other.csv"),
    ):
        assert cli.main(["evaluate", *inputs, option, str(output)]) == 2
        assert f"{option} {Path(output)} would overwrite" in capsys.readouterr().err
    assert (tmp_path / "part1.parquet").read_bytes() == (folder / "part1.parquet").read_bytes()


def test_two_outputs_are_two_files(folder, tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "e.json")
    arguments = ["evaluate", str(folder / "p.parquet"), "--json", str(tmp_path / "e.json")]
    assert cli.main([*arguments, "--html", str(tmp_path / "link")]) == 2
    assert "are one file" in capsys.readouterr().err
    assert not (tmp_path / "e.json").exists()


def test_devices_and_open_streams_are_written_to(folder):
    found = run(
        "evaluate", folder / "p.parquet", "--quiet", "--json", "/dev/stdout", "--html", "/dev/null", *FAST
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["models"] == ["p"]
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize(
    ("name", "score", "form"),
    [("p.parquet", "p", "cat {}"), ("other.csv", "q", "cat {}"), ("other.csv", "q", "gzip -c {}")],
)
def test_predictions_come_through_a_pipe(folder, tmp_path, name, score, form):
    program = f"{sys.executable} -m graphrec evaluate"
    send = form.format(folder / name)
    rest = f"--score {score} --quiet --resamples 0 --json -"
    (tmp_path / "rest").mkdir()
    found = run("evaluate", folder / name, *rest.split())
    assert found.returncode == 0, found.stderr
    whole = json.loads(found.stdout)
    for command in (f"{program} <({send}) {rest}", f"{send} | {program} - {rest}"):
        found = start(["bash", "-c", command], TMPDIR=str(tmp_path / "rest"))
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)["figures"] == whole["figures"]
        assert not list((tmp_path / "rest").iterdir())


def test_a_report_that_cannot_be_written_is_printed_all_the_same(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "disk full")))
    path = tmp_path / "e.html"
    assert cli.main(["evaluate", str(folder / "p.parquet"), "--html", str(path), "--resamples", "0"]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {path} cannot be written: disk full\n"
    assert "All rows: Ranking" in captured.out
    assert "Page:" not in captured.out


def test_help_says_what_slices_by_the_history_of_items_need(capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option, words in (
        ("--item COLUMN", "without which --graph has no slices by the history of items"),
        ("--history COLUMN", "items need --graph and --item"),
        ("--graph FOLDER", "with --item, of items"),
    ):
        assert words in text[text.rindex(option) :][:220]


def test_a_reader_that_stops_early_is_no_error(folder):
    command = (
        f"{sys.executable} -m graphrec evaluate {folder / 'p.parquet'} --resamples 20 --json - | head -c 20"
    )
    found = start(["bash", "-c", f"set -o pipefail; {command}"])
    assert found.stderr == ""
    assert found.returncode == 0
