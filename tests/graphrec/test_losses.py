"""The neighbour-similarity loss: hand-worked numbers, and why it needs negatives."""

import math

import pytest
import torch

from graphrec.losses import contrastive_loss, masked_multi_task_loss, neighbor_similarity_loss, walk_pairs


def log_sigmoid(value):
    return -math.log(1 + math.exp(-value))


def test_hand_worked():
    x = torch.tensor([[1.0, 0.0], [2.0, 1.0], [-1.0, 3.0]])
    pair = torch.tensor([[0, 1], [1, 2]])
    negative = torch.tensor([[2], [0]])
    positive_part = -(log_sigmoid(2.0) + log_sigmoid(1.0)) / 2
    torch.testing.assert_close(
        neighbor_similarity_loss(x, pair, negative[:, :0]), torch.tensor(positive_part), rtol=1e-6, atol=0
    )
    whole = positive_part - (log_sigmoid(1.0) + log_sigmoid(-2.0)) / 2
    torch.testing.assert_close(
        neighbor_similarity_loss(x, pair, negative), torch.tensor(whole), rtol=1e-6, atol=0
    )


def test_pairs_of_a_walk():
    walk = torch.tensor([[0, 1, 0, 2], [3, 4, 9, 9]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    pairs = {tuple(p) for p in walk_pairs(walk, mask).T.tolist()}
    assert pairs == {(0, 1), (1, 0), (0, 2), (1, 2), (3, 4)}  # (0, 0) is one node, 9 is padding
    near = sorted(map(tuple, walk_pairs(walk, mask, context_size=1).T.tolist()))
    assert near == [(0, 1), (0, 2), (1, 0), (3, 4)]


def train(num_negatives):
    """Two separate pairs of nodes, trained until little changes."""
    torch.manual_seed(0)
    x = torch.nn.Parameter(torch.randn(4, 3) * 0.1)
    pair = torch.tensor([[0, 2], [1, 3]])
    negative = torch.tensor([[2, 3], [0, 1]])[:, :num_negatives]
    optimizer = torch.optim.Adam([x], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        # equation (8) sums over all pairs of a walk; a walk over all four nodes here
        all_pairs = torch.combinations(torch.arange(4)).T if num_negatives == 0 else pair
        rows = negative if num_negatives else torch.zeros(all_pairs.shape[1], 0, dtype=torch.long)
        neighbor_similarity_loss(x, all_pairs, rows).backward()
        optimizer.step()
    return x.detach()


def test_without_negatives_all_vectors_become_equal_and_long():
    x = train(num_negatives=0)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    assert cosine.min() > 0.99
    assert x.norm(dim=1).min() > 1.5
    assert neighbor_similarity_loss(
        2 * x, torch.tensor([[0], [1]]), torch.zeros(1, 0, dtype=torch.long)
    ) < neighbor_similarity_loss(x, torch.tensor([[0], [1]]), torch.zeros(1, 0, dtype=torch.long))


def test_with_negatives_the_pairs_come_apart():
    x = train(num_negatives=2)
    cosine = torch.nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)
    assert cosine[0, 1] > 0.9
    assert cosine[2, 3] > 0.9
    assert cosine[0, 2] < 0
    assert cosine[1, 3] < 0


def slow_contrastive(first, second, temperature, owner=None):
    """The mean over both directions, number by number."""
    vectors = [*first, *second]
    num_pairs = len(first)

    def cosine(x, y):
        dot = sum(a * b for a, b in zip(x, y, strict=True))
        return dot / math.sqrt(sum(a * a for a in x)) / math.sqrt(sum(b * b for b in y))

    total = 0.0
    for place, x in enumerate(vectors):
        partner = (place + num_pairs) % len(vectors)
        own = set() if owner is None else {owner[place], owner[partner]}
        scores = [
            math.exp(cosine(x, y) / temperature)
            for other, y in enumerate(vectors)
            if other == partner or (other != place and (owner is None or owner[other] not in own))
        ]
        total -= math.log(math.exp(cosine(x, vectors[partner]) / temperature) / sum(scores))
    return total / len(vectors)


def test_contrastive_loss_is_that_of_the_formula():
    first = [[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]]
    second = [[2.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    x, y = torch.tensor(first), torch.tensor(second)
    for temperature in (0.1, 1.0):
        expected = slow_contrastive(first, second, temperature)
        found = contrastive_loss(x, y, temperature=temperature)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    # two orthogonal pairs, each of equal ends: -log(e^1 / (e^1 + 2 e^0))
    pairs = torch.eye(2)
    expected = -math.log(math.e / (math.e + 2))
    torch.testing.assert_close(contrastive_loss(pairs, pairs, temperature=1.0), torch.tensor(expected))


def test_vectors_of_the_same_owner_are_no_negatives():
    first = [[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]]
    second = [[2.0, 1.0], [0.0, 1.0], [1.0, 1.0]]
    owner = [7, 8, 7, 9, 7, 9]  # 7 is an end of each pair
    expected = slow_contrastive(first, second, 0.5, owner)
    found = contrastive_loss(
        torch.tensor(first), torch.tensor(second), temperature=0.5, owner=torch.tensor(owner).view(2, 3)
    )
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)
    distinct = torch.arange(6).view(2, 3)
    x, y = torch.tensor(first), torch.tensor(second)
    assert torch.equal(contrastive_loss(x, y, owner=distinct), contrastive_loss(x, y))


def test_contrastive_loss_refuses_nothing_and_no_temperature():
    with pytest.raises(ValueError, match="batch is empty"):
        contrastive_loss(torch.zeros(0, 2), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        contrastive_loss(torch.ones(1, 2), torch.ones(1, 2), temperature=0.0)


def test_the_loss_of_several_tasks_is_equation_1_with_missing_labels():
    none = math.nan
    label = torch.tensor([[1.0, 0.0, none], [0.0, none, none], [none, none, none], [1.0, 1.0, none]])
    logit = torch.tensor([[2.0, -1.0, 5.0], [0.5, 9.0, 5.0], [7.0, math.inf, 5.0], [-3.0, 0.0, 5.0]])
    logit.requires_grad_()

    def cross_entropy(z, y):
        return math.log1p(math.exp(-z)) if y else math.log1p(math.exp(z))

    first = (cross_entropy(2.0, 1) + cross_entropy(0.5, 0) + cross_entropy(-3.0, 1)) / 3
    second = (cross_entropy(-1.0, 0) + cross_entropy(0.0, 1)) / 2
    loss = masked_multi_task_loss(logit, label)  # the third task has no label: it adds 0
    torch.testing.assert_close(loss.detach(), torch.tensor(first + second))
    loss.backward()
    assert logit.grad.isfinite().all()
    assert torch.equal(logit.grad != 0, ~label.isnan())
    assert float(masked_multi_task_loss(logit[:0].detach(), label[:0])) == 0
