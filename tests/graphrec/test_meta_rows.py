"""Models on touched rows of their tables, and weighted bags that can be differentiated twice."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

from graphrec.nn.embedding_bag import weighted_bags, weighted_ragged_bags
from graphrec.training.parameters import descent_rates, embedding_tables
from graphrec.training.touched_rows import touched_rows


class Reader(nn.Module):
    """Reads a table of 11 rows in a given way; the batch is an index of any shape."""

    def __init__(self, read, **options):
        super().__init__()
        torch.manual_seed(0)
        self.read, self.table = read, nn.Embedding(11, 3, dtype=torch.float64, **options)
        self.out = nn.Linear(3, 1, dtype=torch.float64)

    def forward(self, index):
        return self.out(self.read(self.table, index)).square().sum()


READS = {
    "rows": lambda table, index: table(index),
    "twice": lambda table, index: table(index) * table(index.flip(0)),
    "bags, sum": lambda table, index: functional.embedding_bag(index, table.weight, mode="sum"),
    "bags, mean": lambda table, index: functional.embedding_bag(index, table.weight),
    "bags, weighted": lambda table, index: functional.embedding_bag(
        index, table.weight, mode="sum", per_sample_weights=1.0 + index.double()
    ),
    # the second bag is empty
    "ragged bags, sum": lambda table, index: functional.embedding_bag(
        index.flatten(), table.weight, torch.tensor([0, 1, 1]), mode="sum"
    ),
    "ragged bags, mean": lambda table, index: functional.embedding_bag(
        index.flatten(), table.weight, torch.tensor([0, 2, 2, index.numel()]), include_last_offset=True
    ),
    "ragged bags, weighted": lambda table, index: functional.embedding_bag(
        index.flatten(),
        table.weight,
        torch.tensor([0, 1, 1]),
        mode="sum",
        per_sample_weights=1.0 + index.flatten().double(),
    ),
}
WHOLE = {
    "brackets": lambda table, index: table.weight[index],
    "product": lambda table, index: table(index) @ (table.weight.T @ table.weight),
    "list": lambda table, index: functional.embedding(index, torch.cat([table.weight, table.weight])),
    "maximum": lambda table, index: functional.embedding_bag(index, table.weight, mode="max"),
}
BATCHES = [torch.tensor([[7, 2, 2], [9, 7, 7]]), torch.tensor([[4, 4, 9]])]


def both(model):
    """Gradients of the summed outputs on both batches: on fast weights, and by backward."""
    touched = touched_rows(model, BATCHES)
    weights = touched.gather(model)

    def total(weights):
        return sum(touched.logits(model, weights, batch, i) for i, batch in enumerate(BATCHES))

    found, value = torch.func.grad_and_value(total)(weights)
    expected = sum(model(batch) for batch in BATCHES)
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
    return touched, found


@pytest.mark.parametrize("name", READS)
def test_rows_stand_for_their_table(name):
    model = Reader(READS[name])
    touched, found = both(model)
    assert touched.row["table.weight"].tolist() == [2, 4, 7, 9]
    assert found["table.weight"].shape == (4, 3)
    gradient = torch.zeros(11, 3, dtype=torch.float64)
    gradient[touched.row["table.weight"]] = found["table.weight"]
    torch.testing.assert_close(gradient, model.table.weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["out.weight"], model.out.weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WHOLE)
def test_a_table_read_in_another_way_is_taken_whole(name):
    model = Reader(WHOLE[name])
    touched, found = both(model)
    assert not touched.row
    torch.testing.assert_close(found["table.weight"], model.table.weight.grad, rtol=1e-12, atol=1e-12)


def test_a_padding_row_takes_no_gradient():
    model = Reader(READS["rows"], padding_idx=-4)  # from the end: row 7 of 11
    touched, found = both(model)
    assert touched.row["table.weight"].tolist() == [2, 4, 7, 9]
    gradient = model.table.weight.grad
    torch.testing.assert_close(found["table.weight"], gradient[[2, 4, 7, 9]])
    assert gradient[7].abs().sum() == 0
    assert found["table.weight"][0].abs().sum() > 0


def test_tables_without_gradient_or_reader():
    model = Reader(READS["rows"])
    model.other, model.fixed = nn.Embedding(5, 2), nn.Embedding(4, 2)
    model.fixed.weight.requires_grad_(False)
    touched, found = both(model)
    assert touched.row["other.weight"].shape == (0,)
    assert found["other.weight"].shape == (0, 2)
    assert "fixed.weight" not in touched.row
    assert "fixed.weight" not in found


def test_layers_that_share_a_table_share_its_rows():
    model = Reader(READS["rows"])
    model.read = lambda table, index: table(index) + 2 * model.same(index.flip(1))
    model.same = nn.Embedding(11, 3, _weight=model.table.weight)
    model.same.weight = model.table.weight
    touched, found = both(model)
    gradient = torch.zeros(11, 3, dtype=torch.float64)
    gradient[touched.row["table.weight"]] = found["table.weight"]
    torch.testing.assert_close(gradient, model.table.weight.grad, rtol=1e-12, atol=1e-12)
    assert set(touched.row) == {"table.weight"}


@pytest.mark.parametrize("change", ["another row", "one more", "one less"])
def test_lookups_that_change_are_told(change):
    model = Reader(READS["twice"])
    touched = touched_rows(model, BATCHES)
    if change == "another row":
        model.read = lambda table, index: table(index) * table(index.flip(1))
    else:
        model.read = (lambda t, i: READS["twice"](t, i) + t(i)) if change == "one more" else READS["rows"]
    with pytest.raises(ValueError, match=r"read other rows of table\.weight"):
        touched.logits(model, touched.gather(model), BATCHES[0], 0)


def test_tables_and_rates():
    model = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": nn.EmbeddingBag(4, 2), "c": nn.Linear(2, 1)})
    assert list(embedding_tables(model)) == ["a.weight", "b.weight"]
    rates = descent_rates(model, learning_rate=0.1, embedding_learning_rate=5.0)
    assert rates == {"a.weight": 5.0, "b.weight": 5.0, "c.weight": 0.1, "c.bias": 0.1}
    assert list(rates) == [name for name, _ in model.named_parameters()]


# ---- weighted bags -------------------------------------------------------------------------------

INDEX = torch.tensor([[0, 3, 3, 1], [5, 5, 5, 5], [1, 0, 2, 6]])  # row 4 in no bag, 3 and 5 twice in one


def bag_inputs():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 2, dtype=torch.float64, generator=generator).requires_grad_()
    return table, torch.randn(3, 4, dtype=torch.float64, generator=generator).requires_grad_()


def test_weighted_bags_are_their_formula():
    table, weight = bag_inputs()
    slow = [sum(weight[d, k] * table[INDEX[d, k]] for k in range(4)) for d in range(3)]
    torch.testing.assert_close(weighted_bags(INDEX, table, weight), torch.stack(slow))
    reference = functional.embedding_bag(INDEX, table, mode="sum", per_sample_weights=weight)
    assert torch.equal(weighted_bags(INDEX, table, weight), reference)


def test_derivatives_of_first_to_third_order():
    table, weight = bag_inputs()

    def bags(table, weight):
        return weighted_bags(INDEX, table, weight).sin()

    def gradients(table, weight):
        return torch.autograd.grad(bags(table, weight).square().sum(), (table, weight), create_graph=True)

    assert gradcheck(bags, (table, weight))
    assert gradgradcheck(bags, (table, weight))
    assert gradgradcheck(gradients, (table, weight))


def test_derivatives_under_torch_func():
    table, weight = (x.detach() for x in bag_inputs())

    def fast(t, w):
        return weighted_bags(INDEX, t, w).pow(3).sum()

    def plain(t, w):
        return (t[INDEX] * w[..., None]).sum(1).pow(3).sum()

    def second(f):
        return torch.func.grad(lambda t: torch.func.grad(f, argnums=1)(t, weight).square().sum())(table)

    torch.testing.assert_close(second(fast), second(plain))
    assert second(plain).abs().sum() > 1


def test_ragged_bags_are_torchs_and_have_derivatives_of_any_order():
    table, _ = bag_inputs()
    index, ptr = torch.tensor([3, 3, 0, 6, 5, 3]), torch.tensor([0, 2, 2, 3, 6])  # the second bag is empty
    weight = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    reference = functional.embedding_bag(
        index, table, ptr, mode="sum", per_sample_weights=weight, include_last_offset=True
    )
    found = weighted_ragged_bags(index, ptr, table, weight)
    assert torch.equal(found, reference)
    wanted = torch.autograd.grad(reference.sin().sum(), (table, weight))
    torch.testing.assert_close(torch.autograd.grad(found.sin().sum(), (table, weight)), wanted)

    def bags(table, weight):
        return weighted_ragged_bags(index, ptr, table, weight).sin()

    def gradients(table, weight):
        return torch.autograd.grad(bags(table, weight).square().sum(), (table, weight), create_graph=True)

    assert gradcheck(bags, (table, weight))
    assert gradgradcheck(bags, (table, weight))
    assert gradgradcheck(gradients, (table, weight))
    none = weighted_ragged_bags(index[:0], torch.zeros(3, dtype=torch.int64), table, weight[:0])
    assert torch.equal(none, torch.zeros(2, 2, dtype=torch.float64))
    assert not torch.autograd.grad(none.sum(), table)[0].any()


def test_empty_bags():
    table, _ = bag_inputs()
    empty = torch.zeros(0, 4, dtype=torch.int64)
    found = weighted_bags(empty, table, torch.zeros(0, 4, dtype=torch.float64))
    found.sum().backward()
    assert found.shape == (0, 2)
    assert table.grad.abs().sum() == 0
