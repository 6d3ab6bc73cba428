"""The loss of the order of a group's rows: a hand-computed case, a slow loop, its limit by scikit-learn."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from graphrec.training.pair_loss import pair_loss, same_group_pairs

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.floats(-5, 5, width=32)), min_size=1, max_size=30
)


def columns(rows):
    group, label, logit = zip(*rows, strict=True)
    return (
        torch.tensor(logit, dtype=torch.float64),
        torch.tensor(label, dtype=torch.float64),
        torch.tensor(group),
    )


def test_a_hand_computed_case():
    """User 7: a click at 1, rows left at 0 and 2; user 8: a click alone; user 9: two rows at 0."""
    logit = torch.tensor([1.0, 0.0, 2.0, 5.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([1.0, 0, 0, 1, 1, 0], dtype=torch.float64)
    found = pair_loss(logit, label, torch.tensor([7, 7, 7, 8, 9, 9]))
    first = 3 / 2 * (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1)))
    assert found.item() == pytest.approx((first + 2 * math.log(2)) / 6, rel=1e-12)
    found.backward()
    slopes = [1 / (1 + math.e), math.e / (1 + math.e), 0.5]  # of ln(1 + e^x) at -1, 1 and 0
    expected = [-1.5 * (slopes[0] + slopes[1]), 1.5 * slopes[0], 1.5 * slopes[1], 0, -2 * slopes[2], 1]
    assert (6 * logit.grad).tolist() == pytest.approx(expected, rel=1e-12)


@given(ROWS)
def test_it_is_the_loop_over_groups_and_pairs(rows):
    logit, label, group = columns(rows)
    total = 0.0
    for one in set(group.tolist()):
        clicks = [s for g, y, s in rows if g == one and y == 1]
        left = [s for g, y, s in rows if g == one and y == 0]
        if clicks and left:
            losses = [math.log1p(math.exp(t - s)) for s in clicks for t in left]
            total += (len(clicks) + len(left)) * sum(losses) / len(losses)
    assert pair_loss(logit, label, group).item() == pytest.approx(total / len(rows), rel=1e-9, abs=1e-12)
    pairs = sorted(zip(*(part.tolist() for part in same_group_pairs(label, group)), strict=True))
    every = range(len(rows))
    assert pairs == [
        (i, j) for i in every for j in every if group[i] == group[j] and label[i] == 1 and label[j] == 0
    ]


def test_steep_logits_make_it_one_less_gauc():
    """Scaled up, a pair costs max(0, s_j - s_i) of the scale: for gaps of one, the share of wrong pairs."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(0, 2, (400,), generator=generator).double()
    group = torch.randint(0, 20, (400,), generator=generator)
    high = torch.randint(0, 2, (400,), generator=generator).double()
    wrong = pair_loss(1000 * high, label, group) / 1000
    expected = 0.0
    for one in range(20):
        y, s = label[group == one], high[group == one]
        ties = ((s[y == 1][:, None] == s[y == 0]).double().mean()).item()
        expected += len(y) * (1 - roc_auc_score(y, s) - ties / 2)
    # a tie costs ln 2 in a scale of 1000
    assert wrong.item() == pytest.approx(expected / 400, abs=math.log(2) / 1000)


def test_for_pairs_alone_it_is_the_bpr_loss():
    clicked, left = torch.randn(2, 50, generator=torch.Generator().manual_seed(1)).double()
    logit, label = torch.cat([clicked, left]), torch.cat([torch.ones(50), torch.zeros(50)]).double()
    found = pair_loss(logit, label, torch.arange(50).repeat(2))
    torch.testing.assert_close(found, -functional.logsigmoid(clicked - left).mean())


def test_without_a_pair_it_is_zero_and_has_a_gradient():
    logit = torch.zeros(3, requires_grad=True)
    loss = pair_loss(logit, torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1, 2, 3]))
    loss.backward()
    assert loss.item() == 0
    assert logit.grad.tolist() == [0, 0, 0]
