"""Losses over node vectors: the neighbour similarity of walks, LSTTM equation (8)."""

import torch
from jaxtyping import Bool, Float, Int
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
