"""What every node-feature encoder must fulfil: one parameter of ``CASES`` an encoder, the example's included.

Sizes differ on every axis: 7 users, 5 items, 11 queries, histories of 0 to 13 events.
"""

import random
from copy import deepcopy

import pytest
import torch

from examples.own_encoder import AgedFields
from graph_builders import fit_fields
from graphrec.encoders.bag_of_interests import InterestCounter
from graphrec.encoders.base import HistoryRequest, NodeEncoder
from graphrec.encoders.behavior_sequences import SequenceTokenizer, behavior_request
from graphrec.encoders.behavior_words import SentenceTokenizer, long_words, short_words
from graphrec.encoders.dupn import DUPN, DUPNEncoder
from graphrec.encoders.fit_until import latest_fit
from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.encoders.input_reader import InputReader
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.joined import JoinedEncoders
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import SMENEncoder
from graphrec.encoders.userbert import UserBERT
from graphrec.encoders.userbert_encoder import UserBERTEncoder
from graphrec.encoders.vocabulary import AttributeVocabularies, fit_vocabularies
from graphrec.training.checkpoint import load_checkpoint, save_checkpoint
from tests.graphrec.encoders.toy_heatmaps import BUY, RETURN, at, graph_of

NUM_USERS, NUM_QUERIES = 7, 11
NOW, DAY = at("2011-07-10 04:00"), 86_400
TYPES = {"user": (BUY, RETURN), "item": tuple((last, name[4:], first) for first, name, last in (BUY, RETURN))}
FIELDS = {"user": ("genre",), "item": ("city",)}  # of the neighbours
PROFILE = {"user": "city", "item": "genre"}  # of the nodes
WITHOUT_ROW = 6  # a user without an event


def events_of(seed=0, num_events=90):
    """Events of the users 0 to 5, of both kinds, until three weeks back."""
    draw = random.Random(seed)
    return [
        (draw.randrange(6), draw.randrange(3), NOW - 1 - draw.randrange(21 * DAY), draw.random() < 0.3,
         draw.choice([None, 1.0, 2.5]), draw.choice([None, "x", "y"]))
        for _ in range(num_events)
    ]  # fmt: skip


def profile_of(graph, node_type):
    return AttributeVocabularies(fit_fields(graph.features[node_type], names=[PROFILE[node_type]]))


def userbert(graph, node_type):
    options = {"attributes": ("shop",), "fields": FIELDS[node_type], "max_words": 5}
    kinds = {
        "long": long_words(TYPES[node_type], days=20, recent_days=3, **options),
        "short": short_words(TYPES[node_type], days=3, **options),
    }
    tokenizer = SentenceTokenizer(
        kinds=kinds,
        vocabularies=fit_vocabularies(
            graph, [kind.request for kind in kinds.values()], fit_until=NOW, min_count=1
        ),
        profile=profile_of(graph, node_type),
        time_zone="Europe/London",
    )
    return UserBERTEncoder(
        tokenizer, UserBERT(tokenizer.sizes, channels=12, num_blocks=2, num_heads=3, dropout=0.0)
    )


def dupn(graph, node_type):
    request = behavior_request(TYPES[node_type], FIELDS[node_type], ("shop",), 4)
    tokenizer = SequenceTokenizer(
        edge_types=TYPES[node_type],
        vocabularies=fit_vocabularies(graph, [request], fit_until=NOW, min_count=1),
        item_fields=FIELDS[node_type],
        attributes=("shop",),
        length=4,
        profile=profile_of(graph, node_type),
        time_zone="Europe/London",
    )
    model = DUPN(tokenizer.sizes, item_channels=5, property_channels=3, hidden_channels=6, user_channels=9,
                 query_channels=4, attention_channels=(8, 7))  # fmt: skip
    return DUPNEncoder(tokenizer, model)


def smen(graph, node_type):
    num_neighbors = graph.num_nodes[TYPES[node_type][0][0]]
    items = ItemInterests(
        interest=torch.arange(num_neighbors)[:, None] % 4,
        weight=torch.ones(num_neighbors, 1),
        num_interests=4,
        fit_until=0,
    )
    counter = InterestCounter(items=items, clock=LocalClock.of_zone("+00:00"), scales=(3 * DAY, 9 * DAY))
    return SMENEncoder(counter, SMEN(4, num_anchors=3, channels=5), TYPES[node_type])


def heatmap(graph, node_type):
    channels = (
        HeatmapChannel(name="events"),
        HeatmapChannel(name="amount", aggregate="sum", attribute="amount"),
        HeatmapChannel(name="in shop x", attributes={"shop": ("x",)}),
    )
    encoding = HeatmapEncoding(
        edge_types=TYPES[node_type], channels=channels, num_days=14, time_zone="Europe/London"
    )
    return HeatmapEncoder(encoding, HeatmapCNN(3, 14, levels=narrow_levels(LEVELS[14], 16)))


def own(graph, node_type):
    request = HistoryRequest(edge_types=TYPES[node_type], fields=FIELDS[node_type])
    vocabularies = fit_vocabularies(graph, [request], fit_until=NOW, min_count=1)
    return AgedFields(TYPES[node_type], vocabularies, channels=6)


def all_of(how):
    """All four encoders as one."""

    def joined(graph, node_type):
        encoders = {one.__name__: one(graph, node_type) for one in (userbert, dupn, smen, heatmap)}
        return JoinedEncoders(encoders, out_channels=6, how=how)

    return joined


# a fifth encoder is one more line
CASES = {
    "UserBERT": userbert,
    "DUPN": dupn,
    "SMEN": smen,
    "heatmap": heatmap,
    "example": own,
    "all, concatenated": all_of("concatenated"),
    "all, gated": all_of("gated"),
}


@pytest.fixture(params=[(name, side) for name in CASES for side in ("user", "item")], ids="-".join)
def case(request):
    """An encoder with weights that leave nothing at zero, the node type, and its graph."""
    name, node_type = request.param
    graph = graph_of(events_of(), num_users=NUM_USERS)
    torch.manual_seed(0)
    encoder = CASES[name](graph, node_type)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return encoder.eval(), node_type, graph


def queries(graph, node_type, seed=0):
    draw = random.Random(seed)
    num_nodes = {"user": NUM_USERS, "item": 3}[node_type]
    node = torch.tensor([draw.randrange(num_nodes) for _ in range(NUM_QUERIES)])
    return node, NOW - torch.tensor([draw.randrange(10 * DAY) for _ in range(NUM_QUERIES)])


def prepared(encoder, graph, node_type, node, time):
    reader = InputReader(graph, node_type, encoder.requests, fields=encoder.fields)
    return encoder.prepare(reader.read(node, time))


@torch.no_grad()
def vectors(encoder, graph, node_type, node, time):
    return encoder(prepared(encoder, graph, node_type, node, time))


def test_a_vector_for_each_query(case):
    encoder, node_type, graph = case
    assert isinstance(encoder, NodeEncoder)
    found = vectors(encoder, graph, node_type, *queries(graph, node_type))
    assert found.shape == (NUM_QUERIES, encoder.out_channels)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert len(found.unique(dim=0)) > 3, "different histories have different vectors"
    again = vectors(encoder, graph, node_type, *queries(graph, node_type))
    assert torch.equal(found, again)


def test_a_vector_does_not_depend_on_the_other_queries(case):
    encoder, node_type, graph = case
    node, time = queries(graph, node_type)
    whole = vectors(encoder, graph, node_type, node, time)
    order = torch.randperm(NUM_QUERIES, generator=torch.Generator().manual_seed(0))
    turned = vectors(encoder, graph, node_type, node[order], time[order])
    torch.testing.assert_close(turned, whole[order], rtol=1e-4, atol=1e-5)
    alone = [vectors(encoder, graph, node_type, node[i : i + 1], time[i : i + 1]) for i in range(NUM_QUERIES)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-4, atol=1e-5)
    none = vectors(encoder, graph, node_type, node[:0], time[:0])
    assert none.shape == (0, encoder.out_channels)


def test_events_at_or_after_the_query_time_change_nothing(case):
    encoder, node_type, graph = case
    node, time = torch.arange(3), torch.full((3,), NOW - 2 * DAY)
    before = vectors(encoder, graph, node_type, node, time)
    for planted_at, changes in ((NOW - 2 * DAY, False), (NOW - DAY, False), (NOW - 2 * DAY - 1, True)):
        planted = [(row, row, planted_at, False, 2.5, "x") for row in range(3)]
        later = graph_of([*events_of(), *planted], num_users=NUM_USERS)
        after = vectors(encoder, later, node_type, node, time)
        if changes:
            assert bool((before != after).any(dim=1).all()), "an event before the query's time is seen"
        else:
            assert torch.equal(before, after)


def test_an_empty_history_has_a_vector(case):
    encoder, node_type, graph = case
    before_all = torch.full((3,), NOW - 400 * DAY)
    found = vectors(encoder, graph, node_type, torch.zeros(3, dtype=torch.int64), before_all)
    assert bool(found.isfinite().all())
    assert torch.allclose(found, found[:1].expand(3, -1), atol=1e-6)
    if node_type == "user":
        with_others = vectors(
            encoder, graph, node_type, torch.tensor([WITHOUT_ROW, 0]), torch.tensor([NOW, NOW])
        )
        assert bool(with_others.isfinite().all())
        assert not torch.allclose(with_others[0], with_others[1])


def test_a_gradient_reaches_every_parameter(case):
    encoder, node_type, graph = case
    encoder = deepcopy(encoder).train()
    # every node at several times: all codes of small vocabularies occur
    num_nodes = {"user": NUM_USERS, "item": 3}[node_type]
    node = torch.arange(num_nodes).repeat(8)
    time = (NOW - torch.arange(8) * DAY).repeat_interleave(num_nodes)
    found = encoder(prepared(encoder, graph, node_type, node, time))
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    (found * weight).sum().backward()
    without = [
        name
        for name, p in encoder.named_parameters()
        if p.numel() and (p.grad is None or not bool(p.grad.any()))
    ]
    assert not without


def test_labels_before_the_fit_are_refused(case):
    encoder, _, _ = case
    encoder.check_before(NOW)
    if isinstance(encoder, HeatmapEncoder):
        assert not encoder.fitted_parts()  # it has no words, and nothing was pre-trained
        return
    assert latest_fit(encoder.fitted_parts()) == (0 if isinstance(encoder, SMENEncoder) else NOW)
    with pytest.raises(ValueError, match="fitted on data until"):
        encoder.check_before(-1 if isinstance(encoder, SMENEncoder) else NOW - 1)


def test_a_checkpoint_gives_the_same_vectors(case, tmp_path):
    encoder, node_type, graph = case
    wanted = vectors(encoder, graph, node_type, *queries(graph, node_type))
    save_checkpoint(tmp_path / "encoder.pt", {"state": encoder.state_dict()})
    other = deepcopy(encoder)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1
    assert not torch.allclose(vectors(other, graph, node_type, *queries(graph, node_type)), wanted)
    # read as tensors alone: nothing is unpickled
    other.load_state_dict(load_checkpoint(tmp_path / "encoder.pt")["state"])
    assert torch.equal(vectors(other, graph, node_type, *queries(graph, node_type)), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_vectors(case):
    encoder, node_type, graph = case
    wanted = vectors(encoder, graph, node_type, *queries(graph, node_type))
    ready = prepared(encoder, graph, node_type, *queries(graph, node_type))
    with torch.no_grad():
        found = deepcopy(encoder).to("cuda")(ready.to("cuda")).cpu()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_what_is_prepared_moves_between_devices(case):
    encoder, node_type, graph = case
    ready = prepared(encoder, graph, node_type, *queries(graph, node_type))
    with torch.no_grad():
        assert torch.equal(encoder(ready.to("cpu")), encoder(ready))
