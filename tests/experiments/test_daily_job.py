"""The daily job on a slice of KuaiRand: its folder, served hour by hour, scores as the protocol's replay."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments.benchmarks.online import OnlineBenchmark, run_online
from experiments.benchmarks.served_day import compare_served_day
from experiments.config import lsttm_with_preference
from experiments.daily_job import DailyJobConfig, before_day, kuairand_counts, main, run_daily_job
from experiments.inputs import load_inputs
from experiments.preferences import find_exposures
from experiments.protocol import NeuralOnDay
from experiments.tested_day import prepare_day, replay_day
from graphrec.serving import OnlineRanker, open_day_folder
from graphrec.training.batches import rows_between
from graphrec.training.long_term import LongTermConfig, train_long_term
from graphrec.training.loop import OptimizerConfig
from graphrec.training.online import OnlineConfig
from graphrec.training.preference import PreferenceConfig, train_preference
from tests.experiments.kuairand_slice import sliced_log, write_slice

DAY = "2022-05-04"
LONG_TERM = LongTermConfig(num_walks=64, first_steps=4, steps=2, num_neighbors=4)
PREFERENCE = PreferenceConfig(channels=4, num_members=2, epochs=1)
MODEL = replace(
    lsttm_with_preference(),
    preference=PREFERENCE,
    optimizer=OptimizerConfig(epochs=1),
    online=OnlineConfig(learning_rate=0.01, embedding_learning_rate=0.1),
)
FORMS = ("union", "chained")
NUM_HOURS = 9  # of the day that are served: by then users are up


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("daily_job")
    write_slice(root / "data", sliced_log())
    return root


@pytest.fixture(scope="module")
def inputs(root):
    return load_inputs(path=str(root / "data"))


@pytest.fixture(scope="module")
def folders(root, inputs):
    """A day's folder for each form of update: the same training, so the same weights."""
    config = DailyJobConfig(day=DAY, model=MODEL, long_term=LONG_TERM)
    models = {form: replace(MODEL, online=replace(MODEL.online, form=form)) for form in FORMS}
    return {
        form: run_daily_job(replace(config, model=model, output=root / form), inputs=inputs)
        for form, model in models.items()
    }


@pytest.fixture(scope="module")
def replayed(inputs):
    """The protocol's own scores of the day, by form, for a model trained in the same way."""
    day = prepare_day(inputs, DAY)
    graph = inputs.long_term_graph()
    snapshots, _ = train_long_term(
        graph.csrs(),
        graph.num_nodes,
        list(inputs.snapshot_times(day.start)),
        LONG_TERM,
        device=torch.device("cpu"),
    )
    preferences, _ = train_preference(
        find_exposures(inputs),
        {"user": inputs.data.user_fields, "item": inputs.data.item_fields},
        inputs.sizes,
        list(inputs.snapshot_times(day.start)),
        PREFERENCE,
        device=torch.device("cpu"),
    )
    model = NeuralOnDay(
        day,
        MODEL,
        0,
        updates={form: replace(MODEL.online, form=form) for form in FORMS},
        snapshots=snapshots,
        preferences=preferences,
        device=torch.device("cpu"),
    )
    scores = replay_day(day, model, inputs.period)
    rows = rows_between(day.data, day.start, day.end)
    shown = inputs.tables.impressions.slice(int(rows[0]), len(rows))
    return shown.with_columns(**{form: pl.Series(scores[form]) for form in FORMS})


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_serving_scores_as_the_replay_does(inputs, folders, replayed, tmp_path, form):
    start, _ = inputs.bounds(DAY)
    events = inputs.tables.events.frame.filter(pl.col("time") >= start)
    gaps = []
    with OnlineRanker.open(folders[form], state=tmp_path) as ranker:
        assert ranker.period_start == start
        for hour in range(start, start + NUM_HOURS * inputs.period, inputs.period):
            if hour > start:
                ranker.end_period(hour)
            within = (pl.col("time") >= hour) & (pl.col("time") < hour + inputs.period)
            for (user,), rows in replayed.filter(within).group_by("user_id"):
                found = ranker.rank(user, rows["item_id"], {"tab": 1}, hour)
                gaps.append(np.abs(found.score - rows[form].to_numpy()).max())
            # in the order of time: so the events of a period come in the order of the impressions
            ranker.append(events.filter(within).sort("time", maintain_order=True))
    assert len(gaps) > 50
    assert max(gaps) < 2e-5
    # the updates and the later hours have something to show
    later = replayed.filter(pl.col("time") < start + NUM_HOURS * inputs.period)
    assert (later["union"] - later["chained"]).abs().max() > 1e-4


@pytest.mark.slow
def test_the_folder_says_what_it_is_and_is_not_overwritten(root, inputs, folders):
    day = open_day_folder(folders["union"], verify=True)
    start, _ = inputs.bounds(DAY)
    assert (day.config.day, day.config.start, day.config.fingerprint) == (DAY, start, inputs.fingerprint)
    assert max(int(csr.edge_time.max()) for csr in day.short_term_graph().values()) < start
    assert day.counts is not None
    assert day.counts.base.time.max() < start + 3_600_000  # plays that had begun may become known later
    with pytest.raises(FileExistsError, match="remove it first"):
        run_daily_job(DailyJobConfig(day=DAY, output=root / "union", model=MODEL), inputs=inputs)


def test_nothing_of_the_day_is_read(inputs):
    start, _ = inputs.bounds(DAY)
    day, scaler = before_day(inputs, DAY)
    assert int(day.data.impressions.time.max()) < start
    assert int(day.events.frame["time"].max()) < start
    torch.testing.assert_close(scaler.transform(day.raw_dense), day.data.dense)
    with pytest.raises(ValueError, match="no row lies before"):
        before_day(inputs, "2022-04-01")


@pytest.mark.slow
def test_changed_counts_and_models_that_cannot_be_served_are_refused(inputs, tmp_path):
    config = DailyJobConfig(day=DAY, output=tmp_path, model=replace(MODEL, long_term=False))
    changed = replace(inputs, data=replace(inputs.data, dense=inputs.data.dense + 1))
    with pytest.raises(ValueError, match="differ from those of the training data"):
        run_daily_job(config, inputs=changed)
    for options in ({"shuffle_times": True}, {"long_term_trained_on": "all training days"}):
        with pytest.raises(ValueError, match="neither can be served"):
            run_daily_job(replace(config, model=replace(config.model, **options)), inputs=inputs)
    with pytest.raises(ValueError, match="past_counts=False"):
        kuairand_counts(replace(inputs, feature_names=["user:count[shown]"]))
    with pytest.raises(ValueError, match="as of the start of each period"):
        run_daily_job(config, inputs=replace(inputs, as_of="query"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_benchmark_measures_everything_and_leaves_the_folder_as_it_was(inputs, folders):
    start, end = inputs.bounds(DAY)
    events = inputs.tables.events.frame.filter((pl.col("time") >= start) & (pl.col("time") < end))
    folder = folders["union"]
    before = sorted(folder.parent.rglob("*"))
    config = OnlineBenchmark(num_candidates=20, num_requests=16, batch_sizes=(1, 5), num_events=10)
    rows = run_online(folder, events.sort("time", maintain_order=True), config)
    assert sorted(folder.parent.rglob("*")) == before
    assert all(np.isfinite(row["value"]) for row in rows)
    shares = {row["setting"]: row["value"] for row in rows if row["measure"] == "share of a request"}
    assert sum(shares.values()) == pytest.approx(100, abs=0.01)
    assert all(0 < share < 100 for share in shares.values())
    measures = [row["measure"] for row in rows]
    assert measures.count("requests") == measures.count("reopen") == 2
    assert measures.count("events appended, on disk") == 2


@pytest.mark.slow
def test_a_served_day_is_compared_with_the_protocol(inputs, folders):
    rows = compare_served_day(inputs, folders["union"], MODEL)
    found = {(row["measure"], row["setting"]): row["value"] for row in rows}
    for form in ("none", "union"):
        served, offline = (found["AUC of the day", f"{name}, {form}"] for name in ("served", "replay"))
        assert served == pytest.approx(offline, abs=1e-4)
        assert found["largest difference of probabilities", form] < 2e-5
    # the update is seen in both
    assert abs(found["AUC of the day", "served, union"] - found["AUC of the day", "served, none"]) > 1e-6
    with pytest.raises(ValueError, match="made with another configuration"):
        compare_served_day(inputs, folders["union"], replace(MODEL, channels=8))
    with pytest.raises(ValueError, match="made from other data"):
        compare_served_day(replace(inputs, fingerprint="other"), folders["union"], MODEL)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"day": "yesterday"}, "'yesterday' is no day: write one such as '2022-05-08'"),
        ({"day": "2030-01-01"}, "2030-01-01 is too late: the last impressions are of 2022-05-0"),
        ({"day": DAY, "epochs": -1}, "OptimizerConfig.epochs must be a whole number of at least 0"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(inputs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run_daily_job(DailyJobConfig(**options, output=tmp_path), inputs=inputs)


@pytest.mark.slow
def test_command_line(root, capsys):
    arguments = [
        "--day",
        DAY,
        "--data",
        str(root / "data"),
        "--output",
        str(root / "command"),
        "--epochs",
        "1",
    ]
    # a small model without the long-term graph and without counts is served too
    options = ["--model.no-long-term", "--model.no-past-counts", "--model.short-term.num-neighbors", "2"]
    options.append("model.preference:none")  # a choice among configurations, behind all options
    assert main([*arguments, *options]) == 0
    assert "ready after" in capsys.readouterr().out
    with OnlineRanker.open(root / "command" / DAY) as ranker:
        user, item = (ranker.day.ids[name].id_series[0] for name in ("user", "item"))
        assert 0 < ranker.rank(user, [item], {}, ranker.period_start).score[0] < 1
    assert main([*arguments, *options]) == 2
    assert "remove it first" in capsys.readouterr().err


@pytest.mark.slow
def test_the_snippet_of_the_page_runs(folders, tmp_path, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert "runs/daily/2022-05-08" in code
    shutil.copytree(folders["union"], tmp_path / "day")
    exec(code.replace("runs/daily/2022-05-08", str(tmp_path / "day")), {})
    score, order = re.findall(r"\[(.*?)\]", capsys.readouterr().out)
    assert all(0 < float(value) < 1 for value in score.split())
    assert sorted(order.split()) == ["0", "1", "2"]
