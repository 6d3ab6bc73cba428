"""The leak test: an event at t changes nothing that is asked at or before t, and something asked later.

"Nothing" is to the bit: sampled edges, past counts, long-term vectors, weights, losses and predictions.
"""

from dataclasses import replace
from functools import partial

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.config import BaselineConfig, LSTTMConfig, MainConfig, lsttm, lsttm_with_preference
from experiments.inputs import HOUR, load_inputs
from experiments.main_job import long_term_snapshots
from experiments.preferences import preferences_of
from experiments.protocol import prepare_day, run_neural, run_trees, update_forms
from experiments.user_encoders import UserBERTFeatures
from graph_builders.splits import day_bounds
from graphrec.models.trees import TreesConfig
from graphrec.training.batches import click_loader, collate, rows_between
from graphrec.training.long_term import LongTermConfig, train_long_term
from graphrec.training.loop import OptimizerConfig, predict, train
from graphrec.training.meta_tasks import MetaConfig
from graphrec.training.preference import PreferenceConfig
from graphrec.training.pretraining import PretrainingConfig
from samplers import (
    EventHistorySampler,
    MultiHopSampler,
    NegativeSampler,
    RecentNeighborSampler,
    UniformNeighborSampler,
    WeightedNeighborSampler,
    random_walks,
)
from tests.experiments.kuairand_slice import add_row, sliced_log, write_slice
from tests.graphrec import toy_data as toy
from tests.reference.samplers import Edge
from tests.samplers.strategies import MAX_TIME, NUM_DESTINATIONS, NUM_SOURCES, csr_of, edge_sets

CPU = torch.device("cpu")

# ---- samplers ------------------------------------------------------------------------------------

CLICK, REVERSE = ("item", "click", "user"), ("user", "rev_click", "item")


def neighbor_tensors(found):
    return [found.node, found.edge_time, found.edge_id, found.mask]


def one_hop(make, users, items, seed, time):
    return neighbor_tensors(make(users, items).sample(seed, time, epoch=1))


def history(users, items, seed, time, *, max_events):
    found = EventHistorySampler(users, max_events=max_events).sample(seed, time)
    return [found.ptr, found.neighbor, found.time, found.edge_id]


def multi_hop(users, items, seed, time, *, strategy, next_hop_bound):
    sampler = MultiHopSampler(
        {CLICK: users, REVERSE: items}, [3, 2], strategy=strategy, next_hop_bound=next_hop_bound
    )
    found = sampler.sample({"user": (seed, time)}, epoch=2)
    edges = [edges for hop in found.hops for edges in hop.values()]
    return [
        *found.node.values(),
        *found.time.values(),
        *(column for e in edges for column in (e.neighbor, e.edge_id, e.edge_time, e.mask)),
    ]


def walks(users, items, seed, time, *, direction):
    found = random_walks(
        {CLICK: users, REVERSE: items},
        seed,
        5,
        start_type="user",
        as_of=time,
        walks_per_node=3,
        direction=direction,
    )
    return [found.node, found.node_type, found.mask]


def negatives(users, items, seed, time, *, distribution):
    sampler = NegativeSampler(users, num_items=NUM_SOURCES, distribution=distribution, item_csr=items)
    return list(sampler.sample(seed, time, 4))


# each samples for users (the destinations) at their times; items' rows are the reverse direction
SAMPLERS = {
    "recent": partial(one_hop, lambda users, items: RecentNeighborSampler(users, 2)),
    "recent, all": partial(one_hop, lambda users, items: RecentNeighborSampler(users, -1)),
    "uniform": partial(one_hop, lambda users, items: UniformNeighborSampler(users, 2)),
    "uniform, replaced": partial(
        one_hop, lambda users, items: UniformNeighborSampler(users, 3, replace=True)
    ),
    "by edge weight": partial(one_hop, lambda users, items: WeightedNeighborSampler(users, 2)),
    "by recency": partial(
        one_hop, lambda users, items: WeightedNeighborSampler(users, 2, weight="recency", half_life=2.0)
    ),
    "by degree": partial(
        one_hop, lambda users, items: WeightedNeighborSampler(users, 2, weight="degree", reverse_csr=items)
    ),
    "history": partial(history, max_events=None),
    "last of the history": partial(history, max_events=2),
    "multi-hop": partial(multi_hop, strategy=RecentNeighborSampler, next_hop_bound="seed"),
    "multi-hop by edge time": partial(multi_hop, strategy=RecentNeighborSampler, next_hop_bound="edge"),
    "multi-hop, uniform": partial(multi_hop, strategy=UniformNeighborSampler, next_hop_bound="seed"),
    "walks": partial(walks, direction=None),
    "walks forward": partial(walks, direction="forward"),
    "walks backward": partial(walks, direction="backward"),
    "negatives": partial(negatives, distribution="uniform"),
    "popular negatives": partial(negatives, distribution="popularity"),
}


def sampled(name, edges, seed, time):
    return SAMPLERS[name](csr_of(edges), csr_of(edges, row="source"), seed, time)


@st.composite
def insertions(draw):
    """A log, a time, and events that become known at or after it (some happened before: they come late)."""
    edges = draw(edge_sets(max_size=20))
    time = draw(st.integers(0, MAX_TIME))
    new = []
    for number in range(draw(st.integers(1, 4))):
        happened = draw(st.integers(0, MAX_TIME + 3))
        known = max(happened, time) + draw(st.integers(0, 2))
        source, destination = (
            draw(st.integers(0, NUM_SOURCES - 1)),
            draw(st.integers(0, NUM_DESTINATIONS - 1)),
        )
        new.append(Edge(source, destination, happened, len(edges) + number, known, 1.5))
    if draw(st.booleans()):  # at its own time, exactly t
        new = [replace(edge, time=time, available_time=time) for edge in new]
    return edges, new, time


@pytest.mark.parametrize("name", SAMPLERS)
@given(case=insertions(), seeds=st.lists(st.integers(0, NUM_DESTINATIONS - 1), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_samplers_do_not_see_an_event_at_the_query_time_or_later(name, case, seeds):
    edges, new, time = case
    seed = torch.tensor(seeds)
    times = (time - torch.arange(len(seeds))).clamp(min=0)  # t itself, and earlier
    before = sampled(name, edges, seed, times)
    after = sampled(name, edges + new, seed, times)
    assert len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        assert left.shape == right.shape
        assert torch.equal(left, right)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_do_see_an_event_after_it(name):
    edges = [Edge(i % NUM_SOURCES, i % NUM_DESTINATIONS, i % 7, i, i % 7) for i in range(14)]
    new = [Edge(s, d, 8, 20 + s + 4 * d, 8, 5.0) for s in range(2) for d in range(2)]
    seed = torch.arange(NUM_DESTINATIONS)
    before = sampled(name, edges, seed, torch.full_like(seed, 9))
    after = sampled(name, edges + new, seed, torch.full_like(seed, 9))
    shapes = [[t.shape for t in tensors] for tensors in (before, after)]
    assert shapes[0] != shapes[1] or not all(map(torch.equal, before, after))


# ---- the library's pipeline on a small log, on a graph that holds the future ----------------------


def toy_pipeline(events):
    """Everything that is computed for the impressions of the toy log when ``events`` is what happened."""
    log = toy.toy_log()
    csrs = toy.graph_of(events)
    nodes = {"user": toy.NUM_USERS + 1, "item": toy.NUM_ITEMS + 1}
    snapshots, losses = train_long_term(csrs, nodes, toy.DAYS, toy.LONG_TERM, device=CPU)
    data = toy.click_data(log, events=events, snapshots=snapshots)
    model = toy.full_lsttm(data)
    loader = click_loader(data, rows_between(data, 0, toy.TEST_DAY), batch_size=64, shuffle=True)
    curve = train(
        model,
        lambda epoch, start: loader.batches(epoch, start_batch=start),
        num_batches=len(loader),
        config=OptimizerConfig(epochs=1, learning_rate=0.02, embedding_learning_rate=0.02),
        device=CPU,
        log_every=2,
    )
    test = rows_between(data, toy.TEST_DAY, toy.NUM_DAYS * toy.DAY)
    # one batch a period, so that a batch has one query time
    batches = [
        collate(data, part)
        for part in test.split(data.as_of[test].unique_consecutive(return_counts=True)[1].tolist())
    ]
    return (
        data,
        snapshots,
        losses,
        model.state_dict(),
        curve,
        data.as_of[test],
        predict(model, batches, device=CPU),
    )


@pytest.fixture(scope="module")
def toy_run():
    return toy_pipeline(toy.toy_log())


@pytest.mark.parametrize("time", [toy.TEST_DAY, toy.TEST_DAY + 7 * toy.HOUR])
def test_toy_pipeline(toy_run, time):
    new = [(user, item, time + delay, True) for delay in (0, 1) for user in range(6) for item in (1, 4)]
    data, snapshots, losses, weights, curve, as_of, score = toy_run
    changed = toy_pipeline(toy.toy_log().with_rows(*new))
    early = data.as_of <= time
    assert toy.same(changed[0].dense[early], data.dense[early])
    assert not toy.same(changed[0].dense[~early], data.dense[~early])
    for name, vectors in snapshots.vectors.items():  # all days begin at or before the time
        assert torch.equal(changed[1].vectors[name], vectors)
    assert changed[2] == losses
    assert all(torch.equal(changed[3][name], value) for name, value in weights.items())
    assert changed[4] == curve
    assert torch.equal(changed[6][as_of <= time], score[as_of <= time])
    assert (as_of <= time).sum() > 0
    assert not torch.equal(changed[6][as_of > time], score[as_of > time])


def test_an_event_before_the_test_day_changes_weights_and_long_term_vectors(toy_run):
    """The negative of the test above: what it compares can differ."""
    time = 2 * toy.DAY + 5
    changed = toy_pipeline(toy.toy_log().with_rows((3, 2, time, True), (3, 2, time + 1, True)))
    for name, vectors in toy_run[1].vectors.items():
        assert torch.equal(changed[1].vectors[name][:3], vectors[:3])
        assert not torch.equal(changed[1].vectors[name][3], vectors[3])
    assert any(not torch.equal(changed[3][name], value) for name, value in toy_run[3].items())


# ---- the main job on a slice of KuaiRand ----------------------------------------------------------

DAY_NAME = "2022-05-04"
START, END = day_bounds(DAY_NAME, utc_offset_hours=8, time_resolution="ms")
LONG_TERM = LongTermConfig(num_walks=64, first_steps=4, steps=2, num_neighbors=4)
OPTIMIZER = OptimizerConfig(epochs=1, batch_size=128)
PREFERENCE = PreferenceConfig(num_members=1, channels=4)
USERBERT = UserBERTFeatures(
    pretraining=PretrainingConfig(epochs=1, batch_size=64), channels=8, num_blocks=1, max_words=4
)
TASKS = MetaConfig(num_tasks=2, support=32, query=32, least_rows=8)


def main_job(folder, work):
    """Run every kind of model on one test day; return what each computed for each impression."""
    inputs = load_inputs(path=folder)
    day = prepare_day(inputs, DAY_NAME)
    config = MainConfig(test_days=(DAY_NAME,), long_term=LONG_TERM)
    snapshots = long_term_snapshots(inputs, config, 0, CPU, work, lambda done, total: None)
    test = rows_between(day.data, day.start, day.end)
    result = {
        "as_of": day.data.as_of,
        "time": day.data.impressions.time,
        "raw counts": day.raw_dense,
        "scaled counts": day.data.dense,
        "test as_of": day.data.as_of[test],
        "long-term vectors": snapshots.vectors,
    }
    models = {
        "LSTTM": replace(lsttm(), optimizer=OPTIMIZER),
        "LSTTM + preference": replace(
            lsttm_with_preference(), preference=PREFERENCE, user_encoder=USERBERT, optimizer=OPTIMIZER
        ),
        "DeepFM": BaselineConfig(past_counts=True, optimizer=OPTIMIZER),
        "MAML": BaselineConfig(past_counts=True, optimizer=OPTIMIZER, meta=TASKS),
        "DIN": BaselineConfig(model="DIN", sequences=("internal", "external"), optimizer=OPTIMIZER),
    }
    for name, model in models.items():
        preferences = preferences_of(
            inputs, model, 0, until=day.start, folder=work / "preference", device=CPU
        )
        if preferences is not None:
            result["preference vectors"] = preferences.vectors
        scores = run_neural(
            day,
            model,
            0,
            updates=update_forms(model, ("none", "union", "chained")),
            snapshots=snapshots if isinstance(model, LSTTMConfig) else None,
            preferences=preferences,
            period=HOUR,
            device=CPU,
        )
        result[f"{name} curve"] = scores.curve
        for form, score in scores.score.items():
            result[f"{name}, {form}"] = torch.from_numpy(score)
    result["trees, none"] = torch.from_numpy(run_trees(day, TreesConfig(num_trees=15), 0).score["none"])
    return result


SCORES = [
    f"{name}, {form}"
    for name in ("LSTTM", "LSTTM + preference", "DeepFM", "MAML", "DIN")
    for form in ("none", "union", "chained")
]
SCORES.append("trees, none")


@pytest.fixture(scope="module")
def log():
    return sliced_log()


@pytest.fixture(scope="module")
def main_run(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("leak")
    (folder / "work" / "long_term").mkdir(parents=True)
    return main_job(write_slice(folder / "data", log), folder / "work")


def assert_same_until(time, changed, expected):
    """Bit-identical for queries at or before ``time``, and for all that was trained before the day."""
    rows, old_rows = changed["as_of"] <= time, expected["as_of"] <= time
    for name in ("raw counts", "scaled counts"):
        assert toy.same(changed[name][rows], expected[name][old_rows]), name
    for table in ("long-term vectors", "preference vectors"):
        for name, vectors in expected[table].items():
            assert torch.equal(changed[table][name], vectors), (table, name)
    test, old_test = changed["test as_of"] <= time, expected["test as_of"] <= time
    assert old_test.sum() > 10
    for name in SCORES:
        assert torch.equal(changed[name][test], expected[name][old_test]), name
    for name in ("LSTTM curve", "DeepFM curve"):
        assert changed[name] == expected[name]
        assert len(changed[name])


@pytest.mark.slow
def test_main_job(log, main_run, tmp_path):
    """Clicks in another tab at the day's start: they change no impression, but counts and the graph."""
    time = START
    later = log.filter((pl.col("time_ms") > time + HOUR) & (pl.col("time_ms") < END) & (pl.col("tab") == 1))
    users = later["user_id"].value_counts().sort("count", "user_id", descending=True)["user_id"].head(3)
    new = log
    for user in users:
        for number, item in enumerate(later["video_id"].unique(maintain_order=True).head(3)):
            values = {"user_id": user, "video_id": item, "time_ms": time + 60_000 * number, "tab": 0}
            new = add_row(new, **values, is_click=1, long_view=1, is_like=1, play_time_ms=9_000)
    (tmp_path / "work" / "long_term").mkdir(parents=True)
    changed = main_job(write_slice(tmp_path / "data", new), tmp_path / "work")
    assert torch.equal(changed["time"], main_run["time"])
    assert_same_until(time, changed, main_run)
    late = main_run["test as_of"] > time
    for name in SCORES:
        assert not torch.equal(changed[name][late], main_run[name][late]), name


@pytest.mark.slow
def test_main_job_without_a_future(log, main_run, tmp_path):
    """Cut the log after two more hours and turn their labels: scores for the first may not change."""
    time = START + 11 * HOUR
    from_then = (pl.col("time_ms") >= time) & (pl.col("tab") == 1)
    new = log.filter(pl.col("time_ms") < time + 2 * HOUR).with_columns(
        is_click=pl.when(from_then).then(1 - pl.col("is_click")).otherwise(pl.col("is_click"))
    )
    (tmp_path / "work" / "long_term").mkdir(parents=True)
    changed = main_job(write_slice(tmp_path / "data", new), tmp_path / "work")
    assert_same_until(time, changed, main_run)
    next_hour, old_next_hour = changed["test as_of"] == time + HOUR, main_run["test as_of"] == time + HOUR
    assert next_hour.sum() == old_next_hour.sum() > 5
    for name in SCORES:
        assert not torch.equal(changed[name][next_hour], main_run[name][old_next_hour]), name
    assert torch.cat([changed[name] for name in SCORES]).isfinite().all()
