"""The main job on a slice of KuaiRand: its files, and the same figures after kills as without."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments.config import LSTTMConfig, MainConfig, demo, lsttm_literal
from experiments.inputs import HOUR, load_inputs
from experiments.main_job import run_main
from experiments.protocol import ShortTermGraphs, make_model, prepare_day, shuffle_times
from graphrec.training.batches import ShortTermConfig, collate
from graphrec.training.long_term import LongTermConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

DAY = "2022-05-04"
LONG_TERM = LongTermConfig(num_walks=64, first_steps=4, steps=2, num_neighbors=4)
MODELS = ("LSTTM", "boosted trees")


def config(folder):
    return MainConfig(
        table="slice", test_days=(DAY,), seeds=(0,), models=MODELS, long_term=LONG_TERM, data=str(folder)
    )


def run(root, *, resume=False, work="work"):
    """Run on the slice under ``root``."""
    return run_main(
        config(root / "data"),
        resume=resume,
        results=root / work / "results",
        work=root / work,
        progress=False,
    )


def run_and_kill(root, work, saves):
    """In another process: die as soon as the checkpoint of that number has been written."""
    code = (
        "import os, pathlib, signal, sys\n"
        "from graphrec.training import checkpoint, long_term, loop\n"
        "left = [int(sys.argv[2])]\n"
        "def save(path, state):\n"
        "    checkpoint.save_checkpoint(path, state)\n"
        "    left[0] -= 1\n"
        "    if not left[0]:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "long_term.save_checkpoint = loop.save_checkpoint = save\n"
        "from tests.experiments.test_main_job import run\n"
        "run(pathlib.Path(sys.argv[1]), resume=True, work=sys.argv[3])\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(root), str(saves), work],
        cwd=Path(__file__).parents[2],
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()


def figures(root, work):
    """Every row of the tables, and every part's curve and scores, but not the seconds that they took."""
    rows = []
    for file in ("slice.jsonl", "slice.tests.jsonl"):
        lines = (root / work / "results" / file).read_text().splitlines()
        rows += [json.loads(line) for line in lines if "seconds_a_day" not in line]
    for file in sorted((root / work / "parts").iterdir()):
        if file.suffix == ".json":
            rows.append({name: v for name, v in json.loads(file.read_text()).items() if name != "seconds"})
        else:
            rows.append(pl.read_parquet(file).to_dict(as_series=False))
    return rows


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("main_job")
    write_slice(root / "data", sliced_log())
    return root


@pytest.fixture(scope="module")
def undisturbed(root):
    return run(root)


@pytest.fixture(scope="module")
def day(root):
    return prepare_day(load_inputs(path=str(root / "data")), DAY)


@pytest.mark.slow
def test_writes_tables_scores_and_a_page(root, undisturbed):
    assert all(path.exists() for path in undisturbed)
    html = undisturbed.html.read_text()
    rows = figures(root, "work")
    shown = {"LSTTM", "LSTTM, updated (union)", "boosted trees"}
    values = [row for row in rows if "value" in row]  # the others are tests
    auc = {row["model"]: row["value"] for row in values if (row["metric"], row["slice"]) == ("auc", "all")}
    assert set(auc) == shown
    assert all(0.5 < value < 1 for value in auc.values())
    assert all(name in html for name in MODELS)
    log = sliced_log().unique(["user_id", "video_id", "time_ms", "tab"])
    start = 1_651_593_600_000  # 2022-05-04, 00:00 in UTC+8
    on_day = (pl.col("time_ms") >= start) & (pl.col("time_ms") < start + 24 * HOUR) & (pl.col("tab") == 1)
    assert {r["n"] for r in rows if "value" in r and (r["metric"], r["slice"]) == ("auc", "all")} == {
        log.filter(on_day).height
    }
    parts = [pl.read_parquet(path) for path in (root / "work" / "parts").glob("*.parquet")]
    assert len(parts) == 2
    for part in parts:
        assert part["label"].sum() == log.filter(on_day)["is_click"].sum()
        scores = part.select(pl.col("^score_.*$"))
        assert all(0 < column.min() <= column.max() < 1 for column in scores)
    assert not list((root / "work" / "checkpoints").glob("*.pt"))  # a finished part needs none


@pytest.mark.slow
def test_killed_runs_resume_to_the_same_figures(root, undisturbed):
    num_days = 10  # of the long-term module, a checkpoint each; the next one is LSTTM's last
    run_and_kill(root, "killed", 4)
    assert not (root / "killed" / "parts").exists()
    run_and_kill(root, "killed", num_days - 4 + 1)
    assert [path.name[:5] for path in (root / "killed" / "checkpoints").glob("*.pt")] == ["LSTTM"]
    run(root, resume=True, work="killed")
    assert figures(root, "killed") == figures(root, "work")


@pytest.mark.slow
def test_resume_refuses_another_configuration_and_unknown_models(root, undisturbed):
    other = replace(config(root / "data"), seeds=(0, 1))
    options = {"results": root / "work" / "results", "work": root / "work", "progress": False}
    with pytest.raises(ValueError, match="another configuration"):
        run_main(other, resume=True, **options)
    with pytest.raises(ValueError, match="no models \\['LSTMM'\\]"):
        run_main(replace(other, models=("LSTMM",)), **options)
    assert (root / "work" / "parts").exists()


def test_scaler_and_rows_end_at_the_day(day):
    time = day.data.impressions.time
    assert int(time.max()) < day.end == day.start + 24 * HOUR
    assert int(time.min()) < day.start
    assert int(day.events.frame["time"].max()) < day.end


def test_graph_grows_hour_by_hour(day):
    graphs = ShortTermGraphs(day, LSTTMConfig())
    frame = day.events.frame.filter(
        pl.col("domain").cast(pl.String) != "early",
        pl.col("behavior").cast(pl.String).is_in(["click", "skip"]),
    )
    before = graphs.before_day()
    for time in (day.start, day.start + 5 * HOUR, day.start + 20 * HOUR):
        csrs = graphs.before(time)
        users = [csr for edge_type, csr in csrs.items() if edge_type[2] == "user"]
        assert max(int(csr.edge_time.max()) for csr in users) < time
        assert sum(csr.num_edges for csr in users) == frame.filter(pl.col("time") < time).height
        assert len(csrs) == 8
    assert sum(csr.num_edges for csr in before.values()) < sum(csr.num_edges for csr in csrs.values())


def test_shuffled_times_keep_the_edges(day):
    events = day.events
    shuffled = shuffle_times(events)
    assert shuffled.frame.drop("time", "available_time").equals(events.frame.drop("time", "available_time"))
    assert sorted(shuffled.frame["time"]) == sorted(events.frame["time"])
    assert (shuffled.frame["time"] != events.frame["time"]).mean() > 0.9


def test_literal_lsttm_scores_a_batch(day):
    model_config = replace(lsttm_literal(), short_term=ShortTermConfig(num_neighbors=3))
    graphs = ShortTermGraphs(day, model_config)
    assert len(graphs.before_day()) == 2
    data = replace(day.data, dense=day.data.dense[:, :0], short_term=model_config.short_term)
    model = make_model(replace(model_config, long_term=False), data, day.inputs, 0)
    logit = model(collate(data.with_graph(graphs.before_day()), torch.arange(50)))
    assert np.isfinite(logit.detach().numpy()).all()


def test_demo_is_one_seed_of_the_last_day():
    assert demo().test_days == MainConfig().test_days[-1:]
    assert demo().seeds == (0,)
