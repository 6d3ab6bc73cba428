"""Training of click models with products in bfloat16: without an encoder, with each, and by temporal MAML."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from graphrec.encoders.vector_table import VectorTable
from graphrec.nn.neighbor_attention import neighbor_attention, twice_differentiable
from graphrec.nn.precision import precision_region
from graphrec.nn.sparse_convolution import SparseImages, sparse_level
from graphrec.training.adam import AdamConfig
from graphrec.training.batches import collate
from graphrec.training.checkpoint import load_checkpoint
from graphrec.training.loop import OptimizerConfig, click_loss, train
from graphrec.training.meta import meta_backward, train_meta
from graphrec.training.meta_tasks import MetaConfig, MetaTask
from tests.graphrec.test_encoders_in_lsttm import EVERY
from tests.graphrec.test_lsttm_encoders import LOG, PERIOD, toy_inputs, toy_model
from tests.graphrec.test_models import NAMES as LSTTM_FORMS
from tests.graphrec.test_models import make as make_lsttm
from tests.graphrec.test_models_baselines import DATA, MODELS
from tests.graphrec.test_models_baselines import make as make_baseline
from tests.graphrec.test_neighbor_attention import attention_inputs

CPU = torch.device("cpu")
WITH_AND_WITHOUT = ["no encoder", *EVERY]
FEW = OptimizerConfig(epochs=2, learning_rate=3e-3, embedding_learning_rate=3e-3, accumulate=2)
NUM_BATCHES = 3  # an epoch: the last step of the optimiser is of one batch


def toy(name, *, dropout=0.0):
    """A model with weights that leave nothing at zero, and its batches' source."""
    encoders = {} if name == "no encoder" else {"user": EVERY[name]()}
    given = {node_type: (encoder, "all") for node_type, encoder in encoders.items()}
    data, sizes, _ = toy_inputs(LOG.rows, LOG.rows, num_layers=1, **given)
    model = toy_model(sizes, num_layers=1, encoders=encoders, dropout=dropout)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model, data


def fit(name, *, mixed, device=CPU, checkpoint=None, on_step=None, dropout=0.0):
    model, data = toy(name, dropout=dropout)
    model.to(device)
    torch.manual_seed(0)
    curve = train(
        model,
        lambda epoch, start: (
            collate(data, torch.arange(100 + 40 * i, 140 + 40 * i)) for i in range(start, NUM_BATCHES)
        ),
        num_batches=NUM_BATCHES,
        config=replace(FEW, mixed_precision=mixed),
        device=device,
        log_every=1,
        checkpoint=checkpoint,
        checkpoint_every=1,
        on_step=on_step,
    )
    return model, [point.loss for point in curve]


def of_floats(value):
    """All floating-point tensors inside."""
    if isinstance(value, torch.Tensor):
        return [value] if value.is_floating_point() else []
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for one in values for tensor in of_floats(one)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def flat(found):
    return torch.cat([value.flatten() for value in found.values()])


def assert_alike(mixed, full, *, tolerance):
    """The same gradients but for rounding: some difference, and a small one."""
    assert mixed.keys() == full.keys()
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    mixed, full = flat(mixed), flat(full)
    assert bool(mixed.isfinite().all())
    assert 0 < (mixed - full).norm() < tolerance * full.norm()


@pytest.mark.parametrize("name", WITH_AND_WITHOUT)
def test_training_is_close_to_float32_and_stays_in_it(name, tmp_path):
    _, full = fit(name, mixed=False)
    model, mixed = fit(name, mixed=True, checkpoint=tmp_path / "run.pt")
    assert mixed != full
    # statistics of nearly empty images make the most of a rounding
    assert mixed == pytest.approx(full, rel=0.15 if name == "heatmap" else 0.02)
    assert not [n for n, p in model.named_parameters() if p.dtype != torch.float32 or not p.isfinite().all()]
    without = [n for n, p in model.named_parameters() if p.numel() and ".encoders." in n and p.grad is None]
    assert not without
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in gradients(model).values())
    state = load_checkpoint(tmp_path / "run.pt")
    kept = of_floats(state["optimizer"]["state"])
    assert kept
    assert {value.dtype for value in [*kept, *of_floats(state["model"])]} == {torch.float32}
    again, losses = fit(name, mixed=True)
    assert losses == mixed
    assert all(map(torch.equal, again.parameters(), model.parameters()))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", WITH_AND_WITHOUT)
def test_training_on_the_gpu_is_close_to_float32(name):
    _, full = fit(name, mixed=False)
    model, mixed = fit(name, mixed=True, device=torch.device("cuda"))
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.15 if name == "heatmap" else 0.03)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", WITH_AND_WITHOUT)
def test_gradients_are_close_to_float32(name):
    model, data = toy(name)
    batch, found = collate(data, torch.arange(200, 260)), []
    for mixed in (True, False):
        model.zero_grad()
        with precision_region(CPU, mixed=mixed):
            loss = click_loss(model.eval(), batch, pair_weight=0.5)
        assert loss.dtype == torch.float32
        loss.backward()
        found.append(gradients(model))
    assert_alike(*found, tolerance=0.2)


@pytest.mark.parametrize("name", WITH_AND_WITHOUT)
@pytest.mark.parametrize("order", [1, 2])
def test_temporal_maml_is_close_to_float32(name, order):
    model, data = toy(name)
    parts = [collate(data, torch.arange(start, start + 20)) for start in (200, 220)]
    task = MetaTask(support=parts[0], query=parts[1])
    meta = MetaConfig(learning_rate=0.1, embedding_learning_rate=1.0, order=order)
    losses, found = [], []
    for mixed in (True, False):
        losses.append(meta_backward(model, [task], meta, mixed_precision=mixed))
        found.append(gradients(model))
    assert losses[0].dtype == torch.float32
    assert losses[0] != losses[1]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0)
    assert_alike(*found, tolerance=0.2)


def test_training_by_temporal_maml_reads_the_option():
    weights = []
    for mixed in (False, True):
        model, data = toy("SMEN")
        parts = [collate(data, torch.arange(start, start + 20)) for start in (200, 220)]
        train_meta(
            model,
            lambda epoch, start, parts=parts: [[MetaTask(support=parts[0], query=parts[1])]],
            num_batches=1,
            meta=MetaConfig(learning_rate=0.1, embedding_learning_rate=1.0),
            config=OptimizerConfig(epochs=1, mixed_precision=mixed),
            device=CPU,
        )
        weights.append(flat(dict(model.named_parameters())))
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, rtol=0, atol=0.01)


def test_a_run_that_was_cut_ends_with_the_same_bits(tmp_path):
    whole, losses = fit("DUPN", mixed=True, dropout=0.2)

    def cut(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit("DUPN", mixed=True, dropout=0.2, checkpoint=tmp_path / "run.pt", on_step=cut)
    resumed, curve = fit("DUPN", mixed=True, dropout=0.2, checkpoint=tmp_path / "run.pt")
    assert curve == losses
    assert all(map(torch.equal, whole.parameters(), resumed.parameters()))


def test_checkpointed_activations_have_the_same_gradients():
    found = []
    for checkpointed in (False, True):
        model, data = toy("UserBERT")
        model.short_term.encoders["user"].model.checkpoint_activations = checkpointed
        with precision_region(CPU, mixed=True):
            loss = click_loss(model, collate(data, torch.arange(200, 240)))
        loss.backward()
        found.append(flat(gradients(model)))
    assert torch.equal(*found)


def test_stored_vectors_stay_float32():
    encoder = EVERY["DUPN"]()
    data, sizes, graph = toy_inputs(LOG.rows, LOG.rows, user=(encoder, "seeds"))
    table = VectorTable(graph.num_nodes["user"] + 1, encoder.out_channels, period=PERIOD, num_slots=100)
    model = toy_model(sizes, encoders={"user": encoder}, nodes="seeds", tables={"user": table})
    batch, losses = collate(data, torch.arange(200, 240)), []
    for mixed in (False, True, True):
        with precision_region(CPU, mixed=mixed):
            losses.append(click_loss(model, batch).item())
    assert table.vector.dtype == torch.float32
    assert bool(table.vector.any())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(losses[1], rel=0.02)  # stored vectors are read


@pytest.mark.parametrize("name", [*LSTTM_FORMS, *MODELS])
def test_every_click_model_trains(name):
    data, model = (DATA, make_baseline(name)) if name in MODELS else make_lsttm(name)
    batch, found = collate(data, torch.arange(300, 400)), []
    for mixed in (True, False):
        model.zero_grad()
        with precision_region(CPU, mixed=mixed):
            click_loss(model.eval(), batch).backward()
        found.append(gradients(model))
    assert found[0].keys() == found[1].keys()
    assert (flat(found[0]) - flat(found[1])).norm() < 0.1 * flat(found[1]).norm()


# ---- layers --------------------------------------------------------------------------------------


def test_attention_over_neighbours_sums_in_float32():
    inputs = attention_inputs(3, 5, 4, 3, 2, 6, 3, dtype=torch.float32)
    low = tuple(x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs)
    rounded = tuple(x.float() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in low)
    expected = neighbor_attention(*rounded)
    with torch.autocast("cpu", torch.bfloat16):
        by_loop = neighbor_attention(*low)
        with twice_differentiable():
            by_operations = neighbor_attention(*low)
    for one, other, wanted in zip(by_loop, by_operations, expected, strict=True):
        assert torch.equal(one, wanted)
        torch.testing.assert_close(other, wanted)


def test_a_sparse_level_takes_statistics_in_float32():
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(3, 2, 6, 4, generator=generator) * (torch.rand(3, 2, 6, 4, generator=generator) < 0.3)
    image, channel, row, column = dense.nonzero().unbind(1)
    images = SparseImages(3, 6, 4, (image * 6 + row) * 4 + column, channel, dense[dense != 0])
    weight = torch.randn(5, 2, 3, 2, generator=generator).requires_grad_()
    results = []
    for mixed in (False, True):
        norm, weight.grad = nn.BatchNorm2d(5), None
        with precision_region(CPU, mixed=mixed):
            out = sparse_level(images, weight, norm, (2, 2))
        out.square().sum().backward()
        results.append((out.detach(), weight.grad, norm.running_mean, norm.running_var))
    for mixed, full in zip(results[1], results[0], strict=True):
        assert mixed.dtype == torch.float32
        assert 0 < (mixed - full).norm() < 0.02 * full.norm()


# ---- configuration -------------------------------------------------------------------------------


def test_the_option_is_off_unless_asked_for():
    assert not OptimizerConfig().mixed_precision
    for mixed in (False, True):
        config = AdamConfig(epochs=1, batch_size=1, mixed_precision=mixed)
        with config.precision(CPU):
            assert torch.is_autocast_enabled("cpu") == mixed
