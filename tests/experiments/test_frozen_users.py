"""The encoders as frozen representations on a made-up shop: parts, leaks, tables, what is not trained."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from experiments import frozen_users, task_figures
from experiments.encoders_report import frozen_users_section
from experiments.frozen_users import (
    BASELINE,
    ENCODERS,
    PREFERENCE,
    ROWS,
    TOGETHER,
    FrozenUsers,
    FrozenUsersConfig,
)
from experiments.results_table import read_lines
from experiments.userbert_data import DataSettings, complete_journey_data
from graphrec.training.loop import OptimizerConfig
from graphrec.training.pretraining import PretrainingConfig
from tests.experiments.toy_shop import write_shop

TASKS = DataSettings(num_categories=2, num_tuned=1, max_targeting=60, max_genre=100, pretraining_days=70)
FEW = OptimizerConfig(epochs=1, batch_size=64)
SMALL = {
    "UserBERT": replace(
        ENCODERS["UserBERT"],
        pretraining=PretrainingConfig(epochs=1, batch_size=32),
        channels=8,
        num_blocks=1,
        max_words=12,
    ),
    "SMEN": replace(ENCODERS["SMEN"], item_epochs=1, epochs=1, num_interests=4, num_anchors=2, channels=4),
    "DUPN": replace(ENCODERS["DUPN"], pretraining=FEW, channels=8, num_behaviors=8),
    "heatmap CNN": replace(
        ENCODERS["heatmap CNN"], pretraining=FEW, narrower=32, values=("DEPARTMENT 0", "DEPARTMENT 1")
    ),
}
CONFIG = FrozenUsersConfig(
    tasks=TASKS,
    rows=(BASELINE, "SMEN", "DUPN", "all four, side by side", "DUPN, not trained"),
    seeds=(0, 1),
    max_queries=200,
    probe_epochs=(1, 3),
    probe_strengths=(0.01, 1.0),
    replace_stored=True,
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return complete_journey_data(write_shop(tmp_path_factory.mktemp("shop") / "data"), TASKS)


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "NUM_RESAMPLES", 32)
        folder = tmp_path_factory.mktemp("run")
        run = FrozenUsers(
            CONFIG, results=folder / "results", work=folder / "work", page=None, data=shop, encoders=SMALL
        )
        run.run()
        yield run


def test_every_row_has_figures_of_every_family(finished):
    lines = read_lines(finished.stored / "frozen_users.jsonl")
    families = {family.name: family for family in finished.families}
    assert list(families) == ["targeting", "attributes", "next genre", PREFERENCE]
    assert {(line["method"], line["family"]) for line in lines} == {
        (name, family) for name in CONFIG.rows for family in families
    }
    for line in lines:
        assert len(line["values"]) == len(line["seeds"]) == 2
        assert line["metric"] == ("auc" if families[line["family"]].is_binary else "map@10")
        assert all(0 <= value <= 1 for value in line["values"])
    tests = read_lines(finished.stored / "frozen_users.tests.jsonl")
    for base in (BASELINE, TOGETHER):
        others = {test["other"] for test in tests if test["method"] == base}
        assert others == set(CONFIG.rows) - {base}
    assert {test["method"] for test in tests} == {BASELINE, TOGETHER}


def test_parts_name_the_tested_queries_and_labels(finished):
    row, family = ROWS[0], finished.families[0]
    part = finished._part(row, family, 0)
    assert not part.is_new
    tried = part.facts["validation"]
    assert list(tried) == ["MLP, 1 epochs", "MLP, 3 epochs", "regression, 0.01", "regression, 1"]
    assert tried[part.facts["probe"]] == max(tried.values())
    genre = finished._part(row, finished.families[2], 0)
    assert list(genre.facts["validation"]) == ["MLP, 1 epochs", "MLP, 3 epochs"]
    for task in family.tasks:
        tested = task.part("test")
        own = part.frame.filter(pl.col("task") == task.name)
        assert own["user_id"].to_list() == tested["user_id"].to_list()
        assert own["time"].to_list() == tested["time"].to_list()
        assert own["label"].to_list() == tested["label"].cast(pl.Float32).to_list()


def test_training_changes_vectors_and_both_are_of_every_query(finished):
    trained, untrained = (finished._table("DUPN", is_trained, 0) for is_trained in (True, False))
    assert len(trained) == len(untrained) == len(finished.asked[0])
    assert not torch.equal(trained.vector, untrained.vector)
    again = finished._encode(SMALL["DUPN"], True, 0)
    assert torch.equal(again.vector, trained.vector)


def test_pretraining_reads_training_users_before_the_test_alone(finished):
    queries, tasks = finished._usage(0)
    split = finished.data.split
    parts = split.user_parts(finished.data.tables.events.frame["user_id"])
    of_users = queries.join(parts, on="user_id")["part"]
    assert of_users.unique().to_list() == ["train"]
    for task in tasks().values():
        assert int(task.known_time.max()) < split.test_start
        assert int(task.rows.query.max()) < queries.height
        assert set(task.rows.label.tolist()) <= {0.0, 1.0}
    usage = {task.name: task for task in finished.data.usage}
    name, made = next(iter(tasks().items()))
    own = usage[name].part("train").join(queries, on=["user_id", "time"], how="semi")
    assert sorted(made.rows.label.tolist()) == sorted(own["label"].cast(pl.Float32).to_list())


def test_a_query_reads_what_was_bought_before_it(finished):
    task = finished.families[0].tasks[0]
    user, time = finished._user(task.queries), torch.from_numpy(task.queries["time"].to_numpy().copy())
    counts = finished._tfidf(task)
    assert counts.shape[0] == task.queries.height
    edges = finished.data.graph.edges(("user", "internal:purchase", "item"))
    for place in range(0, len(user), max(len(user) // 10, 1)):
        before = (edges.user == user[place]) & (edges.time < time[place])
        assert (counts[[place]].nnz > 0) == bool(before.any())


def test_a_second_run_computes_nothing_and_the_page_has_all(finished, monkeypatch, capsys):
    before = (finished.stored / "frozen_users.jsonl").read_text()
    monkeypatch.setattr(frozen_users, "pretrain_encoder", None)
    monkeypatch.setattr(frozen_users, "precompute", None)
    finished.run()
    assert (finished.stored / "frozen_users.jsonl").read_text() == before
    again = FrozenUsers(
        replace(CONFIG, forecast=True),
        results=finished.stored,
        work=finished.work,
        page=None,
        data=finished.data,
        encoders=SMALL,
    )
    again.run()
    assert "40 of 40 parts are finished" in capsys.readouterr().out
    text = frozen_users_section(finished.stored)
    for name in CONFIG.rows:
        assert text.count(f"| {name} |") == 4 + 4 * (name != TOGETHER)
    assert "simulated" in text


def test_what_is_refused():
    for options, words in (
        ({"rows": ("BERT",)}, "no rows"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (0, 1, 0)}, r"each once: got \[0, 1, 0\]"),
        ({"seeds": (0, -1)}, "seeds must be a whole number of at least 0, got -1"),
        ({"seeds": (0.5,)}, "seeds must be a whole number of at least 0, got 0.5"),
        ({"probe_epochs": (3, 1)}, "rising"),
        ({"max_queries": 0}, "max_queries"),
        ({"probe_strengths": (0.0,)}, "strength"),
    ):
        with pytest.raises(ValueError, match=words):
            FrozenUsersConfig(**options)
    with pytest.raises(ValueError, match="field and values"):
        replace(ENCODERS["heatmap CNN"], values=())
