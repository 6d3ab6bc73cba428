"""SMEN, DUPN, the CNN of heatmaps, these together and the example as features of users in LSTTM."""

from copy import copy
from dataclasses import replace

import pytest
import torch

from examples.own_encoder import AgedFields
from graphrec.encoders.bag_of_interests import BagOfInterests, InterestCounter
from graphrec.encoders.base import HistoryRequest
from graphrec.encoders.behavior_sequences import SequenceTokenizer, behavior_request
from graphrec.encoders.dupn import DUPN, DUPNEncoder
from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding
from graphrec.encoders.heatmap_cnn import LEVELS, HeatmapCNN, HeatmapEncoder, narrow_levels
from graphrec.encoders.interests import ItemInterests
from graphrec.encoders.joined import JoinedEncoders
from graphrec.encoders.local_clock import LocalClock
from graphrec.encoders.smen import SMEN
from graphrec.encoders.smen_encoder import SMENEncoder
from graphrec.encoders.vocabulary import fit_profile, fit_vocabularies
from graphrec.training.batches import collate
from graphrec.training.loop import click_loss
from graphrec.training.meta import adapted_loss, meta_backward
from graphrec.training.meta_tasks import MetaConfig, MetaTask
from tests.graphrec.test_lsttm_encoders import (
    LOG,
    PERIOD,
    TO_USER,
    toy_graph,
    toy_inputs,
    toy_model,
    userbert,
)

INTERESTS = ItemInterests(
    interest=torch.arange(10)[:, None] % 4, weight=torch.ones(10, 1), num_interests=4, fit_until=0
)


# the toy's log is a few hundred seconds long


def smen():
    counter = InterestCounter(items=INTERESTS, clock=LocalClock.of_zone("+00:00"), scales=(30, 120))
    torch.manual_seed(0)
    return SMENEncoder(counter, SMEN(4, num_anchors=2, channels=4), [TO_USER])


def dupn():
    request = behavior_request([TO_USER], ("kind",), (), 5)
    graph = toy_graph(LOG.rows)
    tokenizer = SequenceTokenizer(
        edge_types=(TO_USER,),
        vocabularies=fit_vocabularies(graph, [request], fit_until=10**6, min_count=1),
        item_fields=("kind",),
        length=5,
        profile=fit_profile(graph, "user", ["kind"]),
        time_zone="UTC",
    )
    torch.manual_seed(0)
    return DUPNEncoder(tokenizer, DUPN(tokenizer.sizes, hidden_channels=4, user_channels=9, query_channels=2))


def heatmap():
    encoding = HeatmapEncoding(
        edge_types=(TO_USER,), channels=(HeatmapChannel(name="clicks"),), num_days=14, time_zone="UTC"
    )
    torch.manual_seed(0)
    return HeatmapEncoder(encoding, HeatmapCNN(1, 14, levels=narrow_levels(LEVELS[14], 16)))


def together():
    return JoinedEncoders(
        {"life": smen(), "sequence": dupn(), "image": heatmap()}, out_channels=5, how="gated"
    )


def bert():
    torch.manual_seed(0)
    return userbert(toy_graph(LOG.rows))


def example():
    request = HistoryRequest(edge_types=(TO_USER,), fields=("kind",))
    vocabularies = fit_vocabularies(toy_graph(LOG.rows), [request], fit_until=10**6, min_count=1)
    torch.manual_seed(0)
    encoder = AgedFields([TO_USER], vocabularies, channels=4)
    torch.nn.init.constant_(encoder.log_half_life, -3.0)  # about three minutes
    return encoder


CASES = {
    "SMEN": smen,
    "DUPN": dupn,
    "heatmap": heatmap,
    "together": together,
    "example": example,
}
EVERY = {"UserBERT": bert, **CASES}  # most is tested of UserBERT in test_lsttm_encoders.py


@pytest.fixture(params=CASES)
def make_encoder(request):
    return CASES[request.param]


@pytest.mark.parametrize("nodes", ["all", "seeds"])
def test_it_learns_inside_lsttm(make_encoder, nodes):
    encoder = make_encoder()
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, nodes))
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}, nodes=nodes)
    batch = collate(data, torch.arange(200, 240))
    assert batch.graph.encoder_inputs["user"] is not None
    click_loss(model, batch).backward()
    reached = {name: parameter.grad is not None and bool(parameter.grad.any())
               for name, parameter in encoder.named_parameters() if parameter.numel()}  # fmt: skip
    assert [name for name, is_reached in reached.items() if not is_reached] == []


def test_frozen_it_is_a_feature_of_a_model_with_temporal_maml(make_encoder):
    encoder = make_encoder().requires_grad_(False)
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, "all"))
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}).eval()
    parts = [collate(data, torch.arange(start, start + 20)) for start in (200, 220)]
    meta = MetaConfig(learning_rate=0.1, embedding_learning_rate=1.0, order=2)
    meta_backward(model, [MetaTask(support=parts[0], query=parts[1])], meta)
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert model.short_term.encoder_projection["user"].weight.grad.any()


def test_later_events_change_no_earlier_score(make_encoder):
    def scores(rows):
        encoder = make_encoder()
        after_all = [(12, 0, 10**4, True), (0, 8, 10**4, False)]
        data, sizes, _ = toy_inputs([*rows, *after_all], LOG.rows, user=(encoder, "all"))
        # the short-term graph stays as it is: what differs comes through the encoder
        data = replace(data, csrs=toy_graph([*LOG.rows, (12, 0, 10**4, True)]).csrs())
        model = toy_model(sizes, encoders={"user": encoder}).eval()
        with torch.no_grad():
            return model(collate(data, torch.arange(len(LOG.rows))))

    before = scores(LOG.rows)
    at = 40 * PERIOD
    after = scores([*LOG.rows, (5, 1, at, True)])
    late = torch.tensor([time >= at + PERIOD for _, _, time, _ in LOG.rows])
    torch.testing.assert_close(before[~late], after[~late], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(before[late], after[late], rtol=1e-6, atol=1e-6)


def in_double(value):
    """A copy with every float32 tensor inside as float64, but for counts, whose type is checked."""
    if isinstance(value, BagOfInterests):
        return value
    if isinstance(value, torch.Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {name: in_double(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(in_double, value))
    if not hasattr(value, "__dict__"):
        return value
    result = copy(value)
    for name, one in vars(value).items():
        object.__setattr__(result, name, in_double(one))
    return result


@pytest.mark.parametrize("name", EVERY)
def test_temporal_maml_of_second_order_has_the_slope_of_the_adapted_loss(name):
    encoder = EVERY[name]()
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, user=(encoder, "all"))
    model = toy_model(sizes, num_layers=1, encoders={"user": encoder}).eval().double()
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(1)

    def draw():
        return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    with torch.no_grad():  # narrow tables have next to no second derivatives
        for parameter, value in zip(parameters, draw(), strict=True):
            parameter += 0.2 * value
    parts = [in_double(collate(data, torch.arange(start, start + 20))) for start in (200, 220)]
    task = MetaTask(support=parts[0], query=parts[1])
    meta = MetaConfig(learning_rate=0.1, embedding_learning_rate=1.0, order=2)
    meta_backward(model, [task], meta)
    direction, start = draw(), [parameter.detach().clone() for parameter in parameters]
    slope = sum((p.grad * value).sum() for p, value in zip(parameters, direction, strict=True))
    meta_backward(model, [task], replace(meta, order=1))
    of_first_order = sum((p.grad * value).sum() for p, value in zip(parameters, direction, strict=True))
    losses, step = [], 1e-7  # small: few kinks of ReLU and maxima lie between
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, origin, value in zip(parameters, start, direction, strict=True):
                parameter.copy_(origin + sign * step * value)
        losses.append(adapted_loss(model, task, meta))
    expected = (losses[0] - losses[1]) / (2 * step)
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=1e-7)
    assert abs(of_first_order - slope) > 1e-3 * abs(slope)  # the terms of second order are there
