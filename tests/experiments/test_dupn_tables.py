"""DUPN's tables on a slice of KuaiRand-Pure: parts, what validation chooses, figures, pages, pictures."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from experiments import task_figures
from experiments.dupn_data import DUPNDataSettings, complete_journey_data, kuairand_data, thinned
from experiments.dupn_methods import METHODS, NetworkSettings, aggregates, make_model
from experiments.dupn_parts import SOURCE, TOGETHER, WAYS, DUPNParts, TransferSettings
from experiments.dupn_report import GAPS, dupn_section, grouped_attention, update_dupn_page
from experiments.dupn_tables import DOCS, UPDATES, DUPNTableConfig, DUPNTables, main, points_of_seeds
from experiments.kept_parts import KeptPart
from experiments.named_rows import row_named
from graph_builders.datasets.entity_tasks import EntityTask, make_rows
from graphrec.encoders.behavior_sequences import BehaviorSequences
from graphrec.encoders.sentences import FIRST
from graphrec.models.dupn_heads import TaskRows
from tests.experiments.kuairand_slice import sliced_log, write_slice
from tests.experiments.stored_tables_stay import check_second_run_computes_nothing, check_stored_tables_stay
from tests.experiments.toy_shop import write_shop

TINY = NetworkSettings(
    item_channels=4,
    property_channels=3,
    hidden_channels=8,
    user_channels=4,
    query_channels=4,
    head_channels=8,
    rates=(0.05,),
    tree_rates=(0.1, 0.3),
    num_trees=3,
)
TASKS = DUPNDataSettings(num_behaviors=6, max_rows=300, num_train_days=4, num_test_days=2)
CONFIG = DUPNTableConfig(
    networks=TINY,
    tasks=TASKS,
    seeds=(0,),
    rows=("DUPN", "DSSM", "boosted trees"),
    transfer=TransferSettings(labels=(40, 200), least_steps=2),
    replace_stored=True,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return kuairand_data(write_slice(tmp_path_factory.mktemp("slice") / "data", sliced_log()), TASKS)


@pytest.fixture(scope="module", autouse=True)
def _few_resamples():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_figures, "NUM_RESAMPLES", 64)
        yield


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run of some rows."""
    tables = tables_in(tmp_path_factory.mktemp("run"), data)
    tables.run()
    return tables


def tables_in(folder, data, config=CONFIG):
    return DUPNTables(
        config, results=folder / "results", docs=folder / "docs", work=folder / "work", data=data
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- a whole run ---------------------------------------------------------------------------------


def test_every_row_has_its_figures(finished, data):
    lines = read(finished.stored / "dupn_tables.jsonl")
    variants = {(line["method"], line["figure"]): line for line in lines if line["part"] == "variants"}
    assert set(variants) == {
        (name, task)
        for name, tasks in {
            "DUPN": data.learned,
            "DSSM": ("click", "author"),
            "boosted trees": data.learned,
        }.items()
        for task in tasks
    }
    assert finished.parts.seeds_of(row_named("DUPN", METHODS), (0, 1)) == (0, 1)
    assert finished.parts.seeds_of(row_named("boosted trees", METHODS), (0, 1)) == (0,)  # no seed changes it
    assert {line["metric"] for line in lines if line["figure"] == "duration"} == {"mean"}
    together = {(line["method"], line["figure"]) for line in lines if line["part"] == "multi-task"}
    names = ["a task at a time", *(way.name for way in TOGETHER)]
    assert together == {(name, task) for name in names for task in data.learned}
    assert all(0 <= value <= 1 for line in lines for value in line["values"])
    single = next(line for line in lines if line["method"] == "a task at a time")
    assert single["values"] == variants["DUPN", single["figure"]]["values"]


def test_tests_are_of_dupn_and_of_tasks_together(finished):
    lines = read(finished.stored / "dupn_tables.tests.jsonl")
    click = {line["other"]: line for line in lines if (line["part"], line["figure"]) == ("variants", "click")}
    assert set(click) == {"DSSM", "boosted trees"}
    assert {line["method"] for line in click.values()} == {"DUPN"}
    assert sum(line["best_baseline"] for line in click.values()) == 1
    together = [line for line in lines if (line["part"], line["figure"]) == ("multi-task", "click")]
    assert {line["method"] for line in together} == {SOURCE}
    assert len(together) == len(TOGETHER)


def test_transfer_has_all_ways_and_numbers_of_labels(finished, data):
    lines = [
        line for line in read(finished.stored / "dupn_tables.curves.jsonl") if line["part"] == "transfer"
    ]
    assert [(line["num_labels"], line["way"]) for line in lines] == [
        (size, way) for size in (40, 200) for way in WAYS
    ]
    assert all(line["task"] == data.held_out and line["seeds"] == [0] for line in lines)
    assert len({tuple(line["values"]) for line in lines}) == len(lines)
    tested = [line["tests"] for line in lines if line["tests"]]
    assert [[test["other"] for test in tests] for tests in tested] == [
        ["representation", "single", "all"]
    ] * 2


def test_points_of_seeds_meet_by_what_they_are_of(tmp_path):
    def part(*points):
        facts = {"points": [{"way": way, "day": day, "figure": value} for way, day, value in points]}
        return KeptPart(path=tmp_path / "part.json", facts=facts, frame=None, is_new=False)

    parts = [
        part(("a", 1, 0.1), ("a", 1, 0.1), ("b", 1, 0.2), ("c", 1, 0.3)),
        part(("b", 1, 0.4), ("a", 1, 0.5)),
    ]
    found = points_of_seeds(parts, ("way", "day"))
    assert {key: [one["figure"] for one in points] for key, points in found.items()} == {
        ("a", 1): [0.1, 0.5],
        ("b", 1): [0.2, 0.4],
    }


def test_new_days_are_scored_by_networks_of_earlier_ones(finished, data):
    lines = read(finished.stored / "dupn_tables.curves.jsonl")
    days = [line for line in lines if line["part"] == "incremental"]
    assert len(days) == len(UPDATES) * TASKS.num_test_days * len(data.learned)
    first, second = ({line["way"]: line for line in days if (line["day"], line["task"]) == (day, "click")}
                     for day in (4, 5))  # fmt: skip
    assert len({tuple(line["values"]) for line in first.values()}) == 1  # one network, not updated yet
    assert len({tuple(line["values"]) for line in second.values()}) == len(UPDATES)
    assert second["not updated"]["training_seconds"] < second["retrained"]["training_seconds"]


def test_stored_tables_stay_where_a_run_has_other_options_or_nothing(finished, data, tmp_path, capsys):
    tables = tables_in(tmp_path, data, replace(CONFIG, only_tables=True, replace_stored=False))
    parts, page = finished.parts.folder.parent, DOCS / "dupn.md"
    check_stored_tables_stay(finished, tables, page, parts, tmp_path, lambda: capsys.readouterr().out)


def test_a_second_run_computes_nothing_and_writes_the_same(finished, monkeypatch):
    check_second_run_computes_nothing(finished, 5, monkeypatch, "run_variant", "model")


def test_the_forecast_knows_what_is_finished(finished, data, tmp_path, capsys):
    finished.print_forecast()
    assert " 0 of them left" in capsys.readouterr().out
    tables_in(tmp_path, data, replace(CONFIG, forecast=True)).run()
    lines = capsys.readouterr().out.splitlines()
    assert {line[:36].strip() for line in lines[3:-1]} == {
        *CONFIG.rows, *(way.name for way in TOGETHER), "transfer", "incremental"
    }  # fmt: skip
    assert not (tmp_path / "work").exists()


def test_the_page_has_all_tables_and_pictures(finished, tmp_path):
    section = dupn_section(finished.stored, "kuairand")
    headings = [line for line in section.splitlines() if line.startswith("###")]
    assert len(headings) == 6
    assert "| boosted trees | 1 |" in section
    assert "| fine-tuned, sums anew |" in section
    names = {f"dupn_{part}_kuairand.svg" for part in ("transfer", "incremental", "attention")}
    assert {path.name for path in finished.docs.iterdir()} == names
    assert all(f"({name})" in section for name in names)
    page = tmp_path / "page.md"
    names = ("kuairand", "complete_journey", "benchmark")
    page.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in names))
    update_dupn_page(finished.stored, page)
    assert section in page.read_text()
    assert dupn_section(tmp_path, "kuairand") == "Nothing has been run yet."


# ---- parts ---------------------------------------------------------------------------------------


def test_validation_chooses_the_best_rate(finished):
    parts, trees = finished.parts, row_named("boosted trees", METHODS)
    figures = {
        rate: parts.variant(trees, "click", rate, 0, "validation", only_find=True).facts["figure"]
        for rate in TINY.tree_rates
    }
    assert parts.chosen_rate(trees, "click") == (max(figures, key=figures.get), max(figures.values()))
    assert parts.chosen_rate(row_named("Wide", METHODS), "click") is None


@pytest.mark.parametrize("name", ["Wide", "Wide&Deep", "CNN-max", "DUPN nobp", "DUPN w2v"])
def test_the_other_rows_fit_all_kinds_of_tasks(data, tmp_path, name):
    parts = DUPNParts(data, TINY, CONFIG.transfer, tmp_path)
    for task in ("click", "ranking", "duration"):
        value = parts.run_variant(row_named(name, METHODS), task, 0.05, 0, "validation")
        assert len(value) == len(data.test(task, 3, 4).task.rows)
        assert len(np.unique(value)) > (1 if task == "duration" else 10)


def test_word2vec_starts_items_elsewhere(data):
    def items(name):
        model = make_model(data, ["click"], TINY, seed=0, method=row_named(name, METHODS))
        return model.encoder.item.tables[0].weight

    changed = (items("DUPN w2v") != items("DUPN")).any(dim=1)
    assert 0.1 < changed.float().mean() < 1


def test_entities_share_the_encoders_embeddings(data):
    model = make_model(data, list(data.learned), TINY, seed=0)
    tables = model.encoder.item.tables
    assert list(model.heads["click"].entity.tables.tables) == list(tables)
    (author,) = model.heads["author"].entity.tables.tables
    assert author is tables[1]


def test_rows_differ_in_their_key(data, tmp_path):
    parts = DUPNParts(data, TINY, CONFIG.transfer, tmp_path)
    other = DUPNParts(data, replace(TINY, rates=(0.5, 0.1)), CONFIG.transfer, tmp_path)
    wide = DUPNParts(data, replace(TINY, hidden_channels=16), CONFIG.transfer, tmp_path)
    assert parts._content() == other._content()  # rates to choose from are part of no key
    assert parts._content() != wide._content()
    assert parts._content(is_trees=True) == wide._content(is_trees=True)
    assert len({method.name for method in METHODS}) == len(METHODS)


# ---- data ----------------------------------------------------------------------------------------


def test_training_and_tests_lie_apart(data):
    for name in data.tasks:
        train, test = data.train(name, 0, 4), data.test(name, 4, 6)
        assert int(train.known_time.max()) < data.bounds[4] <= int(test.time.min())
        assert 100 < len(train.rows) < 500
        assert len(test.user_id) == len(test.task.rows)
    data.tokenizer.check_before(data.bounds[0])


def test_ranking_features_stand_in_both_signs(data):
    features = data.data["ranking"].rows.features
    half = features.shape[1] // 2
    assert torch.equal(features[:, :half], -features[:, half:])
    assert (features[:, half - 1] == 1).all()
    assert float(features.abs().max()) <= 3


def test_thinning_draws_queries_and_keeps_later_rows():
    rows = pl.DataFrame(
        {
            "user_id": [user for user in range(200) for _ in range(2)],
            "time": [user for user in range(200) for _ in range(2)],
            "item_id": [0, 1] * 200,
            "label": [0.0, 1.0] * 200,
        }
    ).with_columns(known_time="time")
    task = EntityTask(name="a", kind="pair", rows=make_rows(rows, entity="item_id"), entity="item_id")
    thin, drawn = thinned(task, 0.3, 150)
    assert (thin.rows["time"] >= 150).sum() == 100
    early = thin.rows.filter(pl.col("time") < 150)
    assert 30 * 2 < early.height < 60 * 2
    assert early.group_by("user_id").len()["len"].unique().to_list() == [2]  # queries stay whole
    assert drawn[: early.height].all()
    assert 0 < drawn[early.height :].float().mean() < 0.6


def test_aggregates_count_behaviors_and_matches():
    # query 0: items 5, 6, 5 of types 2, 3, 3; query 1: nothing
    sequences = BehaviorSequences(
        ptr=torch.tensor([0, 3, 3]),
        item=torch.tensor([[5], [6], [5]]),
        properties=torch.tensor([[2, 10 + FIRST, FIRST], [3, 11 + FIRST, 4 + FIRST], [3, 12 + FIRST, FIRST]]),
        profile=torch.tensor([[7], [8]]),
        query=torch.zeros(2, 0, dtype=torch.int64),
    )
    rows = TaskRows(
        query=torch.tensor([1, 0, 0]),
        label=torch.zeros(3),
        weight=torch.ones(3),
        entity=torch.tensor([[5], [6], [5]]),
        features=torch.tensor([[0.1], [0.2], [0.3]]),
    )
    found = aggregates(sequences, rows, (0,))
    assert found.dtype == torch.float32
    # length, 4 types, 8 gaps, last hour, mean code, profile, feature, entity, 4 types that match
    assert found.shape == (3, 1 + 4 + 8 + 1 + 1 + 1 + 1 + 1 + 4)
    assert found[:, 0].tolist() == [0, 3, 3]
    assert found[1, 1:5].tolist() == [0, 0, 1, 2]
    assert found[1, 5:7].tolist() == [2, 1]
    assert found[:, 13].tolist() == [-1, 12 + FIRST, 12 + FIRST]
    assert found[:, 14].tolist() == pytest.approx([0, 16 / 3, 16 / 3])
    assert found[:, 15].tolist() == [8, 7, 7]
    assert found[:, -4:].tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]


def test_attention_is_a_mean_by_group_of_ages():
    gaps = 32 + FIRST
    line = {
        "behaviors": ["rev_a:click"],
        "sum": np.zeros((FIRST + 1, gaps)).tolist(),
        "count": np.zeros((FIRST + 1, gaps)).tolist(),
    }
    for bucket, (share, count) in {0: (2.0, 1.0), 6: (4.0, 3.0), 7: (9.0, 3.0), 31: (5.0, 2.0)}.items():
        line["sum"][FIRST][FIRST + bucket], line["count"][FIRST][FIRST + bucket] = share, count
    names, relative, count = grouped_attention(line)
    assert names == ["a:click"]
    assert count[0, :2].tolist() == [4, 3]
    assert relative[0, :2].tolist() == [1.5, 3.0]
    assert (relative[0, -1], count[0, -1]) == (2.5, 2.0)
    assert len(GAPS) == relative.shape[1]


def test_complete_journey_is_read_and_scored(tmp_path):
    days = replace(
        TASKS, num_train_days=20, num_test_days=4
    )  # fortnights: whoever buys a product does so soon
    data = complete_journey_data(write_shop(tmp_path / "shop"), days)
    assert list(data.tasks) == ["product", "price", "brand", "store"]
    assert data.learned == ("product", "price", "brand")
    assert list(data.entity_columns) == ["product", "brand"]  # a store is no item
    assert not data.tokenizer.fields
    parts = DUPNParts(data, TINY, CONFIG.transfer, tmp_path / "parts")
    for name in ("DUPN", "Wide&Deep", "boosted trees"):
        value = parts.run_variant(row_named(name, METHODS), "product", 0.05, 0, "test")
        assert len(value) == len(parts.part("product", "test").user_id) > 10
    head = make_model(data, ["store"], TINY, seed=0).heads["store"]
    assert head.entity.tables.tables[0].weight.shape[0] == data.tokenizer.vocabularies.num_codes["store_id"]
    trees = parts.run_variant(row_named("boosted trees", METHODS), "price", 0.3, 0, "test")
    assert set(trees) <= {0.0, 1.0}


# ---- command -------------------------------------------------------------------------------------


def test_a_missing_folder_is_said_in_one_line(capsys):
    assert main(["--path", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no row 'nothing'"):
        DUPNTableConfig(rows=("nothing",))
    with pytest.raises(ValueError, match="at least one seed"):
        DUPNTableConfig(seeds=())
