"""The encoders' table on a slice of KuaiRand-Pure: every encoder in every way, choice of rates, tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from experiments import encoders_table, task_figures
from experiments.config import LSTTMConfig, lsttm_with_preference
from experiments.daily_job import DailyJobConfig, run_daily_job
from experiments.encoders_report import CLICKS, FAMILIES, GROUPED, PAST_EVENTS, update_encoders_page
from experiments.encoders_table import (
    COUNTED,
    KINDS,
    ROWS,
    WITHOUT,
    EncoderRow,
    EncodersConfig,
    EncodersTable,
    auc_of_groups,
)
from experiments.inputs import load_inputs
from experiments.peak_memory import RESET
from experiments.protocol import NeuralOnDay, prepare_day
from experiments.results_table import read_lines
from experiments.user_encoder_training import encoded_users, trained_encoder, training_queries
from experiments.user_encoders import LEARNING, JoinedFeatures
from graphrec.encoders.heatmap_cnn import HeatmapEncoder
from graphrec.evaluation import gauc, group_codes
from graphrec.training.loop import OptimizerConfig
from graphrec.training.preference import PreferenceConfig
from graphrec.training.pretraining import PretrainingConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

CPU = torch.device("cpu")
FEW = OptimizerConfig(epochs=1, batch_size=64)
SMALL = {
    "heatmap CNN": replace(KINDS["heatmap CNN"], narrower=32, pretraining=FEW),
    "UserBERT": replace(
        KINDS["UserBERT"],
        pretraining=PretrainingConfig(epochs=1, batch_size=64),
        channels=8,
        num_blocks=1,
        max_words=4,
    ),
    "SMEN": replace(
        KINDS["SMEN"], item_epochs=1, epochs=1, num_interests=6, num_anchors=2, channels=4, fields=()
    ),
    "DUPN": replace(KINDS["DUPN"], channels=8, num_behaviors=5, pretraining=FEW),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_slice(tmp_path_factory.mktemp("encoders") / "data", sliced_log())


@pytest.fixture(scope="module")
def day(folder):
    return prepare_day(load_inputs(path=folder), "2022-05-04")


def trained(day, config, **options):
    return trained_encoder(
        day.inputs,
        config,
        until=day.start,
        scored_until=day.end,
        random_seed=0,
        device=CPU,
        **options,
    )


@pytest.fixture(scope="module", params=SMALL)
def ways(request, day, tmp_path_factory):
    """An encoder in each way to learn, and the folder of what is kept."""
    kept = tmp_path_factory.mktemp("kept")
    config = SMALL[request.param]
    return {way: trained(day, replace(config, learning=way), folder=kept) for way in LEARNING}, kept, config


def test_pretraining_moves_the_weights_and_is_done_once(ways, day):
    found, kept, config = ways
    weights = {way: dict(found[way].encoder.named_parameters()) for way in ("end to end", "fine-tuned")}
    moved = [
        name for name, one in weights["fine-tuned"].items() if not one.equal(weights["end to end"][name])
    ]
    assert moved, "the pre-training changed nothing"
    assert all(p.requires_grad for one in weights.values() for p in one.values())
    assert list(found["frozen"].encoder.parameters()) == []
    assert found["frozen"].earlier_seconds > 0, "the weights of the fine-tuned row are read"
    again = trained(day, replace(config, learning="fine-tuned"))
    for name, one in again.encoder.named_parameters():
        assert torch.equal(one, weights["fine-tuned"][name]), "kept and new ones are the same"
    assert len(list(kept.glob("*.pt"))) in (1, 2)


def test_frozen_vectors_are_those_of_the_pretrained_weights(ways, day):
    found, _, _ = ways
    shown = day.inputs.data.impressions
    row = (shown.time < day.end).nonzero()[-50:, 0]
    user, time = shown.user[row], day.inputs.data.as_of[row]
    encoder, table = found["fine-tuned"].encoder.eval(), found["frozen"].encoder
    with torch.no_grad():
        wanted = encoder(
            encoder.prepare(encoded_users(day.inputs, encoder, KINDS["DUPN"]).reader.read(user, time))
        )
        vector = table(table.prepare(encoded_users(day.inputs, table, KINDS["DUPN"]).reader.read(user, time)))
    torch.testing.assert_close(vector, wanted, rtol=1e-4, atol=1e-5)
    assert len(vector.unique(dim=0)) > 5
    with pytest.raises(ValueError, match="no vector was computed"):
        table.prepare(
            encoded_users(day.inputs, table, KINDS["DUPN"]).reader.read(user, torch.full_like(time, day.end))
        )


def test_what_an_encoder_is_fitted_on_lies_before_the_test_day(ways, day):
    found, _, _ = ways
    encoder = found["fine-tuned"].encoder
    check = encoder.check_before
    if isinstance(encoder, HeatmapEncoder):
        return  # it has no words and no date: its labels are checked by fit_tasks
    check(day.start)
    with pytest.raises(ValueError, match=r"until|before"):
        check(day.start - 1)


def test_training_queries_are_distinct_and_know_their_impressions(day):
    queries = training_queries(day.inputs, 40, day.start, 0)
    shown, as_of = day.inputs.data.impressions, day.inputs.data.as_of
    assert len({*zip(queries.node.tolist(), queries.time.tolist(), strict=True)}) == 40
    assert torch.equal(shown.user[queries.row], queries.node[queries.query])
    assert torch.equal(as_of[queries.row], queries.time[queries.query])
    assert int(shown.time[queries.row].max()) < day.start
    asked = sum(
        bool(((shown.user == n) & (as_of == t) & (shown.time < day.start)).any())
        for n, t in zip(queries.node, queries.time, strict=True)
    )
    assert asked == 40
    assert set(queries.query.tolist()) == set(range(40))
    assert not torch.equal(queries.node, training_queries(day.inputs, 40, day.start, 1).node)


def test_a_batch_holds_the_seeds_histories_before_their_time_alone(day):
    config = LSTTMConfig(
        long_term=False,
        user_encoder=JoinedFeatures(
            encoders=tuple(replace(one, learning="end to end") for one in SMALL.values()), out_channels=5
        ),
        short_term=lsttm_with_preference().short_term,
        optimizer=OptimizerConfig(epochs=1, batch_size=128),
    )
    model = NeuralOnDay(day, config, 0, updates={}, snapshots=None, device=CPU)
    encoded = model.data.encoders["user"]
    user, time = model.data.impressions.user[-200:], model.data.as_of[-200:]
    inputs = encoded.reader.read(user, time)
    assert set(inputs.histories) == {
        "Heatmap/heatmap",
        "UserBERT/long",
        "UserBERT/short",
        "SMEN/life",
        "DUPN/behaviors",
    }
    for history in inputs.histories.values():
        assert len(history.events.time) > 100
        assert bool((history.events.time < time[history.events.query_of_event()]).all())


# ---- the table -----------------------------------------------------------------------------------

TINY_ROWS = (
    EncoderRow(name=WITHOUT),
    EncoderRow(name="DUPN, end to end", features=replace(SMALL["DUPN"], learning="end to end")),
    EncoderRow(
        name="two, frozen",
        features=JoinedFeatures(
            encoders=tuple(replace(SMALL[one], learning="frozen") for one in ("DUPN", "heatmap CNN")),
            out_channels=4,
            how="gated",
        ),
    ),
    EncoderRow(name=COUNTED, counted=True),
    EncoderRow(name="counts, DUPN", features=replace(SMALL["DUPN"], learning="frozen"), counted=True),
)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "NUM_RESAMPLES", 32)
        base = encoders_table.LSTTM_ROWS[encoders_table.BASE]
        small = replace(base.config, optimizer=OptimizerConfig(epochs=1), long_term=False, preference=None)
        patch.setattr(
            encoders_table, "LSTTM_ROWS", {encoders_table.BASE: replace(base, config=small, space={})}
        )
        table = EncodersTable(
            EncodersConfig(path=str(folder), days=("2022-05-04",), seeds=(0, 1), replace_stored=True),
            results=tmp_path_factory.mktemp("results"),
            work=tmp_path_factory.mktemp("work"),
            rows=TINY_ROWS,
            page=None,
        )
        table.run()
        yield table


def test_every_row_has_its_figures_and_costs(finished):
    figures = read_lines(finished.stored / "encoders_table.jsonl")
    names = [row.name for row in TINY_ROWS]
    for family in FAMILIES:
        assert [*dict.fromkeys(line["method"] for line in figures if line["family"] == family)] == names
    assert all(len(line["values"]) == len(line["seeds"]) == 2 for line in figures)
    of_row = [line for line in figures if line["method"] == WITHOUT]
    whole = next(line for line in of_row if line["figure"] == "all" and line["metric"] == "auc")
    buckets = [line for line in of_row if line["family"] == PAST_EVENTS]
    assert sum(line["num_queries"] for line in buckets) == whole["num_queries"]
    rows = {line["method"]: line for line in read_lines(finished.stored / "encoders_table.rows.jsonl")}
    assert rows[WITHOUT]["rate"] is None
    assert set(rows["DUPN, end to end"]["validation"]) == {"0.0002", "0.001"}
    assert all(row["cpu_seconds"] > 0 and row["num_parameters"] > 0 for row in rows.values())
    assert all(row["peak_mib"] is not None for row in rows.values()) or not RESET.exists()


def test_validation_chooses_the_better_rate(finished):
    row = TINY_ROWS[1]
    described = read_lines(finished.stored / "encoders_table.rows.jsonl")[1]
    best = max(described["validation"], key=described["validation"].get)
    assert finished.rate_of(row) == float(best) == described["rate"]
    assert {s.model.optimizer.encoder_learning_rate for s in finished.specs(row)} == {float(best)}


def test_tests_are_of_the_row_without_against_each_other(finished):
    tests = read_lines(finished.stored / "encoders_table.tests.jsonl")
    compared = {(test["method"], test["other"]) for test in tests}
    assert compared == {(WITHOUT, row.name) for row in TINY_ROWS[1:3]} | {(COUNTED, TINY_ROWS[4].name)}
    assert {test["family"] for test in tests} == {CLICKS, GROUPED, PAST_EVENTS}


def test_nothing_counts_a_users_past_but_in_the_rows_that_say_so(finished):
    for row in TINY_ROWS:
        model = finished.model_of(row, 1e-3)
        counts = model.past_counts, model.short_term.degree_features
        assert counts == (row.counted, row.counted)
        assert model.preference is None  # the tests' base has none; nor has any row of IDs alone
    with_preference = replace(lsttm_with_preference(), preference=PreferenceConfig())
    assert encoders_table.id_features(with_preference).preference is None


def test_gauc_is_the_evaluations_own(finished):
    figures = read_lines(finished.stored / "encoders_table.jsonl")
    row = TINY_ROWS[1]
    parts = [finished.runner.store.find(spec) for spec in finished.specs(row)]
    hour = 3600
    for seed, part in enumerate(parts):
        shown = part.predictions("none", run="test", model="test", data="kuairand", seed=seed)
        local = shown.time.astype("int64") + 8 * hour
        group = group_codes(shown.user.astype("int64"), local // hour)
        for name in ("all", "0-8", "8-16", "16-24"):
            ends = (0, 24) if name == "all" else tuple(map(int, name.split("-")))
            kept = (local // hour % 24 >= ends[0]) & (local // hour % 24 < ends[1])
            lines = [x for x in figures if x["family"] == GROUPED and x["method"] == row.name]
            (line,) = (x for x in lines if x["figure"] == name)
            wanted = gauc(shown.label[kept], shown.score[kept], group[kept])
            assert line["values"][seed] == pytest.approx(wanted.value, abs=1e-5)
            assert line["num_queries"] == wanted.num_rows - wanted.num_rows_left_out


def test_the_auc_of_each_rows_group():
    label, score = np.array([1, 0, 1, 1, 0]), np.array([0.2, 0.1, 0.5, 0.4, 0.4])
    found = auc_of_groups(label, score, np.array([0, 0, 1, 2, 2]))
    assert np.array_equal(found, [1, 1, np.nan, 0.5, 0.5], equal_nan=True)


def test_past_events_are_the_plays_that_encoders_read_before_the_period(finished):
    row = TINY_ROWS[0]
    part = finished.runner.store.find(finished.specs(row)[0])
    shown = part.predictions("none", run="test", model="test", data="kuairand", seed=0)
    found = finished._past_events(shown)
    inputs = finished.runner.inputs
    hour = 3_600_000
    for place in range(0, len(found), max(len(found) // 20, 1)):
        as_of = int(shown.time[place]) * 1000 // hour * hour
        wanted = sum(
            int(((edges.user == int(shown.user[place])) & (edges.available_time < as_of)).sum())
            for edges in (
                inputs.graph.edges(relation.edge_type)
                for relation in inputs.graph.relations
                if relation.behavior in ("click", "skip") and relation.domain in ("internal", "external")
            )
        )
        assert found[place] == wanted


def test_a_second_run_trains_nothing_and_the_page_shows_the_rows(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(encoders_table, "run_parts", lambda runner, specs, **_: specs or None)
    before = (finished.stored / "encoders_table.jsonl").read_text()
    finished.run()
    assert (finished.stored / "encoders_table.jsonl").read_text() == before
    assert "0.0 CPU hours left" in capsys.readouterr().out
    page = tmp_path / "encoders_table.md"
    names = ("kuairand", "frozen_users")
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in names))
    update_encoders_page(finished.stored, page)
    text = page.read_text()
    for row in TINY_ROWS:
        assert text.count(f"| {row.name} |") >= 3
    assert "1-5" in text or "6 or more" in text


def test_rows_and_what_is_refused(tmp_path):
    assert len({row.name for row in ROWS}) == len(ROWS) == 18
    assert {row.features.learning for row in ROWS[1:13]} == set(LEARNING)
    for options, words in (
        ({"rows": ("BERT",)}, "no rows"),
        ({"data": "amazon-afk"}, "kuairand"),
        ({"seeds": (0, 0)}, "each once"),
        ({"seeds": (-1,)}, "at least 0"),
        ({"days": ("2022-05-03",)}, "later"),
        ({"days": ("2022-05-07", "2022-05-07")}, "once"),
        ({"jobs": 1.5}, "whole number"),
        ({"seeds": ()}, "at least one seed"),
        ({"days": ("May",)}, "May"),
    ):
        with pytest.raises(ValueError, match=words):
            EncodersConfig(**options)
    with pytest.raises(ValueError, match="seeds"):
        replace(KINDS["DUPN"], learning="frozen", nodes="all")
    with pytest.raises(ValueError, match="different kinds"):
        JoinedFeatures(encoders=(KINDS["DUPN"], KINDS["DUPN"]))
    with pytest.raises(ValueError, match="days"):
        replace(KINDS["UserBERT"], days=1)
    model = replace(lsttm_with_preference(), user_encoder=KINDS["DUPN"])
    with pytest.raises(ValueError, match="user_encoder cannot be served"):
        run_daily_job(DailyJobConfig(day="2022-05-04", model=model))
