"""LSTTM's table on a slice of KuaiRand: search, parts that are found again, tables from what is finished."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from experiments.config import DATA_SETTINGS, BaselineConfig, ItemRateConfig, LSTTMConfig
from experiments.inputs import DATA, load_inputs
from experiments.lsttm_report import draw_hours, lsttm_section
from experiments.lsttm_table import LSTTMTable, TableConfig
from experiments.readme import update_pages
from experiments.results_table import read_lines
from experiments.run_parts import missing_parts
from experiments.search import GAUC, chosen, criterion, trial_specs, trials
from experiments.table_rows import ROWS, TableRow, rows_of_data, with_settings
from graphrec.training.batches import ShortTermConfig
from graphrec.training.long_term import LongTermConfig
from graphrec.training.loop import OptimizerConfig
from graphrec.training.online import OnlineConfig
from tests.experiments.kuairand_slice import sliced_log, write_slice

DAY = "2022-05-04"
FAST = OptimizerConfig(epochs=1, batch_size=256)
LONG_TERM = LongTermConfig(num_walks=64, first_steps=2, steps=1, num_neighbors=3)
LSTTM = TableRow(
    name="LSTTM",
    config=LSTTMConfig(optimizer=FAST, channels=4, short_term=ShortTermConfig(num_neighbors=2)),
    space={"optimizer.learning_rate": (1e-3, 1e-2)},
    long_term=LONG_TERM,
)
TABLE_ROWS = [
    TableRow(name="item CTR", config=ItemRateConfig(), space={"prior_weight": (5.0, 20.0)}, is_random=False),
    TableRow(name="DeepFM", config=BaselineConfig(optimizer=FAST, channels=4)),
    LSTTM,
    TableRow(
        name="no long-term graph",
        group="ablations",
        of="LSTTM",
        change=lambda c: replace(c, long_term=False),
        long_term=LONG_TERM,
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("lsttm_table")
    write_slice(root / "data", sliced_log())
    return root


def table(root, rows=TABLE_ROWS, **options):
    config = TableConfig(
        **{"days": (DAY,), "seeds": (0, 1), "trials": 2, "path": str(root / "data"), **options}
    )
    return LSTTMTable(
        config, results=root / "results", work=root / "work", rows=rows, figure=root / "hours.svg"
    )


@pytest.fixture(scope="module")
def finished(root):
    one = table(root)
    one.run()
    return one


def value(lines, model, metric, form="none", name="all"):
    (line,) = [
        line
        for line in lines
        if (line["model"], line["metric"], line["form"], line["slice"]) == (model, metric, form, name)
    ]
    return line["values"]


@pytest.mark.slow
def test_tables_hold_every_row_and_a_small_number_of_lines(root, finished):
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    assert {line["model"] for line in lines} == {"item CTR", "DeepFM", "LSTTM"}
    assert len(value(lines, "item CTR", "auc")) == 1
    for model in ("DeepFM", "LSTTM"):
        for form in ("none", "updated"):
            both = value(lines, model, "auc", form)
            assert len(both) == 2
            assert 0.4 < min(both) <= max(both) < 0.9
        assert len(value(lines, model, "mean_hourly_auc", name="period=8-16")) == 2
        assert min(value(lines, model, "scored_rows_a_second")) > 0
    assert {line["slice"] for line in lines if line["model"] == "LSTTM"} >= {"hour=13", "all"}
    assert not any(line["slice"].startswith("hour=") for line in lines if line["model"] == "DeepFM")
    assert len(lines) < 250
    ablations = read_lines(root / "results" / "lsttm_ablations.jsonl")
    assert {line["model"] for line in ablations} == {"LSTTM", "no long-term graph"}
    tests = read_lines(root / "results" / "lsttm_table.tests.jsonl")
    assert {(test["baseline"], test["metric"], test["form"]) for test in tests} == {
        (model, metric, form)
        for model in ("item CTR", "DeepFM")
        for metric in ("auc", GAUC)
        for form in ("none", "updated")
    }
    assert {test["num_tests"] for test in tests} == {2}


@pytest.mark.slow
def test_markdown_and_figure_show_what_the_files_hold(root, finished):
    text = lsttm_section(root / "results", of_main_data=True)
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    both = value(lines, "DeepFM", "auc")
    (row,) = [line for line in text.splitlines() if line.startswith("| DeepFM | 0.")][:1]
    assert f"| {np.mean(both):.4f} ± {np.std(both, ddof=1):.4f} |" in row
    assert "### All rows: KuaiRand-Pure" in text
    assert "### Ablations of LSTTM: KuaiRand-Pure" in text
    tests = read_lines(root / "results" / "lsttm_table.tests.jsonl")
    difference = next(
        test["difference"]
        for test in tests
        if (test["baseline"], test["metric"], test["form"]) == ("DeepFM", "auc", "none")
    )
    assert f"| DeepFM | {difference:+.4f} (p " in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| LSTTM | 0.")}
    assert widths == {13}
    svg = (root / "hours.svg").read_text()
    assert svg.startswith("<?xml")
    readme = root / "README.md"
    readme.write_text("<!-- lsttm:begin --><!-- lsttm:end -->")
    page = root / "docs" / "lsttm_table.md"
    page.parent.mkdir()
    page.write_text("<!-- other-data:begin -->\n<!-- other-data:end -->")
    update_pages(root, root / "results", {})
    assert text in readme.read_text()
    assert "KuaiRand" not in page.read_text()


def test_days_without_data_are_refused_before_anything_runs(root):
    with pytest.raises(ValueError, match="'2022-13-01' is no day"):
        table(root, days=("2022-13-01",))
    for day in ("2022-06-01", "2022-01-01"):
        with pytest.raises(ValueError, match=f"{day} needs impressions .* lie from 2022-04-2. to 2022-05-0."):
            table(root, days=(day,))


def test_no_figure_without_hours(tmp_path):
    assert not draw_hours(tmp_path, "kuairand", tmp_path / "none.svg")
    assert not (tmp_path / "none.svg").exists()


def test_data_with_days_alone_has_no_figure_and_no_periods_of_the_day(tmp_path):
    def write(*slices):
        of = {"data": "amazon-afk", "model": "LSTTM", "form": "none", "values": [0.7], "n": 5}
        lines = [
            {**of, "slice": name, "metric": "mean_hourly_auc" if name.startswith("period") else "auc"}
            for name in slices
        ]
        rows = [{"data": "amazon-afk", "model": "LSTTM", "days": ["2013-07-14"], "seeds": [0], "trials": 8}]
        for path, content in ("lsttm_table.jsonl", lines), ("lsttm_table.rows.jsonl", rows):
            (tmp_path / path).write_text("".join(json.dumps(line) + "\n" for line in content))
        return lsttm_section(tmp_path, of_main_data=False)

    section = write("all", "period=0-8", "hour=00")
    assert "| | AUC | GAUC user, period |" in section
    assert "Periods of the day" not in section
    assert "| LSTTM | 0.7000 |  |" in section
    assert not draw_hours(tmp_path, "amazon-afk", tmp_path / "none.svg")
    section = write("all", "period=0-8", "hour=00", "period=8-16", "hour=09")
    assert "| | AUC 0-8 | 8-16 | 16-24 | AUC |" in section
    assert draw_hours(tmp_path, "amazon-afk", tmp_path / "hours.svg")


@pytest.mark.slow
def test_a_finished_table_runs_nothing_again(root, finished, capsys, monkeypatch):
    before = (root / "results" / "lsttm_table.jsonl").read_text()
    again = table(root)
    monkeypatch.setattr(again.runner, "run", lambda spec: pytest.fail("nothing is missing"))
    again.run()
    assert (root / "results" / "lsttm_table.jsonl").read_text() == before
    printed = capsys.readouterr().out
    assert "In all" in printed
    assert "left out" not in printed


@pytest.mark.slow
def test_other_seeds_rows_and_configurations_keep_the_parts(root, finished, capsys):
    def missing(one):
        specs = [spec for row in one.rows for spec in one.specs(row, row.group)]
        return [(spec.seed, type(spec.model).__name__) for spec in missing_parts(one.runner.store, specs)]

    assert missing(table(root)) == []
    more = table(root, seeds=(0, 1, 2))
    assert missing(more) == [(2, "BaselineConfig"), (2, "LSTTMConfig")]
    more.write_tables()  # of unfinished rows nothing is shown, and it is said
    assert "left out: LSTTM, 2 of 3 parts" in capsys.readouterr().out
    finished.write_tables()
    other = TableRow(name="NFM", config=BaselineConfig(model="NFM", optimizer=FAST, channels=4))
    assert missing(table(root, [*TABLE_ROWS, other])) == [(0, "BaselineConfig"), (1, "BaselineConfig")]
    assert len(missing(table(root, update="chained"))) == 5


@pytest.mark.slow
def test_a_table_with_less_in_it_does_not_take_the_place_of_a_stored_one(root, finished, capsys):
    """Else a try of one row would leave its figures beside the tests of the former table."""
    stored = {path: path.read_text() for path in (root / "results").glob("*.jsonl")}
    figure = (root / "hours.svg").read_text()
    own = root / "work" / "results"
    for rows, options in ((TABLE_ROWS[:2], {}), (TABLE_ROWS, {"seeds": (0,)})):
        table(root, rows, **options).write_tables()
        assert f"this one goes to {own}. --replace-stored" in capsys.readouterr().out
        assert {path: path.read_text() for path in (root / "results").glob("*.jsonl")} == stored
        assert (root / "hours.svg").read_text() == figure
        names = {line["model"] for line in read_lines(own / "lsttm_table.jsonl")}
        assert names == {row.name for row in rows if row.group == "main"}
        tests = read_lines(own / "lsttm_table.tests.jsonl")
        assert bool(tests) == ("LSTTM" in names)  # none of an earlier table stay behind
    table(root, TABLE_ROWS[:2], replace_stored=True).write_tables()
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    assert {line["model"] for line in lines} == {"item CTR", "DeepFM"}
    assert read_lines(root / "results" / "lsttm_table.tests.jsonl") == []
    finished.write_tables()  # a table with more takes the place of one with less
    assert {path: path.read_text() for path in (root / "results").glob("*.jsonl")} == stored


@pytest.mark.slow
def test_lsttm_without_its_ablations_makes_no_table_of_ablations(root, finished, tmp_path):
    options = {"results": tmp_path, "work": root / "work", "figure": tmp_path / "hours.svg"}
    LSTTMTable(replace(finished.config, only_tables=True), rows=TABLE_ROWS[:3], **options).run()
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {
        f"lsttm_table{end}.jsonl" for end in ("", ".tests", ".rows")
    }


@pytest.mark.slow
def test_a_part_is_pooled_as_it_was_scored(root, finished):
    (spec, *_) = finished.specs(TABLE_ROWS[1], "main")
    part = finished.runner.store.find(spec)
    frame = pl.read_parquet(part.path)
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    label, score = frame["label"].to_numpy(), frame["score_none"].to_numpy()
    clicked, other = score[label == 1], score[label == 0]
    pairs = (clicked[:, None] > other).mean() + 0.5 * (clicked[:, None] == other).mean()
    assert value(lines, "DeepFM", "auc")[0] == pytest.approx(pairs, abs=1e-6)
    assert part.num_parameters == value(lines, "DeepFM", "num_parameters")[0]
    assert not np.array_equal(frame["score_none"], frame["score_updated"])


@pytest.mark.slow
def test_the_search_chooses_the_best_trial_and_its_best_rates(root, finished):
    path, fingerprint = root / "results" / "lsttm_search.jsonl", finished.runner.inputs.fingerprint
    lines = [line for line in read_lines(path) if line["model"] == "LSTTM"]
    assert [line["trial"] for line in lines] == [0, 1]
    assert all(len(line["updated"]) == 9 for line in lines)
    found = chosen(path, LSTTM, "kuairand", fingerprint, 2)
    best = max(lines, key=criterion)
    rates = max(best["updated"], key=criterion)
    assert found.num_trials == 2
    assert found.settings == best["settings"]
    assert found.model == with_settings(LSTTM.config, best["settings"])
    assert found.online == OnlineConfig(learning_rate=rates["dense"], embedding_learning_rate=rates["tables"])
    # a trial of another configuration is none of the row's
    changed = replace(LSTTM, config=replace(LSTTM.config, dropout=0.45))
    assert chosen(path, changed, "kuairand", fingerprint, 2).num_trials == 0
    ablation = finished.specs(TABLE_ROWS[3], "ablations")[0].model
    assert ablation == replace(found.model, long_term=False)


@pytest.mark.slow
def test_another_data_set_has_lines_of_its_own(root, finished, tmp_path):
    assert set(DATA_SETTINGS) <= set(DATA)
    rows = [TableRow(name="item CTR", config=ItemRateConfig(), is_random=False), TABLE_ROWS[1]]
    config = TableConfig(data="simulator", days=("2024-01-10",), seeds=(0,), search=False)
    results = root / "results"
    before = read_lines(results / "lsttm_table.jsonl")
    LSTTMTable(config, results=results, work=tmp_path, rows=rows, figure=tmp_path / "hours.svg").run()
    after = read_lines(results / "lsttm_table.jsonl")
    assert [line for line in after if line["data"] == "kuairand"] == before
    assert {line["model"] for line in after if line["data"] == "simulator"} == {"item CTR", "DeepFM"}
    assert "### All rows: SIMULATED behaviour" in lsttm_section(results, of_main_data=False)
    assert "SIMULATED" not in lsttm_section(results, of_main_data=True)
    finished.write_tables()
    assert len(read_lines(results / "lsttm_table.jsonl")) == len(after)


def test_no_row_reads_preference_vectors_where_nobody_was_shown_anything():
    """Else the table of such data ends with an error at the first row that wants them."""
    assert [row.name for row in rows_of_data(DATA_SETTINGS["kuairand"])] == list(ROWS)
    amazon = {row.name: row for row in rows_of_data(DATA_SETTINGS["amazon-afk"])}
    assert set(ROWS) - set(amazon) == {"DeepFM + counts + preference", "without preference vectors"}
    for row in amazon.values():
        config = row.changed(amazon[row.of].config if row.of else row.config)
        assert getattr(config, "preference", None) is None, row.name
    assert ROWS["LSTTM"].config.preference is not None
    lsttm = TableConfig(data="amazon-afk", rows=("no long-term graph",))
    assert {row.config.preference for row in lsttm.searched_rows()} == {None}
    with pytest.raises(ValueError, match="amazon-afk does not say what users were shown: it has no"):
        TableConfig(data="amazon-afk", rows=("without preference vectors",))


def test_trials_are_distinct_repeatable_and_begin_with_the_defaults():
    for row in ROWS.values():
        if row.of is not None:
            assert row.of in ROWS
            continue
        found = trials(row)
        assert found[0] == {}
        assert found == trials(row)
        assert found[:3] == trials(row, 3)
        whole = [json.dumps(spec.configuration()) for spec in trial_specs(row, "kuairand")]
        assert len(set(whole)) == len(whole) == 8
        for settings in found[1:]:
            assert settings.keys() == row.space.keys()
            assert all(settings[name] in row.space[name] for name in settings)


def test_every_row_differs_from_the_row_that_it_changes():
    literal = ROWS["LSTTM"].config
    for row in ROWS.values():
        if row.of is not None and row.name not in ("first order", "K = 5"):  # LSTTM is these by default
            base = ROWS[row.of]
            assert (row.changed(base.config), row.long_term) != (base.config, base.long_term), row.name
    assert ROWS["first order"].changed(literal) == ROWS["K = 5"].changed(literal) == literal


def test_unknown_rows_and_data_are_refused():
    with pytest.raises(ValueError, match=r"no rows \['LSTMM'\]"):
        TableConfig(rows=("LSTMM",))
    with pytest.raises(ValueError, match="no data set 'movies'"):
        TableConfig(data="movies")


@pytest.mark.slow
def test_as_of_the_query_has_a_table_of_its_own(root, finished, capsys):
    one = table(root, [row for row in TABLE_ROWS if row.name in ("DeepFM", "LSTTM")], as_of="query")
    before = (root / "results" / "lsttm_search.jsonl").read_text()
    assert one.specs(LSTTM, "main")[0].model == finished.specs(LSTTM, "main")[0].model
    one.run()
    assert "trials:" not in capsys.readouterr().out
    assert (root / "results" / "lsttm_search.jsonl").read_text() == before
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    names = ("kuairand", "kuairand, as of the query")
    assert {line["data"] for line in lines} >= set(names)
    auc = {name: value([line for line in lines if line["data"] == name], "LSTTM", "auc") for name in names}
    assert auc["kuairand"] != auc["kuairand, as of the query"]
    assert "as of the instant of each query" in lsttm_section(root / "results", of_main_data=False)
    of_one_seed = table(root, one.rows, as_of="query", seeds=(1,)).forecast()
    assert {line["row"]: line["parts"] for line in of_one_seed} == {"DeepFM": 1, "LSTTM": 1}  # no ablations


@pytest.mark.slow
def test_longer_periods_have_a_table_of_their_own(root, finished, capsys):
    one = table(root, [row for row in TABLE_ROWS if row.name in ("DeepFM", "LSTTM")], period_hours=8)
    assert one.specs(LSTTM, "main")[0].model == finished.specs(LSTTM, "main")[0].model
    one.run()
    assert "trials:" not in capsys.readouterr().out
    lines = read_lines(root / "results" / "lsttm_table.jsonl")
    long = [line for line in lines if line["data"] == "kuairand, periods of 8 hours"]
    short = [line for line in lines if line["data"] == "kuairand"]
    assert value(long, "LSTTM", "auc") != value(short, "LSTTM", "auc")
    assert value(long, "LSTTM", GAUC) != value(short, "LSTTM", GAUC)
    assert "periods of eight hours" in lsttm_section(root / "results", of_main_data=False)


@pytest.mark.parametrize(
    "options", [{"period_hours": 5}, {"period_hours": 8, "as_of": "query"}, {"period_hours": 0}]
)
def test_periods_divide_a_day(options):
    with pytest.raises(ValueError, match="period_hours must"):
        TableConfig(**options)
    with pytest.raises(ValueError, match="Amazon's periods are 30 days"):
        TableConfig(data="amazon-afk", period_hours=8)


def test_rows_that_go_by_periods_are_refused_as_of_the_query():
    with pytest.raises(ValueError, match=r"'SML \(MF\)'\] go by whole periods"):
        TableConfig(rows=("DeepFM", "SML (MF)"), as_of="query")
    names = {row.name for row in TableConfig(as_of="query").table_rows()}
    assert "LSTTM" in names
    assert "item CTR" not in names
    with pytest.raises(ValueError, match="amazon-afk is read as of the start of each period only"):
        load_inputs("amazon-afk", as_of="query")
