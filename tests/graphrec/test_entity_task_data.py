"""From tasks to multi-task training: shared queries, codes, no leak, DUPN fitted end to end on a toy."""

import polars as pl
import pytest
import torch

from graph_builders import (
    EventSchema,
    Relation,
    build_behavior_graph,
    build_feature_table,
    fit_fields,
    read_events,
)
from graph_builders.datasets.entity_tasks import EntityTask, make_rows
from graphrec.encoders.behavior_sequences import (
    SequenceTokenizer,
    behavior_request,
    concatenate_sequences,
)
from graphrec.encoders.dupn import DUPN
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.sentences import FIRST, MISSING, RARE
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_vocabularies
from graphrec.models.dupn_heads import ClassHead, PairHead, RankingHead
from graphrec.nn.code_vectors import CodeVectors, MappedCodes
from graphrec.training.entity_task_data import field_codes, item_codes, read_tasks
from graphrec.training.loop import OptimizerConfig
from graphrec.training.multi_task import MultiTaskConfig, MultiTaskModel, fit_tasks, score_task

CLICK = Relation("shop", "click")
NOON = 1_700_000_000
EVENTS = [  # user, item, seconds after noon
    (1, "x", 10),
    (1, "y", 20),
    (2, "x", 20),
    (2, "z", 40),
    (1, "y", 60),
]


def toy_graph(events=EVENTS):
    frame = pl.DataFrame(events, schema=["user_id", "item_id", "time"], orient="row").with_columns(
        pl.col("time") + NOON, behavior=pl.lit("click"), domain=pl.lit("shop")
    )
    return build_behavior_graph(
        read_events(frame, EventSchema(time_bounds=None, behavior="behavior", domain="domain")),
        user_table=pl.DataFrame({"user_id": [1, 2, 3]}),
        item_table=pl.DataFrame({"item_id": ["x", "y", "z"], "brand": ["b", "c", "c"]}),
    )


def make_tokenizer(graph):
    tabs = build_feature_table(pl.DataFrame({"tab": ["0", "1"]}))
    types = (CLICK.reverse_edge_type,)
    return SequenceTokenizer(
        edge_types=types,
        vocabularies=fit_vocabularies(
            graph, [behavior_request(types, ["brand"])], fit_until=NOON + 100, min_count=1
        ),
        item_fields=("brand",),
        num_items=2,
        query_fields=AttributeVocabularies(fit_fields(tabs, names=["tab"])),
        time_zone="UTC",
    )


def frame_of(rows, names, *, known=0):
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(pl.col("time") + NOON)
    return frame.with_columns(known_time=pl.col("time") + known)


def toy_tasks():
    pairs = [(1, 30, 1, "x", 1.0), (1, 30, 1, "y", 0.0), (3, 50, 0, "z", 1.0), (2, 50, 0, "w", 0.0)]
    ranked = [(1, 30, 1, "y", -1.0, 2.0, -0.25), (2, 40, 1, "x", 1.0, 1.0, 0.5)]
    classes = [(1, 30, 1.0), (2, 70, 0.0)]
    brands = [(1, 30, "c", 1.0), (2, 70, "never seen", 0.0)]
    contexts, columns = ("tab",), ["user_id", "time", "tab", "item_id", "label"]
    features = ("count",)
    return [
        EntityTask(
            name="click",
            kind="pair",
            rows=make_rows(frame_of(pairs, columns), entity="item_id", contexts=contexts),
            entity="item_id",
            contexts=contexts,
        ),
        EntityTask(
            name="rank",
            kind="ranking",
            rows=make_rows(
                frame_of(ranked, [*columns, "weight", "count"], known=5),
                entity="item_id",
                contexts=contexts,
                features=features,
            ),
            entity="item_id",
            contexts=contexts,
            features=features,
        ),
        EntityTask(
            name="level",
            kind="class",
            rows=make_rows(frame_of(classes, ["user_id", "time", "label"])),
            num_classes=2,
        ),
        EntityTask(
            name="brand",
            kind="pair",
            rows=make_rows(frame_of(brands, ["user_id", "time", "brand", "label"]), entity="brand"),
            entity="brand",
        ),
    ]


def read(graph, tokenizer, tasks=None):
    reader = InputReader(graph, "user", tokenizer.requests, fields=tokenizer.fields)
    return read_tasks(
        toy_tasks() if tasks is None else tasks,
        reader,
        prepare=tokenizer.tokenize,
        concatenate=concatenate_sequences,
        entity_codes={"item_id": item_codes(graph, tokenizer), "brand": field_codes(tokenizer, "brand")},
        query_fields=["tab"],
        max_events=3,
    )


def test_queries_that_tasks_share_are_read_once():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    data = read(graph, tokenizer)
    inputs = data["click"].inputs
    assert all(task.inputs is inputs for task in data.values())
    # (1, 30, tab 1), (1, 30), (2, 40, 1), (2, 50, 0), (3, 50, 0), (2, 70)
    assert len(inputs) == 6
    assert torch.equal(data["click"].time, data["level"].time)
    first, same = data["click"].rows.query[:2].tolist()
    assert first == same == data["rank"].rows.query[0]
    assert data["level"].rows.query[0] == data["brand"].rows.query[0] != first
    # what user 1 did before 30, strictly; user 3 did nothing; user 2 before 40 one click
    length = inputs.ptr.diff()
    assert [int(length[query]) for query in data["click"].rows.query] == [2, 2, 2, 0]  # by time, then user
    assert int(length[data["rank"].rows.query[1]]) == 1
    tab = inputs.query[:, 0]
    assert tab[data["level"].rows.query].tolist() == [MISSING, MISSING]
    assert tab[first] != tab[data["click"].rows.query[2]]
    assert (data["click"].time[data["click"].rows.query] - NOON).tolist() == [30, 30, 50, 50]
    assert (data["rank"].known_time - NOON).tolist() == [35, 45]
    assert data["rank"].rows.weight.tolist() == [2.0, 1.0]
    assert data["rank"].rows.features.tolist() == [[-0.25], [0.5]]
    assert data["rank"].rows.label.tolist() == [-1.0, 1.0]
    assert data["level"].rows.features.shape == (2, 0)


def test_codes_of_entities_are_the_tokenizers():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    data = read(graph, tokenizer)
    inputs, rows = data["click"].inputs, data["click"].rows
    # the history of user 1 before 30 is x, y: the codes of the items asked in the first two rows
    start = int(inputs.ptr[rows.query[0]])
    assert torch.equal(inputs.item[start : start + 2], rows.entity[:2])
    row = graph.ids["item"].rows(pl.Series(["x", "y", "z"]))
    by_item = dict(zip("xyz", row.tolist(), strict=True))
    assert rows.entity[0, 0] == FIRST + by_item["x"]
    assert by_item["z"] == 2  # beyond num_items
    # user 2 asks of the unknown w before user 3 asks of z
    assert rows.entity[2].tolist() == [RARE, MISSING]
    assert rows.entity[3, 0] == RARE
    assert rows.entity[3, 1] == rows.entity[1, 1] >= FIRST  # one brand
    assert data["brand"].rows.entity.tolist() == [[int(rows.entity[1, 1])], [RARE]]


def test_events_at_or_after_a_query_change_nothing_of_it():
    tokenizer = make_tokenizer(toy_graph())
    whole, part = toy_graph(), toy_graph(EVENTS[:3])
    early = [task for task in toy_tasks() if task.name == "rank"]
    rows = [read(graph, tokenizer, early)["rank"] for graph in (whole, part)]
    for name in ("ptr", "item", "properties", "query"):
        assert torch.equal(*(getattr(one.inputs, name) for one in rows)), name


def test_dupn_learns_from_what_is_read():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    data = read(graph, tokenizer)
    torch.manual_seed(0)
    dupn = DUPN(
        tokenizer.sizes,
        item_channels=4,
        property_channels=3,
        hidden_channels=8,
        user_channels=4,
        query_channels=4,
    )
    heads = {
        "click": PairHead(12, MappedCodes(dupn.item, 32), hidden_channels=(32, 32)),
        "rank": RankingHead(12, 1, hidden_channels=32),
        "level": ClassHead(12, 2, hidden_channels=32),
        "brand": PairHead(12, MappedCodes(CodeVectors(tokenizer.sizes.item[1:], (4,)), 32)),
    }
    model = MultiTaskModel(dupn, heads, learned_queries=["level"], query_channels=dupn.query_channels)
    optimizer = OptimizerConfig(
        name="adagrad",
        learning_rate=0.1,
        embedding_learning_rate=0.1,
        weight_decay=0.0,
        decay=False,
        epochs=8,
        batch_size=8,
    )
    curve = fit_tasks(
        model,
        data,
        fit_until=NOON + 90,
        config=MultiTaskConfig(interleaving="together", optimizer=optimizer),
        log_every=1,
    )
    assert curve[-1].loss < 0.7 * curve[0].loss
    later = {name: task.between(NOON, NOON + 90) for name, task in data.items()}
    with pytest.raises(ValueError, match="labels begin at"):
        score_task(model, "click", later["click"])


def test_errors():
    graph = toy_graph()
    tokenizer = make_tokenizer(graph)
    tasks = toy_tasks()
    with pytest.raises(ValueError, match=r"names of their own.*'click', 'click'"):
        read(graph, tokenizer, [tasks[0], tasks[0]])
    reader = InputReader(graph, "user", tokenizer.requests)
    with pytest.raises(ValueError, match=r"without codes \['click'\]"):
        read_tasks(
            tasks[:1], reader, prepare=tokenizer.tokenize, concatenate=concatenate_sequences, entity_codes={}
        )
    stranger = frame_of([(9, 30, 1.0)], ["user_id", "time", "label"])
    level = EntityTask(name="level", kind="class", rows=make_rows(stranger), num_classes=2)
    with pytest.raises(ValueError, match="the users of 1 queries are not in the graph"):
        read(graph, tokenizer, [level])
