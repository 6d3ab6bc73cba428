"""Node-feature encoders as features of LSTTM's short-term graph: where their vectors go, leaks, gradients."""

from dataclasses import dataclass, replace

import polars as pl
import pytest
import torch
from torch import nn

from graph_builders import EventSchema, Relation, build_behavior_graph, build_impressions, read_events
from graphrec.encoders.base import HistoryRequest, NodeEncoder
from graphrec.encoders.behavior_words import SentenceTokenizer, short_words
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.userbert import UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder
from graphrec.encoders.vocabulary import fit_vocabularies
from graphrec.models import LSTTM
from graphrec.training.batches import EncodedNodes, ShortTermConfig, collate
from graphrec.training.click_inputs import click_inputs
from graphrec.training.loop import OptimizerConfig, click_loss, make_optimizer
from graphrec.training.meta import meta_backward
from graphrec.training.meta_tasks import MetaConfig, MetaTask
from tests.graphrec.toy_data import TEST_DAY, same, toy_log

CLICK = Relation("internal", "click")
TO_USER, TO_ITEM = CLICK.reverse_edge_type, CLICK.edge_type
PERIOD = 10


@dataclass(frozen=True)
class Counts:
    """Events of each query."""

    value: torch.Tensor

    def to(self, device):
        return Counts(self.value.to(device))


class CountEncoder(NodeEncoder[Counts]):
    """The number of past events, and a weight."""

    def __init__(self, edge_type):
        super().__init__()
        self.out_channels = 2
        self.requests = {"all": HistoryRequest(edge_types=(edge_type,))}
        self.weight = nn.Parameter(torch.tensor([1.0, -0.5]))

    def prepare(self, inputs):
        return Counts(inputs.histories["all"].events.ptr.diff())

    def forward(self, prepared):
        return prepared.value[:, None] * self.weight


def toy_graph(rows):
    columns = {"user_id": [], "item_id": [], "time": [], "behavior": [], "domain": []}
    for user, item, time, clicked in rows:
        for name, value in zip(
            columns, (user, item, time, "click" if clicked else "skip", "internal"), strict=True
        ):
            columns[name].append(value)
    log = read_events(
        pl.DataFrame(columns), EventSchema(time_bounds=None, behavior="behavior", domain="domain")
    )
    users = pl.DataFrame({"user_id": range(13), "kind": [str(u % 3) for u in range(13)]})
    items = pl.DataFrame({"item_id": range(9), "kind": [str(i % 4) for i in range(9)]})
    return build_behavior_graph(log, user_table=users, item_table=items)


def toy_inputs(rows, shown, *, num_layers=2, **encoders):
    """Batches' source of the shown rows; ``encoders`` by node type: (encoder, which nodes)."""
    graph = toy_graph(rows)
    frame = pl.DataFrame(shown, schema=["user_id", "item_id", "time", "label"], orient="row")
    impressions = build_impressions(
        frame.with_columns(pl.col("label").cast(pl.Int64)),
        user_ids=graph.ids["user"],
        item_ids=graph.ids["item"],
    )
    data, sizes = click_inputs(graph, impressions, period=PERIOD)
    encoded = {
        name: EncodedNodes(
            reader=InputReader(graph, name, encoder.requests, fields=encoder.fields),
            prepare=encoder.prepare,
            nodes=nodes,
        )
        for name, (encoder, nodes) in encoders.items()
    }
    short_term = ShortTermConfig(num_neighbors=3, num_layers=num_layers)
    data = replace(data, csrs=graph.csrs(), short_term=short_term, encoders=encoded)
    return data, sizes, graph


def toy_model(
    sizes, *, num_layers=2, encoders=None, pooling="concatenation", nodes="all", tables=None, dropout=0.0
):
    torch.manual_seed(3)
    return LSTTM(
        sizes,
        long_channels=0,
        channels=6,
        num_layers=num_layers,
        field_pooling=pooling,
        encoders=encoders,
        encoded_nodes=nodes,
        vector_tables=tables,
        hidden_channels=(8,),
        dropout=dropout,
        self_term=True,
        item_vectors=True,
    )


def userbert(graph, *, out_channels=8):
    kind = short_words([TO_USER], fields=("kind",), days=1)
    # toy times are seconds: a day is longer than the log
    vocabularies = fit_vocabularies(graph, [kind.request], fit_until=TEST_DAY, min_count=1)
    tokenizer = SentenceTokenizer(kinds={"short": kind}, vocabularies=vocabularies, time_zone="UTC")
    bert = UserBERT(tokenizer.sizes, channels=out_channels, num_blocks=1, num_heads=2, dropout=0.0)
    return UserBERTEncoder(tokenizer, bert)


LOG = toy_log(num_rows=260)


@pytest.mark.parametrize("nodes", ["all", "seeds"])
def test_encoder_inputs_are_those_of_the_nodes_as_of_their_times(nodes):
    encoder = CountEncoder(TO_USER)
    data, _, graph = toy_inputs(LOG.rows, LOG.rows, user=(encoder, nodes))
    batch = collate(data, torch.arange(150, 190))
    count = batch.graph.encoder_inputs["user"].value
    users = graph.ids["user"].id_series
    assert len(count) == batch.graph.num_nodes_after_hop["user"][-1 if nodes == "all" else 0]
    for row, user, as_of in zip(
        batch.graph.user_row.tolist(), batch.user_id.tolist(), data.as_of[150:190].tolist(), strict=True
    ):
        name = users[user]
        assert count[row] == sum(u == name and clicked and time < as_of for u, _, time, clicked in LOG.rows)


@pytest.mark.parametrize("pooling", ["concatenation", "sum"])
@pytest.mark.parametrize("nodes", ["all", "seeds"])
def test_vectors_are_features_of_the_encoded_nodes(pooling, nodes):
    encoder = CountEncoder(TO_USER)
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, nodes))
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}, pooling=pooling, nodes=nodes).eval()
    torch.nn.init.constant_(model.short_term.not_encoded["user"], 7.0)
    batch = collate(data, torch.arange(150, 190))
    seen = []

    def hook(module, args, options):
        seen.extend([args[0], options["own_x"]])

    model.short_term.gat.register_forward_pre_hook(hook, with_kwargs=True)
    model.short_term(batch.graph)
    given, own = ({name: getattr(x, "dense", x) for name, x in part.items()} for part in seen)
    count = batch.graph.encoder_inputs["user"].value
    line = model.short_term.encoder_projection["user"]
    expected = (count[:, None] * torch.tensor([1.0, -0.5])) @ line.weight.T + line.bias
    encoded = own["user"] if nodes == "seeds" else given["user"]
    assert torch.allclose(encoded[:, -6:], expected)
    if nodes == "seeds":
        assert bool((given["user"][:, -6:] == 7.0).all())
        assert len(given["user"]) > len(own["user"])
    else:
        assert not own


def test_without_an_encoder_nothing_changes():
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows)
    keys = toy_model(sizes).state_dict().keys()
    assert not [key for key in keys if "encod" in key]
    batch = collate(data, torch.arange(40))
    with pytest.raises(ValueError, match=r"'user' have an encoder and the batch has no input for it"):
        toy_model(sizes, encoders={"user": CountEncoder(TO_USER)})(batch)


def test_later_events_change_nothing_and_earlier_ones_do():
    def scores(rows):
        encoder = CountEncoder(TO_USER)
        data, sizes, _ = toy_inputs(
            [*rows, (12, 0, 10**6, True), (0, 8, 10**6, False)], LOG.rows, user=(encoder, "all")
        )
        # the short-term graph stays as it is: what differs comes through the encoder
        data = replace(data, csrs=toy_graph([*LOG.rows, (12, 0, 10**6, True)]).csrs())
        model = toy_model(sizes, encoders={"user": encoder}).eval()
        with torch.no_grad():
            return model(collate(data, torch.arange(len(LOG.rows))))

    before = scores(LOG.rows)
    user, at = 5, 40 * PERIOD
    after = scores([*LOG.rows, (user, 1, at, True)])
    late = torch.tensor([time >= at + PERIOD for _, _, time, _ in LOG.rows])
    assert torch.equal(before[~late], after[~late])
    assert not torch.equal(before[late], after[late])


def test_userbert_learns_inside_lsttm_on_both_sides():
    graph = toy_graph(LOG.rows)
    users, items = userbert(graph), CountEncoder(TO_ITEM)
    options = {"user": (users, "seeds"), "item": (items, "seeds")}
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, **options)
    model = toy_model(sizes, num_layers=1, encoders={"user": users, "item": items}, nodes="seeds")
    batch = collate(data, torch.arange(200, 240))
    click_loss(model, batch).backward()
    encoders = [(name, p) for name, p in model.named_parameters() if ".encoders." in name]
    assert len(encoders) > 10
    assert not [name for name, p in encoders if p.grad is None or not p.grad.any()]
    assert model.short_term.not_encoded["item"].grad.any()
    encoders = {"user": users.requires_grad_(False), "item": items}
    frozen = toy_model(sizes, num_layers=1, encoders=encoders, nodes="seeds").train()
    frozen.zero_grad()
    click_loss(frozen, batch).backward()
    assert all(p.grad is None for p in users.parameters())
    assert (users.training, items.training) == (False, True)


def test_temporal_maml_reaches_the_encoder():
    users = userbert(toy_graph(LOG.rows))
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(users, "all"))
    model = toy_model(sizes, num_layers=1, encoders={"user": users}).eval()
    parts = [collate(data, torch.arange(start, start + 20)) for start in (200, 220)]
    task = MetaTask(support=parts[0], query=parts[1])
    meta = MetaConfig(learning_rate=0.1, embedding_learning_rate=1.0, order=1)
    # a step made by hand, and plain torch's gradients after it
    names, tables = dict(model.named_parameters()), _tables(model)
    grads = torch.autograd.grad(click_loss(model, parts[0]), list(names.values()), allow_unused=True)
    fast = {
        name: (p if g is None else p - (1.0 if name in tables else 0.1) * g).detach().requires_grad_()
        for (name, p), g in zip(names.items(), grads, strict=True)
    }
    logit = torch.func.functional_call(model, fast, (parts[1],))
    loss = nn.functional.binary_cross_entropy_with_logits(logit, parts[1].label)
    expected = torch.autograd.grad(loss, list(fast.values()), allow_unused=True)
    meta_backward(model, [task], meta)
    reached = 0
    for (name, p), want in zip(names.items(), expected, strict=True):
        if want is not None:
            assert torch.allclose(p.grad, want, atol=1e-5), name
            reached += ".encoders." in name and bool(want.any())
    assert reached > 10
    first = {name: p.grad.clone() for name, p in users.named_parameters()}
    meta_backward(model, [task], replace(meta, order=2))
    assert any(not torch.allclose(p.grad, first[name], atol=1e-6) for name, p in users.named_parameters())


def _tables(model):
    kinds = (nn.Embedding, nn.EmbeddingBag)
    return {f"{name}.weight": m for name, m in model.named_modules() if isinstance(m, kinds)}


def test_an_encoder_can_have_a_rate_of_its_own():
    users = userbert(toy_graph(LOG.rows))
    _, sizes, _ = toy_inputs(LOG.rows, LOG.rows)
    model = toy_model(sizes, encoders={"user": users})
    of_encoder = {id(p) for p in users.parameters()}
    groups = make_optimizer(model, OptimizerConfig(encoder_learning_rate=0.5)).param_groups
    assert {id(p) for p in groups[-1]["params"]} == of_encoder
    assert [group["lr"] for group in groups] == [1e-3, 2e-4, 0.5]
    others = [id(p) for group in groups[:-1] for p in group["params"]]
    assert not of_encoder & set(others)
    assert len(others) + len(of_encoder) == len(list(model.parameters()))


def test_wrong_options():
    encoder = CountEncoder(TO_USER)
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, "all"))
    with pytest.raises(ValueError, match=r"node types \['user', 'item'\], got \['shop'\]"):
        toy_model(sizes, encoders={"shop": encoder})
    with pytest.raises(ValueError, match="goes with one layer, not 2"):
        toy_model(sizes, encoders={"user": encoder}, nodes="seeds")
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}, nodes="seeds")
    with pytest.raises(ValueError, match="the model encodes 'seeds' nodes of type 'user', here"):
        model(collate(data, torch.arange(150, 190)))
    with pytest.raises(ValueError, match="type 'item' was given a reader of type 'user'"):
        replace(data, encoders={"item": data.encoders["user"]})


@pytest.mark.parametrize("nodes", ["all", "seeds"])
def test_scores_do_not_depend_on_the_batch(nodes):
    users = userbert(toy_graph(LOG.rows))
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(users, nodes))
    model = toy_model(sizes, num_layers=1, encoders={"user": users}, nodes=nodes).eval()
    with torch.no_grad():
        whole = model(collate(data, torch.arange(100, 140)))
        parts = [model(collate(data, torch.arange(first, first + 10))) for first in range(100, 140, 10)]
        again = model(collate(data, torch.arange(100, 140)).to("cpu"))
    assert same(whole, again)
    assert torch.allclose(whole, torch.cat(parts), atol=1e-5)
