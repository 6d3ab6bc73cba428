"""SML: the transfer network by hand, its start, and sequential training against plain fine-tuning."""

import copy
import math

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from graphrec.models import SMLTransfer, TransferNetwork
from graphrec.training.batches import click_batches, rows_between
from graphrec.training.loop import OptimizerConfig, predict, train
from graphrec.training.sml import (
    SMLConfig,
    SMLUpdater,
    apply_transfer,
    copy_tables,
    train_sml,
    transferred_tables,
)
from tests.graphrec.test_models_baselines import CPU, DATA, make, widened
from tests.graphrec.toy_data import DAY, NUM_DAYS

PERIODS = [rows_between(DATA, start, start + DAY // 2) for start in range(0, NUM_DAYS * DAY, DAY // 2)]
BATCH = 32
NUM_BATCHES = [-(-len(rows) // BATCH) for rows in PERIODS]
FIT = OptimizerConfig(learning_rate=0.01, embedding_learning_rate=0.01, epochs=2, decay=False)
NAMES = ["MF", "DeepFM"]


def batches(period, epoch, start):
    return click_batches(
        DATA, PERIODS[period], batch_size=BATCH, epoch=epoch, start_batch=start, shuffle=True
    )


def transfer(initial="fitted", seed=0, hidden_channels=40):
    torch.manual_seed(seed)
    return SMLTransfer(6, hidden_channels=hidden_channels, initial=initial)


# ---- the network ---------------------------------------------------------------------------------


def gelu(x):
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def test_network_on_numbers_by_hand():
    network = TransferNetwork(1, filters=(1, 1), hidden_channels=1, initial="random")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.conv1.weight.copy_(torch.tensor([[[1.0], [10.0], [100.0]]]))
        network.conv1.bias.fill_(0.5)
        network.conv2.weight.fill_(0.1)
        network.hidden.weight.fill_(2)
        network.output.weight.fill_(3)
        network.output.bias.fill_(-4)
    # w = 2, w' = -0.03, w * w' / |w| = -0.03: 2 - 0.3 - 3 + 0.5
    x = gelu(gelu(gelu(2 - 0.3 - 3 + 0.5) * 0.1) * 2) * 3 - 4
    assert network(torch.tensor([[2.0]]), torch.tensor([[-0.03]])).item() == pytest.approx(x)


def test_network_equals_a_slow_loop():
    torch.manual_seed(2)
    channels = 4
    network = TransferNetwork(channels, hidden_channels=9, initial="random")
    old, fitted = torch.randn(3, channels), torch.randn(3, channels)
    old[2] = 0  # a row of zeros has no direction
    out = network(old, fitted)
    for row in range(3):
        norm = math.sqrt(sum(x * x for x in old[row].tolist()))
        stack = [old[row].tolist(), fitted[row].tolist()]
        products = [a * b / norm if norm else 0.0 for a, b in zip(*stack, strict=True)]
        layer = [*stack, products]
        for conv in (network.conv1, network.conv2):
            weight, bias = conv.weight[..., 0].tolist(), conv.bias.tolist()
            layer = [
                [gelu(b + sum(w * x[c] for w, x in zip(ws, layer, strict=True))) for c in range(channels)]
                for ws, b in zip(weight, bias, strict=True)
            ]
        flat = [x for filtered in layer for x in filtered]
        hidden = [
            gelu(b + sum(w * x for w, x in zip(ws, flat, strict=True)))
            for ws, b in zip(network.hidden.weight.tolist(), network.hidden.bias.tolist(), strict=True)
        ]
        expected = [
            b + sum(w * x for w, x in zip(ws, hidden, strict=True))
            for ws, b in zip(network.output.weight.tolist(), network.output.bias.tolist(), strict=True)
        ]
        assert out[row].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_sizes_are_those_of_the_paper():
    network = TransferNetwork(16)
    assert network.conv1.weight.shape == (10, 3, 1)
    assert network.conv2.weight.shape == (5, 10, 1)
    assert network.hidden.weight.shape == (512, 5 * 16)
    assert network.output.weight.shape == (16, 512)


def test_the_start_returns_the_fitted_rows_and_can_leave():
    network = TransferNetwork(6, hidden_channels=40)
    old, fitted = torch.randn(50, 6), torch.randn(50, 6) * torch.logspace(-4, 1, 50)[:, None]
    torch.testing.assert_close(network(old, fitted), fitted, rtol=1e-5, atol=1e-6)
    # towards the old rows: every parameter moves, and the loss falls far
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    first = {name: parameter.clone() for name, parameter in network.named_parameters()}
    for _ in range(200):
        optimizer.zero_grad()
        loss = (network(old, fitted) - old).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * (fitted - old).square().mean()
    for name, parameter in network.named_parameters():
        assert (parameter != first[name]).float().mean() > 0.5, name


def test_gradient_reaches_every_parameter_of_a_random_start():
    networks = transfer("random")
    for side in ("user", "item"):
        networks(side, torch.randn(9, 6), torch.randn(9, 6)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in networks.parameters())


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="24 hidden units"):
        TransferNetwork(12, hidden_channels=23)
    with pytest.raises(ValueError, match="two filters"):
        TransferNetwork(3, filters=(10, 1))
    with pytest.raises(Exception, match="initial"):
        TransferNetwork(3, initial="ones")
    with pytest.raises(ValueError, match="Linear does not say"):
        copy_tables(torch.nn.Linear(2, 3))


# ---- transferred tables --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["MF", "DeepFM", "DIN+DeepFM (+external)"])
def test_transferring_the_rows_of_a_batch_scores_it_as_the_whole_tables_do(name):
    """Old and fitted tables differ; what is left out is what the batch does not read."""
    model, networks = widened(make(name)), transfer("random")
    old = {key: table + torch.randn_like(table) for key, table in copy_tables(model).items()}
    batch = next(iter(batches(5, 0, 0)))
    tables = transferred_tables(model, networks, old, batch)
    partly = functional_call(model, tables, (batch,))
    whole = copy.deepcopy(model)
    apply_transfer(whole, networks, old)
    torch.testing.assert_close(partly, whole(batch), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(partly, model(batch), atol=0.1)
    for rows in model.table_rows(batch):
        same = (tables[rows.parameter] == dict(model.named_parameters())[rows.parameter]).all(dim=1)
        assert sorted(set(range(len(same))) - set(rows.row.tolist())) == same.nonzero()[:, 0].tolist()


def test_contexts_biases_and_dense_layers_stay_as_fitted():
    model, networks = widened(make("DeepFM")), transfer("random")
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    apply_transfer(model, networks, copy_tables(model))
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {"user_fields.table.weight", "item_fields.table.weight", "other_fields.table.weight"}
    table = "other_fields.table.weight"
    first_context = model.num_items + 1
    assert torch.equal(dict(model.named_parameters())[table][first_context:], before[table][first_context:])
    expected = networks("item", before[table][:first_context], before[table][:first_context])
    torch.testing.assert_close(dict(model.named_parameters())[table][:first_context], expected)


# ---- sequential training -------------------------------------------------------------------------


def plain_fine_tuning(model, turns=1):
    for period in range(len(PERIODS)):
        for turn in range(turns):
            train(
                model,
                lambda epoch, start, p=period, t=turn: batches(p, 2 * t + epoch, start),
                num_batches=NUM_BATCHES[period],
                config=FIT,
                device=CPU,
            )
    return model


@pytest.mark.parametrize("name", NAMES)
def test_with_a_transfer_that_returns_the_fitted_rows_it_is_plain_fine_tuning(name):
    config = SMLConfig(fit=FIT, transfer_epochs=0, alternations=2)
    model = make(name)
    points = train_sml(model, transfer(), batches, num_batches=NUM_BATCHES, config=config, device=CPU)
    expected = plain_fine_tuning(make(name), turns=2)
    torch.testing.assert_close(model.state_dict(), expected.state_dict(), rtol=1e-4, atol=1e-5)
    assert [point.period for point in points] == list(range(len(PERIODS)))
    assert all(point.transfer_loss is None for point in points)


@pytest.mark.parametrize("name", NAMES)
def test_the_networks_are_fitted_on_the_next_period(name):
    """The first step by hand: the networks' gradient is that of the next period's rows."""
    config = SMLConfig(fit=FIT, transfer_learning_rate=0.01)
    model, networks = make(name), transfer()
    both = NUM_BATCHES[:2]
    points = train_sml(model, networks, batches, num_batches=both, config=config, device=CPU)
    by_hand, hand_networks = make(name), transfer()
    old = copy_tables(by_hand)
    train(by_hand, lambda e, s: batches(0, e, s), num_batches=both[0], config=FIT, device=CPU)
    fitted = {key: parameter.detach().clone() for key, parameter in by_hand.named_parameters()}
    optimizer, losses = torch.optim.Adam(hand_networks.parameters(), lr=0.01), []
    for batch in batches(1, 0, 0):
        tables = dict(fitted)
        for rows in by_hand.table_rows(None):
            key = rows.parameter
            new = hand_networks(rows.side, old[key][rows.row], fitted[key][rows.row])
            tables[key] = torch.cat([new, fitted[key][len(rows.row) :]])
        loss = functional.binary_cross_entropy_with_logits(
            functional_call(by_hand, tables, (batch,)), batch.label
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(networks.state_dict(), hand_networks.state_dict(), rtol=1e-3, atol=1e-5)
    assert points[0].transfer_loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert points[1].transfer_loss is None
    # and the period after starts from the transferred tables
    apply_transfer(by_hand, hand_networks, old)
    old = copy_tables(by_hand)
    train(by_hand, lambda e, s: batches(1, e, s), num_batches=both[1], config=FIT, device=CPU)
    apply_transfer(by_hand, hand_networks, old)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_transfer_ranks_the_period_to_come(name):
    model, networks = make(name), transfer()
    config = SMLConfig(fit=FIT, alternations=2)
    points = train_sml(model, networks, batches, num_batches=NUM_BATCHES[:-1], config=config, device=CPU)
    assert points[-2].transfer_loss < 0.69
    score = predict(model, click_batches(DATA, PERIODS[-1], batch_size=BATCH), device=CPU)
    positive = DATA.impressions.label[PERIODS[-1]] == 1
    assert (score[positive][:, None] > score[~positive]).double().mean() > 0.6


def test_training_goes_on_from_a_checkpoint_as_without_a_break(tmp_path):
    config = SMLConfig(fit=FIT, transfer_learning_rate=0.01)

    def make_both():
        return make("DeepFM", dropout=0.4), transfer()

    def run(both, num_periods, path):
        torch.manual_seed(3)
        seen = []
        points = train_sml(
            *both,
            batches,
            num_batches=NUM_BATCHES[:num_periods],
            config=config,
            device=CPU,
            checkpoint=path,
            on_period=lambda done, total: seen.append((done, total)),
        )
        return points, seen

    class Break(Exception):
        pass

    def stop(done, total):
        if done == 3:
            raise Break

    whole, broken, resumed = make_both(), make_both(), make_both()
    points, seen = run(whole, 6, tmp_path / "whole.pt")
    assert seen == [(i, 6) for i in range(7)]
    torch.manual_seed(3)
    path = tmp_path / "broken.pt"
    with pytest.raises(Break):
        train_sml(
            *broken,
            batches,
            num_batches=NUM_BATCHES[:6],
            config=config,
            device=CPU,
            checkpoint=path,
            on_period=stop,
        )
    torch.manual_seed(99)
    again, seen = run(resumed, 6, path)
    assert seen == [(i, 6) for i in range(3, 7)]
    assert again == points
    for left, right in zip(whole, resumed, strict=True):
        for key, value in left.state_dict().items():
            assert torch.equal(value, right.state_dict()[key]), key


def test_periods_without_rows_are_passed_over():
    config = SMLConfig(fit=FIT)
    with_gap, without = (make("MF"), transfer()), (make("MF"), transfer())
    order = [0, 1, 2]

    def gapped(period, epoch, start):
        return batches({0: 0, 2: 1, 4: 2}[period], epoch, start)

    counts = NUM_BATCHES[:3]
    padded = [counts[0], 0, counts[1], 0, counts[2], 0]
    points = train_sml(*with_gap, gapped, num_batches=padded, config=config, device=CPU)
    train_sml(*without, batches, num_batches=counts, config=config, device=CPU)
    assert [point.period for point in points] == [2 * number for number in order]
    for left, right in zip(with_gap, without, strict=True):
        torch.testing.assert_close(left.state_dict(), right.state_dict(), rtol=0, atol=0)
    assert train_sml(make("MF"), transfer(), batches, num_batches=[], config=config, device=CPU) == []


# ---- during a day --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_update_is_a_fit_and_the_transfer(name):
    model, networks = widened(make(name)), transfer("random")
    by_hand = copy.deepcopy(model)
    before = copy.deepcopy(networks.state_dict())
    updater = SMLUpdater(model, networks, FIT, device=CPU)
    updater.update([])
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=0, atol=0)
    rows = [list(click_batches(DATA, PERIODS[period], batch_size=BATCH)) for period in (6, 7)]
    for kept in rows:
        updater.update(iter(kept))
        old = copy_tables(by_hand)
        train(by_hand, lambda _, s, k=kept: k[s:], num_batches=len(kept), config=FIT, device=CPU)
        apply_transfer(by_hand, networks, old)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(networks.state_dict(), before, rtol=0, atol=0)
