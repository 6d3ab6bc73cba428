"""From a graph and impressions to batches: codes, sizes and times by hand, and what is refused."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from graph_builders import EventSchema, build_behavior_graph, build_impressions, read_events
from graphrec.models import DeepFMRanker
from graphrec.training.batches import click_batches
from graphrec.training.click_inputs import click_inputs

HOUR = 3600
SHOWN = pl.DataFrame(
    {
        "user_id": ["b", "a", "b", "new"],
        "item_id": [7, 8, 9, 7],
        "time": [10 * HOUR + 5, 11 * HOUR, 12 * HOUR - 1, 13 * HOUR + 1800],
        "label": [1, 0, 0, 1],
    }
)
USERS = pl.DataFrame({"user_id": ["a", "b"], "city": ["X", "Y"], "age": [20.0, 60.0]})
ITEMS = pl.DataFrame({"item_id": [7, 8, 9], "kind": ["k", "l", "k"], "tag": [[1, 2], [2], []]})


def graph_of(users=USERS, items=ITEMS):
    schema = EventSchema(time_bounds=None)
    log = read_events(SHOWN.drop("label").head(3), schema)
    return build_behavior_graph(log, user_table=users, item_table=items)


def impressions_of(graph):
    return build_impressions(SHOWN, user_ids=graph.ids["user"], item_ids=graph.ids["item"])


def test_fields_times_and_sizes_by_hand():
    graph = graph_of()
    data, sizes = click_inputs(graph, impressions_of(graph), period=HOUR, item_bag="tag")
    assert data.as_of.tolist() == [10 * HOUR, 11 * HOUR, 11 * HOUR, 13 * HOUR]
    assert data.context[:, 0].tolist() == [10, 11, 11, 13]
    assert data.dense.shape == (4, 0)
    # code 0 is a missing value and an unseen ID; two cities, two bins of age
    assert data.user_fields.codes[:, 0].tolist() == [1, 2, 0]
    assert sizes.user_fields == (3, 3)
    assert data.item_fields.codes[:, 0].tolist() == [1, 2, 1, 0]
    assert (sizes.item_fields, sizes.item_bag, sizes.num_items, sizes.num_users) == ((3,), 3, 3, 2)
    assert data.units_per_hour == HOUR
    (batch,) = click_batches(data, torch.arange(4), batch_size=4)
    assert batch.item_id.tolist() == [0, 1, 2, 0]
    assert batch.user.codes[:, 0].tolist() == [2, 1, 2, 0]
    assert DeepFMRanker(sizes)(batch).shape == (4,)


def test_local_time_and_columns_of_ones_own():
    graph = graph_of()
    shown = impressions_of(graph)
    day, _ = click_inputs(graph, shown, period=24 * HOUR, utc_offset=-11 * HOUR)
    assert day.as_of.tolist() == [-13 * HOUR, 11 * HOUR, 11 * HOUR, 11 * HOUR]
    assert day.context[:, 0].tolist() == [0, 0, 0, 0]
    dense, tab = torch.rand(4, 2), torch.tensor([[0], [1], [2], [1]])
    data, sizes = click_inputs(
        graph,
        shown,
        period=HOUR,
        as_of=shown.time,
        user_fields=("city",),
        context=tab,
        context_sizes=(3,),
        dense=dense,
    )
    assert data.as_of is shown.time
    assert (data.context is tab, data.dense is dense) == (True, True)
    assert (sizes.user_fields, sizes.context_fields, sizes.dense) == ((3,), (3,), 2)


def test_without_a_table_the_id_is_the_field():
    graph = graph_of(users=None, items=ITEMS.select("item_id"))
    data, sizes = click_inputs(graph, impressions_of(graph), period=HOUR)
    rows = graph.ids["user"].rows(pl.Series(["b", "a", "new"])).tolist()
    assert data.user_fields.codes[rows, 0].tolist() == [row + 1 for row in rows[:2]] + [0]
    assert (sizes.user_fields, sizes.item_fields) == ((3,), (4,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_of": torch.full((4,), 12 * HOUR)}, "none later than the impression's own"),
        ({"as_of": torch.zeros(3, dtype=torch.int64)}, "a time for each impression"),
        (
            {"context": torch.tensor([[0], [1], [3], [1]]), "context_sizes": (3,)},
            "code 3 in row 2: .* 0 to 2",
        ),
        ({"context": torch.tensor([[0], [-1], [0], [1]]), "context_sizes": (3,)}, "code -1 in row 1"),
        ({"context": torch.zeros(4, 2, dtype=torch.int64)}, "has 2 columns and context_sizes 1 values"),
        ({"user_fields": ("country",)}, "country"),
    ],
)
def test_mistakes_are_named(options, message):
    graph = graph_of()
    with pytest.raises(ValueError, match=message):
        click_inputs(graph, impressions_of(graph), period=HOUR, **options)


def test_milliseconds():
    schema = EventSchema(time_bounds=None, resolution="ms")
    graph = build_behavior_graph(read_events(SHOWN.drop("label"), schema))
    shown = replace(impressions_of(graph), time_resolution="ms")
    shown = replace(shown, time=shown.time * 1000)
    data, _ = click_inputs(graph, shown, period=1000 * HOUR)
    assert data.context[:, 0].tolist() == [10, 11, 11, 13]
    assert data.units_per_hour == 1000 * HOUR
