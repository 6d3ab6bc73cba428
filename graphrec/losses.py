"""Losses: the neighbour similarity of walks, the contrast of two views of each row, several tasks at once."""

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn import functional


def walk_pairs(
    walk: Int[Tensor, "num_walks walk_length"],
    mask: Bool[Tensor, "num_walks walk_length"],
    *,
    context_size: int | None = None,
) -> Int[Tensor, "2 num_pairs"]:
    """Return the unordered pairs of positions of a walk at most ``context_size`` steps apart (default: all).

    Pairs of a node with itself, which a walk that turns back produces, are left out, since equation (8) sums
    over different nodes.
    """
    length = walk.shape[1]
    left, right = torch.triu_indices(length, length, offset=1, device=walk.device)
    if context_size is not None:
        near = right - left <= context_size
        left, right = left[near], right[near]
    keep = mask[:, left] & mask[:, right] & (walk[:, left] != walk[:, right])
    return torch.stack([walk[:, left][keep], walk[:, right][keep]])


def neighbor_similarity_loss(
    x: Float[Tensor, "num_nodes channels"],
    pair: Int[Tensor, "2 num_pairs"],
    negative: Int[Tensor, "num_pairs num_negatives"],
) -> Float[Tensor, ""]:
    r"""Pull the two nodes of a pair together and push sampled negatives away; the mean over the pairs.

    .. math:: L_N = -\sum_{(i, j)} \Big( \log \sigma(q_i^\top q_j)
              + \sum_{n} \log \sigma(-q_i^\top q_n) \Big)

    The first term is equation (8) of LSTTM (Xie et al., WSDM 2022). Alone (``num_negatives`` 0, the form
    that the paper prints) it is least when all vectors are equal and long; with the second term it is
    skip-gram with negative sampling (Mikolov et al., 2013) on the walks of DeepWalk.
    """
    anchor = functional.embedding(pair[0], x)
    loss = -functional.logsigmoid((anchor * functional.embedding(pair[1], x)).sum(dim=-1))
    if negative.shape[1]:
        score = torch.einsum("pc,pnc->pn", anchor, functional.embedding(negative, x))
        loss = loss - functional.logsigmoid(-score).sum(dim=-1)
    return loss.mean() if len(loss) else x.sum() * 0.0


def contrastive_loss(
    first: Float[Tensor, "num_pairs channels"],
    second: Float[Tensor, "num_pairs channels"],
    *,
    temperature: float = 0.1,
    owner: Int64[Tensor, "2 num_pairs"] | None = None,
) -> Float[Tensor, ""]:
    r"""Tell the partner of each vector from all others of the batch by cosine, in both directions; the mean.

    .. math:: l(x, y) = -\log \frac{e^{g(x, y) / \tau}}{\sum_{\nu \ne x} e^{g(x, \nu) / \tau}}, \qquad
              L = \frac{1}{2 n} \sum_i \big( l(x_i, y_i) + l(y_i, x_i) \big)

    Equations (2) and (3) of LURM (Yang et al., 2021), the loss of SimCLR (Chen et al., ICML 2020): the
    2 n - 2 vectors of the other pairs are negatives.

    Args:
        first: one vector of each pair, of any length above 0.
        second: the other one.
        temperature: tau, above 0.
        owner: what each vector is of, such as an item or a user. Vectors with the owner of either end of a
            pair are no negatives of it: a batch may hold an item twice. ``None``: all are, as in the paper.

    Raises:
        ValueError: there is no pair, or ``temperature`` is not above 0.

    """
    if not len(first):
        raise ValueError("the contrastive loss needs a pair: the batch is empty")
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    num_pairs = len(first)
    x = functional.normalize(torch.cat([first, second]).float(), dim=1)
    row = torch.arange(2 * num_pairs, device=x.device)
    partner = (row + num_pairs) % (2 * num_pairs)
    left_out = row[:, None] == row
    if owner is not None:
        of = owner.flatten()
        equal = of[:, None] == of
        left_out = (left_out | equal | equal[partner]) & (row != partner[:, None])
    logit = (x @ x.T / temperature).masked_fill(left_out, -torch.inf)
    return functional.cross_entropy(logit, partner)


def masked_multi_task_loss(
    logit: Float[Tensor, "num_rows num_tasks"], label: Float[Tensor, "num_rows num_tasks"]
) -> Float[Tensor, ""]:
    r"""Return the sum over binary tasks of the mean cross entropy of the rows that have the task's label.

    .. math:: J = \sum_n \sum_i \frac{w_{ni}}{\sum_j w_{nj}} J_{ni}

    Equation (1) of Meta-Profile Network (Gong et al., CIKM 2020): the weight is 1 for a row with a label, and
    0 without. A task that no row of the batch has a label of adds 0.

    Args:
        logit: of a 1.
        label: 0 or 1, NaN where there is none.

    """
    known = ~label.isnan()
    target = torch.where(known, label, 0.0)
    loss = functional.binary_cross_entropy_with_logits(logit.float(), target, reduction="none")
    # not multiplied by the weights: an infinite logit of a row without a label would make NaN of it
    return (torch.where(known, loss, 0.0).sum(dim=0) / known.sum(dim=0).clamp(min=1)).sum()
