"""The heatmap's CNN: Table 2, which events reach its output, sparse beside dense, the encoder's contract."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from graphrec.encoders.heatmap import HeatmapChannel, HeatmapEncoding, Heatmaps
from graphrec.encoders.heatmap_cnn import (
    LEVELS,
    ConvLevel,
    HeatmapCNN,
    HeatmapEncoder,
    check_window,
    narrow_levels,
)
from graphrec.encoders.input_reader import InputReader
from graphrec.nn.sparse_convolution import SparseImages, sparse_level
from graphrec.training.batches import collate
from graphrec.training.loop import click_loss
from samplers.tables import with_zero
from tests.graphrec.encoders.toy_heatmaps import CHANNELS, at, encoding_of, graph_of
from tests.graphrec.test_lsttm_encoders import LOG, TO_USER, toy_inputs, toy_model

NOW = at("2011-07-10 04:00")
# the paper's Table 2: (days, hours, channels) behind each convolution and each pool
TABLE_2 = [
    ((365, 24, 64), (52, 12, 64)),
    ((52, 12, 128), (13, 6, 128)),
    ((13, 6, 256), (4, 3, 256)),
    ((4, 3, 512), (1, 1, 512)),
]


def heatmaps_of(cells, num_queries, num_channels, num_days):
    """Heatmaps of {(query, day, hour, channel): value}."""
    rows = sorted(cells.items())
    query, day, hour, channel = (
        torch.tensor([key[place] for key, _ in rows], dtype=torch.int64) for place in range(4)
    )
    return Heatmaps(
        num_days,
        num_channels,
        with_zero(torch.bincount(query, minlength=num_queries).cumsum(0)),
        day.short(),
        hour.to(torch.int8),
        channel.short(),
        torch.tensor([value for _, value in rows], dtype=torch.float32),
    )


def random_heatmaps(num_queries, num_channels, num_days, num_cells=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    highs = (num_queries, num_days, 24, num_channels)
    keys = zip(*(torch.randint(h, (num_cells,), generator=generator).tolist() for h in highs), strict=True)
    values = (torch.rand(num_cells, generator=generator) * 50 - 10).tolist()
    return heatmaps_of(dict(zip(keys, values, strict=True)), num_queries, num_channels, num_days)


def test_shapes_are_those_of_table_2():
    cnn = HeatmapCNN(5, 365, first_level="dense")
    shapes = []

    def note(_, __, output):
        shapes.append((*output.shape[2:], output.shape[1]))

    for level, (_, channels) in zip(cnn.levels, TABLE_2, strict=True):
        level.conv.register_forward_hook(note)
        level.register_forward_hook(note)
        assert level.out_channels == channels[2]
    vector = cnn(random_heatmaps(2, 5, 365))
    assert vector.shape == (2, 512)
    assert shapes == [shape for pair in TABLE_2 for shape in pair]
    kernels = [tuple(level.conv.kernel_size) for level in cnn.levels]
    assert kernels == [(7, 2), (4, 2), (3, 2), (1, 1)]
    assert [level.level.becomes for level in cnn.levels] == ["week", "month", "season", "year"]
    assert sum(p.numel() for p in cnn.parameters()) == (
        5 * 64 * 14 + 64 * 128 * 8 + 128 * 256 * 6 + 256 * 512 + 2 * (64 + 128 + 256 + 512)
    )


def test_shapes_are_checked():
    level = HeatmapCNN(5, 14).levels[0]
    with pytest.raises(Exception, match="Type-check error whilst checking the parameters"):
        level(torch.zeros(2, 5, 24, 14))


@pytest.mark.parametrize("num_days", sorted(LEVELS))
def test_every_day_and_hour_of_a_preset_reaches_the_output(num_days):
    torch.manual_seed(0)
    cnn = HeatmapCNN(1, num_days, levels=narrow_levels(LEVELS[num_days], 8), first_level="dense").eval()
    with torch.no_grad():
        for level in cnn.levels:
            level.norm.bias.fill_(10.0)  # no value is cut off by ReLU
            level.conv.weight.abs_()  # more input, more output
        nothing = heatmaps_of({}, 1, 1, num_days)
        days = sorted({0, 1, num_days // 2, *range(num_days - 15, num_days)} & set(range(num_days)))
        cells = {(row, day, 12, 0): 1e6 for row, day in enumerate(days)}
        moved = cnn(heatmaps_of(cells, len(days), 1, num_days)) - cnn(nothing)
        assert moved.amax(dim=1).min() > 0
        hours = {(hour, 0, hour, 0): 1e6 for hour in range(24)}
        assert (cnn(heatmaps_of(hours, 24, 1, num_days)) - cnn(nothing)).amax(dim=1).min() > 0


@pytest.mark.parametrize(
    ("num_days", "message"),
    [
        (300, r"no preset covers a window of 300 days, there are \[14, 28, 182, 273, 365\]: take 273 days"),
        (330, "take 365 days"),
    ],
)
def test_windows_without_a_preset_are_refused(num_days, message):
    with pytest.raises(ValueError, match=message):
        HeatmapCNN(3, num_days)


@pytest.mark.parametrize(
    ("num_days", "nearest"), [(300, 336), (335, 336), (400, 381), (0, 336), (700, 381), (354, 353)]
)
def test_windows_that_levels_do_not_cover_are_refused_with_the_nearest(num_days, nearest):
    with pytest.raises(ValueError, match=f"window of {num_days} days: the nearest that fits is {nearest} d"):
        HeatmapCNN(3, num_days, levels=LEVELS[365])
    check_window(nearest, LEVELS[365])


def test_levels_that_cannot_be_are_refused():
    for days in LEVELS:
        check_window(days, LEVELS[days])
    check_window(366, LEVELS[365])  # a leap year
    with pytest.raises(ValueError, match="at least one level"):
        check_window(3, ())
    one = ConvLevel(becomes="all", channels=2, kernel=(1, 1), pool=(3, 7))
    with pytest.raises(ValueError, match=r"the pools of \[7\] hours do not cover a day of 24 hours"):
        check_window(3, (one,))
    check_window(3, (replace(one, pool=(3, 24)),))
    with pytest.raises(ValueError, match="first_level must be 'sparse' or 'dense', got 'thin'"):
        HeatmapCNN.__init__.__wrapped__(HeatmapCNN(3, 14), 3, 14, first_level="thin")
    with pytest.raises(ValueError, match="factor must be a whole number of at least 1, got 0"):
        narrow_levels(LEVELS[14], 0)
    for factor in (torch.nan, 2.5, True):
        with pytest.raises(ValueError, match="factor must be a whole number of at least 1"):
            narrow_levels.__wrapped__(LEVELS[14], factor)
    for options, message in (
        ({"channels": 0}, "ConvLevel.channels must be a whole number of at least 1, got 0"),
        ({"kernel": (0, 1)}, "ConvLevel.kernel must be a whole number of at least 1, got 0"),
        ({"pool": (3, -1)}, "ConvLevel.pool must be a whole number of at least 1, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(one, **options)
    with pytest.raises(ValueError, match=r"ConvLevel.pool must be two numbers, days and hours, got \(3,\)"):
        ConvLevel.__init__.__wrapped__(
            object.__new__(ConvLevel), becomes="all", channels=2, kernel=(1, 1), pool=(3,)
        )
    for channels, days, name in (
        (0, 14, "channels"), (-1, 14, "channels"), (1.5, 14, "channels"), (3, "182", "days"),
        (3, True, "days"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"num_{name} must be a whole number of at least"):
            HeatmapCNN.__init__.__wrapped__(HeatmapCNN(3, 14), channels, days)
    with pytest.raises(ValueError, match=r"\(channels, days\) \(2, 14\), the network reads \(3, 14\)"):
        HeatmapCNN(3, 14)(random_heatmaps(1, 2, 14))
    with pytest.raises(ValueError, match=r"encoding makes .* \(7, 28\), the network reads \(7, 14\)"):
        HeatmapEncoder(encoding_of(28), HeatmapCNN(7, 14))


# ---- sparse beside dense -------------------------------------------------------------------------


def dense_level(x, conv, norm, pool):
    rows, columns = conv.kernel_size
    padding = ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2)
    return nn.functional.max_pool2d(norm(conv(nn.functional.pad(x, padding))).relu(), pool)


@settings(max_examples=12)
@given(data=st.data())
def test_the_sparse_level_is_the_dense_one(data):
    size = tuple(data.draw(st.integers(1, 6)) for _ in range(2))
    kernel = tuple(data.draw(st.integers(1, 4)) for _ in range(2))
    pool = tuple(data.draw(st.integers(1, high)) for high in size)
    num_images, num_channels, num_cells = (data.draw(st.integers(0, high)) for high in (3, 2, 8))
    num_images, num_channels = num_images + 1, num_channels + 1
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.zeros(num_images, *size, num_channels, dtype=torch.float64)
    flat = torch.randperm(x.numel(), generator=generator)[:num_cells]
    x.view(-1)[flat] = torch.randn(len(flat), generator=generator, dtype=torch.float64)
    images = SparseImages(num_images, *size, flat // num_channels, flat % num_channels, x.flatten()[flat])
    convs = [nn.Conv2d(num_channels, 3, kernel, bias=False).double() for _ in range(2)]
    norms = [nn.BatchNorm2d(3).double() for _ in range(2)]
    convs[1].load_state_dict(convs[0].state_dict())
    with torch.no_grad():
        norms[0].weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norms[0].bias.copy_(torch.tensor([0.3, 0.1, -0.2]))
    norms[1].load_state_dict(norms[0].state_dict())
    is_training = num_images * size[0] * size[1] > 1 and data.draw(st.booleans())
    for norm in norms:
        norm.train(is_training)
    wanted = dense_level(x.permute(0, 3, 1, 2), convs[0], norms[0], pool)
    found = sparse_level(images, convs[1].weight, norms[1], pool)
    torch.testing.assert_close(found, wanted)
    weight = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    (wanted * weight).sum().backward()
    (found * weight).sum().backward()
    for first, second in zip((convs[0], norms[0]), (convs[1], norms[1]), strict=True):
        for name, value in first.state_dict().items():
            torch.testing.assert_close(second.state_dict()[name], value)  # running statistics too
        for name, value in first.named_parameters():
            torch.testing.assert_close(second.get_parameter(name).grad, value.grad)


def test_both_first_levels_can_be_differentiated_twice():
    heatmaps, second = random_heatmaps(3, 2, 14), []
    for first_level in ("sparse", "dense"):
        torch.manual_seed(0)
        cnn = HeatmapCNN(2, 14, levels=narrow_levels(LEVELS[14], 16), first_level=first_level).double()
        loss = cnn(heatmaps).square().sum()
        gradients = torch.autograd.grad(loss, list(cnn.parameters()), create_graph=True)
        sum(gradient.square().sum() for gradient in gradients).backward()
        second.append([parameter.grad for parameter in cnn.parameters()])
    assert all(gradient.abs().sum() > 0 for gradient in second[0])
    for found, wanted in zip(*second, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def test_both_first_levels_give_the_same_vectors_and_no_heatmap_hears_another():
    torch.manual_seed(0)
    sparse = HeatmapCNN(3, 28, levels=narrow_levels(LEVELS[28], 8)).train()
    dense = HeatmapCNN(3, 28, levels=narrow_levels(LEVELS[28], 8), first_level="dense").train()
    dense.load_state_dict(sparse.state_dict())
    heatmaps = random_heatmaps(4, 3, 28)
    torch.testing.assert_close(sparse(heatmaps), dense(heatmaps))
    sparse.eval()
    dense.eval()
    whole = sparse(heatmaps)
    torch.testing.assert_close(whole, dense(heatmaps))
    assert whole.unique(dim=0).shape == whole.shape
    for query in range(4):
        alone = sparse(heatmaps.take(torch.tensor([query])))
        torch.testing.assert_close(alone, whole[query : query + 1])
    sparse.train()(heatmaps).square().sum().backward()
    for name, parameter in sparse.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("first_level", ["sparse", "dense"])
@pytest.mark.parametrize("is_training", [True, False])
def test_there_may_be_no_query_and_no_event(first_level, is_training):
    torch.manual_seed(0)
    levels = narrow_levels(LEVELS[14], 16)
    cnn = HeatmapCNN(2, 14, levels=levels, first_level=first_level).train(is_training)
    before = {name: value.clone() for name, value in cnn.state_dict().items() if "running" in name}
    assert cnn(heatmaps_of({}, 0, 2, 14)).shape == (0, 32)
    for name, value in before.items():
        assert torch.equal(cnn.state_dict()[name], value)
    vector = cnn(heatmaps_of({}, 3, 2, 14))
    assert vector.shape == (3, 32)
    assert vector.isfinite().all()
    assert all(value.isfinite().all() for value in cnn.state_dict().values())


# ---- the contract ---------------------------------------------------------------------------------


def vectors(encoder, graph, user, time):
    reader = InputReader(graph, "user", encoder.requests, fields=encoder.fields)
    with torch.no_grad():
        return encoder(encoder.prepare(reader.read(torch.tensor(user), torch.tensor(time))))


@pytest.mark.parametrize("num_days", [14, 365])
def test_the_newest_event_changes_the_vector_and_none_from_the_query_time_on(num_days):
    torch.manual_seed(0)
    cnn = HeatmapCNN(len(CHANNELS), num_days, levels=narrow_levels(LEVELS[num_days], 4))
    encoder = HeatmapEncoder(encoding_of(num_days), cnn).eval()
    past = [(0, item, NOW - 86_400 * days, False, 3.0, "x") for item, days in ((0, 3), (1, 6), (2, 13))]
    before = vectors(encoder, graph_of(past), [0, 1], [NOW, NOW])
    assert before.shape == (2, encoder.out_channels)
    assert before.isfinite().all()
    assert not torch.equal(before[0], before[1])  # user 1 has no event
    for moment in (NOW, NOW + 1, NOW - num_days * 86_400 - 1):
        assert torch.equal(
            vectors(encoder, graph_of([*past, (0, 0, moment, False, 9.0, "x")]), [0, 1], [NOW, NOW]), before
        )
    newest = vectors(encoder, graph_of([*past, (0, 0, NOW - 1, False, 9.0, "x")]), [0, 1], [NOW, NOW])
    assert not torch.equal(newest[0], before[0])
    assert torch.equal(newest[1], before[1])


def test_lsttm_trains_with_heatmaps_as_its_users_features():
    encoding = HeatmapEncoding(
        edge_types=(TO_USER,), channels=(HeatmapChannel(name="clicks"),), num_days=14, time_zone="UTC"
    )
    torch.manual_seed(0)
    encoder = HeatmapEncoder(encoding, HeatmapCNN(1, 14, levels=narrow_levels(LEVELS[14], 16)))
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, user=(encoder, "all"))
    model = toy_model(sizes, encoders={"user": encoder})
    batch = collate(data, torch.arange(150, 190))
    assert len(batch.graph.encoder_inputs["user"]) == batch.graph.num_nodes_after_hop["user"][-1]
    click_loss(model, batch).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_a_frozen_encoder_stays_in_evaluation_mode():
    cnn = HeatmapCNN(2, 14, levels=narrow_levels(LEVELS[14], 16))
    encoder = HeatmapEncoder(encoding_of(14, CHANNELS[:2]), cnn)
    model = nn.ModuleList([encoder])
    assert all(part.training for part in model.train().modules())
    encoder.requires_grad_(False)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    assert not any(part.training for part in model.train()[0].modules())
    encoder(random_heatmaps(3, 2, 14))
    for name, value in before.items():
        assert torch.equal(encoder.state_dict()[name], value), name
    encoder.requires_grad_(True)
    assert all(part.training for part in model.train().modules())


def test_the_encoder_asks_for_what_it_reads():
    encoder = HeatmapEncoder(encoding_of(14))
    (request,) = encoder.requests.values()
    assert (request.window, request.max_events, request.offset) == (14 * 86_400, None, 0)
    assert request.attributes == ("amount", "shop")
    assert request.fields == ("genre", "tags")
    assert (encoder.out_channels, encoder.fields) == (512, ())
    assert all(first.out_channels == second.in_channels for first, second in pairwise(encoder.cnn.levels))
