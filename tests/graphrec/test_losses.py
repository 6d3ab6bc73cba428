"""The neighbour-similarity loss: hand-worked numbers, and why it needs negatives."""

import math

import torch

from graphrec.losses import neighbor_similarity_loss, walk_pairs


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
