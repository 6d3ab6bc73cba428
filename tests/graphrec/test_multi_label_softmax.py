"""The softmax with several true classes: by hand, against the dense form, and its sampled estimate."""

import math

import pytest
import torch

from graphrec.nn import multi_label_softmax
from graphrec.nn.multi_label_softmax import ClassSampler, multi_label_loss, sampled_multi_label_loss

NUM_ROWS, CHANNELS, NUM_CLASSES = 5, 3, 11
# rows 1 and 4 have no true class, row 2 four
ROW = torch.tensor([0, 2, 2, 2, 2, 3, 3])
TRUE = torch.tensor([7, 0, 3, 7, 10, 7, 9])


def inputs(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = (NUM_ROWS, CHANNELS), (NUM_CLASSES, CHANNELS), (NUM_CLASSES,)
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


def dense_loss(x, weight, bias):
    """Cross entropy against the binary matrix, written from the definition."""
    label = torch.zeros(len(x), len(weight), dtype=x.dtype)
    label[ROW, TRUE] = 1
    return -(label * (x @ weight.T + bias).log_softmax(dim=1)).sum()


def gradients(loss, values):
    return [loss, *torch.autograd.grad(loss, values)]


def sampled_loss(values, sampled, probability):
    return sampled_multi_label_loss(*values, ROW, TRUE, sampled, probability[sampled].log())


def test_by_hand():
    x, weight = torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.5], [0.0]])
    bias = torch.tensor([0.0, 0.0, math.log(2.0)])
    # scores of row 0: 2, 1, log 2; of row 1: 0, 0, log 2. Row 0 has classes 0 and 2, row 1 has class 1.
    first = math.log(math.exp(2) + math.exp(1) + 2)
    expected = (first - 2) + (first - math.log(2)) + math.log(1 + 1 + 2)
    loss = multi_label_loss(x, weight, bias, torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1]))
    torch.testing.assert_close(loss, torch.tensor(expected))


@pytest.mark.parametrize("at_a_time", [1, 2 * NUM_CLASSES, 1 << 22])
def test_is_the_dense_form_in_values_and_gradients(monkeypatch, at_a_time):
    monkeypatch.setitem(multi_label_softmax._SCORES_AT_A_TIME, "cpu", at_a_time)
    values = inputs()
    expected = gradients(dense_loss(*values), values)
    torch.testing.assert_close(gradients(multi_label_loss(*values, ROW, TRUE), values), expected)
    with torch.no_grad():
        torch.testing.assert_close(multi_label_loss(*values, ROW, TRUE), expected[0])
    doubled = torch.autograd.grad(2 * multi_label_loss(*values, ROW, TRUE), values)
    torch.testing.assert_close(list(doubled), [2 * value for value in expected[1:]])


def test_no_row_and_far_scores():
    _, weight, bias = inputs()
    none = torch.zeros(0, dtype=torch.int64)
    empty = torch.zeros(0, CHANNELS, dtype=torch.float64).requires_grad_()
    loss = multi_label_loss(empty, weight, bias, none, none)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad.eq(0).all()
    far = [value.detach().float() * 1e3 for value in inputs()]
    assert multi_label_loss(*far, ROW, TRUE).isfinite()
    probability = torch.full((NUM_CLASSES,), 0.5)
    assert sampled_loss(far, torch.tensor([1, 5]), probability).isfinite()


def test_in_bfloat16_it_is_close():
    values = inputs(torch.float32)
    expected = gradients(dense_loss(*values), values)
    with torch.autocast("cpu", torch.bfloat16):
        loss = multi_label_loss(*values, ROW, TRUE)
    found = gradients(loss, values)
    assert all(part.dtype == torch.float32 for part in found)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    assert not torch.equal(found[0], expected[0])


def test_all_classes_sampled_is_exact():
    values = inputs()
    sampler = ClassSampler(torch.rand(NUM_CLASSES) + 0.1, NUM_CLASSES)
    sampled = sampler.sample(4)
    assert sampled.tolist() == list(range(NUM_CLASSES))
    found = gradients(sampled_loss(values, sampled, sampler.probability), values)
    torch.testing.assert_close(found, gradients(dense_loss(*values), values))


def test_the_sum_under_the_fraction_has_the_right_expectation():
    """One true class a row: exp(loss) is linear in the estimate of the sum, so its mean is exact."""
    x, weight, bias = inputs()
    sampler = ClassSampler(torch.linspace(0.2, 3, NUM_CLASSES), 4)
    row, true = torch.tensor([0]), torch.tensor([7])
    estimates = []
    with torch.no_grad():
        for number in range(4000):
            sampled = sampler.sample(number)
            log_probability = sampler.probability[sampled].log()
            estimates.append(
                sampled_multi_label_loss(x[:1], weight, bias, row, true, sampled, log_probability).exp()
            )
        expected = multi_label_loss(x[:1], weight, bias, row, true).exp()
    estimates = torch.stack(estimates)
    error = estimates.std() / len(estimates) ** 0.5
    assert error < 0.02 * expected
    assert (estimates.mean() - expected).abs() < 4 * error


def test_gradients_come_close_with_many_samples():
    torch.manual_seed(0)
    num_classes = 2000
    weight = torch.randn(num_classes, 8).requires_grad_()
    bias = torch.zeros(num_classes).requires_grad_()
    x = torch.randn(30, 8).requires_grad_()
    row = torch.arange(30).repeat_interleave(2)
    true = torch.randint(num_classes, (60,)).view(30, 2).sort(dim=1).values.flatten()
    exact = gradients(multi_label_loss(x, weight, bias, row, true), (x, weight, bias))
    errors = []
    for num_sampled in (20, 200, 1000, 1900):
        sampler = ClassSampler(torch.ones(num_classes), num_sampled)
        total = 0.0
        for number in range(10):
            sampled = sampler.sample(number)
            loss = sampled_multi_label_loss(
                x, weight, bias, row, true, sampled, sampler.probability[sampled].log().float()
            )
            found = gradients(loss, (x, weight, bias))
            total += float((found[1] - exact[1]).norm() / exact[1].norm()) / 10
        errors.append(total)
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.3 > 0.05 > errors[-1]


def test_a_true_class_that_is_sampled_counts_once_and_others_never_count():
    values = inputs()
    probability = torch.full((NUM_CLASSES,), 0.25, dtype=torch.float64)
    sampled = torch.tensor([3, 5, 7])  # 7 is true in row 0
    score = (values[0] @ values[1].T + values[2])[0]
    z = score[7].exp() + 4 * (score[3].exp() + score[5].exp())
    loss = sampled_multi_label_loss(*values, ROW[:1], TRUE[:1], sampled, probability[sampled].log())
    torch.testing.assert_close(loss, z.log() - score[7])
    _, of_x, of_weight, _ = gradients(loss, values)
    assert of_x[1:].eq(0).all()
    assert of_weight.abs().sum(dim=1).nonzero()[:, 0].tolist() == [3, 5, 7]


def test_where_all_sampled_classes_are_true_the_gradient_is_a_number():
    values = inputs()
    probability = torch.full((NUM_CLASSES,), 0.5, dtype=torch.float64)
    loss = sampled_multi_label_loss(*values, ROW[:1], TRUE[:1], TRUE[:1], probability[TRUE[:1]].log())
    torch.testing.assert_close(loss, torch.zeros_like(loss))
    assert all(part.isfinite().all() for part in gradients(loss, values))


def test_classes_are_drawn_with_their_probabilities():
    weight = torch.tensor([5.0, 1.0, 100.0, 2.0, 2.0, 1.0, 30.0])
    sampler = ClassSampler(weight, 4, random_seed=2)
    # 2 and 6 are certain; 4 - 2 = 2 remain for weights 5, 1, 2, 2, 1: 2 / 11 each unit
    expected = torch.tensor([10 / 11, 2 / 11, 1.0, 4 / 11, 4 / 11, 2 / 11, 1.0], dtype=torch.float64)
    torch.testing.assert_close(sampler.probability, expected)
    count = torch.zeros(7)
    for number in range(3000):
        sampled = sampler.sample(number, "shop")
        assert len(sampled) == 4
        assert sampled.diff().gt(0).all()
        count[sampled] += 1
    deviation = (expected * (1 - expected) / 3000).sqrt()
    assert ((count / 3000 - expected).abs() <= 4 * deviation + 1e-9).all()
    assert torch.equal(sampler.sample(1), ClassSampler(weight, 4, random_seed=2).sample(1))
    assert any(
        not torch.equal(sampler.sample(n), ClassSampler(weight, 4, random_seed=3).sample(n)) for n in range(9)
    )


def test_a_class_must_have_a_chance():
    with pytest.raises(ValueError, match=r"weights lie above 0, got num_sampled=2 and weights from 0\.0"):
        ClassSampler(torch.tensor([1.0, 0.0, 2.0]), 2)
    with pytest.raises(ValueError, match=r"one class at least .* got num_sampled=0"):
        ClassSampler(torch.ones(3), 0)
