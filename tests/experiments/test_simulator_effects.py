"""The command of the simulated effects on tiny worlds: parts are kept, figures are those of the scores."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from experiments import effects_report
from experiments.effects_report import draw_gain_by_hour, effects_tables, standard_error, update_page
from experiments.results_table import ResultRow
from experiments.simulator_effects import (
    DEEPFM,
    EFFECTS,
    FULL,
    INTERNAL,
    LONG_TERM,
    MAIN_EFFECT,
    MODELS,
    ORACLE,
    PLAIN,
    RUN,
    UPDATED,
    WORLD,
    EffectsConfig,
    _external_events_shuffled,
    _World,
    run_effects,
)
from graphrec.training.loop import OptimizerConfig

TINY = replace(
    WORLD,
    num_days=3,
    num_users=60,
    num_items=40,
    num_external_items=30,
    num_impressions=1_800,
    num_external_events=600,
    num_topics=4,
    trends_per_day=2,
)
WORLDS = {"default strengths": TINY, "trend 0": replace(TINY, trend=0.0)}
FAST = OptimizerConfig(epochs=1)


def tiny_model(model):
    config = replace(model.config, optimizer=FAST)
    if config.meta is not None:
        meta = replace(config.meta, support=256, query=256, least_rows=100)
        config = replace(config, meta=meta, plain_first=FAST)
    return replace(model, config=config)


TINY_MODELS = {name: tiny_model(model) for name, model in MODELS.items()}
TINY_LONG_TERM = replace(LONG_TERM, num_walks=16, first_steps=2, steps=1)


def run(
    folder, models=(DEEPFM, PLAIN, FULL), only_tables=False, tiny=TINY_MODELS, worlds=("default strengths",)
):
    finished = []
    rows = run_effects(
        EffectsConfig(seeds=(0,), worlds=worlds, models=models, only_tables=only_tables),
        work=folder / "work",
        results=folder,
        worlds=WORLDS,
        models=tiny,
        long_term=TINY_LONG_TERM,
        warm_up_days=1,
        on_part=finished.append,
    )
    return rows, finished


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effects")
    return folder, *run(folder)


def value(rows, model, part, metric, data="simulated, default strengths", seed=0):
    (found,) = [
        row.value
        for row in rows
        if (row.model, row.slice, row.metric, row.data, row.seed) == (model, part, metric, data, seed)
    ]
    return found


def test_every_part_is_computed_once_and_kept(done):
    folder, rows, finished = done
    assert len(finished) == 3
    again, nothing = run(folder)
    assert nothing == []
    assert again == rows
    config = replace(TINY_MODELS[DEEPFM].config, dropout=0.2)
    changed = {**TINY_MODELS, DEEPFM: replace(TINY_MODELS[DEEPFM], config=config)}
    _, finished = run(folder, tiny=changed)
    assert finished == [f"default strengths, seed 0: {DEEPFM}"]
    assert run(folder, only_tables=True) == (rows, [])


def test_a_part_of_other_defaults_is_trained_again(tmp_path):
    run(tmp_path, models=(DEEPFM,))
    (facts,) = (tmp_path / "work" / "parts").glob("*.json")
    assert '"num_topics": 4' in facts.read_text()
    facts.write_text(facts.read_text().replace('"mood_hours": 5.0', '"mood_hours": 6.0'))
    assert run(tmp_path, models=(DEEPFM,), only_tables=True) == ([], [])
    assert len(run(tmp_path, models=(DEEPFM,))[1]) == 1


def test_figures_are_those_of_the_scores(done):
    folder, rows, _ = done
    frames = [pl.read_parquet(path) for path in (folder / "work" / "parts").glob("*.parquet")]
    oracle = value(rows, ORACLE, "all", "auc")
    truth = {round(roc_auc_score(f["label"].to_numpy(), f["probability"].to_numpy()), 12) for f in frames}
    assert round(oracle, 12) in truth
    assert len(truth) == 1  # every model was scored on the same rows
    by_hour = []
    for frame in frames:
        aucs = [
            roc_auc_score(part["label"].to_numpy(), part["none"].to_numpy())
            for part in frame.partition_by("hour")
            if part["label"].n_unique() == 2
        ]
        by_hour.append(round(float(np.mean(aucs)), 12))
    assert round(value(rows, PLAIN, "mean of hours", "auc"), 12) in by_hour


def test_effects_are_differences_and_shares_of_the_gap(done):
    _, rows, _ = done
    gap = value(rows, ORACLE, "mean of hours", "auc") - value(rows, DEEPFM, "mean of hours", "auc")
    computed = {effect: pair for effect, pair in EFFECTS.items() if {*pair} <= {row.model for row in rows}}
    assert len(computed) == 3
    for effect, (better, reference) in computed.items():
        gain = value(rows, better, "mean of hours", "auc") - value(rows, reference, "mean of hours", "auc")
        assert value(rows, effect, "all", "auc gain") == pytest.approx(gain)
        assert value(rows, effect, "all", "share of the gap") == pytest.approx(gain / gap)
        hours = [row.value for row in rows if row.model == effect and row.slice.startswith("hour=")]
        assert np.mean(hours) == pytest.approx(gain)
    assert value(rows, UPDATED.format(PLAIN), "mean of hours", "auc") != value(
        rows, PLAIN, "mean of hours", "auc"
    )


def test_what_is_not_finished_is_left_out(tmp_path):
    both = tuple(WORLDS)
    rows, finished = run(tmp_path, models=(DEEPFM,), worlds=both)
    assert finished == [f"{world}, seed 0: {DEEPFM}" for world in both]
    assert {row.model for row in rows} == {DEEPFM, UPDATED.format(DEEPFM), ORACLE}
    assert {row.data for row in rows} == {f"simulated, {world}" for world in both}
    assert run(tmp_path, models=(DEEPFM, FULL), worlds=both, only_tables=True) == (rows, [])


def test_a_world_trains_what_it_is_asked_about(tmp_path):
    models = (DEEPFM, INTERNAL)
    _, finished = run(tmp_path, models=models, worlds=("trend 0",))
    assert finished == [f"trend 0, seed 0: {DEEPFM}"]


def test_days_of_warm_up_are_in_the_graph_and_not_trained_on():
    whole, short = (_World(TINY, 0, TINY_LONG_TERM, Path(), days) for days in (0, 1))
    all_rows, rows = (world.day().data.impressions.time for world in (whole, short))
    start = int(all_rows[0]) // 86_400 * 86_400
    assert rows.tolist() == all_rows[all_rows >= start + 86_400].tolist()
    assert len(rows) < len(all_rows)
    assert short.day().inputs.graph.num_edges == whole.day().inputs.graph.num_edges
    assert short.click_probability().tolist() == whole.click_probability()[-len(rows) :].tolist()
    assert short.day().raw_dense.nan_to_num(-1).equal(whole.day().raw_dense[-len(rows) :].nan_to_num(-1))
    first_day = short.snapshots(None)
    assert first_day.time.tolist() == [start + 86_400, start + 2 * 86_400]


def test_the_long_term_graph_can_have_internal_clicks_alone(tmp_path):
    rows, _ = run(tmp_path, models=(INTERNAL,))
    other = replace(TINY_MODELS[INTERNAL], domains=None)
    all_domains, _ = run(tmp_path, models=(INTERNAL,), tiny={**TINY_MODELS, INTERNAL: other})
    assert value(rows, INTERNAL, "all", "auc") != value(all_domains, INTERNAL, "all", "auc")


def test_shuffled_external_events_keep_all_numbers_of_events():
    world = _World(TINY, 0, TINY_LONG_TERM, Path(), 1)
    inputs = world.day().inputs
    shuffled = _external_events_shuffled(inputs, 0)
    assert shuffled.graph.num_nodes == inputs.graph.num_nodes
    for edge_type, csr in inputs.graph.csrs().items():
        other = shuffled.graph.csrs()[edge_type]
        assert csr.rowptr.tolist() == other.rowptr.tolist()
        assert (csr.col.tolist() == other.col.tolist()) == ("external" not in edge_type[1])
    one, other = (world.snapshots(None, shuffled) for shuffled in (False, True))
    assert not one.vectors["user"].equal(other.vectors["user"])


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"no worlds \['trend 1'\]"):
        EffectsConfig(worlds=("trend 1",))
    with pytest.raises(ValueError, match=r"no models \['FM'\]"):
        EffectsConfig(models=("FM",))


def made_up(gains=(0.01, 0.03), growth=0.02):
    """Rows of two seeds whose gain rises by ``growth``, and half as much more, from hours 0-8 to 16-24."""
    rows = []
    for seed, gain in enumerate(gains):
        data = "simulated, default strengths"
        rows.append(ResultRow(RUN, PLAIN, data, seed, "mean of hours", "auc", 0.7 + seed / 10, 100))
        rows.append(ResultRow(RUN, MAIN_EFFECT, data, seed, "all", "auc gain", gain, 100))
        rows.append(ResultRow(RUN, MAIN_EFFECT, data, seed, "all", "share of the gap", 10 * gain, 100))
        rows += [
            ResultRow(
                RUN,
                MAIN_EFFECT,
                data,
                seed,
                f"hour={hour:02d}",
                "auc gain",
                gain + growth * (1 + seed / 2) * (hour // 8) / 2,
                100,
            )
            for hour in range(24)
        ]
    return rows


def test_the_tables_have_means_and_standard_errors():
    text = effects_tables(made_up())
    assert "SIMULATED" in text
    assert f"| {PLAIN} | 0.7500 ± 0.0500 |" in text
    assert f"| {MAIN_EFFECT} | +0.0200 ± 0.0100 (20.0 ± 10.0 %), t 2.0 |" in text
    assert "hours 16 to 24 less hours 0 to 8: default strengths: +0.0250 ± 0.0050, t 5.0." in text
    assert "| temporal MAML, both updated hourly | not run |" in text
    assert np.isnan(standard_error([1.0]))


def test_the_oracle_is_the_last_of_the_models():
    data = "simulated, default strengths"
    rows = [ResultRow(RUN, name, data, 0, "mean of hours", "auc", 0.7, 9) for name in (ORACLE, FULL, DEEPFM)]
    lines = effects_tables(rows).splitlines()
    places = [lines.index(f"| {name} | 0.7000 |") for name in (DEEPFM, FULL, ORACLE)]
    assert places == sorted(places)


def test_the_page_and_the_figure(tmp_path):
    page, figure = tmp_path / "simulator.md", tmp_path / "effects.svg"
    page.write_text("before\n<!-- simulator-effects:begin -->\nold\n<!-- simulator-effects:end -->\nafter\n")
    update_page(made_up(), page, figure)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert PLAIN in text
    first = figure.read_bytes()
    assert b"<svg" in first
    draw_gain_by_hour(made_up(growth=0.05), figure)
    assert figure.read_bytes() != first
    with pytest.raises(ValueError, match="no part is finished"):
        update_page([], page, figure)


def test_the_command_makes_tables_of_finished_parts_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(effects_report, "RESULTS", tmp_path)
    assert effects_report.main(["--only-tables"]) == 2
    assert "no part is finished" in capsys.readouterr().err
