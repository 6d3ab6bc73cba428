"""Temporal MAML: the outer gradient against finite differences, formulas and a dense reference; training."""

import copy
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from graphrec.models import ClickBatch, DeepFMRanker, InputSizes, LongTermGraph, NodeFields
from graphrec.nn.neighbor_attention import twice_differentiable
from graphrec.training.batches import collate, rows_between
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.loop import OptimizerConfig, click_loss, make_optimizer
from graphrec.training.meta import OUTER_OPTIMIZER, adapted_loss, meta_backward, task_gradient, train_meta
from graphrec.training.meta_tasks import MetaConfig, MetaTask, MetaTasks
from graphrec.training.parameters import descent_rates, embedding_tables
from tests.graphrec import test_models_baselines as baselines
from tests.graphrec.test_online import as_double
from tests.graphrec.toy_data import (
    DAY,
    HOUR,
    NUM_ITEMS,
    NUM_USERS,
    TEST_DAY,
    click_data,
    full_lsttm,
    sizes,
    toy_log,
)

CPU = torch.device("cpu")
# large inner rates make the second-order term large; no dropout, so that a loss is a function
CONFIG = MetaConfig(learning_rate=0.3, embedding_learning_rate=2.0, dropout=False)


@pytest.fixture(scope="module")
def data():
    return click_data(toy_log())


@pytest.fixture(scope="module")
def task(data):
    """Support and query of different sizes, in 64 bits."""
    rows = torch.randperm(390, generator=torch.Generator().manual_seed(5))
    return MetaTask(as_double(collate(data, rows[:17])), as_double(collate(data, rows[17:40])))


MODELS = {
    "lsttm": lambda data: full_lsttm(data, long_channels=0),
    "lsttm, pooled": lambda data: full_lsttm(data, long_channels=0, field_pooling="sum"),
    "deepfm": lambda data: DeepFMRanker(sizes(data.dense.shape[1]), channels=5, hidden_channels=(7,)),
}


@pytest.fixture(params=MODELS)
def model(request, data):
    torch.manual_seed(1)
    model = MODELS[request.param](data).double().eval()
    with torch.no_grad():  # vectors start near zero, where second derivatives are small
        for table in embedding_tables(model).values():
            table.normal_(std=0.5)
    return model


class TwiceDifferentiable(torch.overrides.TorchFunctionMode):
    """The plain formula of a bag, for references whose second derivatives torch lacks."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not functional.embedding_bag:
            return func(*args, **kwargs)
        vectors, weight = args[1][args[0]], kwargs["per_sample_weights"]
        return (vectors if weight is None else vectors * weight[..., None]).sum(dim=1)


def loss_at(model, weights, batch):
    with TwiceDifferentiable(), twice_differentiable():
        logit = torch.func.functional_call(model, weights, (batch,))
    return functional.binary_cross_entropy_with_logits(logit, batch.label)


def adapt(model, weights, task, config, create_graph):
    """Inner steps on all parameters by torch.autograd, tables in full."""
    rates = descent_rates(
        model, learning_rate=config.learning_rate, embedding_learning_rate=config.embedding_learning_rate
    )
    for _ in range(config.inner_steps):
        loss = loss_at(model, weights, task.support)
        names = list(weights)
        gradient = torch.autograd.grad(
            loss, [weights[n] for n in names], create_graph=create_graph, allow_unused=True
        )
        weights = {
            n: weights[n] if g is None else weights[n] - rates[n] * g
            for n, g in zip(names, gradient, strict=True)
        }
    return weights


def dense_gradient(model, task, config):
    """The outer gradient on all parameters, and the loss."""
    start = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    weights = adapt(model, start, task, config, create_graph=config.order == 2)
    if config.order == 1:
        start = weights = {n: w.detach().requires_grad_() for n, w in weights.items()}
    loss = loss_at(model, weights, task.query)
    gradient = torch.autograd.grad(loss, list(start.values()), allow_unused=True)
    return loss, {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(start.items(), gradient, strict=True)
    }


def full(model, found):
    """A task's gradient with the untouched rows as zeros."""
    result = {}
    for name, parameter in model.named_parameters():
        value = found.gradient[name]
        if name in found.row:
            value = torch.zeros_like(parameter).index_copy(0, found.row[name], value)
        result[name] = value
    return result


def assert_close(left, right, tolerance=1e-12):
    assert left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(
            value, right[name], rtol=tolerance, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}"
        )


def distance(left, right):
    return sum((left[name] - right[name]).abs().sum().item() for name in left)


@pytest.mark.parametrize("inner_steps", [0, 1, 3])
@pytest.mark.parametrize("order", [1, 2])
def test_touched_rows_give_what_all_rows_give(model, task, order, inner_steps):
    config = replace(CONFIG, order=order, inner_steps=inner_steps)
    found = task_gradient(model, task, config)
    loss, expected = dense_gradient(model, task, config)
    assert set(found.row) == set(embedding_tables(model))
    assert sum(len(row) for row in found.row.values()) < sum(len(t) for t in embedding_tables(model).values())
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    assert_close(full(model, found), expected)


@pytest.mark.parametrize("name", baselines.MODELS)
@pytest.mark.parametrize("order", [1, 2])
def test_every_baseline_has_its_gradient(name, order):
    def batch(rows):
        found = collate(baselines.DATA, rows)
        columns = ("dense", "label", "long_user", "long_item")
        return replace(found, **{column: getattr(found, column).double() for column in columns})

    model = baselines.widened(baselines.make(name)).double()
    task = MetaTask(batch(torch.arange(300, 317)), batch(torch.arange(400, 423)))
    config = replace(CONFIG, order=order)
    found = task_gradient(model, task, config)
    loss, expected = dense_gradient(model, task, config)
    assert set(found.row) == set(embedding_tables(model))
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)
    assert_close(full(model, found), expected, tolerance=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_second_order_is_the_derivative_by_finite_differences(model, task, seed):
    """Along a random direction in all parameters, by central differences of the adapted query loss."""
    found = full(model, task_gradient(model, task, CONFIG))
    generator = torch.Generator().manual_seed(seed)
    step, losses = 1e-5, []
    direction = {
        n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in model.named_parameters()
    }
    for sign in (1, -1):
        moved = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in moved.named_parameters():
                parameter += sign * step * direction[name]
        losses.append(adapted_loss(moved, task, CONFIG).item())
    expected = (losses[0] - losses[1]) / (2 * step)
    slope = sum((found[n] * direction[n]).sum().item() for n in found)
    first = full(model, task_gradient(model, task, replace(CONFIG, order=1)))
    first_slope = sum((first[n] * direction[n]).sum().item() for n in found)
    assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert abs(first_slope - expected) > 1e-3  # a first-order result would not pass


def test_first_order_is_the_gradient_at_the_adapted_weights_and_drops_the_hessian_term(model, task):
    """g_2 = (I - H a) g_1, with the Hessian of the support loss times a vector by torch.autograd."""
    start = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    adapted = copy.deepcopy(model)
    adapted.load_state_dict({n: w.detach() for n, w in adapt(model, start, task, CONFIG, False).items()})
    adapted.zero_grad()
    click_loss(adapted, task.query).backward()
    plain = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in adapted.named_parameters()}
    first = full(model, task_gradient(model, task, replace(CONFIG, order=1)))
    assert_close(first, plain)

    names = list(start)
    support = torch.autograd.grad(
        loss_at(model, start, task.support), list(start.values()), create_graph=True, allow_unused=True
    )
    rates = descent_rates(model, learning_rate=0.3, embedding_learning_rate=2.0)
    product = sum(
        (g * rates[n] * plain[n]).sum() for n, g in zip(names, support, strict=True) if g is not None
    )
    term = torch.autograd.grad(product, list(start.values()), allow_unused=True)
    second = full(model, task_gradient(model, task, CONFIG))
    expected = {n: first[n] if t is None else first[n] - t for n, t in zip(names, term, strict=True)}
    assert_close(second, expected)
    assert distance(first, second) > 0.05 * distance(first, {n: 0 * g for n, g in first.items()})


@pytest.mark.parametrize("order", [1, 2])
def test_without_an_inner_rate_it_is_the_plain_gradient_of_the_query_loss(model, task, order):
    config = replace(CONFIG, learning_rate=0.0, embedding_learning_rate=0.0, order=order)
    found = task_gradient(model, task, config)
    model.zero_grad()
    loss = click_loss(model, task.query)
    loss.backward()
    plain = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    assert_close(full(model, found), plain)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_a_users_rows_counts_in_the_query_loss_alone(model, task, order):
    config = replace(CONFIG, learning_rate=0.0, embedding_learning_rate=0.0, order=order)
    found = task_gradient(model, task, config, pair_weight=2.0)
    model.zero_grad()
    click_loss(model, task.query, pair_weight=2.0).backward()
    plain = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    assert_close(full(model, found), plain)
    assert distance(full(model, found), full(model, task_gradient(model, task, config))) > 0
    # the inner step is the same: the query loss at the adapted weights grows by the pairs' loss alone
    without, twice, once = (
        task_gradient(model, task, CONFIG, pair_weight=weight).loss.item() for weight in (0.0, 2.0, 1.0)
    )
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-9)
    assert once > without
    step = [meta_backward(model, [task], CONFIG, pair_weight=weight).item() for weight in (0.0, 2.0)]
    assert step == pytest.approx([without, twice], rel=1e-12)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_takes_the_mean_over_tasks(data, model, task, sparse):
    other = MetaTask(task.query, task.support)
    loss = meta_backward(model, [task, other], CONFIG, sparse=sparse)
    found = [task_gradient(model, one, CONFIG) for one in (task, other)]
    torch.testing.assert_close(loss, (found[0].loss + found[1].loss) / 2)
    parts = [full(model, one) for one in found]
    assert all(
        p.grad.is_sparse == (sparse and n in embedding_tables(model)) for n, p in model.named_parameters()
    )
    got = {n: p.grad.to_dense() for n, p in model.named_parameters()}
    assert_close(got, {n: (parts[0][n] + parts[1][n]) / 2 for n in got})


def test_weights_and_mode_stay_as_they_were(model, task):
    before = copy.deepcopy(model.state_dict())
    task_gradient(model.train(), task, replace(CONFIG, dropout=True))
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_dropout_is_in_the_query_loss_alone(data, task):
    torch.manual_seed(0)
    model = full_lsttm(data, long_channels=0, dropout=0.5).double()
    only_query = replace(CONFIG, dropout=True, learning_rate=0.0, embedding_learning_rate=0.0)
    losses = {task_gradient(model, task, only_query).loss.item() for _ in range(5)}
    assert len(losses) == 5
    torch.manual_seed(3)
    found = task_gradient(model, task, only_query).loss
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.train()
    torch.manual_seed(3)  # the support pass has drawn nothing
    assert found.item() == pytest.approx(click_loss(model, task.query).item(), rel=1e-12)
    assert adapted_loss(model, task, CONFIG) == adapted_loss(model, task, CONFIG)


def test_buffers_stay_frozen(data, task):
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.norm = MODELS["deepfm"](data), nn.BatchNorm1d(1)
            self.norm.running_mean.fill_(0.75)

        def forward(self, batch):
            return self.norm(self.inner(batch)[:, None])[:, 0]

    model = Normalised().double()
    task_gradient(model.train(), task, replace(CONFIG, dropout=True))
    assert model.norm.running_mean.item() == 0.75
    assert model.norm.num_batches_tracked == 0


# ---- the gradient block --------------------------------------------------------------------------


class Joint(nn.Module):
    """LSTTM whose long-term vectors are computed on the spot, so that a gradient could flow."""

    def __init__(self, data):
        super().__init__()
        self.long_term = LongTermGraph({"user": NUM_USERS + 1, "item": NUM_ITEMS + 1}, channels=5)
        self.click = full_lsttm(data, long_channels=5, dropout=0.0)

    def forward(self, batch):
        user = self.long_term.embedding["user"].weight[batch.item_id % NUM_USERS]
        item = self.long_term.embedding["item"](batch.item_id)
        return self.click(replace(batch, long_user=user, long_item=item))


@pytest.mark.parametrize("order", [1, 2])
def test_click_loss_moves_no_long_term_parameter(data, task, order):
    torch.manual_seed(0)
    model = Joint(data).double()
    config = replace(CONFIG, order=order)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    initial = adapted_loss(model, task, config)
    train_meta(
        model, lambda epoch, start: [[task]] * (3 - start), num_batches=3, meta=config,
        config=replace(OUTER_OPTIMIZER, epochs=1), device=CPU,
    )  # fmt: skip
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert not any(name.startswith("long_term.") for name in moved)
    assert {n.split(".")[1] for n in moved} >= {"short_term", "fusion", "long_projection", "head"}
    # the vectors do matter: it is the block that keeps them
    with torch.no_grad():
        after = adapted_loss(model, task, config)
        for parameter in model.long_term.parameters():
            parameter += 1
    assert after < initial
    assert adapted_loss(model, task, config) != after

    # and without the block they would move
    def unblocked(vectors):
        return vectors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "detach", unblocked)
        model.zero_grad()
        click_loss(model, task.query).backward()
    assert model.long_term.embedding["item"].weight.grad.abs().sum() > 0


# ---- cost ----------------------------------------------------------------------------------------


class CountElements(TorchDispatchMode):
    """Counts the elements of all tensors that operations make or write to; views cost nothing."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        into_rows = any(isinstance(a, torch.Tensor) and a.is_sparse for a in args)  # writes those rows alone
        if not func.is_view and func is not torch.ops.aten.detach.default and not into_rows:
            self.count += sum(leaf.numel() for leaf in found if not leaf.is_sparse)
        return result


def wide_task(num_codes, rows=70):
    generator = torch.Generator().manual_seed(0)

    def batch():
        def draw(high, *shape):
            return torch.randint(1, high, shape, generator=generator)

        return ClickBatch(
            user=NodeFields(codes=draw(3, rows, 1), bag=draw(2, rows, 0)),
            item=NodeFields(codes=draw(10_000, rows, 1), bag=draw(40, rows, 3)),
            item_id=draw(50, rows),
            context=draw(24, rows, 1),
            dense=torch.randn(rows, 0, generator=generator),
            label=draw(3, rows).float() - 1,
            long_user=torch.zeros(rows, 0),
            long_item=torch.zeros(rows, 0),
        )

    task = MetaTask(batch(), batch())
    shape = InputSizes(
        num_items=50, user_fields=(3,), item_fields=(num_codes,), item_bag=40, context_fields=(24,), dense=0
    )
    return task, DeepFMRanker(shape, channels=2, hidden_channels=(5,))


@pytest.mark.parametrize("order", [1, 2])
def test_cost_does_not_grow_with_the_table(order):
    counts = []
    for num_codes in (10_000, 10_000_000):
        task, model = wide_task(num_codes)
        config = replace(CONFIG, order=order)
        with CountElements() as counter:
            meta_backward(model, [task], config, sparse=True)
        step = CountElements()
        optimizer = make_optimizer(model, OUTER_OPTIMIZER)
        with step:
            optimizer.step()
        counts.append((counter.count, step.count))
    assert counts[0] == counts[1]
    assert 1000 < counts[0][0] < 200_000
    assert counts[0][1] < 5000
    with CountElements() as counter:
        click_loss(model, task.query).backward()
    assert counter.count > 10_000_000  # what a dense gradient costs: the count sees it


# ---- training ------------------------------------------------------------------------------------


def drifting_data():
    """Which items are liked changes within hours, so the last hour tells of this one; no graph."""
    generator = torch.Generator().manual_seed(2)
    log = toy_log(seed=3, num_rows=4000)
    liked = torch.randint(0, 2, (4 * 24, NUM_ITEMS), generator=generator)
    for hour in range(1, 4 * 24):  # a taste lasts for some hours
        keep = torch.rand(NUM_ITEMS, generator=generator) < 0.9
        liked[hour] = torch.where(keep, liked[hour - 1], liked[hour])
    chance = torch.rand(len(log.rows), generator=generator)
    rows = [
        (u, i, t, bool(chance[n] < (0.9 if liked[t // HOUR, i] else 0.1)))
        for n, (u, i, t, _) in enumerate(log.rows)
    ]
    return click_data(type(log)(tuple(rows))).with_graph(None)


@pytest.fixture(scope="module")
def drifting():
    return drifting_data()


TOY = MetaConfig(
    num_tasks=4, support=40, query=40, least_rows=20, learning_rate=0.3, embedding_learning_rate=5.0
)
OUTER = replace(OUTER_OPTIMIZER, learning_rate=0.02, embedding_learning_rate=0.05, epochs=3)


def fit(data, meta=TOY, checkpoint=None, on_step=None, outer=OUTER, log_every=20):
    tasks = MetaTasks(data, rows_between(data, 0, TEST_DAY), meta, random_seed=1)
    torch.manual_seed(0)
    model = DeepFMRanker(replace(sizes(0)), channels=6, hidden_channels=(12,), dropout=0.1)
    curve = train_meta(
        model, tasks.batches, num_batches=len(tasks), meta=meta, config=outer, device=CPU,
        checkpoint=checkpoint, checkpoint_every=7, log_every=log_every, on_step=on_step,
    )  # fmt: skip
    return model, curve


@pytest.mark.slow
@pytest.mark.parametrize(("order", "rate"), [(2, 1.0), (1, 0.3)])
def test_adapted_loss_falls_on_drifting_tastes(drifting, order, rate):
    rates = {"learning_rate": 0.3 * rate, "embedding_learning_rate": 5.0 * rate}
    meta = replace(TOY, order=order, **rates)
    model, curve = fit(drifting, meta)
    assert curve[-1].loss < curve[0].loss - 0.02
    held_out = MetaTasks(drifting, rows_between(drifting, TEST_DAY, 2 * TEST_DAY), meta)
    tasks = [task for batch in held_out.batches() for task in batch]
    untrained, _ = fit(drifting, meta, outer=replace(OUTER, epochs=0))

    def mean(model, meta):
        return sum(adapted_loss(model, task, meta).item() for task in tasks) / len(tasks)

    assert mean(model, meta) < mean(untrained, meta) - 0.03
    assert mean(model, meta) < mean(model, replace(meta, inner_steps=0)) - 0.03  # it has learnt to adapt


class BreakError(Exception):
    """What stands for a Ctrl-C."""


def test_resumes_to_the_same_bits(drifting, tmp_path):
    outer = replace(OUTER, epochs=1)
    expected, curve = fit(drifting, outer=outer, log_every=5)
    checkpoint = tmp_path / "meta.pt"

    def break_at(step):
        def on_step(done, total):
            if done == step:
                raise BreakError

        return on_step

    for step in (3, 17):
        with pytest.raises(BreakError):
            fit(drifting, checkpoint=checkpoint, on_step=break_at(step), outer=outer, log_every=5)
    assert load_checkpoint(checkpoint)["step"] == 14
    model, resumed = fit(drifting, checkpoint=checkpoint, outer=outer, log_every=5)
    assert resumed == curve
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_adamw_trains_with_dense_gradients(drifting):
    outer = OptimizerConfig(epochs=1, learning_rate=0.01, embedding_learning_rate=0.01)
    model, curve = fit(drifting, replace(TOY, order=1), outer=outer)
    assert all(not p.grad.is_sparse for p in model.parameters())
    assert curve[-1].loss < 0.72


@pytest.mark.slow
def test_lsttm_trains(data):
    meta = replace(TOY, least_rows=10, support=20, query=20, embedding_learning_rate=1.0, dropout=False)
    tasks = MetaTasks(data, rows_between(data, 0, DAY), meta)
    batches = list(tasks.batches())
    model = full_lsttm(data, long_channels=0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    curve = train_meta(
        model,
        lambda epoch, start: batches[start:],
        num_batches=len(batches),
        meta=meta,
        config=replace(OUTER, epochs=4),
        device=CPU,
        log_every=len(batches),
    )
    assert curve[-1].loss < curve[0].loss - 0.02
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


class OwnModel(nn.Module):
    """A user's own: a table with a row for padding, and torch's attention."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(50, 8, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 1)

    def forward(self, rows):
        return self.out(self.layer(self.item(rows.item)).mean(dim=1))[:, 0]


class OwnRows(NamedTuple):
    item: torch.Tensor
    label: torch.Tensor


def own_task():
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randint(0, 20, (12, 4), generator=generator) for _ in range(2)]
    label = [torch.randint(0, 2, (12,), generator=generator).double() for _ in range(2)]
    return MetaTask(*(OwnRows(item, y) for item, y in zip(draw, label, strict=True)))


@pytest.mark.parametrize("order", [1, 2])
def test_ones_own_model_with_attention_and_padding(order):
    """Against autograd through the whole table: the padding's row stays, and only read rows are copied."""
    torch.manual_seed(0)
    model, own = OwnModel().double(), own_task()
    config = replace(CONFIG, order=order)
    found = task_gradient(model, own, config)
    rows = torch.cat([own.support.item, own.query.item]).unique()
    assert found.row["item.weight"].equal(rows)
    assert len(rows) < 50
    assert 0 in rows
    start = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        adapted = adapt(model, start, own, config, order == 2)
        if order == 1:
            adapted = {n: w.detach().requires_grad_() for n, w in adapted.items()}
        loss = loss_at(model, adapted, own.query)
        wanted = torch.autograd.grad(loss, list((start if order == 2 else adapted).values()))
    assert_close(full(model, found), dict(zip(start, wanted, strict=True)))
    assert full(model, found)["item.weight"][0].abs().max() == 0


def test_what_has_no_second_derivative_is_told_of_the_first_order():
    class Largest(OwnModel):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(50, 8, mode="max")

        def forward(self, rows):
            return self.out(self.bag(rows.item))[:, 0]

    model = Largest().double()
    with pytest.raises(RuntimeError) as caught:
        task_gradient(model, own_task(), CONFIG)
    assert caught.value.__notes__ == ["MetaConfig(order=1) needs no second derivatives"]
    task_gradient(model, own_task(), replace(CONFIG, order=1))
    with pytest.raises(ValueError, match="a batch of tasks is empty"):
        train_meta(model, lambda epoch, start: [[]], num_batches=1, meta=CONFIG, device=torch.device("cpu"))
    with pytest.raises(ValueError, match=r"accumulate=2 is for batches of rows.*give it more of them"):
        train_meta(
            model,
            lambda epoch, start: [[]],
            num_batches=1,
            config=replace(OUTER_OPTIMIZER, accumulate=2),
            meta=CONFIG,
            device=torch.device("cpu"),
        )
