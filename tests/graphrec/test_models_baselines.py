"""All baselines by one set of tests: they learn, rows are independent, gradients reach every parameter."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from graphrec.models import (
    AutoIntRanker,
    DeepFMRanker,
    DINRanker,
    FMRanker,
    InputSizes,
    MFRanker,
    NFMRanker,
)
from graphrec.models.field_ranker import FieldRanker
from graphrec.models.sasrec import SASRecRanker
from graphrec.models.tgat import TGATRanker
from graphrec.training.batches import click_batches, collate, rows_between
from graphrec.training.loop import OptimizerConfig, click_loss, predict, train
from tests.graphrec.test_models_sequences import data_of
from tests.graphrec.toy_data import NUM_ITEMS, NUM_USERS, TEST_DAY, sizes

CPU = torch.device("cpu")
DATA = data_of()
LENGTH = max(part.length for part in DATA.sequences.values())
HEAD = {"channels": 6, "hidden_channels": (11, 7)}
MODELS = {
    "FM": lambda s, **o: FMRanker(s, channels=6, **o),
    "NFM": lambda s, **o: NFMRanker(s, **HEAD, **o),
    "DeepFM": lambda s, **o: DeepFMRanker(s, **HEAD, **o),
    "AutoInt": lambda s, **o: AutoIntRanker(s, channels=6, hidden_channels=(), **o),
    "AutoInt+": lambda s, **o: AutoIntRanker(s, **HEAD, **o),
    "DeepFM (+external)": lambda s, **o: DeepFMRanker(s, sequences=("external",), **HEAD, **o),
    "DIN+DeepFM (+external)": lambda s, **o: DINRanker(s, sequences=("internal", "external"), **HEAD, **o),
    "SASRec (+external)": lambda s, **o: SASRecRanker(
        s, sequences=("internal", "external"), length=LENGTH, **HEAD, **o
    ),
    "MF": lambda s, **_: MFRanker(s, channels=6),
}


def full_sizes(num_dense):
    return replace(sizes(num_dense), num_users=NUM_USERS)


def make(name, seed=0, num_dense=DATA.dense.shape[1], **options):
    torch.manual_seed(seed)
    return MODELS[name](full_sizes(num_dense), **options)


def widened(model):
    """Fresh tables are so narrow that a wrong row would not show."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return model.eval()


def test_every_ranker_over_fields_is_here():
    made = {type(make(name)) for name in MODELS}
    # TGAT reads the short-term graph, which these batches do not have: test_models_tgat.py
    assert set(FieldRanker.__subclasses__()) - {TGATRanker} | {MFRanker} == made


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_does_not_depend_on_the_other_rows(name):
    model = widened(make(name))
    rows = torch.tensor([510, 3, 77, 300, 301, 302, 450, 77])
    together = model(collate(DATA, rows))
    alone = torch.cat([model(collate(DATA, row[None])) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    turned = model(collate(DATA, rows.flip(0))).flip(0)
    torch.testing.assert_close(together, turned, rtol=1e-4, atol=1e-5)
    assert together.std() > 0.05


@pytest.mark.parametrize("name", MODELS)
def test_gradient_reaches_every_parameter(name):
    model = widened(make(name)).train()
    for start in range(100, 500, 100):
        click_loss(model, collate(DATA, torch.arange(start, start + 100))).backward()
    weights = {n: p for n, p in model.named_parameters() if p.numel()}
    assert len(weights) > 4
    assert {n for n, p in weights.items() if p.grad is None or not p.grad.abs().sum() > 0} == set()


@pytest.mark.parametrize("name", MODELS)
def test_training_beats_a_constant_on_later_rows(name):
    """Users like the items of their own parity: ranking on the last day is far from chance."""
    model = make(name)
    fit, later = rows_between(DATA, 0, TEST_DAY), rows_between(DATA, TEST_DAY, 10**9)
    label = DATA.impressions.label
    rate = label[fit].mean().expand(len(fit))
    constant = functional.binary_cross_entropy(rate, label[fit])
    config = OptimizerConfig(learning_rate=0.01, embedding_learning_rate=0.01, epochs=12, batch_size=64)
    curve = train(
        model,
        lambda epoch, start: click_batches(
            DATA, fit, batch_size=64, epoch=epoch, start_batch=start, shuffle=True
        ),
        num_batches=-(-len(fit) // 64),
        config=config,
        device=CPU,
        log_every=-(-len(fit) // 64),
    )
    assert curve[-1].loss < 0.9 * constant
    score = predict(model, click_batches(DATA, later, batch_size=64), device=CPU)
    positive = label[later] == 1
    auc = (score[positive][:, None] > score[~positive]).double().mean()  # one half for a constant
    assert auc > 0.65


@pytest.mark.parametrize("name", [name for name in MODELS if name != "MF"])
def test_past_counts_enter_only_where_asked_for(name):
    batch = collate(DATA, torch.arange(300, 320))
    other = replace(batch, dense=batch.dense.flip(0))
    without = widened(make(name, num_dense=0))
    assert torch.equal(without(batch), without(other))
    counted = widened(make(name))
    assert not torch.equal(counted(batch), counted(other))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "MF"])
def test_every_field_is_read(name):
    model = widened(make(name))
    batch = collate(DATA, torch.arange(300, 340))
    logit = model(batch)
    changes = {
        "item ID": {"item_id": batch.item_id.flip(0)},
        "context": {"context": batch.context.flip(0)},
        "user": {"user": batch.user[torch.arange(39, -1, -1)]},
        "item codes": {"item": replace(batch.item, codes=batch.item.codes.flip(0))},
        "item bag": {"item": replace(batch.item, bag=batch.item.bag.flip(0))},
    }
    for field, change in changes.items():
        assert not torch.equal(model(replace(batch, **change)), logit), field


def test_dropout_is_of_the_training_alone():
    for name in MODELS:
        if name in ("AutoInt", "MF"):  # without an MLP there is nothing to drop
            continue
        model = widened(make(name, dropout=0.5))
        batch = collate(DATA, torch.arange(300, 340))
        assert torch.equal(model(batch), model(batch)), name
        assert not torch.equal(model.train()(batch), model(batch)), name


def test_mf_is_its_equation():
    model = widened(make("MF"))
    batch = collate(DATA, torch.arange(100, 110))
    for i, logit in enumerate(model(batch)):
        user, item = DATA.impressions.user[100 + i], DATA.impressions.item[100 + i]
        product = sum(model.user.weight[user, c] * model.item.weight[item, c] for c in range(6))
        expected = model.bias + model.user_bias.weight[user, 0] + model.item_bias.weight[item, 0] + product
        torch.testing.assert_close(logit, expected)
    with pytest.raises(ValueError, match="users' IDs"):
        model(replace(batch, user_id=None))
    with pytest.raises(ValueError, match="num_users"):
        MFRanker(InputSizes(**{**vars(sizes(0)), "num_users": 0}))


def test_unseen_users_and_items_are_scored():
    impressions = replace(
        DATA.impressions,
        user=torch.full_like(DATA.impressions.user, NUM_USERS),
        item=torch.full_like(DATA.impressions.item, NUM_ITEMS),
    )
    batch = collate(replace(DATA, impressions=impressions), torch.arange(400, 405))
    for name in MODELS:
        assert make(name)(batch).isfinite().all(), name


@pytest.mark.parametrize("name", MODELS)
def test_tables_of_a_batch_are_the_rows_that_its_gradient_reaches(name):
    """What SML transfers for a batch: every row of a user's or an item's table that the score depends on."""
    model = widened(make(name))
    batch = collate(DATA, torch.tensor([300, 310, 480]))
    model(batch).sum().backward()
    parameters = dict(model.named_parameters())
    every = {rows.parameter: rows for rows in model.table_rows(None)}
    for rows in model.table_rows(batch):
        reached = parameters[rows.parameter].grad.abs().sum(dim=1).nonzero()[:, 0]
        named = set(rows.row.tolist())
        assert len(named) == len(rows.row)
        # of contexts, which share the item IDs' table, none is named
        assert named >= set(reached.tolist()) & set(every[rows.parameter].row.tolist())
        assert named <= set(every[rows.parameter].row.tolist())
        assert len(named) < len(every[rows.parameter].row)
        assert rows.side == every[rows.parameter].side
    sides = {rows.side for rows in model.table_rows(batch)}
    assert sides == {"user", "item"}
    if name != "MF":
        assert len(every["other_fields.table.weight"].row) == NUM_ITEMS + 1
