"""The Meta-Profile Network's tables on made-up shops: labels, folds, methods, parts, figures, page."""

import json
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
import torch

from experiments import (
    meta_profile_methods,
    meta_profile_parts,
    meta_profile_report,
    meta_profile_tables,
    task_figures,
)
from experiments.kept_parts import KeptPart
from experiments.meta_profile_data import (
    MODALITY,
    ProfileDataSettings,
    TargetRows,
    complete_journey_profiles,
    online_retail_profiles,
)
from experiments.meta_profile_methods import (
    CANDIDATE,
    METHODS,
    NORMAL,
    ZERO_STEPS,
    Learned,
    NetworkSettings,
    candidates,
    draw_examples,
    imbalance_classes,
    mask_labels,
    new_network,
    new_similarity,
    score_target,
    steps_of,
)
from experiments.meta_profile_parts import Part, ProfileParts
from experiments.meta_profile_report import moving_average, update_meta_profile_page
from experiments.meta_profile_tables import DOCS, MetaProfileTableConfig, MetaProfileTables, _Finished, main
from experiments.named_rows import row_named
from experiments.task_figures import MEAN
from graph_builders.datasets.downstream_tasks import PARTS
from graph_builders.datasets.online_retail import FIRST_FILE, SECOND_FILE
from graph_builders.datasets.online_retail_keywords import KEYWORDS
from graph_builders.datasets.online_retail_tasks import USAGE_KINDS
from graphrec.evaluation import auc
from tests.experiments.stored_tables_stay import check_second_run_computes_nothing, check_stored_tables_stay
from tests.experiments.toy_shop import write_shop

# departments 0 and 6 are those of one taste each
TASKS = ProfileDataSettings(
    num_folds=2, targets=("CATEGORY G", "CATEGORY H"), departments=("DEPARTMENT 0", "DEPARTMENT 6")
)
TINY = NetworkSettings(
    narrow=32,
    channels=8,
    source_steps=3,
    meta_steps=2,
    num_ways=3,
    batch_size=8,
    target_steps=(2, 3),
    least_steps=2,
    num_examples=5,
)
CONFIG = MetaProfileTableConfig(network=TINY, tasks=TASKS, seeds=(0, 1), replace_stored=True)
MARKERS = "".join(
    f"<!-- {name}:begin -->\n<!-- {name}:end -->\n"
    for name in ("complete_journey", "online_retail", "benchmark")
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return complete_journey_profiles(write_shop(tmp_path_factory.mktemp("shop") / "data"), TASKS)


@pytest.fixture(scope="module")
def few_levels():
    """Two levels of each experiment, short adaptation, few resamples."""
    with pytest.MonkeyPatch.context() as patch:
        levels = {"ood": (1.0,), "masking": (1.0, 0.05), "imbalance": (0.5, 0.25)}
        patch.setattr(meta_profile_parts, "LEVELS_OF", levels)
        patch.setattr(meta_profile_tables, "LEVELS_OF", levels)
        patch.setattr(meta_profile_report, "MASKING", levels["masking"])
        patch.setattr(meta_profile_report, "IMBALANCE", levels["imbalance"])
        grids = {**meta_profile_methods._GRIDS, "adapted": (("steps", (2, 3)), ("rate", (1e-3,)))}
        patch.setattr(meta_profile_methods, "_GRIDS", grids)
        patch.setattr(task_figures, "NUM_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def finished(shop, few_levels, tmp_path_factory):
    """A whole run, with the tables and pictures of its end alone."""
    tables = tables_in(tmp_path_factory.mktemp("run"), shop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "write_tables", lambda: None)
        patch.setattr(tables, "_show", lambda _: None)
        tables.run()
    tables._show(tables.write_tables())
    return tables


def tables_in(folder, shop, config=CONFIG):
    (folder / "docs").mkdir(exist_ok=True)
    (folder / "docs" / "meta_profile.md").write_text(MARKERS)
    return MetaProfileTables(
        config, results=folder / "results", docs=folder / "docs", work=folder / "work", data=shop
    )


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows_of(label, *, num_rows=None):
    label = torch.as_tensor(label, dtype=torch.float32)
    row = torch.arange(len(label))
    return TargetRows(name="target", row=row, user=row, time=row * 0, label=label, part=row * 0)


# ---- which labels are seen -----------------------------------------------------------------------


def test_masked_labels_lie_in_one_another_and_keep_twenty_of_a_class():
    rows = rows_of(torch.arange(2000) % 10 == 0)
    kept = {share: mask_labels(rows, share, 3) for share in (1.0, 0.4, 0.2, 0.05, 0.005)}
    counts = {share: (int((1 - one.label).sum()), int(one.label.sum())) for share, one in kept.items()}
    assert counts == {1.0: (1800, 200), 0.4: (720, 80), 0.2: (360, 40), 0.05: (90, 20), 0.005: (20, 20)}
    rows_kept = [set(one.row.tolist()) for one in kept.values()]
    assert all(after < before for before, after in pairwise(rows_kept))
    assert set(mask_labels(rows, 0.2, 4).row.tolist()) != rows_kept[2]
    assert all(torch.equal(one.label, rows.label[one.row]) for one in kept.values())


@pytest.mark.parametrize(
    ("ratio", "negatives", "positives"),
    [(0.5, 400, 200), (0.25, 800, 200), (1 / 8, 1600, 200), (1 / 16, 1792, 112), (1 / 128, 1800, 20)],
)
def test_imbalance_keeps_as_many_labels_as_the_ratio_allows(ratio, negatives, positives):
    kept = imbalance_classes(rows_of(torch.arange(2000) % 10 == 0), ratio, 0)
    assert (int((1 - kept.label).sum()), int(kept.label.sum())) == (negatives, positives)


def test_examples_are_as_many_of_each_class():
    settings = replace(TINY, num_examples=7)
    rows = rows_of(torch.arange(50) % 10 == 0)
    assert sorted(draw_examples(rows, settings, 0).label.tolist()) == [0.0] * 5 + [1.0] * 5
    many = rows_of(torch.arange(50) % 2 == 0)
    assert sorted(draw_examples(many, settings, 0).label.tolist()) == [0.0] * 7 + [1.0] * 7


def test_steps_fall_with_the_labels_but_not_below_the_least():
    settings = NetworkSettings(least_steps=150)
    assert [steps_of(300, rows, 1000, settings) for rows in (1000, 800, 510, 100)] == [300, 240, 153, 150]
    assert steps_of(100, 10, 1000, settings) == 100


def test_a_moving_average_is_over_two():
    assert moving_average([1.0, 2.0, 4.0]) == [1.0, 1.5, 3.0]


# ---- data ----------------------------------------------------------------------------------------


def test_customers_are_tested_once_and_targets_are_no_sources(shop):
    tested = []
    for fold in range(2):
        rows = shop.targets(fold)["CATEGORY G"]
        users = {part: set(rows.of_part(part).user.tolist()) for part in PARTS}
        assert not users["train"] & users["test"]
        assert not users["validation"] & (users["train"] | users["test"])
        tested.append(users["test"])
        source_rows, label = shop.source_labels(fold, "train")
        test_users = torch.tensor(sorted(users["test"]))
        assert not torch.isin(shop.users_of(source_rows), test_users).any()
        assert label.shape == (len(source_rows), 12)  # nine of usage, three attributes
        assert not {task.name for task in shop.fold(fold).sources} & set(TASKS.targets)
    assert not tested[0] & tested[1]
    assert tested[0] | tested[1] == set(shop.targets(0)["CATEGORY G"].user.tolist())
    assert shop.digest(0) != shop.digest(1)


def test_rows_of_a_target_are_its_queries(shop):
    rows = shop.targets(1)["CATEGORY H"]
    frame = shop.queries[rows.row.numpy()]
    assert frame["user_id"].to_list() == rows.user.tolist()
    assert frame["time"].to_list() == rows.time.tolist()
    task = shop.fold(1).targets[1]
    label = {
        (user, time): label for user, time, label in task.queries.select("user_id", "time", "label").rows()
    }
    found = dict(
        zip(zip(rows.user.tolist(), rows.time.tolist(), strict=True), rows.label.tolist(), strict=True)
    )
    assert found == label
    assert int(rows.row.max()) < shop.num_target_rows
    assert len(shop.aggregates) == shop.num_target_rows


def test_online_retail_has_the_year_and_returns(tmp_path):
    path = write_wholesaler(tmp_path / "retail")
    settings = ProfileDataSettings(num_folds=2, targets=("mirrors",))
    data = online_retail_profiles(path, settings)
    heatmaps = data.inputs.heatmaps[MODALITY]
    assert (heatmaps.num_days, heatmaps.num_channels) == (365, 9)
    names = [channel.name for channel in data.encoding.channels]
    found = [names[number] for number in heatmaps.channel.unique().tolist()]
    assert found == names  # each channel, returns too, has cells
    assert {len(task.queries) for task in data.fold(0).sources} == {data.queries.height}
    assert int(data.targets(0)["mirrors"].label.sum()) > 0
    with pytest.raises(ValueError, match="--path"):
        online_retail_profiles(None, settings)


def write_wholesaler(folder, *, num_customers=30):
    """Two years of customers who buy of all kinds, a mirror late, and return something at times."""
    rows = []
    start = datetime(2009, 12, 1, 10)
    for customer in range(num_customers):
        for visit in range(24):
            when = start + timedelta(days=visit * 30 + customer % 7, hours=customer % 5)
            words = [KEYWORDS[kind][0] for kind in USAGE_KINDS if (customer + visit) % 3]
            words += ["BEADS", "MIRROR"] if visit == 16 + customer % 7 else ["BEADS"]
            rows += [(customer, when, f"{word} {word.lower()}", 2, 1.5) for word in words]
            if visit % 5 == 4:
                rows.append((customer, when + timedelta(hours=1), "BEADS beads", -1, 1.5))
    customer, when, text, quantity, price = (list(column) for column in zip(*rows, strict=True))
    frame = pl.DataFrame(
        {
            "Customer ID": np.array(customer, dtype=float) + 12_346,
            "InvoiceDate": when,
            "Description": text,
            "Quantity": quantity,
            "Price": price,
            "Country": ["United Kingdom"] * len(rows),
            "Invoice": [f"{'C' if number < 0 else ''}{500_000 + i}" for i, number in enumerate(quantity)],
        }
    ).sort("InvoiceDate")
    codes = {text: f"S{number}" for number, text in enumerate(sorted(frame["Description"].unique()))}
    frame = frame.with_columns(pl.col("Description").replace_strict(codes).alias("StockCode"))
    first = frame.filter(pl.col("InvoiceDate") < datetime(2010, 12, 10))
    second = frame.filter(pl.col("InvoiceDate") >= datetime(2010, 12, 1)).drop("Invoice", "StockCode")
    folder.mkdir()
    first.write_parquet(folder / FIRST_FILE)
    second.rename({"Price": "UnitPrice", "Customer ID": "CustomerID"}).write_parquet(folder / SECOND_FILE)
    return str(folder)


# ---- methods -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taste(shop):
    """A target that the heatmaps tell: which half of the categories a household buys."""
    rows = shop.targets(0)["CATEGORY G"]
    rows = replace(rows, label=(rows.user % 2).float())
    return rows.of_part("train"), rows.of_part("test")


@pytest.mark.parametrize("name", [method.name for method in METHODS])
def test_each_method_learns_the_taste(shop, taste, name):
    train, test = taste
    channels = shop.aggregates.shape[1]
    settings = replace(TINY, narrow=4, channels=channels, batch_size=32, least_steps=60)
    method = row_named(name, METHODS)
    steps = 10.0 if method.kind == "adapted" else 60.0
    setting = {"rate": 1e-2, "steps": steps, "strength": 0.1, "trees": 20.0}
    embedding = (shop.aggregates - shop.aggregates.mean(0)) / (shop.aggregates.std(0) + 1e-6)
    similarity = new_similarity(method.similarity or "relation", settings, 0)
    if method.kind == "meta":  # what meta-training would do: distances
        similarity = new_similarity("prototypes", settings, 0)
    value = score_target(
        shop,
        method,
        setting,
        settings,
        train,
        test,
        seed=0,
        fit_until=shop.fold(0).split.end,
        full_rows=len(train.row),
        learned=Learned(similarity=similarity, embedding=embedding),
        start=lambda: new_network(shop, settings, 1),
    )
    assert auc(test.label.numpy(), value) > 0.8


def test_every_method_has_four_settings():
    for method in METHODS:
        found = candidates(method.kind, NetworkSettings())
        assert len({tuple(one.items()) for one in found}) == 4
    with pytest.raises(ValueError, match="no row 'nothing'"):
        row_named("nothing", METHODS)


# ---- parts and figures ---------------------------------------------------------------------------


def test_every_row_has_its_figures(finished):
    lines = read(finished.stored / "meta_profile_tables.jsonl")
    of_all = {line["method"] for line in lines if line["experiment"] == "ood"}
    assert of_all == {method.name for method in METHODS}
    for experiment, levels in (("masking", {1.0, 0.05}), ("imbalance", {0.5, 0.25})):
        found = {(line["method"], line["level"]) for line in lines if line["experiment"] == experiment}
        names = {method.name for method in METHODS if method.in_curves}
        assert found == {(name, level) for name in names for level in levels}
    assert {line["figure"] for line in lines} == {"CATEGORY G", "CATEGORY H", MEAN}
    assert {line["metric"] for line in lines} == {"auc", "aupr"}
    assert all(0 <= value <= 1 for line in lines for value in line["values"])
    seeds = {(line["method"], line["experiment"]): line["seeds"] for line in lines}
    assert seeds[CANDIDATE, "ood"] == [0, 1]
    trees = "boosted trees on aggregates"
    assert seeds[trees, "ood"] == [0]  # no seed changes it
    assert seeds[trees, "masking"] == [0, 1]  # the seed draws the labels
    tested = finished.data.targets(0)["CATEGORY G"]
    (line,) = {
        (one["num_queries"], one["num_users"])
        for one in lines
        if one["figure"] == "CATEGORY G" and one["experiment"] == "ood"
    }
    assert line == (len(tested.row), len(tested.user.unique()))


def test_all_labels_are_the_same_experiment_as_no_mask(finished):
    """With a share of 1 a method that draws nothing else has the figures of the unmasked experiment."""
    lines = read(finished.stored / "meta_profile_tables.jsonl")
    name = "logistic regression on aggregates"
    values = {
        experiment: [
            line["values"][0]
            for line in lines
            if line["experiment"] == experiment and line["level"] == 1.0 and line["method"] == name
        ]
        for experiment in ("ood", "masking")
    }
    assert len(values["ood"]) == 6
    assert values["ood"] == values["masking"]


def test_tests_are_of_the_candidate_against_all_others(finished):
    tests = read(finished.stored / "meta_profile_tables.tests.jsonl")
    assert {test["method"] for test in tests} == {CANDIDATE}
    others = {test["other"] for test in tests if test["experiment"] == "ood"}
    assert others == {method.name for method in METHODS} - {CANDIDATE}
    best = [test for test in tests if test["best_baseline"] and test["experiment"] == "ood"]
    assert len(best) == 2 * 3  # a metric and figure each
    assert not {test["other"] for test in best} & {ZERO_STEPS}


def test_a_second_run_computes_nothing_and_writes_the_same(finished, monkeypatch):
    check_second_run_computes_nothing(finished, 4, monkeypatch, "run", tables_once=True)


def test_stored_tables_stay_where_a_run_has_other_options_or_nothing(finished, shop, tmp_path, capsys):
    tables = tables_in(tmp_path, shop, replace(CONFIG, only_tables=True, replace_stored=False))
    parts, page = finished.parts.folder.parent, DOCS / "meta_profile.md"
    check_stored_tables_stay(finished, tables, page, parts, tmp_path, lambda: capsys.readouterr().out)


def test_meta_training_is_shared_by_the_rows_that_read_its_g(finished):
    setting = finished.chosen(row_named(ZERO_STEPS, METHODS))
    meta = Part(stage="meta", seed=1, fold=1, similarity="relation", setting=tuple(setting.items()))
    for name in (ZERO_STEPS, CANDIDATE, "logistic regression on frozen g"):
        part = finished.test_part(row_named(name, METHODS), "ood", 1, 1)
        assert finished.parts.needed(part) == [Part(stage="start", seed=1, fold=1), meta]
    assert finished.parts.needed(finished.test_part(row_named(NORMAL, METHODS), "ood", 1, 1)) == []
    assert finished.parts.find(meta) is not None


def test_validation_chooses_the_setting_with_the_best_figure(finished, monkeypatch):
    method = row_named("logistic regression on aggregates", METHODS)
    parts = finished.tuning_parts(method)
    figures = [0.5, 0.7, 0.6, 0.65]

    def find(part):
        return KeptPart(
            path=None, facts={"figures": [figures[parts.index(part)]] * 2}, frame=None, is_new=False
        )

    monkeypatch.setattr(finished.parts, "find", find)
    assert finished.parts.choose(parts) == (dict(parts[1].setting), 0.7)
    monkeypatch.setattr(finished.parts, "find", lambda part: None if part == parts[3] else find(part))
    assert finished.parts.choose(parts) is None


def test_a_scale_of_a_fold_changes_no_figure():
    """Scores of two folds are joined by their ranks."""
    generator = np.random.default_rng(0)

    def part(users, scale):
        value = generator.random(len(users))
        frame = pl.DataFrame(
            {
                "target": ["a"] * len(users),
                "level": [1.0] * len(users),
                "user_id": users,
                "time": [0] * len(users),
                "label": [user % 2 for user in users],
                "value": value * scale,
            }
        )
        return KeptPart(path=None, facts={}, frame=frame, is_new=False)

    found = []
    for scale in (1.0, 100.0):
        generator = np.random.default_rng(0)
        parts = [part([3, 1, 5, 8], 1.0), part([2, 4, 7, 6], scale)]
        found.append(_Finished(row_named(NORMAL, METHODS), {0: parts}).scores(1.0).tasks["a"])
    assert found[0].user_id.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(found[0].values[0], found[1].values[0])
    assert sorted(found[0].values[0].tolist()) == [0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1.0, 1.0]


# ---- page, pictures, command ---------------------------------------------------------------------


def test_the_page_has_the_tables_and_the_curves_are_drawn(finished):
    page = (finished.docs / "meta_profile.md").read_text()
    assert "simulated" in page
    assert page.count("| CATEGORY G | ") == 3  # beside normal training, and of each metric
    assert "the floor holds the positives at" in page
    assert "1 : 4" in page
    assert "Nothing has been run yet." in page  # of Online Retail
    for experiment in ("masking", "imbalance"):
        text = (finished.docs / f"meta_profile_{experiment}_complete_journey.svg").read_text()
        assert text.startswith("<?xml")
    with pytest.raises(ValueError, match="complete_journey:begin"):
        update_meta_profile_page(finished.stored, _without_markers(finished.docs))


def _without_markers(docs):
    page = docs / "other.md"
    page.write_text("nothing")
    return page


def test_a_part_run_says_what_is_not_finished(shop, few_levels, tmp_path):
    config = replace(CONFIG, experiment=("ood",), rows=("logistic regression on aggregates",), folds=(0,))
    tables = tables_in(tmp_path, shop, config)
    tables.run()
    page = (tmp_path / "docs" / "meta_profile.md").read_text()
    assert f"Not finished, and so not here: {ZERO_STEPS}; {CANDIDATE}" in page
    assert page.count("Not finished.") == 2  # the other experiments
    assert not list((tmp_path / "docs").glob("*.svg"))


def test_a_forecast_runs_nothing(shop, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ProfileParts, "run", None)
    tables = tables_in(tmp_path, shop, replace(CONFIG, forecast=True))
    tables.run()
    printed = capsys.readouterr().out
    assert "masking" in printed
    assert "CPU minutes" in printed
    assert not tables.stored.exists()


def test_the_picture_is_of_a_row_with_many_cells(shop, tmp_path):
    tables = tables_in(tmp_path, shop, replace(CONFIG, picture=True))
    tables.run()
    text = (tmp_path / "docs" / "meta_profile_heatmap_complete_journey.svg").read_text()
    assert text.count("<image") == len(shop.encoding.channels)


def test_wrong_options_are_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="no row 'nobody'"):
        MetaProfileTableConfig(rows=("nobody",))
    with pytest.raises(ValueError, match="folds must lie in 0 to 4"):
        MetaProfileTableConfig(folds=(5,))
    for name in ("seeds", "folds"):
        with pytest.raises(ValueError, match=rf"{name}.* once.* got \[0, 1, 0\]"):
            MetaProfileTableConfig(**{name: (0, 1, 0)})
    for options, message in (
        ({"max_rate": 0.0}, "NetworkSettings.max_rate must be finite and above 0"),
        ({"max_rate": float("inf")}, "NetworkSettings.max_rate must be finite and above 0"),
        ({"least_steps": -1}, "NetworkSettings.least_steps must be a whole number of at least 0"),
        ({"target_steps": (150, 0)}, "NetworkSettings.target_steps must be a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            NetworkSettings(**options)
    with pytest.raises(ValueError, match=r"ProfileDataSettings.num_folds must be a whole number of at leas"):
        ProfileDataSettings(num_folds=1)
    with pytest.raises(ValueError, match="at least one seed"):
        MetaProfileTableConfig(seeds=())
    with pytest.raises(ValueError, match="target_steps"):
        NetworkSettings(target_steps=())
    assert main(["--path", str(tmp_path / "nowhere")]) == 2
    assert "error" in capsys.readouterr().err
