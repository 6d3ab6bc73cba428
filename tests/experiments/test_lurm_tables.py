"""LURM's tables on a made-up shop: queries and folds, parts, what validation chooses, tables, pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from experiments import lurm_data
from experiments.kept_parts import kept_part
from experiments.lurm_data import (
    LOADERS,
    PREFERENCES,
    PROFILES,
    SIMULATED_WORLD,
    amazon_5core_data,
    check_both_classes,
    common_categories,
    complete_journey_data,
    simulated_data,
)
from experiments.lurm_methods import ROWS, LurmSettings, Representations
from experiments.lurm_report import lurm_section, update_lurm_page
from experiments.lurm_tables import DOCS, LurmConfig, LurmTable, LurmTables, _of_seeds, main
from experiments.named_rows import row_named
from experiments.task_figures import figure_of
from graph_builders.datasets.amazon_5core import CATEGORIES, TITLE_FILES
from graph_builders.datasets.simulated_world import draw_world
from tests.experiments.stored_tables_stay import check_stored_tables_stay
from tests.experiments.toy_shop import write_shop

TINY = LurmSettings(
    channels=8,
    num_anchors=2,
    num_interests=6,
    item_epochs=2,
    smen_epochs=2,
    doc2vec_epochs=2,
    walks_per_node=1,
    walk_length=6,
    text_epochs=1,
    classifier_epochs=(1, 2),
    probe_epochs=(2, 6),
    mixed_precision=False,
)
NAMES = ("LURM", "BoI", "TF-IDF", "TextCNN", "LURM, not trained", "BoI, logistic regression")
CONFIG = LurmConfig(
    settings=TINY, rows=NAMES, seeds=(0, 1), ablation_data=("complete_journey",), replace_stored=True
)

WORLD = replace(
    SIMULATED_WORLD,
    num_days=40,
    num_users=300,
    num_items=20,
    num_external_items=120,
    num_external_events=6_000,
    num_topics=6,
)
HORIZON = 8  # days


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = write_shop(tmp_path_factory.mktemp("shop") / "data")
    # words that several products share, and households of two ages
    change(folder, "products", product_type=lambda i: f"TYPE a{i % 5} b{i // 5}")
    change(folder, "demographics", age=lambda i: ("25-34", "45-54")[(i // 2) % 2])
    return complete_journey_data(folder, num_folds_scored=2)


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory):
    """A whole run of some rows."""
    tables = tables_in(tmp_path_factory.mktemp("run"), shop)
    tables.run()
    return tables


@pytest.fixture(scope="module")
def simulated():
    return simulated_data(config=WORLD, horizon_days=HORIZON)


def change(folder, name, **columns):
    path = Path(folder) / f"{name}.parquet"
    frame = pl.read_parquet(path)
    new = {column: [make(i) for i in range(frame.height)] for column, make in columns.items()}
    frame.with_columns(pl.Series(column, values) for column, values in new.items()).write_parquet(path)


def write_reviews(folder):
    """Reviews of all six files, one a month of each user until 2018; those of appliances end in 2014."""
    for number, (category, name) in enumerate(CATEGORIES.items()):
        rows = []
        for user in range(40):
            # every second user goes on to the end of the category
            stop = 24 if user % 2 else (47 if category == "Appliances" else 84)
            rows += [
                {
                    "reviewerID": f"{category} {user}",
                    "asin": f"{number} {(user + month) % 5}",
                    "unixReviewTime": 1_293_840_000 + (month * 30 + user % 20) * 86_400,
                    "overall": 5.0,
                    "summary": f"{category} {month % 3}",
                }
                for month in range(stop)
            ]
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    for name in TITLE_FILES.values():
        (folder / name).write_text('{"asin": "nothing reviewed"}')
    return str(folder)


def tables_in(folder, shop, config=CONFIG):
    return LurmTables(
        config, results=folder / "results", docs=folder / "docs", work=folder / "work", data=(shop,)
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---- data ----------------------------------------------------------------------------------------


def test_training_users_are_asked_when_all_is_fitted_and_test_users_a_horizon_later(shop):
    horizon = 60 * 86_400
    for family in shop.families:
        assert len(family.folds) == 2
        for fold in family.folds:
            assert tuple(task.name for task in fold) == family.names
            for task in fold:
                times = {part: set(task.part(part)["time"]) for part in ("train", "validation", "test")}
                assert times["train"] == times["validation"] == {shop.fit_until}
                assert times["test"] == {shop.fit_until + horizon}
                users = {part: set(task.part(part)["user_id"]) for part in times}
                assert not users["train"] & users["test"]
                assert not users["validation"] & (users["train"] | users["test"])
    first, second = ({*fold[0].part("test")["user_id"]} for fold in shop.families[0].folds)
    assert not first & second
    assert [family.name for family in shop.families] == [PREFERENCES, PROFILES]


def test_rows_of_a_task_are_those_of_its_queries(shop):
    task = shop.families[1].folds[1][0]
    rows = shop.rows_of(task)
    asked = shop.queries[rows.numpy()]
    assert asked.equals(task.queries.select("user_id", "time"))
    assert len(shop.user) == len(shop.time) == shop.queries.height
    assert shop.queries.is_unique().all()


def test_categories_are_those_nearest_to_a_quarter_of_the_users():
    met = {"a": 8, "b": 3, "c": 2, "d": 0}  # of ten users
    rows = [(user, "known", 0) for user in range(10)]
    rows += [(user, item, 10) for item, count in met.items() for user in range(count)]
    rows += [(user, "d", 20) for user in range(3)]  # later: not looked at
    rows += [(99, "b", 10)] * 5  # was not there before
    events = pl.DataFrame(
        rows, schema={"user_id": pl.Int64, "item_id": pl.String, "time": pl.Int64}, orient="row"
    )
    items = pl.DataFrame({"item_id": list("abcd"), "category": [["A", "both"], ["B"], ["C"], ["D"]]})
    assert common_categories(events, items, 5, 20, 3) == ["B", "C", "A"]


def test_a_category_that_ends_before_the_test_has_no_task(tmp_path):
    data = amazon_5core_data(write_reviews(tmp_path), num_folds_scored=2)
    (family,) = data.families
    # all categories are met by as many: the first ones by name, of those that go on
    assert family.names == tuple(f"preference: {name}" for name in ("All Beauty", "Fashion", "Gift Cards"))
    assert data.notes[1:] == (
        "Appliances has no task: its reviews end on 2014-10-30, before the last label window does.",
    )


def test_a_task_of_one_class_is_refused(shop):
    family = shop.families[1]
    task = family.folds[1][0]
    test = pl.col("part") == "test"
    one_class = replace(
        task, queries=task.queries.with_columns(label=pl.when(~test).then("label").otherwise(0))
    )
    folds = (family.folds[0], (one_class, *family.folds[1][1:]))
    with pytest.raises(ValueError, match=r"fold 1 of task 'kids' has .* 'test', 0 of them positive"):
        check_both_classes([shop.families[0], replace(family, folds=folds)])
    check_both_classes(shop.families)


def test_models_are_fitted_on_all_users_of_the_first_time(shop):
    events = pl.concat(
        pl.DataFrame({"user": edges.user.numpy(), "time": edges.time.numpy()})
        for edges in map(shop.graph.edges, shop.edge_types)
    )
    before = events.filter(pl.col("time") < shop.fit_until)
    assert shop.fitting_user.tolist() == before["user"].unique().sort().to_list()
    made = Representations(shop, TINY)
    lives = made.fitting_events()
    assert lives.ptr.diff().tolist() == before.group_by("user").len().sort("user")["len"].to_list()
    assert int(lives.time.max()) < shop.fit_until
    assert made.fitting_events(60).time.min() >= shop.fit_until - 60 * 86_400


def test_models_are_fitted_on_test_users_too(shop):
    """With one scored fold a test user's history is fitted on: without it another model comes out."""
    one_fold = replace(
        shop,
        families=tuple(replace(family, folds=family.folds[:1]) for family in shop.families),
        queries=shop.families[0].folds[0][0].queries.select("user_id", "time").sort("time", "user_id"),
    )
    made, fewer = Representations(one_fold, TINY), Representations(one_fold, TINY)
    asked = one_fold.user[one_fold.time == one_fold.fit_until].unique()
    assert len(made.fitting_user) > len(asked)
    fewer.fitting_user = asked
    for name in ("Doc2Vec", "PTUM", "LURM"):
        row = row_named(name, ROWS)
        vectors = made.fit_items(0)[0] if name == "LURM" else None
        assert not torch.equal(made.dense(row, vectors, 0)[0], fewer.dense(row, vectors, 0)[0])
    tfidf = row_named("TF-IDF", ROWS)
    assert (made.sparse(tfidf, None, 0) != fewer.sparse(tfidf, None, 0)).nnz


def test_another_label_is_another_fingerprint(shop):
    family = shop.families[1]
    task = family.folds[0][0]
    changed = replace(task, queries=task.queries.with_columns(label=1 - pl.col("label")))
    folds = ((changed, *family.folds[0][1:]), *family.folds[1:])
    other = replace(shop, families=(shop.families[0], replace(family, folds=folds)))
    assert other.fingerprint != shop.fingerprint
    assert replace(shop).fingerprint == shop.fingerprint


def test_paths_are_asked_for():
    for load in (lurm_data.online_retail_data, lurm_data.amazon_5core_data):
        with pytest.raises(ValueError, match="needs --path"):
            load(None)


def test_simulated_lives_are_views_of_items_with_texts(simulated):
    graph = simulated.graph
    (edge_type,) = simulated.edge_types
    assert graph.num_events == len(graph.edges(edge_type).time) == WORLD.num_external_events
    assert graph.ids["item"].num_ids == WORLD.num_external_items
    assert simulated.words["text"].list.len().to_list() == [
        WORLD.words_per_item
    ] * WORLD.num_external_items + [0]
    last = int(graph.edges(edge_type).time.max())
    assert (
        0 < simulated.fit_until + 2 * HORIZON * 86_400 - last < 3_600
    )  # the second window ends with the log
    assert [family.name for family in simulated.families] == [PREFERENCES]
    assert len(simulated.families[0].names) == 4
    assert "SIMULATED" in simulated.title
    assert any("SIMULATED" in note for note in simulated.notes)


def test_the_true_interests_are_ahead_of_past_counts_of_true_topics(simulated):
    (family,) = simulated.families
    note = simulated.notes[-1]
    truth = float(note.partition("AUC of ")[2].partition(":")[0])
    # all users and items are in the graph, in the order of their numbers
    edges = simulated.graph.edges(*simulated.edge_types)
    is_past = edges.time < simulated.fit_until + HORIZON * 86_400
    user, item = edges.user[is_past].numpy(), edges.item[is_past].numpy()
    topic = draw_world(WORLD).external_topic[item]
    found = []
    for number, name in enumerate(family.names):
        asked = pl.concat(fold[number].part("test") for fold in family.folds)
        met = user[topic == int(name.rpartition(" ")[2])]
        count = np.bincount(met, minlength=WORLD.num_users)[asked["user_id"].to_numpy()]
        found.append(figure_of("auc", asked["label"].to_numpy(), count))
    assert 0.6 < np.mean(found) < truth < 1


def test_a_world_without_texts_or_too_short_is_refused():
    for wrong in ({"words_per_item": 0}, {"num_days": 180}):
        with pytest.raises(ValueError, match="needs texts and more than 180 days"):
            simulated_data(config=replace(SIMULATED_WORLD, **wrong))


def test_the_command_needs_no_folder_for_simulated_data(simulated, tmp_path, monkeypatch):
    paths = []
    monkeypatch.setitem(LOADERS, "simulated", lambda path: paths.append(path) or simulated)
    config = replace(CONFIG, data=("simulated",), folder="nowhere", rows=("TF-IDF",), seeds=(0,))
    tables = LurmTables(config, results=tmp_path / "results", docs=tmp_path / "docs", work=tmp_path / "work")
    tables.run()
    assert paths == [None]
    assert "simulated" not in LurmConfig().data
    section = lurm_section(tmp_path / "results", "simulated")
    assert section.startswith("SIMULATED behaviour. ")
    assert "| TF-IDF |" in section
    lines = read(tmp_path / "results" / "lurm_tables.jsonl")
    (auc,) = [
        line["values"][0]
        for line in lines
        if (line["method"], line["figure"], line["metric"]) == ("TF-IDF", "mean", "auc")
    ]
    assert auc > 0.6


# ---- methods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DeepWalk, mean of items", "Doc2Vec", "SUMN (our reading)", "PTUM"])
def test_other_rows_have_a_vector_a_query_that_the_seed_alone_decides(shop, name):
    made = Representations(shop, TINY)
    found = [made.dense(row_named(name, ROWS), None, seed)[0] for seed in (0, 0, 1)]
    assert found[0].shape == (shop.queries.height, 8)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_ablations_read_what_they_say(shop):
    made = Representations(shop, TINY)
    vectors, _ = made.fit_items(0)
    assert vectors.shape == (len(made.words), 8)

    def bags(name):
        row = row_named(name, ROWS)
        return made.bags(row, made.counter(row, vectors, 0))

    whole = bags("LURM")
    assert whole.num_interests == 4
    assert whole.scales == shop.scales
    assert bags("LURM, longer periods only").scales == ("month",)
    short = bags("LURM, 60 days of history")
    assert 0 < short.count.sum() < whole.count.sum()
    one, _ = made.dense(replace(row_named("LURM, 1 anchor of 128", ROWS), channels=12), vectors, 0)
    assert one.shape == (shop.queries.height, 12)
    # D is at most a quarter of the texts that are known by then: 18
    assert bags("BoI, D = 100").num_interests == 4


def test_han_is_trained_with_the_labels(shop):
    read = LurmTable(shop, CONFIG, None)._reader(row_named("HAN", ROWS), 0)
    task = shop.families[0].folds[0][0]
    scored = read.score(task, 1, "test")
    assert scored.select("user_id", "time", "label").equals(
        task.part("test").select("user_id", "time", "label")
    )
    assert scored["value"].is_between(0, 1).all()


# ---- a whole run ---------------------------------------------------------------------------------


def test_every_row_has_its_figures(finished):
    lines = read(finished.stored / "lurm_tables.jsonl")
    of_main = {line["method"]: line for line in lines if line["family"] == "preferences, main"}
    assert set(of_main) == {"LURM", "BoI", "TF-IDF", "TextCNN"}
    assert all(line["seeds"] == [0, 1] for line in of_main.values())
    of_ablations = {line["method"]: line for line in lines if line["family"] == "profiles, ablations"}
    assert set(of_ablations) == {"LURM", "LURM, not trained", "BoI, logistic regression"}
    assert all(line["seeds"] == [0] for line in of_ablations.values())
    assert all(0 <= value <= 1 for line in lines for value in line["values"])
    assert {line["figure"] for line in lines if line["family"] == "profiles, main"} >= {"mean", "kids"}


def test_the_shop_can_be_learned(finished):
    lines = read(finished.stored / "lurm_tables.jsonl")
    kids = {
        line["method"]: line["values"][0]
        for line in lines
        if line["figure"] == "kids" and line["metric"] == "auc"
    }
    assert kids["BoI, logistic regression"] > 0.95  # the taste tells the kids


def test_scores_are_those_of_the_test_queries(finished, shop):
    table = finished.tables[0]
    found = table.scores(row_named("LURM", ROWS), 1)
    assert not found.is_new
    for family in shop.families:
        for number, name in enumerate(family.names):
            own = found.frame.filter((pl.col("family") == family.name) & (pl.col("task") == name))
            wanted = pl.concat(fold[number].part("test") for fold in family.folds)
            columns = ["user_id", "time", "label"]
            assert own.select(columns).sort("user_id").equals(wanted.select(columns).sort("user_id"))
    assert found.facts["chosen"][PREFERENCES]["epochs"] in TINY.probe_epochs


def test_tests_compare_seeds_that_both_have(finished):
    tests = read(finished.stored / "lurm_tables.tests.jsonl")
    of_main = [line for line in tests if line["family"] == "preferences, main"]
    assert {line["other"] for line in of_main} == {"BoI", "TF-IDF", "TextCNN"}
    best = [line["other"] for line in of_main if line["figure"] == "mean" and line["best_baseline"]]
    assert len(best) == 1
    assert best[0] != "BoI"  # its own input is no baseline
    scores = finished.tables[0].finished(row_named("LURM", ROWS), finished.tables[0].data.families[0], (0, 1))
    assert _of_seeds(scores, (1,)).seeds == (1,)
    assert _of_seeds(scores, (1, 2)) is None


def test_stored_tables_stay_where_a_run_has_other_options_or_nothing(finished, shop, tmp_path, capsys):
    tables = tables_in(tmp_path, shop, replace(CONFIG, only_tables=True, replace_stored=False))
    parts, page = finished.stored.parent / "work", DOCS / "lurm.md"
    check_stored_tables_stay(finished, tables, page, parts, tmp_path, lambda: capsys.readouterr().out)


def test_a_second_run_computes_nothing_and_writes_the_same(finished, shop, monkeypatch):
    before = {path.name: path.read_text() for path in finished.stored.glob("*.jsonl")}
    assert len(before) == 3

    def refuse(*arguments):
        def fail():
            raise AssertionError("a finished part was computed again")

        return kept_part(*arguments[:-1], fail)

    monkeypatch.setattr("experiments.lurm_tables.kept_part", refuse)
    tables_in(finished.stored.parent, shop).run()
    assert {path.name: path.read_text() for path in finished.stored.glob("*.jsonl")} == before


def test_a_part_is_found_by_what_decides_it(finished, shop, tmp_path):
    def content(name="LURM", stage="representation", **changes):
        config = replace(CONFIG, settings=replace(TINY, **changes))
        return LurmTable(shop, config, tmp_path).content(row_named(name, ROWS), stage, 0)

    assert content(doc2vec_epochs=9) == content()
    assert content(probe_epochs=(1,)) == content()
    assert content(probe_epochs=(1,), stage="scores") != content(stage="scores")
    assert content("LURM, logistic regression") == content()
    table = LurmTable(shop, CONFIG, finished.tables[0].work)
    shared = [
        table.find(row_named(name, ROWS), "representation", 0)
        for name in ("LURM", "LURM, logistic regression")
    ]
    assert shared[0].path == shared[1].path
    assert table.find(row_named("LURM, not trained", ROWS), "representation", 0).path != shared[0].path
    assert content("LURM, logistic regression", stage="scores") != content(stage="scores")
    assert content("BoI", stage="items") == content(stage="items", smen_epochs=9)
    different = [content(smen_epochs=9), content(item_epochs=9), content("LURM, not trained"), content()]
    assert all(one != other for place, one in enumerate(different) for other in different[:place])


def test_the_page_is_filled_between_its_markers(finished, tmp_path):
    section = lurm_section(finished.stored, "complete_journey")
    assert "simulated" in section.splitlines()[0]
    for name in NAMES:
        assert f"| {name} |" in section
    page = tmp_path / "lurm.md"
    page.write_bytes((DOCS / "lurm.md").read_bytes())
    update_lurm_page(finished.stored, page)
    assert section in page.read_text()
    assert "Nothing has been run yet." in page.read_text()
    page.write_text("no marker")
    with pytest.raises(ValueError, match="needs the lines"):
        update_lurm_page(finished.stored, page)


def test_the_forecast_counts_what_is_left(finished, shop, tmp_path, capsys):
    tables_in(finished.stored.parent, shop, replace(CONFIG, forecast=True)).run()
    assert capsys.readouterr().out.splitlines()[-1] == "In all 0 CPU minutes are left."
    tables = tables_in(tmp_path, shop, replace(CONFIG, forecast=True, rows=("LURM", "PTUM")))
    tables.run()
    assert all(row.of is None for row in LurmTable(shop, replace(CONFIG, ablation_data=()), tmp_path).rows)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("PTUM")]
    assert row.split()[1] == "2"
    assert float(row.split()[2]) >= 0
    assert not (tmp_path / "results").exists()


def test_pictures(finished, shop, tmp_path, capsys):
    picture = replace(CONFIG, picture=True)
    tables_in(finished.stored.parent, shop, picture).run()
    drawn = finished.docs / "lurm_anchors_complete_journey.svg"
    assert drawn.stat().st_size > 10_000
    with pytest.raises(ValueError, match="run these rows first"):
        tables_in(tmp_path, shop, picture).run()
    tables_in(tmp_path, shop, replace(picture, ablation_data=("online_retail",))).run()
    assert "no picture of complete_journey" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    num_threads = torch.get_num_threads()
    assert main(["--data", "online_retail", "--folder", str(tmp_path)]) == 2
    assert "no such folder" in capsys.readouterr().err
    torch.set_num_threads(num_threads)
    with pytest.raises(ValueError, match="no row 'X'"):
        LurmConfig(rows=("X",))
    with pytest.raises(ValueError, match="at least one seed"):
        LurmConfig(seeds=())
    assert len({row.name for row in ROWS}) == len(ROWS)
