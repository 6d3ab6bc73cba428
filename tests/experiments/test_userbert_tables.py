"""UserBERT's tables on a made-up shop: parts, what validation chooses, figures, tests, pages, pictures."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from experiments import userbert_kuairand, userbert_methods
from experiments.named_rows import row_named
from experiments.results_table import write_lines
from experiments.task_figures import MEAN, correct_tests
from experiments.userbert_data import (
    ATTRIBUTES,
    NEXT_GENRE,
    TARGETING,
    DataSettings,
    TaskFamily,
    complete_journey_data,
    thin_training,
)
from experiments.userbert_figures import RowScores, compare_rows, curves_of, rows_of_figures
from experiments.userbert_methods import METHODS, TrainingSettings, candidates, figures_of
from experiments.userbert_parts import Part, UserBERTParts
from experiments.userbert_report import draw_ablations, update_userbert_page, userbert_section
from experiments.userbert_stored import add_to_tables
from experiments.userbert_tables import DOCS, ROWS, UserBERTTableConfig, UserBERTTables, main
from graph_builders.datasets.downstream_tasks import PART_TYPE, DownstreamTask
from tests.experiments.kuairand_slice import sliced_log, write_slice
from tests.experiments.stored_tables_stay import check_second_run_computes_nothing, contents
from tests.experiments.toy_shop import write_shop

TINY = TrainingSettings(
    channels=8,
    num_blocks=1,
    num_heads=2,
    attribute_channels=4,
    pretraining_epochs=1,
    task_epochs=1,
    epochs=2,
    rates=(1e-2,),
)
TASKS = DataSettings(
    num_categories=2, num_tuned=1, max_targeting=60, max_genre=100, pretraining_days=70, max_words=12
)
CONFIG = UserBERTTableConfig(training=TINY, tasks=TASKS, seeds=(0, 1), replace_stored=True)
SIMPLE = ("popular genres", "own frequency, decayed", "TF-IDF + logistic regression")
BASELINES = ("popular genres", "own frequency, decayed", "TF-IDF + logistic regression", "LSTM+MTL")
TRAINED = ("LSTM+MTL", "UserBERT", "UserBERT, every action a word")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return complete_journey_data(write_shop(tmp_path_factory.mktemp("shop") / "data"), TASKS)


@pytest.fixture(scope="module")
def finished(shop, tmp_path_factory):
    """A whole run of some rows."""
    tables = tables_in(tmp_path_factory.mktemp("run"), shop, SIMPLE + TRAINED)
    tables.run()
    return tables


def tables_in(folder, shop, names, config=CONFIG):
    methods = [row_named(name, METHODS) for name in names]
    return UserBERTTables(
        config,
        results=folder / "results",
        docs=folder / "docs",
        work=folder / "work",
        data=shop,
        methods=methods,
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_costs(lines):
    return [{name: value for name, value in line.items() if name != "cpu_seconds"} for line in lines]


# ---- a whole run ---------------------------------------------------------------------------------


def test_every_row_has_its_figures(finished):
    lines = read(finished.stored / "userbert_tables.jsonl")
    found = {(line["method"], line["family"]) for line in lines}
    assert found == {
        (name, family) for name in SIMPLE + TRAINED for family in row_named(name, METHODS).families
    }
    assert all(0 <= value <= 1 for line in lines for value in line["values"])
    seeds = {line["method"]: line["seeds"] for line in lines}
    assert seeds["UserBERT"] == [0, 1]
    assert seeds["popular genres"] == [0]  # no seed changes it
    assert seeds["UserBERT, every action a word"] == [0]  # an ablation
    of_targeting = {line["figure"] for line in lines if line["family"] == TARGETING}
    assert of_targeting == {MEAN, *(task.name for task in finished.data.families[0].tasks)}


def test_the_shop_can_be_learned(finished):
    """The taste tells the kids and the next basket, so no figure of these is a coin's."""
    lines = read(finished.stored / "userbert_tables.jsonl")
    aucs = [line for line in lines if line["metric"] == "auc"]
    kids = {line["method"]: line["values"][0] for line in aucs if line["figure"] == "kids"}
    assert kids["TF-IDF + logistic regression"] > 0.95
    genre = {line["method"]: line["values"][0] for line in lines if line["family"] == NEXT_GENRE}
    assert genre["own frequency, decayed"] > genre["popular genres"] + 0.1


def test_tests_are_of_all_other_rows_and_name_the_best_baseline(finished):
    lines = read(finished.stored / "userbert_tables.tests.jsonl")
    genre = [line for line in lines if line["family"] == NEXT_GENRE]
    assert {line["other"] for line in genre} == set(SIMPLE[:2] + TRAINED) - {"UserBERT"}
    for figure in {(line["family"], line["figure"]) for line in lines}:
        of_figure = [line for line in lines if (line["family"], line["figure"]) == figure]
        (best,) = [line for line in of_figure if line["best_baseline"]]
        baselines = [one for one in of_figure if not one["other"].startswith("UserBERT")]
        assert best["difference"] == min(one["difference"] for one in baselines)
    assert all(line["p_value_corrected"] >= line["p_value"] * 0.999 for line in lines)


def test_a_second_run_computes_nothing_and_writes_the_same(finished, monkeypatch):
    check_second_run_computes_nothing(finished, 4, monkeypatch, "run")


def test_where_nothing_is_finished_stored_tables_stay_and_the_command_says_so(shop, finished, tmp_path):
    shutil.copytree(finished.stored, tmp_path / "results")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "userbert.md").write_bytes((DOCS / "userbert.md").read_bytes())
    before = contents(tmp_path)
    for config in (CONFIG, UserBERTTableConfig(replace_stored=True)):
        tables = tables_in(tmp_path, shop, SIMPLE, replace(config, only_tables=True))
        with pytest.raises(ValueError, match="no row is finished"):
            tables.run()
    assert contents(tmp_path) == before


def test_other_options_have_a_folder_of_their_own(shop, finished, tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "userbert.md").write_bytes((DOCS / "userbert.md").read_bytes())
    shutil.copytree(finished.stored, tmp_path / "results")
    before = contents(tmp_path)
    trial = replace(CONFIG, only_tables=True, replace_stored=False)
    own = UserBERTTables(
        trial,
        results=tmp_path / "results",
        docs=tmp_path / "docs",
        work=finished.parts.folder.parent,
        data=shop,
        methods=finished.all_methods,
    )
    own.run()
    assert contents(tmp_path) == before
    assert "--replace-stored puts them there" in capsys.readouterr().out
    found = {path.name: path.read_text() for path in own.own_results.glob("*.jsonl")}
    assert found == {path.name: path.read_text() for path in finished.stored.glob("*.jsonl")}
    assert (own.own_results / "userbert_ablations_complete_journey.svg").exists()


def test_rows_and_seeds_that_are_not_finished_here_are_not_taken_from_the_stored(
    shop, finished, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(UserBERTTableConfig, "has_default_options", True)
    shutil.copytree(finished.stored, tmp_path / "results")
    shutil.copytree(finished.parts.folder, tmp_path / "work" / "parts")
    before = contents(tmp_path / "results")
    defaults = replace(CONFIG, only_tables=True, replace_stored=False)
    fewer = tables_in(tmp_path, shop, SIMPLE + TRAINED, replace(defaults, seeds=(0,)))
    assert fewer.write_tables() == fewer.own_results
    assert "lack rows, seeds or queries that are there (LSTM+MTL (targeting);" in capsys.readouterr().out
    assert tables_in(tmp_path, shop, SIMPLE, defaults).write_tables() == fewer.own_results
    assert contents(tmp_path / "results") == before
    assert tables_in(tmp_path, shop, SIMPLE + TRAINED, defaults).write_tables() == tmp_path / "results"
    assert contents(tmp_path / "results") == before  # all that was stored
    forced = replace(defaults, replace_stored=True)
    assert tables_in(tmp_path, shop, SIMPLE, forced).write_tables() == tmp_path / "results"
    assert {line["method"] for line in read(tmp_path / "results" / ROWS)} == set(SIMPLE)


def test_a_row_and_a_seed_are_added_to_stored_tables_without_the_parts_of_the_others(
    shop, finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(UserBERTTableConfig, "has_default_options", True)
    shutil.copytree(finished.stored, tmp_path / "results")
    whole = {path.name: read(path) for path in finished.stored.glob("*.jsonl")}
    actions, lstm = "UserBERT, every action a word", "LSTM+MTL"
    for name, lines in whole.items():
        kept = [line for line in lines if actions not in (line["method"], line.get("other"))]
        for line in kept:
            if line["method"] == lstm:
                line["seeds"] = [0]
                if "values" in line:
                    line["values"] = line["values"][:1]
        write_lines(tmp_path / "results" / name, kept)
    before = {path.name: read(path) for path in finished.stored.glob("*.jsonl")}

    def without_costs(lines):
        return [{name: value for name, value in line.items() if name != "cpu_seconds"} for line in lines]

    config = replace(CONFIG, replace_stored=False, add_to_stored=True, seeds=(1,), rows=(lstm, actions))
    adding = tables_in(tmp_path, shop, SIMPLE + TRAINED, config)
    adding.run()
    # a tuning, or UserBERT itself, was not computed here
    assert not [path.name for path in adding.parts.folder.glob("*.json") if path.name.startswith("tuning")]
    assert not list(adding.parts.folder.glob("start-userbert--pre-training*.json"))
    for name, lines in before.items():
        found = read(tmp_path / "results" / name)
        if ".tests" in name:  # a difference from UserBERT needs its scores, which are not here
            assert found == correct_tests([line for line in lines if line["other"] != actions], BASELINES)
        else:
            assert without_costs(found) == without_costs(lines)
    rows = {(row["family"], row["method"]): row for row in read(tmp_path / "results" / ROWS)}
    stored = {(row["family"], row["method"]): row for row in before[ROWS]}
    for key, row in rows.items():  # tuning was paid once
        assert row["cpu_seconds"]["tuning"] == stored[key]["cpu_seconds"]["tuning"]
    adding.write_tables()
    assert {(row["family"], row["method"]): row for row in read(tmp_path / "results" / ROWS)} == rows
    other = adding.stored / ROWS
    write_lines(other, [{**row, "epoch": row["epoch"] + 1} for row in read(other) if row["method"] == lstm])
    again = tables_in(tmp_path, shop, SIMPLE + TRAINED, replace(config, rows=(actions,)))
    with pytest.raises(ValueError, match=r"another epoch: \d"):
        add_to_tables(
            {name: again._stored_lines(name) for name in ("", ".tests", ".curves", ".rows")},
            {"": [], ".tests": [], ".curves": [], ".rows": [stored["targeting", lstm]]},
            (),
            (),
        )


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        (TrainingSettings, {"num_heads": 3}, "channels must be a multiple of num_heads, got 128 and 3"),
        (TrainingSettings, {"attribute_channels": 0}, "attribute_channels must be a whole number"),
        (TrainingSettings, {"rates": (1e-3, -1.0)}, "rates above 0, one at least"),
        (TrainingSettings, {"task_rate": float("nan")}, "task_rate must be finite and above 0"),
        (DataSettings, {"num_categories": 0}, "num_categories must be a whole number of at least 1"),
        (DataSettings, {"max_size": 0}, "max_size must be"),
    ],
)
def test_impossible_settings_are_refused_before_anything_runs(made, options, message):
    with pytest.raises(ValueError, match=message):
        made(**options)


def test_adding_to_stored_tables_needs_the_options_that_they_were_made_with():
    for options in ({"training": TINY}, {"replace_stored": True}):
        with pytest.raises(ValueError, match="leave --replace-stored and options of"):
            UserBERTTableConfig(add_to_stored=True, **options)


def test_a_stopped_run_goes_on_where_it_was(finished, shop, tmp_path, monkeypatch):
    whole, count = UserBERTParts.run, [0]

    def stop_at_sixth(self, part, **options):
        count[0] += 1
        if count[0] == 6:
            raise KeyboardInterrupt
        return whole(self, part, **options)

    names = ("popular genres", "UserBERT")
    monkeypatch.setattr(UserBERTParts, "run", stop_at_sixth)
    with pytest.raises(KeyboardInterrupt):
        tables_in(tmp_path, shop, names).run()
    monkeypatch.setattr(UserBERTParts, "run", whole)
    tables_in(tmp_path, shop, names).run()
    found = read(tmp_path / "results" / "userbert_tables.jsonl")
    wanted = [line for line in read(finished.stored / "userbert_tables.jsonl") if line["method"] in names]
    assert found == wanted
    assert not list((tmp_path / "work").rglob("*.tmp")) + list((tmp_path / "work").rglob("*.training.pt"))


def test_the_page_says_that_the_data_is_simulated_and_what_was_chosen(finished):
    page = userbert_section(finished.stored, "complete_journey")
    assert "simulated" in page.splitlines()[0]
    for name in SIMPLE + TRAINED:
        assert f"| {name} |" in page
    assert page.count("Not finished, and so not here: ") == 3
    assert "not here: own frequency; Wide&Deep+MTL; Transformer+MTL; UserBERT, not pre-trained;" in page
    assert "epoch 1 of 2" in page or "epoch 2 of 2" in page
    assert userbert_section(finished.stored, "kuairand") == "Nothing has been run yet."


def test_the_page_is_filled_between_its_markers(finished, tmp_path):
    page = tmp_path / "userbert.md"
    page.write_bytes((DOCS / "userbert.md").read_bytes())
    update_userbert_page(finished.stored, page)
    text = page.read_text()
    assert userbert_section(finished.stored, "complete_journey") in text
    assert text.startswith("# UserBERT")
    page.write_text("no marker")
    with pytest.raises(ValueError, match="needs the lines"):
        update_userbert_page(finished.stored, page)
    assert page.read_text() == "no marker"


def test_pictures(finished):
    curves = (finished.docs / "userbert_ablations_complete_journey.svg").read_text()
    assert curves.count('id="axes_') == 1 * 3  # one ablation is whole, three families
    replaced = replace(CONFIG, picture=True)
    names = SIMPLE + TRAINED
    tables_in(finished.stored.parent, finished.data, names, replaced).run()
    assert (finished.docs / "userbert_words_complete_journey.svg").stat().st_size > 10_000


def test_ablations_are_drawn_while_a_row_lacks_a_family(tmp_path):
    lines = [
        {"data": "toy", "family": family, "method": method, "metric": "auc", "values": [[0.5, 0.6]]}
        for method, family in (
            ("UserBERT", "targeting"),
            ("UserBERT", "next genre"),
            ("UserBERT, not pre-trained", "targeting"),
            ("LSTM+MTL", "attributes"),
        )
    ]
    path = tmp_path / "userbert_tables.curves.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert draw_ablations(tmp_path, "toy", tmp_path / "toy.svg")
    drawn = (tmp_path / "toy.svg").read_text()
    assert drawn.count('id="axes_') == 3  # that of the attributes is empty
    assert drawn.count("epoch of fine-tuning") == 2


def test_a_picture_needs_a_finished_test(shop, tmp_path):
    with pytest.raises(ValueError, match="run its row first"):
        tables_in(tmp_path, shop, TRAINED, replace(CONFIG, picture=True)).run()


def test_the_forecast_counts_what_is_left(finished, shop, tmp_path, capsys):
    finished.print_forecast()
    assert capsys.readouterr().out.splitlines()[-1].endswith("0.0 of them left.")
    tables = tables_in(tmp_path, shop, ("LSTM+MTL",), replace(CONFIG, forecast=True))
    tables.run()
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if line.startswith("LSTM+MTL")]
    # a pre-training a seed, a tuned task of each family at one rate, six tests a seed
    assert int(row.split()[1]) == 2 + 3 + 2 * 6
    assert not (tmp_path / "results").exists()


# ---- parts ---------------------------------------------------------------------------------------


def test_a_part_is_found_by_what_decides_it(shop, tmp_path):
    def path(name, seed=0, settings=TINY, task="kids", stage="test"):
        part = Part(stage=stage, method=row_named(name, METHODS), seed=seed, family=ATTRIBUTES, task=task)
        return UserBERTParts(shop, settings, tmp_path).path(part)

    assert path("UserBERT", settings=replace(TINY, rates=(1e-3, 1e-4))) == path("UserBERT")
    assert path("UserBERT", settings=replace(TINY, task_epochs=9)) == path("UserBERT")
    changes = [
        path("UserBERT"),
        path("UserBERT", seed=1),
        path("UserBERT", task="income"),
        path("UserBERT", stage="tuning"),
        path("UserBERT", settings=replace(TINY, pretraining_epochs=2)),
        path("UserBERT", settings=replace(TINY, channels=16)),
        path("UserBERT, not pre-trained"),
        path("UserBERT, every action a word"),
    ]
    assert len(set(changes)) == len(changes)
    simple = path("TF-IDF + logistic regression")
    assert path("TF-IDF + logistic regression", settings=replace(TINY, channels=16)) == simple


def test_validation_chooses_the_best_setting_and_epoch(shop, tmp_path):
    settings = replace(TINY, rates=(1e-2, 1e-3))
    parts = UserBERTParts(shop, settings, tmp_path)
    method, family = row_named("UserBERT, not pre-trained", METHODS), shop.families[1]
    assert parts.choose(method, family) is None
    figures = {1e-2: [0.5, 0.7], 1e-3: [0.8, 0.6]}
    for part in parts.tuning_parts(method, family):
        parts.path(part).write_text(json.dumps({"figures": figures[dict(part.setting)["rate"]]}))
    chosen = parts.choose(method, family)
    assert (chosen.setting, chosen.epoch, chosen.figure, chosen.num_settings) == ({"rate": 1e-3}, 1, 0.8, 4)


def test_a_test_needs_its_pretraining(shop, tmp_path):
    part = Part(
        stage="test",
        method=row_named("UserBERT", METHODS),
        seed=0,
        family=ATTRIBUTES,
        task="kids",
        setting=(("rate", 1e-2),),
    )
    with pytest.raises(ValueError, match="run the pre-training"):
        UserBERTParts(shop, TINY, tmp_path).run(part)


def test_all_methods_have_as_many_settings():
    settings = TrainingSettings(epochs=5)
    half_lives = (1.0, 2.0, 3.0, 4.0, 5.0)
    count = {m.name: len(candidates(m, settings, half_lives)) for m in METHODS if m.kind != "network"}
    assert set(count.values()) == {1, 10}  # popularity and the plain frequency have nothing to choose
    assert len(candidates(row_named("UserBERT", METHODS), settings, half_lives)) * settings.epochs == 10


def test_trees_score_binary_tasks(shop, monkeypatch):
    monkeypatch.setattr(userbert_methods, "TREES", ({"num_trees": 5.0, "learning_rate": 0.3},))
    (setting,) = candidates(row_named("boosted trees", METHODS), TINY, ())
    kids = shop.families[1].tasks[0]
    scored = userbert_methods.score_task(
        shop, row_named("boosted trees", METHODS), kids, setting, TINY, seed=0, part="test"
    )
    assert scored.figures[0] > 0.9
    assert len(scored.value) == kids.part("test").height


@pytest.mark.parametrize("name", ["Wide&Deep+MTL", "Transformer+MTL, 30% of the labels"])
def test_towers_are_pretrained_on_usage_and_differ_from_untrained_ones(shop, tmp_path, name):
    parts = UserBERTParts(shop, TINY, tmp_path)
    method = row_named(name, METHODS)
    start = Part(stage="start", method=method, seed=0)
    parts.run(start)
    test = Part(
        stage="test", method=method, seed=0, family=ATTRIBUTES, task="kids", setting=(("rate", 1e-2),)
    )
    untrained = replace(test, method=replace(method, start=None))
    assert not np.array_equal(parts.score(test).value, parts.score(untrained).value)


# ---- data ----------------------------------------------------------------------------------------


def test_pretraining_and_inputs_hold_nothing_that_tells(shop):
    queries = shop.pretraining_queries
    part = shop.split.user_parts(queries["user_id"])["part"].cast(pl.String)
    assert set(part) == {"train"}
    assert queries["time"].max() <= shop.split.test_start
    fields = {name for tokenizer in shop.tokenizers.values() for name in tokenizer.fields}
    names = {name for t in shop.tokenizers.values() for k in t.kinds.values() for name in k.attributes}
    forbidden = {name for family in shop.families for task in family.tasks for name in task.forbidden_fields}
    assert forbidden
    assert not fields | (names & forbidden)
    for tokenizer in shop.tokenizers.values():
        tokenizer.check_before(shop.split.test_start)


def test_every_action_is_a_word(shop):
    task = shop.families[1].tasks[0]
    words = shop.task_sentences(task, "words").words["short"]
    actions = shop.task_sentences(task, "actions").words["short"]
    assert actions.num_words == len(actions.code) == len(words.code)  # a week's actions fit
    assert words.num_words < actions.num_words


def test_the_fingerprint_is_of_values(shop, tmp_path):
    same = complete_journey_data(write_shop(tmp_path / "same"), replace(TASKS, max_genre=50))
    assert same.fingerprint == shop.fingerprint
    assert (
        complete_journey_data(write_shop(tmp_path / "other", seed=1), TASKS).fingerprint != same.fingerprint
    )


def test_thinning_takes_training_queries_alone():
    count = 50
    queries = pl.DataFrame(
        {
            "user_id": list(range(count)),
            "time": list(range(count)),
            "part": ["train"] * 30 + ["validation"] * 10 + ["test"] * 10,
            "label": [float(i % 2) for i in range(count)],
            "label_time": [None] * count,
        },
        schema_overrides={"part": PART_TYPE, "label": pl.Float32, "label_time": pl.Int64},
    )
    task = DownstreamTask(name="one", kind="binary", queries=queries, horizon=1)
    thinned = thin_training(task, 12)
    assert thinned.queries["part"].value_counts().sort("part")["count"].to_list() == [12, 10, 10]
    assert thinned.queries.sort("user_id").equals(thinned.queries)
    assert thin_training(task, 12).queries.equals(thinned.queries)
    assert "12 of 30" in thinned.notes[-1]
    assert thin_training(task, 30) is task


def test_next_tags_are_those_of_the_day_after_the_query():
    day = userbert_kuairand.DAY
    asked = pl.DataFrame(
        {"user_id": [1, 2, 1], "time": [0, 0, day], "part": ["train"] * 3},
        schema_overrides={"part": PART_TYPE},
    )
    clicks = pl.DataFrame(
        {
            "user_id": [1, 1, 1, 2],
            "time": [0, day - 1, day, 2 * day],
            "tag": [["7", "8"], ["3"], ["9"], ["3"]],
            "domain": ["internal"] * 4,
        }
    )
    task = userbert_kuairand.next_tags(asked, clicks)
    assert task.queries.select("user_id", "time", "label", "label_time").rows() == [
        (1, 0, ["3", "7"], 0),
        (1, day, ["9"], day),
    ]
    assert "1 of 3" in task.notes[0]
    first = datetime.fromtimestamp(userbert_kuairand.FIRST_DAY / 1000, UTC)
    assert first.isoformat() == "2022-04-24T20:00:00+00:00"  # 4 AM of the next day in Shanghai


def test_kuairand_is_read_and_scored_without_the_early_sequences(tmp_path):
    data = userbert_kuairand.kuairand_data(write_slice(tmp_path / "slice", sliced_log()), TASKS)
    assert all("early" not in relation for _, relation, _ in data.graph.edge_types)
    (family,) = data.families
    (task,) = family.tasks
    assert task.part("train").height == TASKS.max_genre
    assert len(data.usage) == 5
    assert {one.kind for one in data.usage} == {"binary"}
    parts = UserBERTParts(data, TINY, tmp_path / "parts")
    options = {"family": NEXT_GENRE, "task": task.name, "seed": 0, "setting": (("rate", 1e-2),)}
    for name in ("own frequency", "UserBERT", "LSTM+MTL"):
        part = Part(stage="test", method=row_named(name, METHODS), **options)
        start = parts.start_of(part)
        if start is not None:
            parts.run(start)
        parts.run(part)
        (figure, *_) = parts.find(part)["figures"]
        assert 0 < figure < 1


# ---- figures -------------------------------------------------------------------------------------


def frame(user, values, label=None):
    columns = {"user_id": user, "time": list(range(len(user)))}
    if label is not None:
        columns["label"] = np.array(label, np.float32)
    columns |= {f"value_{i + 1}": np.array(value, float) for i, value in enumerate(values)}
    return pl.DataFrame(columns)


def family_of(*names, kind="binary"):
    label = pl.Series("label", [1.0] if kind == "binary" else [["a"]])
    queries = pl.DataFrame(
        {"user_id": [1], "time": [0], "part": ["test"], "label": label}, schema_overrides={"part": PART_TYPE}
    )
    return TaskFamily(
        name="some",
        tasks=tuple(DownstreamTask(name=n, kind=kind, queries=queries, horizon=0) for n in names),
        num_tuned=1,
    )


def test_figures_are_means_over_tasks_at_the_epoch_that_counts():
    label, user = [0, 1, 0, 1], [1, 1, 2, 3]
    family = family_of("a", "b")
    row = RowScores(
        name="row",
        epoch=2,
        seeds=(0, 5),
        frames={
            "a": [frame(user, [[0.9] * 4, [0.1, 0.9, 0.2, 0.8]], label)] * 2,
            "b": [
                frame(user, [[0.9] * 4, [0.6, 0.9, 0.2, 0.4]], label),
                frame(user, [[0.9] * 4, [0.9, 0.1, 0.8, 0.2]], label),
            ],
        },
    )
    lines = {(line["figure"], line["metric"]): line for line in rows_of_figures(row, family)}
    assert lines["a", "auc"]["values"] == [1.0, 1.0]
    assert lines["b", "auc"]["values"] == [0.75, 0.0]
    assert lines[MEAN, "auc"]["values"] == [0.875, 0.5]
    assert lines["b", "accuracy"]["values"] == [0.5, 0.0]
    assert (lines[MEAN, "auc"]["num_queries"], lines[MEAN, "auc"]["num_users"]) == (8, 3)
    assert curves_of(row, family)["values"] == [[0.5, 0.875], [0.5, 0.5]]


def test_figures_of_one_class_are_undefined():
    assert np.isnan(figures_of(np.ones(3), np.zeros((3, 2)))).all()


@pytest.mark.parametrize("kind", ["binary", "set"])
def test_a_real_difference_is_found_and_none_is_not(kind):
    generator = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 5).tolist()
    label = generator.integers(0, 2, 300) if kind == "binary" else None
    truth = generator.random(300) * 0.4 if label is None else label
    family = family_of("a", kind=kind)

    def row(name, value):
        return RowScores(name=name, epoch=1, seeds=(0,), frames={"a": [frame(user, [value], label)]})

    noise = generator.random((3, 300))
    good, bad = truth + noise[0], noise[1] * (1 if kind == "binary" else 0.6)
    same = good if kind == "binary" else good + 0.2 * (noise[2] - 0.5)
    lines = compare_rows(row("x", good), [row("bad", bad), row("same", same)], family, ["bad", "same"])
    by = {line["other"]: line for line in lines}
    assert by["bad"]["lower"] > 0
    assert by["bad"]["p_value_corrected"] < 0.01
    assert by["same"]["lower"] <= 0 <= by["same"]["upper"]
    assert by["same"]["best_baseline"]
    assert not by["bad"]["best_baseline"]


def test_rows_of_other_queries_are_not_compared():
    family = family_of("a")
    one = RowScores(name="one", epoch=1, seeds=(0,), frames={"a": [frame([1, 2], [[0.1, 0.9]], [0, 1])]})
    other = replace(one, name="other", frames={"a": [frame([1, 3], [[0.1, 0.9]], [0, 1])]})
    with pytest.raises(ValueError, match="other queries"):
        compare_rows(one, [other], family, [])


# ---- command -------------------------------------------------------------------------------------


def test_a_missing_folder_is_said_in_one_line(capsys):
    assert main(["--path", "nowhere"]) == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


def test_an_unknown_row_is_refused():
    with pytest.raises(ValueError, match="no row 'nothing'"):
        UserBERTTableConfig(rows=("nothing",))
    with pytest.raises(
        ValueError,
        match=r"UserBERTTableConfig.ablation_seeds names at least one seed, each once: got \[1, 1\]",
    ):
        UserBERTTableConfig(ablation_seeds=(1, 1))
